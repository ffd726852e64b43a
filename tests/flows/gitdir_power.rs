//! The power fails: what a session was told to have brought is on the disk. Every object is flushed before it has a name,
//! every name before a ref says it, and the ref with its own name before the session's record says that it moved.

use std::collections::BTreeMap;
use std::process::Command;

use keyhatch_tests::{GITS, Twins};

/// What reaches the disk, and what is only said to a file system.
const CALLS: &str = "fsync,fdatasync,rename,renameat,renameat2,mkdir";

/// One call that a process of the broker's made.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A file or directory is on disk: this is where the call returned.
    Flushed(String),
    /// A file is about to get a name: this is where the call began.
    Named { from: String, to: String },
}

/// Reads what strace wrote: a line a call, or two where another process came between.
fn steps(log: &str) -> Vec<Step> {
    let (mut steps, mut begun) = (Vec::new(), BTreeMap::new());
    for line in log.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let whole = if let Some(first) = call.strip_suffix("<unfinished ...>").map(str::trim_end) {
            begun.insert(pid.to_owned(), first.to_owned());
            if first.starts_with("rename") { first.to_owned() } else { continue }
        } else if call.starts_with("<...") {
            let Some(first) = begun.remove(pid).filter(|first| !first.starts_with("rename")) else {
                continue;
            };
            let (_, rest) = call.split_once("resumed>").unwrap_or_default();
            format!("{first}{rest}")
        } else {
            call.to_owned()
        };
        if whole.starts_with("fsync") || whole.starts_with("fdatasync") {
            let path = whole.split_once('<').and_then(|(_, rest)| rest.split_once(">)"));
            steps.extend(
                path.filter(|(_, end)| end.trim_end().ends_with("= 0"))
                    .map(|(path, _)| Step::Flushed(path.to_owned())),
            );
        } else if whole.starts_with("rename") {
            let mut names = whole.split('"').skip(1).step_by(2).map(str::to_owned);
            if let (Some(from), Some(to)) = (names.next(), names.next()) {
                steps.push(Step::Named { from, to });
            }
        }
    }
    steps
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.to_owned())
}

#[test]
fn whatever_a_session_is_said_to_have_brought_is_on_the_disk_first() {
    for git in GITS {
        for script in [
            "echo 1 > new; git add new; git commit -qm one; touch made; while ! test -e go; do sleep 0.01; done",
            "for n in $(seq 200); do echo $n > n$n; done; git add .; git commit -qm many; git branch other/deep; git stash list; \
             echo 1 > n1; git stash -q; touch made; while ! test -e go; do sleep 0.01; done",
        ] {
            power_fails(git, script);
        }
    }
}

fn power_fails(git: &'static str, script: &str) {
    let twins = Twins::new(git);
    let world = &twins.world;
    let script = format!("touch ready; while ! test -e begin; do sleep 0.01; done; {script}");
    let run = world.start(&twins.boxed, "default", &twins.script(&script));
    world.wait_until("the session runs", || twins.boxed.join("ready").exists());
    let (log, broker) = (world.path("strace"), world.broker());
    // The broker lets nobody of its own user look into it.
    let mut strace = Command::new(if rustix::process::getuid().is_root() { "strace" } else { "sudo" });
    if !rustix::process::getuid().is_root() {
        strace.args(["-n", "strace"]);
    }
    strace.args(["-f", "-y", "-s", "4096", "-q", "-e", &format!("trace={CALLS}"), "-e", "signal=none", "-o"]);
    strace.arg(&log).args(["-p", &broker.to_string()]);
    let tracer = world.spawn(strace);
    world.wait_until("strace holds the broker, for which it needs root", || {
        let tasks = std::fs::read_dir(format!("/proc/{broker}/task")).expect("it runs").flatten();
        let mut held =
            tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
        held.all(|status| !status.contains("TracerPid:\t0\n"))
    });
    world.write("boxed/begin", "");
    world.wait_until("the work is done", || twins.boxed.join("made").exists());
    let tip = || twins.on_host(&twins.boxed, "git log -1 --format=%s").stdout;
    world.wait_until("the commit comes back", || tip() != "Add README\n");
    world.write("boxed/go", "");
    let ran = run.finish().ok();
    assert!(ran.stderr.contains("main went from"), "{ran:?}");
    // It lets go of the broker, and writes the last of it.
    tracer.signal(libc::SIGINT);
    tracer.finish();
    let steps = steps(&std::fs::read_to_string(log).expect("strace wrote"));
    let store = format!("{}/.git/", twins.boxed.display());
    let flushed = |path: &str, steps: &[Step]| steps.contains(&Step::Flushed(path.to_owned()));
    let (mut objects, mut refs) = (0, 0);
    for (at, step) in steps.iter().enumerate() {
        let Step::Named { from, to } = step else { continue };
        let (before, after) = steps.split_at(at);
        if from.contains("tmp_obj_keyhatch") {
            objects += 1;
            assert!(flushed(from, before), "{from} has a name and is not on disk");
            let next_ref = after.iter().position(|step| {
                matches!(step, Step::Named { to, .. } if to.starts_with(&format!("{store}refs/")) || to == "refs/heads/main")
            });
            let until_ref = &after[..next_ref.unwrap_or(after.len())];
            assert!(flushed(&parent(to), until_ref), "{to} is named by a ref, and its name is not on disk");
        }
        if to.starts_with(&format!("{store}refs/")) && from.ends_with(".lock") {
            refs += 1;
            let record = after
                .iter()
                .position(|step| matches!(step, Step::Named { to, .. } if to.ends_with("/record.json")));
            let until_record =
                &after[..record.unwrap_or_else(|| panic!("no record says that {to} moved: {after:#?}"))];
            assert!(flushed(to, until_record) || flushed(from, before), "{to} moved, and is not on disk");
            assert!(flushed(&parent(to), until_record), "{to} moved, and its name is not on disk");
        }
    }
    assert!(objects >= 2 && refs >= 1, "{objects} objects and {refs} refs came: {steps:?}");
}
