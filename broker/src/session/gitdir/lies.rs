//! The child that reads the session's directory, taken over: it answers and writes what it likes. Real repositories, real
//! git; the one double is the child, which is an honest one whose answer is changed before it is given.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch_protocol::{ObjectId, RefName, SessionId};

use super::build::build;
use super::harvest::{EntryChange, Harvest, HarvestError, Order, RefChange, Refused};
use super::index::{GITLINK, Tracked};
use super::layout::Repository;
use super::reflog::LogEntry;
use super::refs::{Head, Refs};
use super::state::State;
use super::sync::{Check, Children, Round, SyncError};
use super::verify::{Verdict, VerifyError, VerifyRequest};
use crate::inspect::Limits;
use crate::session::told::Told;

/// A project, and a session in which a commit was made.
struct Stage {
    temp: tempfile::TempDir,
    state: State,
}

impl Stage {
    /// `work` is what the session's git does, beside one commit.
    fn new(work: &str) -> Self {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path().join("p");
        fs::create_dir(&project).expect("mkdir");
        sh(
            &project,
            "git init -q -b main; echo 1 > f; git add f; git commit -qm one; echo 2 > f; git commit -qam two",
        );
        let repository = Repository::of(&project).expect("reads").expect("a repository");
        let (state, _) = build(&repository, (0, &temp.path().join("0")), "").expect("builds");
        let stage = Self { temp, state };
        // The session sees the host's objects where they are mounted; here, by their own path.
        let session = stage.state.session();
        fs::write(
            session.join("objects/info/alternates"),
            format!("{}\n", project.join(".git/objects").display()),
        )
        .expect("writes");
        let inside = stage.temp.path().join("inside");
        fs::create_dir(&inside).expect("mkdir");
        let git = format!("export GIT_DIR={} GIT_WORK_TREE={};", session.display(), inside.display());
        sh(&inside, &format!("{git} echo good > f; git commit -qam good; {work}"));
        stage
    }

    fn project(&self) -> PathBuf {
        self.temp.path().join("p")
    }

    fn round(&mut self, children: Children<'_>, last: bool) -> Result<bool, SyncError> {
        let project = self.project();
        Round {
            state: &mut self.state,
            project: &project,
            session: &SessionId::from_random([7; 4]),
            limits: Limits { pack_bytes: 1 << 24, objects: 10_000 },
            last,
            attempts: &mut BTreeMap::new(),
            told: &Told::default(),
            children,
        }
        .play()
    }

    /// A round whose child lies.
    fn lied_to(&mut self, lie: &dyn Fn(&Order, &mut Harvest)) -> Result<bool, SyncError> {
        let lying = |order: &Order, check: Check<'_>| -> Result<(Harvest, Refs), HarvestError> {
            let mut harvest = honest(order)?;
            lie(order, &mut harvest);
            let before = check(&harvest)?;
            Ok((harvest, before))
        };
        self.round(Children { harvest: &lying, verify: &here }, false)
    }

    /// What the user sees of their repository, refs that wait apart.
    fn host(&self) -> String {
        sh(
            &self.project(),
            "git for-each-ref --format='%(objectname) %(refname)' | grep -v refs/keyhatch/ || true; cat .git/HEAD; git fsck --strict --no-dangling 2>&1; \
             git status --porcelain -uno; git log -p --all | cat > /dev/null; ls .git/objects/pack; find .git -name 'tmp_obj*'",
        )
    }
}

/// What the child answers, without confinement.
fn honest(order: &Order) -> Result<Harvest, HarvestError> {
    Ok(keyhatch_inspect::harvest::gather(order)?)
}

fn truthful(order: &Order, check: Check<'_>) -> Result<(Harvest, Refs), HarvestError> {
    let harvest = honest(order)?;
    let before = check(&harvest)?;
    Ok((harvest, before))
}

/// The check of objects, without a confined child around it.
fn here(request: &VerifyRequest) -> Result<(), VerifyError> {
    match keyhatch_inspect::verify::judge(request)? {
        Verdict::Sound => Ok(()),
        Verdict::Unsound => Err(VerifyError::Unsound),
    }
}

fn sh(directory: &Path, script: &str) -> String {
    let made = Command::new("sh")
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
        .args(["-ec", script])
        .output()
        .expect("sh runs");
    assert!(made.status.success(), "{script} {}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("text")
}

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text.trim()).expect("an id")
}

