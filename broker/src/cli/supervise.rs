//! While the command runs: signals are passed on, limits are watched, and whoever goes past one is ended.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tokio::time::Instant;

use super::Failure;
use super::bounds::{Held, Told};
use crate::limits::watch::Watch;
use crate::limits::{Hit, Limit};

/// How long a command may take to end by itself after it was asked to: an agent saves what it has.
const GRACE: Duration = Duration::from_secs(3);

/// How a supervised command ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The runner's status, which mirrors the command's.
    pub(super) status: ExitStatus,
    /// The limit for which it was ended.
    pub(super) killed: Option<Hit>,
    /// What the kernel said of the cgroup, where there was one.
    pub(super) told: Told,
}

/// The signals that are the command's, listened for from before there is a command: none may end `keyhatch run` instead.
pub(super) struct Signals {
    terminate: Listener,
    interrupt: Listener,
    quit: Listener,
    hangup: Listener,
    window: Listener,
}

impl Signals {
    /// Starts to listen.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::internal("signals", &e));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            window: listen(SignalKind::window_change())?,
        })
    }

    /// Waits for one; none for those that a command which shares this terminal has from there itself.
    pub(super) async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            _ = self.terminate.recv() => Some(Signal::TERM),
            _ = self.hangup.recv() => Some(Signal::HUP),
            _ = self.interrupt.recv() => None,
            _ = self.quit.recv() => None,
            _ = self.window.recv() => None,
        }
    }
}

/// Waits for the runner. The runner passes signals to the command.
pub(super) async fn wait(
    runner: &mut Child,
    watch: &mut Watch,
    mut held: Option<Held>,
    (mut signals, resized): (Signals, impl Fn()),
) -> Result<Ended, Failure> {
    let (mut killed, mut patience, mut told) = (None, None, Told::default());
    loop {
        let number = tokio::select! {
            status = runner.wait() => {
                let status = status.map_err(|e| Failure::internal("the runner", &e))?;
                told = held.map_or(told, Held::conclude);
                // What the kernel killed it for is why it ended.
                let killed = killed.or_else(|| told.hits.iter().find(|hit| hit.killed).copied());
                told.hits.retain(|hit| Some(hit) != killed.as_ref());
                return Ok(Ended { status, killed, told });
            }
            () = farewell(held.as_ref()) => {
                // The runner waits until its cgroup was looked at.
                told = held.take().map_or(told, Held::conclude);
                continue;
            }
            hit = watch.hit(), if killed.is_none() => {
                killed = Some(hit);
                match hit.limit {
                    Limit::Time(_) | Limit::Idle(_) => {
                        patience = Some(Instant::now() + GRACE);
                        Signal::TERM
                    }
                    // It goes on taking meanwhile: no grace.
                    _ => Signal::KILL,
                }
            }
            () = until(patience) => { patience = None; Signal::KILL }
            _ = signals.terminate.recv() => Signal::TERM,
            _ = signals.hangup.recv() => Signal::HUP,
            // Typed at a terminal that is not ours to relay: the whole process group has it, the runner too.
            _ = signals.interrupt.recv() => continue,
            _ = signals.quit.recv() => continue,
            _ = signals.window.recv() => { resized(); continue }
        };
        if number == Signal::KILL
            && let Some(held) = &held
        {
            // The runner lives on and tells how it ended.
            held.kill();
            continue;
        }
        let pid = runner.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(pid) = pid else { continue };
        if let Err(error) = kill_process(pid, number) {
            tracing::debug!(%error, "the runner is gone");
        }
    }
}

async fn farewell(held: Option<&Held>) {
    match held {
        Some(held) => held.farewell().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
