//! The parsers of what is signed, on every commit and tag of real repositories and on mutations of them: what they
//! accept, they write back; what git wrote, they accept.

use std::path::Path;
use std::process::{Command, Stdio};

use keyhatch_protocol::ObjectFormat;
use keyhatch_protocol::signable::{Commit, Signable, SignableError, Tag, split_commit, split_tag};
use keyhatch_tests::World;

/// Objects of one kind, as `git cat-file --batch` prints them.
fn objects(repository: &Path, kind: &str) -> Vec<Vec<u8>> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(repository).args(["-c", "safe.directory=*"]).args(arguments);
        git
    };
    let check = "--batch-check=%(objecttype) %(objectname)";
    let listed = git(&["cat-file", "--batch-all-objects", check]).output().expect("git runs").stdout;
    let wanted: Vec<String> = String::from_utf8_lossy(&listed)
        .lines()
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ').map(str::to_owned))
        .collect();
    let mut batch = git(&["cat-file", "--batch=%(objectsize)"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut stdin = batch.stdin.take().expect("a pipe");
    let names = wanted.join("\n") + "\n";
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, names.as_bytes()));
    let output = batch.wait_with_output().expect("git ends").stdout;
    writer.join().expect("the writer ends").ok();
    let mut rest = output.as_slice();
    let mut found = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let size: usize = String::from_utf8_lossy(&rest[..end]).parse().expect("a size");
        found.push(rest[end + 1..end + 1 + size].to_vec());
        rest = &rest[end + 2 + size..];
    }
    found
}

fn round_trip(covered: &[u8]) -> Result<(), SignableError> {
    let parsed = Signable::parse(covered)?;
    assert_eq!(parsed.encode(), covered, "{}", String::from_utf8_lossy(covered));
    Ok(())
}

/// A repository with what git can put into a commit: merges of signed tags, encodings, odd names, long messages.
fn varied(world: &World, format: &str) -> std::path::PathBuf {
    let project = world.project_with(&format!("varied-{format}"), "https://git.invalid/p", format);
    let key = world.path(&format!("home/key-{format}"));
    let made = world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let script = format!(
        "set -e; git config gpg.format ssh; git config gpg.ssh.allowedSignersFile /dev/null; git config user.signingkey {0}; \
         for n in $(seq 15); do git checkout -q -b t$n main; git commit -q --allow-empty -S -m \"Signed $n\"; \
         git tag -s -m \"Tag $n\" v$n; git checkout -q main; git commit -q --allow-empty -m \"Plain $n\"; \
         git merge -q --no-ff --no-edit v$n; done; git merge -q --no-ff -m Octopus t1 t2 t3 || true; \
         GIT_AUTHOR_NAME='Zoë  de   Ünïcödé' GIT_AUTHOR_DATE='@0 -0330' git commit -q --allow-empty -m 'Émile 🎉'; \
         git -c i18n.commitEncoding=ISO-8859-1 commit -q --allow-empty -m \"$(printf 'caf\\351')\"; \
         git commit -q --allow-empty --allow-empty-message -m ''; git commit -q --allow-empty -m \"$(seq 20000)\"; \
         git commit -q --allow-empty -m '-----BEGIN PGP SIGNATURE-----'; git tag -a -m plain plain",
        key.display()
    );
    let mut shell = world.command("sh");
    shell.current_dir(&project).args(["-c", &script]);
    world.spawn(shell).finish().ok();
    project
}

#[test]
fn every_commit_and_tag_that_git_wrote_is_accepted_and_written_back() {
    let world = World::new();
    for (format, names) in [("sha1", ObjectFormat::Sha1), ("sha256", ObjectFormat::Sha256)] {
        let project = varied(&world, format);
        let commits = objects(&project, "commit");
        assert!(commits.len() > 45, "{}", commits.len());
        let mut merged = 0;
        for commit in &commits {
            let covered = split_commit(commit, names).map_or_else(|| commit.clone(), |signed| signed.covered);
            round_trip(&covered)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&covered)));
            merged += usize::from(Commit::parse(&covered).is_ok_and(|commit| !commit.extra.is_empty()));
        }
        assert!(merged >= 15, "merges of signed tags carry them: {merged}");
        for tag in objects(&project, "tag") {
            let covered = split_tag(&tag).map_or_else(|| tag.clone(), |signed| signed.covered);
            assert_eq!(Tag::parse(&covered).expect("a tag").encode(), covered);
        }
    }
    // This project's own history, where the tests run in a clone of it.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let commits = objects(&own, "commit");
    for commit in &commits {
        let covered =
            split_commit(commit, ObjectFormat::Sha1).map_or_else(|| commit.clone(), |signed| signed.covered);
        round_trip(&covered).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&covered)));
    }
}

#[test]
fn whatever_is_accepted_of_mutated_objects_is_written_back() {
    let world = World::new();
    let project = varied(&world, "sha1");
    let seeds: Vec<Vec<u8>> = objects(&project, "commit")
        .iter()
        .filter(|object| object.len() < 4096)
        .map(|object| {
            split_commit(object, ObjectFormat::Sha1).map_or_else(|| object.clone(), |signed| signed.covered)
        })
        .chain(objects(&project, "tag").iter().filter_map(|tag| Some(split_tag(tag)?.covered)))
        .collect();
    // A generator of a fixed start, so that a failure can be had again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (below as u64)).expect("it is below")
    };
    let bytes = b"\n \t\0<>\x1b\x7f\xff0a:+-";
    let mut accepted = 0;
    for round in 0..60_000 {
        let mut object = seeds[round % seeds.len()].clone();
        for _ in 0..=random(2) {
            let at = random(object.len());
            match random(4) {
                0 => object[at] = bytes[random(bytes.len())],
                1 => object.insert(at, bytes[random(bytes.len())]),
                2 => drop(object.remove(at)),
                _ => {
                    // A line twice, or out of its place.
                    let line: Vec<u8> =
                        object[..at].split(|byte| *byte == b'\n').next_back().unwrap_or_default().to_vec();
                    object.splice(at..at, [b"\n", &line[..]].concat());
                }
            }
        }
        accepted += usize::from(round_trip(&object).is_ok());
    }
    assert!(accepted > 1000, "too few mutations were sound to say anything: {accepted}");
}