fn name(text: &str) -> RefName {
    RefName::parse(text.as_bytes()).expect("a name")
}

fn change(text: &str, new: &ObjectId) -> RefChange {
    RefChange { name: name(text), new: Some(new.clone()), log: Vec::new() }
}

fn entry(path: &str, mode: u32, id: &ObjectId) -> EntryChange {
    let tracked =
        Tracked { mode, id: id.clone(), assume_valid: false, skip_worktree: false, intent_to_add: false };
    EntryChange { path: path.as_bytes().to_vec(), stage: 0, tracked: Some(tracked) }
}

/// The commit that the session made.
fn made(harvest: &Harvest) -> ObjectId {
    let main = harvest.refs.iter().find(|change| change.name.as_str() == "refs/heads/main");
    main.and_then(|change| change.new.clone()).expect("it was made")
}

type Lie = Box<dyn Fn(&Order, &mut Harvest)>;

/// A file of the quarantine that an answer names.
fn first_object(order: &Order, harvest: &Harvest) -> PathBuf {
    order.quarantine.join(harvest.objects.first().expect("objects came"))
}

/// Answers of which nothing may be taken.
fn lies() -> Vec<(&'static str, Lie)> {
    let mut lies: Vec<(&'static str, Lie)> = Vec::new();
    let mut add = |what, lie: Lie| lies.push((what, lie));
    for ref_name in ["refs/keyhatch/x", "refs/replace/x", "refs/bisect/bad", "refs/stash", "refs/worktree/x"]
    {
        add(ref_name, Box::new(move |_, h| h.refs.push(change(ref_name, &made(h)))));
    }
    add("a ref twice", Box::new(|_, h| h.refs.push(change("refs/heads/main", &made(h)))));
    add("a name of another hash", Box::new(|_, h| h.refs.push(change("refs/heads/x", &id(&"1".repeat(64))))));
    add(
        "an object that is not there",
        Box::new(|_, h| h.refs.push(change("refs/heads/x", &id(&"1".repeat(40))))),
    );
    add("no object at all", Box::new(|_, h| h.objects.clear()));
    add("a history with a hole", Box::new(|_, h| drop(h.objects.remove(0))));
    add(
        "too many refs",
        Box::new(|_, h| {
            let made = made(h);
            h.refs.extend((0..10_001).map(|n| change(&format!("refs/heads/n{n}"), &made)));
        }),
    );
    for message in ["two\nlines", "\u{1b}[2J", "\u{202e}"] {
        add("a log entry that commands", Box::new(move |_, h| h.refs[0].log[0].message = message.into()));
    }
    add("a log entry of another time", Box::new(|_, h| h.refs[0].log[0].when = "--exec=x".into()));
    add(
        "a log without end",
        Box::new(|_, h| {
            let entry = h.refs[0].log[0].clone();
            h.refs[0].log = vec![entry; 1001];
        }),
    );
    add(
        "a stash that is no log",
        Box::new(|_, h| {
            h.stash = Some(vec![LogEntry { name: "a\nb".into(), ..h.refs[0].log[0].clone() }]);
        }),
    );
    for on in ["refs/remotes/origin/main", "refs/keyhatch/x", "refs/tags/t"] {
        add("HEAD on no branch", Box::new(move |_, h| h.trees[0].head = Some(Head::Branch(name(on)))));
    }
    add("another worktree", Box::new(|_, h| h.trees.push(Default::default())));
    add("no worktree", Box::new(|_, h| h.trees.clear()));
    for (path, mode) in [
        ("x", 0o100_600),
        ("x", 0o020_000),
        ("x", 0),
        ("new-submodule", GITLINK),
        ("../x", 0o100_644),
        ("/x", 0o100_644),
        (".git/hooks/post-commit", 0o100_755),
        ("a/.GIT/config", 0o100_644),
        ("", 0o100_644),
        ("a\0b", 0o100_644),
    ] {
        add(
            path,
            Box::new(move |_, h| {
                let made = made(h);
                h.trees[0].index.push(entry(path, mode, &made));
            }),
        );
    }
    add(
        "an entry of a stage that is none",
        Box::new(|_, h| {
            let made = made(h);
            h.trees[0].index.push(EntryChange { stage: 4, ..entry("x", 0o100_644, &made) });
        }),
    );
    add(
        "words that command a terminal",
        Box::new(|_, h| {
            h.refused.push(Refused { what: "x\x1b]0;y\x07".into(), why: "z".into() });
        }),
    );
    for file in
        ["../../record.json", "/etc/passwd", "loose/objects/../../x", "admitted/objects/pack/../../../x.idx"]
    {
        add(file, Box::new(move |_, h| h.objects.push(file.into())));
    }
    add("an object's file twice", Box::new(|_, h| h.objects.push(h.objects[0].clone())));
    add(
        "an object of other content",
        Box::new(|order, h| {
            let (first, last) =
                (first_object(order, h), order.quarantine.join(h.objects.last().expect("two")));
            fs::remove_file(&first).expect("ours");
            fs::copy(last, first).expect("copied");
        }),
    );
    add(
        "an object that is cut off",
        Box::new(|order, h| {
            let first = first_object(order, h);
            let bytes = fs::read(&first).expect("reads");
            fs::remove_file(&first).expect("ours");
            fs::write(first, &bytes[..bytes.len() - 1]).expect("writes");
        }),
    );
    add(
        "a link in an object's place",
        Box::new(|order, h| {
            let first = first_object(order, h);
            fs::rename(&first, order.quarantine.join("x")).expect("moves");
            std::os::unix::fs::symlink(order.quarantine.join("x"), first).expect("links");
        }),
    );
    add(
        "a pipe in an object's place",
        Box::new(|order, h| {
            let first = first_object(order, h);
            fs::remove_file(&first).expect("ours");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, first, rustix::fs::FileType::Fifo, mode, 0).expect("pipe");
        }),
    );
    lies
}

