//! Deaths of `keyhatch run`, of the runner, of the sandbox's init and of the command in it, at one system call after the
//! other: while a session starts, while a commit is made, while it ends. Whoever dies, the host's repository is whole,
//! nothing of ours is left in it, and every commit that was made is there. (Deaths of the broker: gitdir_crash.)

use std::collections::{BTreeMap, BTreeSet};

use keyhatch_tests::{GITS, Twins};

/// Two commits, a branch and a stash; each commit is written down once git says that it is made.
const WORK: &str = "for n in 1 2; do echo $$ $n >> f; git add f; git commit -qm $n; git rev-parse HEAD >> .made; done; \
                    git branch -f side; echo more >> f; git stash -q; git stash drop -q";
/// What changes something outside of the process that calls it, or waits for somebody who does.
const CALLS: &[&str] = &[
    "clone",
    "clone3",
    "vfork",
    "execve",
    "exit_group",
    "wait4",
    "kill",
    "unshare",
    "setns",
    "setsid",
    "prctl",
    "seccomp",
    "landlock_add_rule",
    "landlock_restrict_self",
    "open_tree",
    "move_mount",
    "mount",
    "mount_setattr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "pivot_root",
    "umount2",
    "chdir",
    "mkdir",
    "mkdirat",
    "symlinkat",
    "openat",
    "openat2",
    "link",
    "linkat",
    "rename",
    "unlink",
    "unlinkat",
    "flock",
    "socket",
    "bind",
    "listen",
    "connect",
    "sendto",
    "sendmsg",
    "recvmsg",
    "recvfrom",
    "ppoll",
    "epoll_wait",
    "ioctl",
    "read",
    "write",
];
/// Which of a process's many equal calls.
const SAMPLED: &[usize] = &[1, 2, 3, 5, 9, 17, 33, 65];
/// How long one run may take; it takes a third of a second.
const PATIENCE: &str = "30";

/// Runs the work under strace and returns what it wrote: a line a call, the process in front.
fn traced(twins: &Twins, inject: Option<&str>) -> String {
    let log = twins.world.path("strace");
    let mut command = twins.world.command("timeout");
    command.current_dir(&twins.boxed).args(["-k", "1", PATIENCE, "strace", "-f", "-qqq", "-o"]).arg(&log);
    command.arg("-e").arg(format!("trace={}", CALLS.join(",")));
    command.args(inject.map(|inject| format!("-einject={inject}")));
    command.arg(twins.world.path("bin/keyhatch")).args(["run", "--policy", "default", "--", "sh", "-c"]);
    command.arg(twins.script(WORK));
    let ran = twins.world.spawn(command).finish();
    assert_ne!(ran.code(), 124, "{inject:?}: something of the session goes on for ever: {ran:?}");
    std::fs::read_to_string(log).unwrap_or_default()
}

/// The calls at which somebody is to die: of each kind, some of those that one process makes.
fn steps(log: &str) -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (pid, line) in log.lines().filter_map(|line| line.split_once(' ')) {
        let call = line.trim_start().split('(').next().unwrap_or_default();
        if CALLS.contains(&call) {
            *counts.entry((call, pid)).or_default() += 1;
        }
    }
    let most = |call: &str| counts.iter().filter(|((of, _), _)| *of == call).map(|(_, count)| *count).max();
    let of = |call: &&str| {
        let most = most(call).unwrap_or(0);
        let sampled: BTreeSet<usize> =
            SAMPLED.iter().copied().filter(|count| *count < most).chain((most > 0).then_some(most)).collect();
        let call = (*call).to_owned();
        sampled.into_iter().map(move |count| format!("{call}:signal=KILL:when={count}"))
    };
    CALLS.iter().flat_map(of).collect()
}

/// What the first one that died was running; nothing where nobody died.
fn died(log: &str) -> Option<String> {
    let pid = log.lines().find(|line| line.ends_with("+++ killed by SIGKILL +++"))?.split(' ').next()?;
    let of = log.lines().filter(|line| line.split(' ').next() == Some(pid));
    let executed = of.filter_map(|line| line.split_once("execve(\"")?.1.split('"').next()).next_back();
    // One that was forked and has not executed anything yet: the sandbox's init, or the command before it is one.
    Some(
        executed.map_or_else(
            || "forked".to_owned(),
            |path| path.rsplit('/').next().unwrap_or_default().to_owned(),
        ),
    )
}

/// How often in a row nothing may be left, where a broker may not have begun yet what its client asked for.
const SETTLED: usize = 10;

/// The repository is whole, every commit is there, and nothing else is.
fn whole(twins: &Twins, when: &str, program: Option<&str>) {
    // A broker whose client died early opens the session all the same, and ends it when it finds nobody to tell.
    let needed = if program == Some("keyhatch") { SETTLED } else { 1 };
    let mut in_a_row = 0;
    twins.world.wait_until(&format!("nothing of the session's is left: {when}"), || {
        let is_whole =
            twins.world.no_session_is_left() && names(&twins.boxed) == [".git", ".made", "README", "f"];
        in_a_row = if is_whole { in_a_row + 1 } else { 0 };
        in_a_row >= needed
    });
    let check = "git fsck --no-dangling; for i in $(cat .made); do git cat-file -e $i || echo lost $i; done; \
        last=$(tail -n1 .made); git merge-base --is-ancestor ${last:-HEAD} main || echo not on main";
    let checked = twins.on_host(&twins.boxed, check).ok();
    assert_eq!(checked.all(), "", "{when}\n{}", twins.world.broker_log());
    twins.world.clean(&twins.boxed);
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the project").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn dies_at_every_step(git: &'static str, which: usize) {
    let twins = Twins::new(git);
    // Starts the broker, which strace is to leave alone.
    twins.inside(&twins.boxed, WORK).ok();
    let alive = traced(&twins, None);
    assert_eq!(died(&alive), None);
    whole(&twins, "nobody died", None);
    let steps = steps(&alive);
    let mut died_as = BTreeMap::new();
    for step in steps.iter().skip(which).step_by(2) {
        let log = traced(&twins, Some(step));
        let program = died(&log);
        whole(&twins, &format!("{step}: {program:?}"), program.as_deref());
        *died_as.entry(program).or_insert(0) += 1;
    }
    // The next session has its way as if nothing had been.
    traced(&twins, None);
    whole(&twins, "afterwards", None);
    let deaths: usize = died_as.iter().filter(|(program, _)| program.is_some()).map(|(_, count)| count).sum();
    assert!(deaths * 4 > steps.len() / 2 * 3, "{deaths} deaths in {} steps", steps.len() / 2);
    for program in ["keyhatch", "keyhatch-run", "forked", "git"] {
        assert!(died_as.contains_key(&Some(program.to_owned())), "{program} never died: {died_as:?}");
    }
}

#[test]
fn whoever_dies_at_any_step_nothing_is_lost() {
    dies_at_every_step(GITS[1], 0);
}

#[test]
fn whoever_dies_at_any_step_nothing_is_lost_of_an_older_git() {
    dies_at_every_step(GITS[0], 1);
}
