//! Deaths: of the session, the runner, the broker, at whatever moment. The host's repository stays whole, no lock is
//! left, and no commit that the agent made is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use keyhatch_tests::{GITS, Running, Twins};

/// Commits, and writes down each id before it makes the next. Never ends by itself.
const BUSY: &str = "n=0; while :; do n=$((n+1)); echo $n > f$((n % 7)); git add .; git commit -qm \"n $n\" || continue; \
                    git branch -q b$KEYHATCH_SESSION-$n || true; git rev-parse HEAD >> .made; done";

fn start(twins: &Twins) -> Running {
    std::fs::remove_file(twins.boxed.join(".made")).ok();
    twins.world.start(&twins.boxed, "default", &twins.script(BUSY))
}

fn made(project: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(project.join(".made")).unwrap_or_default();
    text.lines().filter(|line| line.len() == 40).map(str::to_owned).collect()
}

/// Waits until so many commits were made.
fn wait_for(twins: &Twins, count: usize) {
    twins.world.wait_until("commits are made", || made(&twins.boxed).len() >= count);
}

/// The repository is whole and has every commit.
fn whole(twins: &Twins, when: &str) {
    twins.world.wait_until("the session's directory is gone", || twins.world.no_session_is_left());
    let made = made(&twins.boxed);
    let ids = made.join(" ");
    let check =
        format!("git fsck --no-dangling; for i in {ids}; do git cat-file -e $i || echo lost $i; done");
    let checked = twins.on_host(&twins.boxed, &check).ok();
    assert_eq!(checked.all(), "", "{when}: {} commits\n{}", made.len(), twins.world.broker_log());
    let last = made.last().expect("commits were made");
    let on =
        twins.on_host(&twins.boxed, &format!("git merge-base --is-ancestor {last} main && echo on")).ok();
    assert_eq!(on.stdout, "on\n", "{when}");
    twins.world.clean(&twins.boxed);
}

fn kill(pid: i32) {
    let process = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it can be killed");
    wait_for_end(pid);
}

/// Waits until a killed process is gone: until its last thread is, which may wait for a disk, its sockets still take
/// connections.
fn wait_for_end(pid: i32) {
    let lives = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        threads > 1 || !(stat.is_empty() || stat.contains(") Z"))
    };
    while lives() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_killed_session_loses_nothing() {
    Twins::each(|twins| {
        for count in [1, 9] {
            let run = start(twins);
            wait_for(twins, count);
            run.signal(libc::SIGKILL);
            run.finish();
            whole(twins, "keyhatch run was killed");
        }
    });
}

#[test]
fn a_killed_runner_loses_nothing() {
    Twins::each(|twins| {
        let run = start(twins);
        wait_for(twins, 5);
        for pid in twins.world.processes("keyhatch-run ") {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).expect("a pid"),
                rustix::process::Signal::KILL,
            )
            .ok();
        }
        run.finish().fails();
        whole(twins, "the runner was killed");
    });
}

#[test]
fn a_killed_broker_loses_nothing_and_the_next_one_goes_on() {
    Twins::each(|twins| {
        for count in [1, 2, 3, 5, 8, 13] {
            let run = start(twins);
            wait_for(twins, count);
            kill(twins.world.broker());
            // The session goes on without a broker; the next command starts one, which keeps it in step.
            wait_for(twins, count + 2);
            let other = twins.world.run(&twins.world.make_directory("other"), "default", "true");
            assert!(other.status.success(), "{other:?}");
            let tip = made(&twins.boxed).last().cloned().expect("a commit");
            twins.world.wait_until("the new broker brings what is made", || {
                twins
                    .on_host(&twins.boxed, &format!("git merge-base --is-ancestor {tip} main"))
                    .status
                    .success()
            });
            run.signal(libc::SIGKILL);
            run.finish();
            whole(twins, "the broker was killed");
        }
    });
}

/// Until the keeper has copied it, what was agreed on is the host's own file under a second name.
#[test]
fn a_broker_that_dies_as_the_command_starts_still_knows_what_was_agreed_on() {
    Twins::each(|twins| {
        twins.prepare(
            "for n in 1 2 3; do echo $n > h$n; done; git add .; git commit -qm three; git pack-refs --all",
        );
        let script = "touch ready; while ! test -e go; do sleep 0.01; done; echo in > inside; git add inside; git rm -q --cached h1; \
                  touch finished; while ! test -e end; do sleep 0.01; done";
        let run = twins.world.start(&twins.boxed, "default", &twins.script(script));
        while !twins.boxed.join("ready").exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kill(twins.world.broker());
        twins
            .on_host(
                &twins.boxed,
                "echo out > outside; git add outside; git rm -q --cached h2; git branch made",
            )
            .ok();
        twins.world.write("boxed/go", "");
        twins.world.wait_until("the work is done", || twins.boxed.join("finished").exists());
        twins.world.run(&twins.world.make_directory("other"), "default", "true").ok();
        twins.world.write("boxed/end", "");
        run.finish();
        twins.world.wait_until("the session's directory is gone", || twins.world.no_session_is_left());
        let seen = twins
        .on_host(
            &twins.boxed,
            "git status --porcelain; git for-each-ref --format='%(refname)'; git fsck; stat -c %h .git/index",
        )
        .ok();
        let staged = "D  h1\nD  h2\nA  inside\nA  outside\n";
        assert!(seen.stdout.starts_with(staged), "{seen:?}\n{}", twins.world.broker_log());
        assert!(seen.stdout.ends_with("refs/heads/made\nrefs/heads/main\n1\n"), "{seen:?}");
        twins.world.clean(&twins.boxed);
    });
}

