//! The process in front of the runner's own: passes signals on, ends what takes too long, and outlives all of it.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use keyhatch_sandbox_rules::rules::SandboxRules;
use rustix::process::{Pid, WaitOptions, wait};

use crate::error::{RunError, at};
use crate::landlocked::end_all_below;
use crate::launch;
use crate::outer::{mirrored, said};
use crate::rules::Rest;
use crate::supervise::Ended;
use crate::sys::{self, Forked};
use crate::tier::Around;

/// How long is waited where the policy sets no time: what comes earlier is a signal.
const LONG: Duration = Duration::from_secs(60 * 60);

/// Runs the command in a child of this process.
pub(super) fn run(
    rules: &SandboxRules,
    without: Option<String>,
    seconds: Option<u64>,
) -> Result<Ended, RunError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(at("reap", "what the command starts"))?;
    sys::hold_signals(true).map_err(at("hold", "signals"))?;
    match sys::fork().map_err(at("fork", "the runner"))? {
        Forked::Child => {
            // What a terminal sends reaches the process in front, which passes it on: once.
            let ended = rustix::process::setpgid(None, None)
                .map_err(at("lead", "a process group"))
                .and_then(|()| launched(rules, Around::Container { without }));
            std::process::exit(said(ended.map(|ended| mirrored(ended).into())));
        }
        Forked::Parent(runner) => {
            let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            let ended = until_ended(runner, until)?;
            if ended.is_none() {
                eprintln!(
                    "keyhatch: limit reached: time ({} s); everything inside was ended",
                    seconds.unwrap_or_default()
                );
                // It may have ended meanwhile.
                drop(sys::kill(runner.as_raw_nonzero().get(), libc::SIGKILL));
            }
            end_all_below()?;
            Ok(ended.unwrap_or(Ended::Signal(9)))
        }
    }
}

/// Starts the sandbox with nobody at the other end of its lines.
pub(super) fn launched(rules: &SandboxRules, around: Around) -> Result<Ended, RunError> {
    let (ours, theirs) = UnixStream::pair().map_err(at("open", "a socket pair"))?;
    let ended = launch::launch(Rest::known(rules), (theirs.into(), None), around);
    drop(ours);
    ended
}

/// How the runner ended; none where the time was up first.
fn until_ended(runner: Pid, until: Option<Instant>) -> Result<Option<Ended>, RunError> {
    loop {
        let left = until.map_or(LONG, |until| until.saturating_duration_since(Instant::now()));
        match sys::next_signal_within(left).map_err(at("wait for", "signals"))? {
            None if until.is_some_and(|until| until <= Instant::now()) => return Ok(None),
            None => {}
            Some(libc::SIGCHLD) => {
                while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                    if pid == runner
                        && let Some(ended) = Ended::of(status)
                    {
                        return Ok(Some(ended));
                    }
                }
            }
            // It ended meanwhile: its SIGCHLD is next.
            Some(signal) => drop(sys::kill(runner.as_raw_nonzero().get(), signal)),
        }
    }
}
