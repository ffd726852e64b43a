//! Deaths: of the session, the runner, the broker, at whatever moment. The host's repository stays whole, no lock is
//! left, and no commit that the agent made is lost.

use std::path::Path;

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
    twins.world.wait_until("the session's directory is gone", || {
        let directory = twins.world.home().join(".local/state/keyhatch/gitdirs");
        std::fs::read_dir(directory).is_ok_and(|mut left| left.next().is_none())
    });
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
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
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
    let twins = Twins::new(GITS[1]);
    let run = start(&twins);
    wait_for(&twins, 5);
    for pid in twins.world.processes("keyhatch-run ") {
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .ok();
    }
    run.finish().fails();
    whole(&twins, "the runner was killed");
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

#[test]
fn placeholders_of_a_killed_broker_go_with_the_next_start() {
    let twins = Twins::new(GITS[0]);
    let run = start(&twins);
    wait_for(&twins, 1);
    assert!(twins.boxed.join(".envrc").exists() && twins.boxed.join(".idea").is_dir());
    std::fs::write(twins.boxed.join("mise.toml"), "the user's\n").expect("the user writes one");
    kill(twins.world.broker());
    run.signal(libc::SIGKILL);
    run.finish();
    assert!(twins.boxed.join(".envrc").exists());
    twins.world.run(&twins.world.make_directory("other"), "default", "true").ok();
    whole(&twins, "the broker and the session were killed");
    assert!(!twins.boxed.join(".envrc").exists() && !twins.boxed.join(".idea").exists());
    assert_eq!(std::fs::read_to_string(twins.boxed.join("mise.toml")).expect("kept"), "the user's\n");
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