#[test]
fn placeholders_of_a_killed_broker_go_with_the_next_start() {
    Twins::each(|twins| {
        let run = start(twins);
        wait_for(twins, 1);
        assert!(twins.boxed.join(".envrc").exists() && twins.boxed.join(".idea").is_dir());
        std::fs::write(twins.boxed.join("mise.toml"), "the user's\n").expect("the user writes one");
        kill(twins.world.broker());
        run.signal(libc::SIGKILL);
        run.finish();
        assert!(twins.boxed.join(".envrc").exists());
        twins.world.run(&twins.world.make_directory("other"), "default", "true").ok();
        whole(twins, "the broker and the session were killed");
        assert!(!twins.boxed.join(".envrc").exists() && !twins.boxed.join(".idea").exists());
        assert_eq!(std::fs::read_to_string(twins.boxed.join("mise.toml")).expect("kept"), "the user's\n");
    });
}

#[test]
fn commits_on_both_sides_at_once_are_all_kept() {
    Twins::each(|twins| {
        let script = "n=0; while [ $n -lt 12 ]; do git commit -q --allow-empty -m \"in $n\" && n=$((n+1)) && git rev-parse HEAD >> .made; done";
        let run = twins.world.start(&twins.boxed, "default", &twins.script(script));
        let host = "n=0; while [ $n -lt 12 ]; do git commit -q --allow-empty -m \"out $n\" && n=$((n+1)) && git rev-parse HEAD >> .made; done";
        twins.on_host(&twins.boxed, host).ok();
        run.finish().ok();
        let made = made(&twins.boxed);
        assert_eq!(made.len(), 24);
        let list = "git rev-list --all; git fsck --no-dangling";
        let kept = twins.on_host(&twins.boxed, list).ok();
        for id in made {
            assert!(kept.stdout.contains(&id), "{id} is on no ref\n{}", twins.world.broker_log());
        }
        twins.world.clean(&twins.boxed);
    });
}

/// Everything that comes back: commits, a branch, a tag, an amended commit, a stash, another `HEAD`, a staged file.
const STEPS: &str = "touch ready; while ! test -e go; do sleep 0.01; done; id() { git rev-parse $1 >> .made; }; \
    echo 1 > f; mkdir d; echo 1 > d/f; git add f d; git commit -qm one; id HEAD; echo x >> f; git stash -q; id stash; sleep 0.2; \
    git switch -qc side; echo 2 > f; git commit -qam two; id HEAD; git commit -q --amend -m three; id HEAD; git tag -a t -m t; id t; \
    git branch more; echo 3 > g; git add g; touch finished; while ! test -e end; do sleep 0.01; done";
/// What the broker does to a file system, and to start a git that does something there.
const CALLS: &[&str] = &[
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "openat",
    "clone",
    "clone3",
    "vfork",
];

/// Runs the steps with strace on the session's keeper. Returns whether the broker died, and what strace wrote.
fn traced(twins: &Twins, options: &[&str]) -> (bool, String) {
    for name in [".made", "ready", "go", "finished", "end"] {
        std::fs::remove_file(twins.boxed.join(name)).ok();
    }
    let run = twins.world.start(&twins.boxed, "default", &twins.script(STEPS));
    twins.world.wait_until("the session runs", || twins.boxed.join("ready").exists());
    let mut found = None;
    twins.world.wait_until("a keeper runs", || {
        found = keeper(twins.world.broker());
        found.is_some()
    });
    let (keeper, broker) = (found.expect("it was found"), twins.world.broker());
    let log = twins.world.path("strace");
    // The broker lets nobody of its own user look into it.
    let mut strace = Command::new(if rustix::process::getuid().is_root() { "strace" } else { "sudo" });
    if !rustix::process::getuid().is_root() {
        strace.args(["-n", "strace"]);
    }
    strace.args(["-q", "-p", &keeper.to_string(), "-o"]).arg(&log).args(options);
    let tracer = twins.world.spawn(strace);
    twins.world.wait_until("strace holds the broker, for which it needs root", || {
        std::fs::read_to_string(format!("/proc/{keeper}/status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    });
    twins.world.write("boxed/go", "");
    twins.world.wait_until("the work is done", || twins.boxed.join("finished").exists());
    // Some steps are made live, some when the session ends: which is which does not matter.
    std::thread::sleep(std::time::Duration::from_millis(300));
    twins.world.write("boxed/end", "");
    run.finish();
    tracer.finish();
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let died = log.contains("killed by SIGKILL");
    if died {
        // Behind the answer, perhaps: the next command must not find a broker that is about to go.
        wait_for_end(broker);
    }
    (died, log)
}

/// The thread of the broker that keeps the session in step.
fn keeper(broker: i32) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{broker}/task")).ok()?.flatten();
    let mut named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "gitdir\n")
    });
    named.find_map(|task| task.file_name().to_str()?.parse().ok())
}

