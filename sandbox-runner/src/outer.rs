//! The outer process of tier A: on the host's side of the namespaces. Starts init, passes signals in and the status out.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use keyhatch_sandbox_rules::rules::Foundation;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::cgroup::Cgroup;
use crate::error::{RunError, at};
use crate::observer::Observer;
use crate::rules::Rest;
use crate::supervise::Ended;
use crate::sys::{self, Forked};
use crate::tier::Chosen;
use crate::{NOT_BUILT, init, network};

/// Starts init in the namespaces that this process has entered, and waits for it.
pub(crate) fn run(
    (foundation, rest): (&Foundation, Rest),
    chosen: &Chosen,
    (handoff, cgroup, observer): (OwnedFd, Cgroup, Observer),
) -> Result<Ended, RunError> {
    match network::prepare(&foundation.network)? {
        Some(sockets) => sockets.enforce(&handoff)?,
        None => network::hand_over(&[], &handoff)?,
    }
    drop(handoff);
    sys::hold_signals(true).map_err(at("hold", "signals"))?;
    let (status_reader, status_writer) = std::io::pipe().map_err(at("open", "a pipe"))?;
    // Init reads this to its end where the outer process died before init could ask the kernel to watch it.
    let (alive_reader, alive_writer) = std::io::pipe().map_err(at("open", "a pipe"))?;
    match sys::fork().map_err(at("fork", "init"))? {
        Forked::Child => {
            drop((status_reader, alive_writer));
            std::process::exit(said(init::run(
                (foundation, rest),
                chosen,
                (cgroup, observer),
                (status_writer, alive_reader),
            )))
        }
        Forked::Parent(init) => {
            drop((status_writer, alive_reader, observer, rest));
            let waited = wait(init)?;
            drop(alive_writer);
            cgroup.farewell();
            Ok(reported(status_reader).unwrap_or(waited))
        }
    }
}

/// A child's exit code, after its error was printed.
pub(crate) fn said(result: Result<i32, RunError>) -> i32 {
    result.unwrap_or_else(|error| {
        let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        // Standard error may be closed; the exit code says the same.
        drop(write!(std::io::stderr(), "keyhatch: {error}\n{hint}"));
        NOT_BUILT.into()
    })
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

/// The command's own end, as init saw it; none where init was killed first.
fn reported(mut reader: std::io::PipeReader) -> Option<Ended> {
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes).ok()?;
    Some(Ended::decode(bytes))
}

/// Ends as the command ended: with its code, or by its signal.
pub(crate) fn mirror(ended: Ended) -> ExitCode {
    ExitCode::from(mirrored(ended))
}

/// Ends by the command's signal, or says with which code to end.
pub(crate) fn mirrored(ended: Ended) -> u8 {
    let signal = match ended {
        Ended::Code(code) => return code,
        Ended::Signal(signal) => i32::from(signal),
    };
    sys::default_effect(signal);
    drop(sys::hold_signals(false));
    // Where the signal does not end this process, the shell's own convention does.
    drop(sys::kill(std::process::id().cast_signed(), signal));
    u8::try_from(128 + signal).unwrap_or(1)
}
