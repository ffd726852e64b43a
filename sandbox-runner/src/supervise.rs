//! Watching over the command: pass signals on, reap, tell how it ended.

use std::io::{PipeReader, Read};

use keyhatch_sandbox_rules::rules::SandboxRules;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::NOT_BUILT;
use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

/// How a process ended, as init tells the outer process: two bytes on a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Ended {
    /// None for a process that stopped or went on.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(1);
        let code = status.exit_status().map(|code| Self::Code(byte(code)));
        code.or_else(|| status.terminating_signal().map(|signal| Self::Signal(byte(signal))))
    }

    pub(crate) const fn encode(self) -> [u8; 2] {
        match self {
            Self::Code(code) => [0, code],
            Self::Signal(signal) => [1, signal],
        }
    }

    pub(crate) const fn decode(bytes: [u8; 2]) -> Self {
        match bytes {
            [0, code] => Self::Code(code),
            [_, signal] => Self::Signal(signal),
        }
    }
}

/// Asks the kernel to end this process with its parent.
pub(crate) fn die_with_parent() -> Result<(), RunError> {
    if mutation::is_off(Mitigation::DeathSignal) {
        return Ok(());
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(at("watch", "the parent"))
}

/// Refuses to go on where the parent died before its death was watched.
pub(crate) fn still_alive(mut alive: PipeReader) -> Result<(), RunError> {
    rustix::io::ioctl_fionbio(&alive, true).map_err(at("watch", "the parent"))?;
    match alive.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(at("watch", "the parent")(error)),
        // Nobody is there to be told.
        Ok(_) => abandoned(),
    }
}

/// Ends this process where whoever started it closed its line: the session did not open, or `keyhatch run` was killed. What
/// there is to say has been said.
pub(crate) fn abandoned() -> ! {
    std::process::exit(NOT_BUILT.into())
}

/// Waits for the command, reaping orphans and passing signals on meanwhile.
pub(crate) fn reap(command: Pid) -> Result<Ended, RunError> {
    reap_while(command, || true).map(|ended| ended.unwrap_or(Ended::Signal(9)))
}

/// As [`reap`], as long as something is true: it is asked at every signal.
pub(crate) fn reap_while(command: Pid, goes_on: impl Fn() -> bool) -> Result<Option<Ended>, RunError> {
    while goes_on() {
        let signal = sys::next_signal().map_err(at("wait for", "signals"))?;
        if signal == libc::SIGCHLD {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                if pid == command
                    && let Some(ended) = Ended::of(status)
                {
                    return Ok(Some(ended));
                }
            }
            continue;
        }
        if !goes_on() {
            break;
        }
        let raw = command.as_raw_nonzero().get();
        // What a terminal would send goes to the whole group, as it would from one.
        let target = if matches!(signal, libc::SIGINT | libc::SIGQUIT) { -raw } else { raw };
        if sys::kill(target, signal).is_err() {
            // It ended meanwhile: its SIGCHLD is next.
            continue;
        }
    }
    Ok(None)
}

/// Says on standard error what holds, before the command can print anything.
pub(crate) fn announce(rules: &SandboxRules, line: &str) {
    if !rules.quiet {
        eprintln!("keyhatch: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_written() {
        for ended in [Ended::Code(0), Ended::Code(255), Ended::Signal(15)] {
            assert_eq!(Ended::decode(ended.encode()), ended);
        }
    }
}