#[test]
fn nothing_is_taken_from_a_child_that_lies_and_the_next_one_brings_it() {
    for (what, lie) in lies() {
        let mut stage = Stage::new("true");
        let before = stage.host();
        let lied = stage.lied_to(&*lie);
        assert!(lied.is_err(), "{what}: {lied:?} {}", stage.host());
        let after = stage.host();
        let of = |text: &str| {
            text.lines().filter(|line| !line.contains("dangling")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(of(&after), of(&before), "{what}: {lied:?}");
        // Its objects may be there, where they are what they are called.
        stage
            .round(Children { harvest: &truthful, verify: &here }, true)
            .unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let log = sh(&stage.project(), "git log -1 --format=%s; git fsck --strict");
        assert_eq!(log, "good\n", "{what}");
    }
}

#[test]
fn names_that_are_none_are_not_even_read() {
    for bad in ["HEAD", "refs/heads/../x", "refs/heads/x.lock", "refs/heads/\u{7f}", "../x", "refs//x"] {
        let text =
            format!("{{\"name\":{},\"new\":null,\"log\":[]}}", serde_json::to_string(bad).expect("JSON"));
        assert!(serde_json::from_str::<RefChange>(&text).is_err(), "{bad}");
    }
    // Nor is a word on what only the host can know.
    let claims = "{\"name\":\"refs/heads/x\",\"new\":null,\"log\":[],\"descends\":true}";
    assert!(serde_json::from_str::<RefChange>(claims).is_err());
}

/// Where a ref would lead, and what it would bring, nobody takes the child's word for.
#[test]
fn what_a_ref_would_do_is_found_out_on_the_host() {
    let orphan = "git checkout -q --orphan o; git commit -qm orphan; git checkout -q -f main; git branch -q -D o 2>/dev/null || true; git branch keep";
    let link = "c=$(git rev-parse HEAD); t=$(printf '160000 commit %s\\tsub\\n' $c | git mktree); git branch link $(git commit-tree $t -p HEAD -m link)";
    let mut stage = Stage::new(&format!(
        "{orphan}; {link}; git update-ref refs/heads/orphan $(git commit-tree HEAD^{{tree}} -m o)"
    ));
    let two = id(&sh(&stage.project(), "git rev-parse main"));
    let one = id(&sh(&stage.project(), "git rev-parse main~1"));
    // It says that main went back behind what the user committed.
    stage
        .lied_to(&|_, h| {
            let main = h.refs.iter_mut().find(|change| change.name.as_str() == "refs/heads/main");
            main.expect("it changed").new = Some(one.clone());
        })
        .expect("it is a claim like others");
    assert_eq!(id(&sh(&stage.project(), "git rev-parse main")), two);
    let refs = sh(&stage.project(), "git for-each-ref --format='%(refname)'");
    assert!(refs.contains("refs/heads/keep") && refs.contains("refs/heads/orphan"), "{refs}");
    assert!(!refs.contains("refs/heads/link\n") && refs.contains("/heads/link"), "{refs}");
    // And then that it is where nothing of the user's leads.
    let orphan = id(&sh(&stage.project(), "git rev-parse orphan"));
    stage
        .lied_to(&|_, h| {
            h.refs = vec![change("refs/heads/main", &orphan)];
        })
        .expect("it is a claim like others");
    assert_eq!(id(&sh(&stage.project(), "git rev-parse main")), two);
}

/// A branch with a repository of its own waits; so does a commit on no branch, and an entry of the stash.
#[test]
fn a_head_or_a_stash_with_a_repository_of_its_own_is_not_followed() {
    let mut stage = Stage::new(
        "c=$(git rev-parse HEAD); t=$(printf '160000 commit %s\\tsub\\n' $c | git mktree); k=$(git commit-tree $t -p HEAD -m link); \
         git update-ref --no-deref HEAD $k; git update-ref --create-reflog -m stashed refs/stash $k",
    );
    stage.round(Children { harvest: &truthful, verify: &here }, true).expect("it plays");
    let seen = sh(
        &stage.project(),
        "cat .git/HEAD; git stash list; git log -1 --format=%s main; git for-each-ref --format='%(refname)'",
    );
    assert!(seen.starts_with("ref: refs/heads/main\ngood\n"), "{seen}");
}

/// The fault of A2: git believes the index of a pack, so that what is checked out is not what was committed.
#[test]
fn a_pack_whose_index_lies_is_not_taken() {
    let many = "for n in $(seq 120); do echo $n > n$n; done; git add .; git commit -qm many; true";
    let rewritten = |order: &Order, h: &Harvest, change: &dyn Fn(&mut Vec<u8>, usize)| {
        let index = h.objects.iter().find(|file| file.ends_with(".idx")).expect("a pack came");
        let path = order.quarantine.join(index);
        let mut bytes = fs::read(&path).expect("reads");
        let count = u32::from_be_bytes(bytes[8 + 255 * 4..8 + 256 * 4].try_into().expect("four")) as usize;
        change(&mut bytes, count);
        let end = bytes.len() - 20;
        let sum = <sha1::Sha1 as sha1::Digest>::digest(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum);
        fs::remove_file(&path).expect("ours");
        fs::write(path, bytes).expect("writes");
    };
    let lies: Vec<(&str, Lie)> = vec![
        (
            "two objects under each other's names",
            Box::new(move |order, h| {
                rewritten(order, h, &|bytes, count| {
                    for table in [8 + 1024 + count * 20, 8 + 1024 + count * 24] {
                        (0..4).for_each(|byte| bytes.swap(table + byte, table + 4 + byte));
                    }
                });
            }),
        ),
        (
            "an object under a name that nothing has",
            Box::new(move |order, h| {
                rewritten(order, h, &|bytes, _| bytes[8 + 1024 + 19] ^= 1);
            }),
        ),
        (
            "an index of another pack",
            Box::new(move |order, h| {
                rewritten(order, h, &|bytes, _| {
                    let at = bytes.len() - 30;
                    bytes[at] ^= 1;
                });
            }),
        ),
        (
            "a pack that the host has",
            Box::new(|order, h| {
                // Sound in itself; and it would stand beside what the host has under the same names.
                let host = order.objects[0].join("../..");
                let packs = order.quarantine.join("admitted/objects/pack");
                let made = sh(
                    &host,
                    &format!("echo $(git rev-parse main:f) | git pack-objects -q {}/pack", packs.display()),
                );
                let stem = format!("admitted/objects/pack/pack-{}", made.trim());
                h.objects.extend([format!("{stem}.pack"), format!("{stem}.idx")]);
            }),
        ),
    ];
    for (what, lie) in lies {
        let mut stage = Stage::new(many);
        let before = stage.host();
        let lied = stage.lied_to(&*lie);
        assert!(lied.is_err(), "{what}: {lied:?}");
        assert_eq!(stage.host(), before, "{what}: {lied:?}");
        stage.round(Children { harvest: &truthful, verify: &here }, true).expect("it plays");
        assert_eq!(sh(&stage.project(), "git log -1 --format=%s; git fsck --strict"), "many\n", "{what}");
    }
}
