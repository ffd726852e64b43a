//! Init: pid 1 inside. Takes every power away in the only right order, starts the command, reaps, passes signals on.

use std::io::{PipeReader, PipeWriter, Read, Write};

use keyhatch_policies::rules::SandboxRules;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};

use crate::error::{RunError, at};
use crate::outer::Ended;
use crate::sys::{self, Forked};
use crate::{filter, privileges, probe, root, ruleset};

/// `env(1)`'s codes for a command that is not there, or cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Builds the inside, runs the command in it and reports its wait status.
pub(crate) fn run(rules: &SandboxRules, mut status: PipeWriter, alive: PipeReader) -> Result<i32, RunError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at("watch", "the parent"))?;
    still_alive(alive)?;
    // A session of our own: no signal of the host's terminal arrives, and job control has a parent inside it.
    rustix::process::setsid().map_err(at("start", "a session"))?;
    if rules.terminal {
        rustix::process::ioctl_tiocsctty(std::io::stdin()).map_err(at("take", "the terminal"))?;
    }
    // Before the mounts: a key of the user's session keyring is readable whatever is mounted.
    sys::join_fresh_keyring().map_err(at("join", "a fresh session keyring"))?;
    privileges::limit(&rules.limits)?;
    root::enforce(rules)?;
    // After the mounts, which need power; Landlock forbids mounting from here on.
    ruleset::enforce(rules)?;
    privileges::drop_all()?;
    // Last, because the steps above make calls that it refuses.
    filter::enforce()?;
    let command = match sys::fork().map_err(at("fork", "the command"))? {
        Forked::Child => {
            drop(status);
            return start(rules);
        }
        Forked::Parent(pid) => pid,
    };
    let ended = reap(command)?;
    // The outer process may be gone; then nobody wants to know.
    drop(status.write_all(&ended.encode()));
    Ok(0)
}

/// Refuses to go on where the outer process died before its death was watched.
fn still_alive(mut alive: PipeReader) -> Result<(), RunError> {
    rustix::io::ioctl_fionbio(&alive, true).map_err(at("watch", "the parent"))?;
    match alive.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(at("watch", "the parent")(error)),
        Ok(_) => Err(at("watch", "the parent")(std::io::Error::from_raw_os_error(libc::ESRCH))),
    }
}

/// The command's own process: the last steps, the proof, and exec.
fn start(rules: &SandboxRules) -> Result<i32, RunError> {
    let own = rustix::process::getpid();
    rustix::process::setpgid(None, None).map_err(at("lead", "a process group"))?;
    if rules.terminal {
        // From the background this would stop us with SIGTTOU, which is held by nobody: ignore it for the call.
        rustix::termios::tcsetpgrp(std::io::stdin(), own).map_err(at("take", "the terminal's foreground"))?;
    }
    probe::enforce()?;
    sys::close_from(3).map_err(at("close", "descriptors"))?;
    sys::default_effect(libc::SIGPIPE);
    sys::default_effect(libc::SIGTTOU);
    sys::hold_signals(false).map_err(at("let through", "signals"))?;
    let environment: Vec<String> = rules.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (program, code, why) = exec(rules, &environment);
    eprintln!("keyhatch: cannot run {program}: {why}");
    if code == NOT_FOUND {
        eprintln!("hint: inside, programs are looked for in {}", path(rules));
    }
    Ok(code)
}

fn path(rules: &SandboxRules) -> &str {
    rules.env.get("PATH").map_or("", String::as_str)
}

/// Execs the command, looked up in the `PATH` inside. Returns only on failure.
fn exec<'a>(rules: &'a SandboxRules, environment: &[String]) -> (&'a str, i32, std::io::Error) {
    let Some(name) = rules.command.first() else {
        return ("", NOT_FOUND, std::io::ErrorKind::NotFound.into());
    };
    if name.contains('/') {
        let error = sys::exec(name.as_ref(), &rules.command, environment);
        let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
        return (name, code, error);
    }
    let mut last = (NOT_FOUND, std::io::Error::from(std::io::ErrorKind::NotFound));
    for directory in path(rules).split(':').filter(|directory| !directory.is_empty()) {
        let error = sys::exec(format!("{directory}/{name}").as_ref(), &rules.command, environment);
        if error.kind() != std::io::ErrorKind::NotFound {
            last = (NOT_EXECUTABLE, error);
        }
    }
    (name, last.0, last.1)
}

/// Waits for the command, reaping orphans and passing signals on meanwhile.
fn reap(command: Pid) -> Result<Ended, RunError> {
    loop {
        let signal = sys::next_signal().map_err(at("wait for", "signals"))?;
        if signal == libc::SIGCHLD {
            while let Ok(Some((pid, status))) = wait_any() {
                if pid == command
                    && let Some(ended) = Ended::of(status)
                {
                    return Ok(ended);
                }
            }
            continue;
        }
        let raw = command.as_raw_nonzero().get();
        // What a terminal would send goes to the whole group, as it would from one.
        let target = if matches!(signal, libc::SIGINT | libc::SIGQUIT) { -raw } else { raw };
        if sys::kill(target, signal).is_err() {
            // It ended meanwhile: its SIGCHLD is next.
            continue;
        }
    }
}

fn wait_any() -> rustix::io::Result<Option<(Pid, WaitStatus)>> {
    wait(WaitOptions::NOHANG)
}
