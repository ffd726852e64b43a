//! Attacks by a child that reads hostile bytes and was taken over, on the process that started it and on the user; and by one
//! that does not answer as it should.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use keyhatch_cage::{Child, ChildError, Program};
use keyhatch_tests::User;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than any test waits: what ends, ends for another reason.
const PATIENCE: Duration = Duration::from_secs(600);
/// Far above what a slow machine needs.
const SOON: Duration = Duration::from_secs(120);

/// A directory of an ordinary user's with the program that attacks.
struct Stage {
    directory: TempDir,
    user: User,
}

impl Stage {
    fn new() -> Self {
        let (directory, user) = (tempfile::tempdir().expect("tempdir"), User::ordinary());
        // By another process: a descriptor that writes the program, in a test beside that forks, would keep it from starting.
        let copied = Command::new("cp").args([env!("CARGO_BIN_EXE_caged")]).arg(directory.path()).status();
        assert!(copied.is_ok_and(|status| status.success()), "a copy");
        std::fs::create_dir(directory.path().join("home")).expect("a directory");
        for path in ["", "caged", "home"] {
            user.owns(&directory.path().join(path));
        }
        Self { directory, user }
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("caged")
    }

    fn child(&self, task: &'static str) -> Program {
        Program { path: self.program(), task, max_answer: 64 * 1024 }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).env("TOKEN", "a secret").current_dir("/");
        self.user.runs(&mut command);
        command
    }

    /// What each act came to.
    fn attack(&self, confined: &str) -> Value {
        let home = self.directory.path().join("home");
        let output = self.command(&["attack", confined, home.to_str().expect("text")]).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The processes of this stage.
    fn alive(&self) -> usize {
        let is_ours = |entry: std::io::Result<std::fs::DirEntry>| {
            let program = std::fs::read_link(entry.ok()?.path().join("exe")).ok()?;
            (program == self.program()).then_some(())
        };
        std::fs::read_dir("/proc").expect("/proc").filter_map(is_ours).count()
    }

    fn wait_for(&self, count: usize) {
        let start = Instant::now();
        while self.alive() != count {
            assert!(start.elapsed() < SOON, "{} processes are left, not {count}", self.alive());
            thread::yield_now();
        }
    }

    /// Runs a child that does not answer as it should.
    fn fails(&self, task: &'static str, request: &str) -> ChildError {
        let start = Instant::now();
        let failed = Child::run::<Value>(&self.child(task), &request, &[], PATIENCE).expect_err("no answer");
        assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
        self.wait_for(0);
        failed
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(thread::current()))));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn acts(outcome: &Value) -> Vec<&Value> {
    outcome["acts"].as_array().expect("acts").iter().collect()
}

#[test]
fn a_child_that_was_taken_over_can_do_none_of_the_acts() {
    let stage = Stage::new();
    let outcome = stage.attack("yes");
    assert!(acts(&outcome).len() >= 60, "{} acts", acts(&outcome).len());
    let done: Vec<_> = acts(&outcome).into_iter().filter(|act| act["done"] == true).collect();
    assert!(done.is_empty(), "{done:#?}");
    let home = stage.directory.path().join("home");
    for file in ["spool", "target", "cut", "mode"] {
        assert_eq!(std::fs::read(home.join(file)).expect("there"), b"the user's", "{file}");
    }
    assert_eq!(std::fs::read_dir(home.join("quarantine")).expect("there").count(), 2, "setuid, program");
}

#[test]
fn the_same_acts_are_done_where_the_confinement_is_off() {
    let outcome = Stage::new().attack("no");
    let failed: Vec<_> =
        acts(&outcome).into_iter().filter(|act| act["open"] == true && act["done"] == false).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(outcome["forgotten"], true, "the parent forgot a descriptor, which the child closed");
}

#[test]
fn a_child_and_what_it_started_die_with_the_process_of_their_parent() {
    let stage = Stage::new();
    let mut parent = stage.command(&["hold"]).stdin(Stdio::piped()).spawn().expect("it runs");
    stage.wait_for(3);
    parent.kill().expect("it is killed");
    parent.wait().expect("it ended");
    stage.wait_for(0);
}

#[test]
fn a_child_outlives_the_thread_that_asked_for_it() {
    let stage = Stage::new();
    let (program, file) = (stage.child("late"), stage.directory.path().join("now"));
    let request = file.clone();
    let start = move || Child::start::<String>(&program, &request, Vec::new(), PATIENCE).expect("starts");
    let running = thread::spawn(start).join().expect("the thread ended");
    stage.wait_for(1);
    std::fs::write(&file, "").expect("writes");
    let answer = block_on(running).expect("an answer").check(Ok::<_, ()>);
    assert_eq!(answer.expect("checked"), "late");
}

#[test]
fn a_child_ends_with_all_that_it_started_when_nobody_waits_for_it() {
    let stage = Stage::new();
    let running = Child::start::<Value>(&stage.child("wait"), &(), Vec::new(), PATIENCE).expect("starts");
    stage.wait_for(2);
    drop(running);
    stage.wait_for(0);
}

#[test]
fn a_child_that_says_more_than_it_may_is_ended_at_once() {
    let failed = Stage::new().fails("flood", "");
    assert!(matches!(failed, ChildError::TooLarge { limit: 65536 }), "{failed}");
}

#[test]
fn a_child_that_stops_in_its_answer_is_ended_soon() {
    let failed = Stage::new().fails("half", "");
    assert!(matches!(failed, ChildError::Stalled { during: "its answer" }), "{failed}");
}

#[test]
fn a_child_that_does_not_read_is_ended_soon() {
    let failed = Stage::new().fails("deaf", &"x".repeat(16 * 1024 * 1024));
    assert!(matches!(failed, ChildError::Stalled { during: "its request" }), "{failed}");
}

#[test]
fn a_child_that_never_answers_is_ended_when_its_time_is_up() {
    let stage = Stage::new();
    let patience = Duration::from_secs(1);
    let failed = Child::run::<Value>(&stage.child("wait"), &(), &[], patience).expect_err("no answer");
    assert!(matches!(failed, ChildError::TimedOut { patience: of } if of == patience), "{failed}");
    stage.wait_for(0);
}

#[test]
fn a_child_that_dies_says_why_to_the_log() {
    let failed = Stage::new().fails("dies", "");
    assert!(
        matches!(&failed, ChildError::Died { said, .. } if said.contains("of a hostile byte")),
        "{failed}"
    );
}

#[test]
fn a_program_that_is_missing_is_named() {
    let program = Program { path: "/nonexistent/keyhatch-inspect".into(), task: "push", max_answer: 1 };
    let failed = Child::run::<Value>(&program, &(), &[], PATIENCE).expect_err("no answer");
    assert!(
        matches!(&failed, ChildError::Missing { program } if program == Path::new("/nonexistent/keyhatch-inspect"))
    );
}