/// The steps of one session, as kinds of calls: names of objects, sessions and temporary files left out. Every call that
/// gives something its name is a step, of the others the first of each kind.
fn steps(log: &str, directory: &Path) -> Vec<(String, usize)> {
    let (mut counts, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let mut steps = Vec::new();
    for line in log.lines().filter(|line| !line.starts_with("---") && !line.starts_with("+++")) {
        let call = line.split('(').next().unwrap_or_default().to_owned();
        let count = counts.entry(call.clone()).and_modify(|n| *n += 1).or_insert(1usize);
        // One placeholder is like the other.
        let placeholder = call == "unlink" && !line.contains("/.git/") && line.contains("/boxed/");
        let line = if placeholder { "placeholder" } else { line };
        let kind: String = line
            .replace(&directory.display().to_string(), "")
            .split(['/', '_', '-', '.', ' '])
            .filter(|word| {
                word.len() < 2 || !word.bytes().all(|b| b.is_ascii_hexdigit() || b"\",".contains(&b))
            })
            .collect();
        // What is only read changes nothing, and the quarantine is nobody's.
        if call == "openat" && !line.contains("O_CREAT") || call == "unlinkat" && !line.contains("agreed") {
            continue;
        }
        if call.starts_with("rename") || call.starts_with("link") || seen.insert(kind) {
            steps.push((call, *count));
        }
    }
    steps
}

fn dies_at_every_step(git: &'static str, which: usize) {
    let twins = Twins::new(git);
    let calls = CALLS.join(",");
    let (died, log) = traced(&twins, &["-e", &format!("trace={calls}")]);
    assert!(!died);
    arrived(&twins, "it lived");
    let steps = steps(&log, &twins.world.path(""));
    let mut deaths = 0;
    for (call, count) in steps.iter().skip(which).step_by(2) {
        let twins = Twins::new(git);
        let inject = format!("inject={call}:signal=KILL:when={count}");
        let (died, log) = traced(&twins, &["-e", &format!("trace={calls}"), "-e", &inject]);
        deaths += usize::from(died);
        twins.world.run(&twins.world.make_directory("other"), "default", "true").ok();
        let last = log.lines().rev().nth(1).unwrap_or_default();
        arrived(&twins, &format!("{call} {count}: {last}"));
    }
    // Rounds fall differently each time: a late step may not come.
    assert!(deaths * 4 > steps.len() / 2 * 3, "it died {deaths} times in {} steps", steps.len() / 2);
}

/// What the session did is on the host, and nothing else.
fn arrived(twins: &Twins, when: &str) {
    twins.world.wait_until("the session's directory is gone", || twins.world.no_session_is_left());
    let seen = twins
        .on_host(
            &twins.boxed,
            "git log --format=%s; git log --format=%s main; git for-each-ref --format='%(refname) %(contents:subject)'; \
             git symbolic-ref HEAD; git status --porcelain -uno; git stash list; git fsck --no-dangling; \
             for i in $(cat .made); do git cat-file -e $i || echo lost $i; done",
        )
        .ok();
    let expected = "three\none\nAdd README\none\nAdd README\nrefs/heads/main one\nrefs/heads/more three\n\
        refs/heads/side three\nrefs/stash WIP on main: ID one\nrefs/tags/t t\nrefs/heads/side\nA  g\nstash@{0}: WIP on main: ID one\n";
    let id = twins.world.tip(&twins.boxed, "main");
    let all = seen.all().replace(&id[..7], "ID");
    assert_eq!(all, expected, "{when}\n{}", twins.world.broker_log());
    twins.world.clean(&twins.boxed);
}

#[test]
fn a_broker_that_dies_at_any_step_loses_nothing() {
    dies_at_every_step(GITS[1], 0);
}

#[test]
fn a_broker_that_dies_at_any_step_loses_nothing_of_an_older_git() {
    dies_at_every_step(GITS[0], 1);
}
