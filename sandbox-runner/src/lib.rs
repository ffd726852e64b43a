//! Builds a sandbox from resolved rules, proves that it holds, and execs a command in it.
//!
//! Comes in: a [`Foundation`] as JSON on a socket, from `keyhatch run`; once the session is open, standard descriptors and all
//! rules on the same socket. Goes out: the listening sockets of the sandbox's own loopback, then the command's exit status.
//! Trusted: the rules; nothing else is read. Three processes, all single-threaded:
//!
//! ```text
//! outer    on the host's side: namespaces, loopback; passes signals in and the status out
//! └ init   pid 1 inside: root, keyring, limits, no powers; reaps, passes signals on
//!   └ command   Landlock, no_new_privs, seccomp; tries the forbidden acts, then execs
//! ```
//!
//! Where the kernel gives no namespaces, the command is a child of the outer process (`landlocked`), and weaker walls are
//! announced. In tier C that process has one thread more, once the command exists: the `hatch`. Called as `keyhatch`, in a
//! container with a session mounted, it is `keyhatch run --inside` (`inside`).

mod cgroup;
mod command;
pub mod error;
mod facts;
mod furniture;
pub mod hatch;
mod init;
mod inside;
mod keyring;
mod landlocked;
mod launch;
mod limits;
mod mutation;
mod namespaces;
mod network;
mod observer;
mod outer;
mod privileges;
mod probe;
mod root;
mod rules;
mod ruleset;
pub mod seccomp;
mod stdio;
mod supervise;
pub mod sys;
mod terminal;
pub mod tier;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use keyhatch_sandbox_rules::rules::Foundation;

use error::{RunError, at};
use rules::Rest;
use tier::Around;

/// The exit code for "the sandbox could not be built", as `env(1)` and `timeout(1)` use it.
const NOT_BUILT: u8 = 125;

/// What the command line names: descriptors that `keyhatch run` opened.
struct Descriptors {
    rules: OwnedFd,
    handoff: OwnedFd,
    observer: Option<OwnedFd>,
}

/// Runs the runner, with the name that it was called by first: the process ends as the command did, or with 125 and a
/// reason.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    mutation::read();
    let called = arguments.next();
    if called.as_ref().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == inside::NAME) {
        return inside::main(arguments);
    }
    start(arguments).unwrap_or_else(|error| failed(&error))
}

/// Says why nothing was started.
fn failed(error: &RunError) -> ExitCode {
    eprintln!("keyhatch: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(NOT_BUILT)
}

fn start(arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, RunError> {
    let mut arguments = arguments.peekable();
    match arguments.peek().and_then(|argument| argument.to_str()) {
        Some("--facts") => tell(),
        Some("--prove") => prove(arguments.nth(1)),
        Some(inside::NOTHING) => Ok(ExitCode::SUCCESS),
        _ => prepare(arguments)
            .and_then(|(rules, line)| launch::launch(rules, line, Around::Host))
            .map(outer::mirror),
    }
}

/// Prints what the kernel gives, as JSON.
fn tell() -> Result<ExitCode, RunError> {
    let text = serde_json::to_string(&facts::all()).map_err(|_| RunError::Rules)?;
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Builds the smallest sandbox and runs nothing in it: its start is the proof.
fn prove(directory: Option<OsString>) -> Result<ExitCode, RunError> {
    let rules = facts::smallest(directory.ok_or(RunError::Usage)?.into());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(at("open", "a socket pair"))?;
    let ended = launch::launch(Rest::known(&rules), (theirs.into(), None), Around::Host);
    drop(ours);
    ended.map(outer::mirror)
}

fn prepare(
    arguments: impl Iterator<Item = OsString>,
) -> Result<((Foundation, Rest), launch::Lines), RunError> {
    let descriptors = parse(arguments)?;
    let rules = rules::begin(descriptors.rules)?;
    for line in [Some(&descriptors.handoff), descriptors.observer.as_ref()].into_iter().flatten() {
        rustix::io::fcntl_setfd(line.as_fd(), rustix::io::FdFlags::CLOEXEC)
            .map_err(at("keep", "the hand-off socket"))?;
    }
    Ok((rules, (descriptors.handoff, descriptors.observer)))
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Descriptors, RunError> {
    let (mut rules, mut handoff, mut observer, mut as_root) = (None, None, None, false);
    while let Some(argument) = arguments.next() {
        let mut descriptor = || arguments.next().and_then(|value| value.to_str()?.parse().ok());
        match argument.to_str() {
            Some("--rules-fd") => rules = descriptor(),
            Some("--handoff-fd") => handoff = descriptor(),
            Some("--observer-fd") => observer = descriptor(),
            Some("--as-root") => as_root = true,
            _ => return Err(RunError::Usage),
        }
    }
    if rustix::process::getuid().is_root() && !as_root {
        return Err(RunError::Root);
    }
    match (rules.and_then(sys::inherited), handoff.and_then(sys::inherited)) {
        (Some(rules), Some(handoff)) => {
            Ok(Descriptors { rules, handoff, observer: observer.and_then(sys::inherited) })
        }
        _ => Err(RunError::Usage),
    }
}
