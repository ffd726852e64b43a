//! What is said of a commit is what git shows of it: author, committer and subject of generated objects, in every encoding
//! that iconv knows, compared with `git log` on those very objects.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyhatch_protocol::signable::{Commit, CommitText, Encoding, MAX_TEXT, Signable, TextDoubt};
use keyhatch_tests::World;

/// A generator of a fixed start, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit as u64)).expect("it is below")
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// What git printed of one object, as bytes.
struct Printed {
    author: (Vec<u8>, Vec<u8>),
    committer: (Vec<u8>, Vec<u8>),
    subject: Vec<u8>,
    body: Vec<u8>,
}

/// Writes the objects into a repository, as they are, and has `git log` print each.
fn printed(repository: &Path, objects: &[Vec<u8>]) -> Vec<Printed> {
    let directory = repository.join("generated");
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut paths = String::new();
    for (number, object) in objects.iter().enumerate() {
        let path = directory.join(number.to_string());
        std::fs::write(&path, object).expect("an object is written");
        writeln!(paths, "{}", path.display()).expect("a string");
    }
    let git = |arguments: &[&str], input: &str| {
        let mut git = Command::new("git");
        git.arg("-C")
            .arg(repository)
            .args(["-c", "safe.directory=*"])
            .args(arguments)
            .env_remove("LC_ALL")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git runs");
        let (mut stdin, input) = (child.stdin.take().expect("a pipe"), input.to_owned());
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
        let output = child.wait_with_output().expect("git ends");
        writer.join().expect("the writer ends").expect("git reads all of it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let names = git(&["hash-object", "-t", "commit", "-w", "--literally", "--stdin-paths"], &paths);
    let names = String::from_utf8(names).expect("names");
    let format = "--format=%an%x00%ae%x00%cn%x00%ce%x00%s%x00%b";
    let shown = git(&["log", "-z", "--no-walk=unsorted", "--no-use-mailmap", "--stdin", format], &names);
    let mut fields = shown.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let mut next = || fields.next().expect("a field");
    // Every object is named once: git leaves out a second one.
    let distinct: std::collections::HashSet<&str> = names.lines().collect();
    assert_eq!(distinct.len(), objects.len(), "the objects differ from each other");
    objects
        .iter()
        .map(|_| Printed {
            author: (next(), next()),
            committer: (next(), next()),
            subject: next(),
            body: next(),
        })
        .collect()
}

/// Whether git printed these words; a long text by its start.
fn same(said: &str, printed: &[u8]) -> bool {
    match said.strip_suffix('…').filter(|start| start.len() > MAX_TEXT - 4) {
        Some(start) => printed.starts_with(start.as_bytes()),
        None => said.as_bytes() == printed,
    }
}

/// Where nothing is in doubt, git prints exactly what is said.
#[track_caller]
fn compare(objects: &[Vec<u8>], printed: &[Printed]) -> usize {
    let mut plain = 0;
    for (object, printed) in objects.iter().zip(printed) {
        let said = CommitText::of(object);
        if said.doubt.is_some() {
            assert!(Signable::parse(object).is_err(), "signed in doubt: {}", object.escape_ascii());
            continue;
        }
        plain += 1;
        let all = [
            (&said.author.name, &printed.author.0),
            (&said.author.email, &printed.author.1),
            (&said.committer.name, &printed.committer.0),
            (&said.committer.email, &printed.committer.1),
            (&said.subject, &printed.subject),
            (&said.body, &printed.body),
        ];
        for (said, printed) in all {
            assert!(same(said, printed), "{said:?} is {}: {}", printed.escape_ascii(), object.escape_ascii());
        }
        if let Ok(Signable::Commit(commit)) = Signable::parse(object) {
            assert_eq!(commit.encode(), *object);
            assert_eq!(commit.text(), said);
        }
    }
    plain
}

fn commit(encoding: &[u8], author: &[u8], message: &[u8]) -> Vec<u8> {
    let tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    let mut object = format!("tree {tree}\nauthor ").into_bytes();
    object.extend_from_slice(author);
    object.extend_from_slice(b" 1700000000 +0100\ncommitter Ada <ada@example.org> 1700000000 +0100\n");
    if !encoding.is_empty() {
        object.extend_from_slice(b"encoding ");
        object.extend_from_slice(encoding);
        object.push(b'\n');
    }
    object.push(b'\n');
    object.extend_from_slice(message);
    object
}

/// Every name that iconv knows, and the spellings that somebody might try.
fn names() -> Vec<Vec<u8>> {
    let listed = Command::new("iconv").arg("-l").output().expect("iconv runs").stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let mut names: Vec<String> = Encoding::names().map(str::to_owned).collect();
    names.extend(listed.split_whitespace().map(|name| name.trim_end_matches(['/', ',']).to_owned()));
    assert!(names.len() > 1000, "glibc's iconv knows more: {}", names.len());
    for name in ["ISO-8859-1", "UTF-8", "UTF8", "IBM037", "UTF-16"] {
        let spellings = ["//TRANSLIT", "//IGNORE", "//", "/", " ", "\t", ","];
        names.extend(spellings.iter().map(|end| format!("{name}{end}")));
        names.extend([name.to_lowercase(), format!(" {name}"), format!("\"{name}\"")]);
    }
    names.extend(["utf", "utf--8", "uTf-8", "unknown", ".", "/", "//", "char", "wchar_t"].map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(String::into_bytes).collect()
}

fn world() -> (World, PathBuf) {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    (world, project)
}

#[test]
fn in_every_encoding_that_iconv_knows_git_shows_what_is_said_or_a_doubt_is_named() {
    let (_world, project) = world();
    let mut objects = Vec::new();
    for name in names() {
        objects.push(commit(&name, b"Ada Lovelace <ada@example.org>", b"Fix a typo\n"));
        objects.push(commit(&name, b"Zo\xe9 <zo\xe9@example.org>", b"caf\xe9 \xa4\n\nbody\n"));
        objects.push(commit(&name, b"A+ZeVnLIqe- <a~{VPND~}@b>", b"~{VPND~} +ZeVnLIqe- \x1b$B\x0e\\~\n"));
    }
    // Every byte of every encoding that is known, alone: what one of them breaks is not hidden by another.
    for name in Encoding::names() {
        for byte in 1..=u8::MAX {
            objects.push(commit(name.as_bytes(), b"A <a@b>", &[b'x', byte, b'y']));
        }
    }
    let plain = compare(&objects, &printed(&project, &objects));
    assert!(plain > 5000, "most bytes of the known encodings are text: {plain}");
}

#[test]
fn whatever_bytes_a_commit_is_made_of_git_shows_what_is_said_or_a_doubt_is_named() {
    let (_world, project) = world();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let known: Vec<&str> = Encoding::names().collect();
    let pieces: [&[u8]; 22] = [
        b"Ada",
        b" ",
        b"<",
        b">",
        b"\n",
        b"\n\n",
        b"\t",
        b"\r",
        b"a@b",
        b"caf\xe9",
        b"\xc3\xa9",
        b"\x81",
        b"\xff",
        b"author ",
        b"committer ",
        b"encoding UTF-8\n",
        b"encoding IBM037\n",
        b"\x1b[31m",
        b"+0100",
        b" 17000",
        b"\xe2\x80\xae",
        b"x",
    ];
    let mut objects = Vec::new();
    for number in 0..8000 {
        let mut text = |most: usize| -> Vec<u8> {
            (0..random.below(most)).flat_map(|_| random.pick(&pieces).to_vec()).collect()
        };
        let (name, email, mut message) = (text(4), text(3), text(20));
        message.extend_from_slice(format!("\n\n{number}").as_bytes());
        let author = [&name[..], b" <", &email, b">"].concat();
        let encoding = if random.below(3) == 0 { "" } else { known[random.below(known.len())] };
        let mut object = commit(encoding.as_bytes(), &author, &message);
        if random.below(4) == 0 {
            let at = random.below(object.len());
            object[at] = *random.pick(&[b"\n", b"\xa0", b"<", b"\x95", b"\x0b"]).first().expect("a byte");
        }
        // What git cannot load at all, it does not show.
        if object.starts_with(b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n") {
            objects.push(object);
        }
    }
    let plain = compare(&objects, &printed(&project, &objects));
    assert!(plain > 1000, "too few are sound to say anything: {plain}");
}

#[test]
fn a_doubt_says_what_git_does() {
    let ebcdic = commit(b"IBM037", b"Ada <ada@example.org>", b"Fix a typo\n");
    assert!(Commit::parse(&ebcdic).is_err());
    let said = CommitText::of(&ebcdic);
    assert_eq!(said.doubt, Some(TextDoubt::UnknownEncoding { name: "IBM037".into() }));
    assert!(said.subject.starts_with("\\x46\\x69\\x78"), "{}", said.subject);
}
