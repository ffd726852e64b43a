//! The cgroup of a run: looked for before the start, made while the runner waits, looked at when the command has ended.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use keyhatch_policies::rules::Requirement;
use keyhatch_policies::{Policy, SessionLimits};
use keyhatch_protocol::SessionId;

use super::Failure;
use crate::cause::chain;
use crate::limits::Hit;
use crate::limits::cgroup::{self, Cgroup, CgroupError, Place};
use crate::sys;

/// A cgroup with the line on which the runner tells that the command has ended.
#[derive(Debug)]
pub(super) struct Held {
    cgroup: Cgroup,
    line: Line,
}

/// Blocking while sockets are handed over: the flag belongs to the socket, whichever descriptor sets it.
#[derive(Debug)]
enum Line {
    Blocking(UnixStream),
    Watched(tokio::net::UnixStream),
    Lost,
}

/// What the kernel said at the end.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) hits: Vec<Hit>,
    pub(super) peak: Option<u64>,
}

/// Looks for a place. Where there is none it is said; a policy that requires one does not start.
pub(super) fn place(policy: &Policy) -> Result<Option<Place>, Failure> {
    match cgroup::find() {
        Ok(place) => Ok(Some(place)),
        Err(error) => without(policy, &error).map(|()| None),
    }
}

fn without(policy: &Policy, error: &CgroupError) -> Result<(), Failure> {
    if policy.sandbox().require.contains(&Requirement::Cgroup) {
        return Err(Failure::unavailable(
            format!("the policy requires a cgroup, and there is none: {}", chain(error)),
            "a systemd of yours gives one (loginctl enable-linger), or a directory named in KEYHATCH_CGROUP",
        ));
    }
    let SessionLimits { memory, swap, cpu, io, .. } = *policy.session_limits();
    let held = [("swap", swap.filter(|_| memory.is_some())), ("cpu", cpu), ("io", io)];
    let lost: Vec<&str> = held.iter().filter_map(|(word, value)| value.map(|_| *word)).collect();
    // What is lost is always said. Memory is limited either way: a person may know how, a program's output is left alone.
    let person = rustix::termios::isatty(std::io::stderr());
    if !lost.is_empty() || (memory.is_some() && person) {
        let watched = if memory.is_some() { "; memory is watched from outside" } else { "" };
        let lost =
            if lost.is_empty() { String::new() } else { format!("; not limited: {}", lost.join(", ")) };
        eprintln!("keyhatch: no cgroup: {}{watched}{lost}", chain(error));
    }
    Ok(())
}

/// Makes the cgroup, and hands its door to the runner, which waits for that.
pub(super) async fn admit(
    place: &Place,
    policy: &Policy,
    session: &SessionId,
    (runner, handoff): (u32, &UnixStream),
) -> Result<Option<Held>, Failure> {
    let internal = |error: std::io::Error| Failure::internal("the runner's cgroup", &error);
    match cgroup::make(place, session, runner, policy.session_limits()).await {
        Ok(cgroup) => {
            let door = cgroup.door().map_err(internal)?;
            sys::send_descriptors(handoff.as_fd(), &[door.as_fd()]).map_err(internal)?;
            let line = Line::Blocking(handoff.try_clone().map_err(internal)?);
            Ok(Some(Held { cgroup, line }))
        }
        Err(error) => {
            without(policy, &error)?;
            let mut handoff = handoff;
            handoff.write_all(b"N").map_err(internal)?;
            Ok(None)
        }
    }
}

impl Held {
    /// Starts to listen for the command's end: nothing else is handed over on that line any more.
    pub(super) fn listen(mut self) -> std::io::Result<Self> {
        if let Line::Blocking(line) = std::mem::replace(&mut self.line, Line::Lost) {
            line.set_nonblocking(true)?;
            self.line = Line::Watched(tokio::net::UnixStream::from_std(line)?);
        }
        Ok(self)
    }

    /// Waits until the command has ended.
    pub(super) async fn farewell(&self) {
        match &self.line {
            // A byte, or the end of the line where the runner died: either way it is over.
            Line::Watched(line) => drop(line.readable().await),
            Line::Blocking(_) | Line::Lost => std::future::pending().await,
        }
    }

    /// Kills everything inside at once.
    pub(super) fn kill(&self) {
        self.cgroup.kill();
    }

    /// Takes the kernel's word and removes the cgroup; the runner then ends.
    pub(super) fn conclude(self) -> Told {
        let told = Told { hits: self.cgroup.hits(), peak: self.cgroup.peak() };
        self.cgroup.end();
        // The runner waits for a word, or for the end of the line, which others may hold open.
        if let Line::Watched(line) = &self.line {
            drop(line.try_write(b"E"));
        }
        told
    }
}
