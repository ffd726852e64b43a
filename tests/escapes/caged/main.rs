//! A program for attacks on the cage: it starts itself as a confined child, which then tries what it must not be able to do.
//!
//! `caged attack yes|no DIRECTORY` prints what each act came to, with the confinement on or off; `caged hold` starts a child that
//! waits, and waits too. The other tasks are children: see their functions.

mod acts;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use acts::{Act, Target};
use keyhatch_cage::{Cage, Child, Limits, Program, ReadOnlyFd, Work};
use serde_json::{Value, json};

/// Longer than any test waits.
const PATIENCE: Duration = Duration::from_secs(300);
/// Most bytes of a request here.
const MAX_REQUEST: u64 = 64 * 1024 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["attack", confined, directory] => attack(confined == "yes", Path::new(directory)),
        ["hold"] => hold(),
        ["act"] => act(),
        ["wait"] => wait(),
        ["grandchild"] => grandchild(),
        ["late"] => late(),
        ["flood"] => flood(),
        ["half"] => half(),
        ["deaf"] => park(),
        ["dies"] => panic!("of a hostile byte"),
        _ => panic!("caged: {arguments:?}"),
    }
}

fn program(task: &'static str) -> Program {
    Program { path: std::env::current_exe().expect("a program"), task, max_answer: 1024 * 1024 }
}

/// The parent: with a secret in its environment and a descriptor that it forgot to close, like a broker that has a fault.
fn attack(confined: bool, directory: &Path) {
    for name in acts::VICTIMS {
        std::fs::write(directory.join(name), "the user's").expect("a victim");
    }
    std::fs::create_dir(directory.join("quarantine")).expect("a directory");
    let forgotten = File::open(directory.join("secret")).expect("opens");
    acts::forget(forgotten.as_raw_fd());
    let spool = File::options().read(true).write(true).open(directory.join("spool")).expect("opens");
    let fds = [ReadOnlyFd::reopen(&spool).expect("reopens")];
    let request = json!({ "confined": confined, "directory": directory, "parent": std::process::id() });
    let answer = Child::run::<Value>(&program("act"), &request, &fds, PATIENCE);
    let answer: Result<Value, ()> = answer.expect("an answer").check(Ok);
    println!("{}", answer.expect("checked"));
}

/// The child: confined or, to see that its acts are ones, not.
fn act() {
    let forgotten = acts::is_forgotten();
    let work = Work::<Value>::receive(MAX_REQUEST).expect("a request");
    let (request, fds, work) = work.split();
    let directory = PathBuf::from(request["directory"].as_str().expect("a directory"));
    let quarantine = directory.join("quarantine");
    if request["confined"] == true {
        let cage = Cage { readable: &[], writable: &quarantine, limits: Limits::for_pack(1 << 20) };
        cage.enforce().expect("confined");
    }
    let parent = i32::try_from(request["parent"].as_i64().expect("a number")).expect("a pid");
    let target = Target { directory, parent, spool: fds[0].as_raw_fd() };
    let outcome = |act: &Act| {
        let done = (act.attempt)(&target);
        json!({ "act": act.name, "open": act.is_open, "done": done.is_ok(), "said": format!("{done:?}") })
    };
    let outcomes: Vec<Value> = acts::ACTS.iter().map(outcome).collect();
    work.answer(&json!({ "forgotten": forgotten, "acts": outcomes })).expect("an answer");
}

/// A parent that is killed while its child works.
fn hold() {
    let running =
        Child::start::<Value>(&program("wait"), &Value::Null, Vec::new(), PATIENCE).expect("starts");
    let mut line = String::new();
    std::io::stdin().read_to_string(&mut line).expect("waits");
    drop(running);
}

/// A child that starts one of its own and waits.
fn wait() {
    let _work = Work::<Value>::receive(MAX_REQUEST).expect("a request");
    let mut command = std::process::Command::new(std::env::current_exe().expect("a program"));
    keyhatch_cage::sys::end_with_this_process(command.arg("grandchild"));
    command.status().expect("it waits");
}

/// Dies with whoever started it.
fn grandchild() {
    park()
}

fn park() {
    loop {
        std::thread::park();
    }
}

/// A child that answers once a file is there.
fn late() {
    let (file, _, work) = Work::<PathBuf>::receive(MAX_REQUEST).expect("a request").split();
    while !file.exists() {
        std::thread::yield_now();
    }
    work.answer(&"late").expect("an answer");
}

/// A child that says more than it may. It does not use its own side of the cage: it was taken over.
fn flood() {
    let mut out = std::io::stdout();
    while out.write_all(&[b' '; 4096]).is_ok() {}
    park();
}

/// A child that stops in the middle of its answer.
fn half() {
    let mut text = Vec::new();
    let socket = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().expect("a copy");
    File::from(socket).read_to_end(&mut text).expect("a request");
    let mut out = std::io::stdout();
    out.write_all(b"{\"half\":").and_then(|()| out.flush()).expect("half an answer");
    park();
}
