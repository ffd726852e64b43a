//! The outer process: leaves the namespaces, starts init, passes signals in and the status out.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use keyhatch_policies::rules::SandboxRules;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};

use crate::error::{RunError, at};
use crate::sys::{self, Forked};
use crate::{NOT_BUILT, init, namespaces, network};

/// Builds the sandbox and waits for its command.
pub(crate) fn run(rules: &SandboxRules, handoff: OwnedFd) -> Result<ExitCode, RunError> {
    // Whoever kills `keyhatch run` kills all of it: this process, init with it, and with init the whole pid namespace.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at("watch", "the parent"))?;
    namespaces::enforce()?;
    network::enforce(&rules.listen, &handoff)?;
    drop(handoff);
    sys::hold_signals(true).map_err(at("hold", "signals"))?;
    let (status_reader, status_writer) = std::io::pipe().map_err(at("open", "a pipe"))?;
    // Init reads this to its end where the outer process died before init could ask the kernel to watch it.
    let (alive_reader, alive_writer) = std::io::pipe().map_err(at("open", "a pipe"))?;
    match sys::fork().map_err(at("fork", "init"))? {
        Forked::Child => {
            drop((status_reader, alive_writer));
            let code = match init::run(rules, status_writer, alive_reader) {
                Ok(code) => code,
                Err(error) => {
                    let mut stderr = std::io::stderr();
                    let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                    // Standard error may be closed; the exit code says the same.
                    drop(write!(stderr, "keyhatch: {error}\n{hint}"));
                    NOT_BUILT.into()
                }
            };
            std::process::exit(code)
        }
        Forked::Parent(init) => {
            drop((status_writer, alive_reader));
            let waited = wait(init)?;
            drop(alive_writer);
            Ok(mirror(reported(status_reader).unwrap_or(waited)))
        }
    }
}

fn wait(init: Pid) -> Result<Ended, RunError> {
    loop {
        let signal = sys::next_signal().map_err(at("wait for", "signals"))?;
        if signal == libc::SIGCHLD {
            if let Some((_, status)) =
                waitpid(Some(init), WaitOptions::NOHANG).map_err(at("wait for", "init"))?
                && let Some(ended) = Ended::of(status)
            {
                return Ok(ended);
            }
        } else if let Err(error) = sys::kill(init.as_raw_nonzero().get(), signal) {
            // Init ended meanwhile: its SIGCHLD is next.
            debug_assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        }
    }
}

/// How the command ended, as init tells the outer process: two bytes on a pipe.
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

    const fn decode(bytes: [u8; 2]) -> Self {
        match bytes {
            [0, code] => Self::Code(code),
            [_, signal] => Self::Signal(signal),
        }
    }
}

/// The command's own end, as init saw it; none where init was killed first.
fn reported(mut reader: std::io::PipeReader) -> Option<Ended> {
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes).ok()?;
    Some(Ended::decode(bytes))
}

/// Ends as the command ended: with its code, or by its signal.
fn mirror(ended: Ended) -> ExitCode {
    let signal = match ended {
        Ended::Code(code) => return ExitCode::from(code),
        Ended::Signal(signal) => i32::from(signal),
    };
    sys::default_effect(signal);
    drop(sys::hold_signals(false));
    // Where the signal does not end this process, the shell's own convention does.
    drop(sys::kill(std::process::id().cast_signed(), signal));
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
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
