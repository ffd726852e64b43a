//! What a session's end leaves to be done behind the answer: its records, its report and its placeholders are there all
//! the same, whatever the disk and the broker's own end do.

use std::path::PathBuf;

use keyhatch_tests::{Running, World};
use rustix::process::{Pid, Signal, kill_process};

const REPORTS: &str = "home/.local/state/keyhatch/reports";

/// Starts a broker under strace, which does something to its system calls.
fn broker_with(world: &World, call: &str, inject: &str) -> Running {
    let mut command = world.command("strace");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
    command.arg(format!("inject={call}:{inject}")).arg(world.path("bin/keyhatch")).arg("broker");
    let broker = world.spawn(command);
    world.wait_until("the broker answers", || world.path("run/keyhatch/control.sock").exists());
    broker
}

/// Sends such a broker a signal that ends it, and waits until it has ended.
fn stop_by(world: &World, broker: Running, signal: Signal) {
    let tracer = i32::try_from(broker.id()).expect("a pid");
    let traced = world.processes("keyhatch broker").into_iter().find(|pid| *pid != tracer);
    let pid = Pid::from_raw(traced.expect("a broker runs")).expect("a pid");
    kill_process(pid, signal).expect("it can be signalled");
    broker.finish();
}

/// Asks such a broker to end, and waits until it has.
fn stop(world: &World, broker: Running) {
    stop_by(world, broker, Signal::TERM);
}

/// Whether a session was opened, and none has sockets any more.
fn is_ending(world: &World) -> bool {
    let sockets = std::fs::read_dir(world.path("run/keyhatch/sessions")).expect("a directory").count();
    sockets == 0 && world.events().iter().any(|event| event == "session-opened")
}

fn project(world: &World) -> PathBuf {
    world.project("p", "https://example.invalid/x.git")
}

#[test]
fn a_session_whose_record_the_disk_does_not_take_ends() {
    let world = World::new();
    let project = project(&world);
    let broker = broker_with(&world, "fdatasync", "error=EIO");
    let running = world.start(&project, "default", "sleep 600");
    world.wait_until("the session ends before its command", || is_ending(&world));
    world.wait_until("nothing is left in the project", || !project.join(".vscode").exists());
    drop(running);
    // Nobody knows what else the disk lacks.
    let refused = world.run(&project, "default", "true").fails();
    assert!(refused.stderr.contains("cannot write the audit log"), "{refused:?}");
    assert!(refused.stderr.contains("start the broker again"), "{refused:?}");
    assert!(!project.join(".vscode").exists());
    stop(&world, broker);
}

#[test]
fn a_broker_that_is_told_to_stop_waits_for_the_session_that_ends() {
    let world = World::new();
    let project = project(&world);
    let broker = broker_with(&world, "rmdir", "delay_enter=200000");
    let running = world.start(&project, "default", "true");
    world.wait_until("the session ends", || is_ending(&world));
    stop(&world, broker);
    running.finish();
    assert!(!project.join(".vscode").exists() && !project.join(".cargo").exists());
    assert_eq!(world.events(), ["session-opened", "session-closed"]);
    assert_eq!(std::fs::read_dir(world.path(REPORTS)).expect("a directory").count(), 1);
    world.keyhatch(&["audit", "verify"]).ok();
}

#[test]
fn a_command_that_runs_has_its_sockets_with_the_broker_and_outlives_it() {
    let world = World::new();
    let project = project(&world);
    // As the sockets arrive.
    let broker = broker_with(&world, "recvmsg", "delay_enter=500000");
    let running =
        world.start(&project, "default", "touch runs; while ! test -e go; do sleep 0.01; done; exit 7");
    world.wait_until("the command runs", || project.join("runs").exists());
    stop_by(&world, broker, Signal::KILL);
    world.write("p/go", "");
    assert_eq!(running.finish().code(), 7);
}

#[test]
fn reports_beyond_the_newest_hundred_go() {
    let world = World::new();
    let project = project(&world);
    for directory in ["home/.local", "home/.local/state", "home/.local/state/keyhatch", REPORTS] {
        world.make_directory(directory);
    }
    for number in 0..120 {
        world.write(&format!("{REPORTS}/{number}.json"), "{}");
    }
    world.run(&project, "default", "true").ok();
    let count = || std::fs::read_dir(world.path(REPORTS)).expect("a directory").count();
    world.wait_until("the oldest are gone", || count() == 100);
    let session = world.audit()[0]["session"].as_str().expect("a session").to_owned();
    world.keyhatch(&["session", "show", &session]).ok();
}
