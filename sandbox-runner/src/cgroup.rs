//! The session's cgroup: made and limited by `keyhatch run`, joined here.
//!
//! Comes in: the descriptor of its `cgroup.procs`, over the hand-off socket, before anything else. Opened by `keyhatch
//! run`, it carries that process's right to move; init joins with it, and the outer process stays outside, so that it can
//! tell how what the kernel killed ended.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use keyhatch_sandbox_rules::rules::{Foundation, Requirement};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{RunError, at};
use crate::supervise::abandoned;
use crate::sys;

/// The door to the cgroup, and the line on which its end is told.
pub(crate) struct Cgroup {
    door: Option<std::fs::File>,
    line: Option<UnixStream>,
}

/// Waits for the descriptor, where there is to be one: systemd moves this process, and what is started after that begins
/// there. A process that was elsewhere could not be moved by its user.
pub(crate) fn prepare(foundation: &Foundation, handoff: &OwnedFd) -> Result<Cgroup, RunError> {
    if !foundation.cgroup {
        return Ok(Cgroup { door: None, line: None });
    }
    let line = handoff.try_clone().map_err(at("keep", "the hand-off socket"))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message =
        recvmsg(handoff, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(at("join", "the cgroup"))?;
    if message.bytes == 0 {
        abandoned();
    }
    let door = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if door.is_none() && foundation.require.contains(&Requirement::Cgroup) {
        return Err(at("join", "the cgroup that the policy requires")(rustix::io::Errno::NOENT));
    }
    Ok(Cgroup { door: door.map(Into::into), line: Some(line.into()) })
}

impl Cgroup {
    /// Moves this process and all it starts into it.
    pub(crate) fn enforce(self) -> Result<(), RunError> {
        let Some(mut door) = self.door else { return Ok(()) };
        door.write_all(b"0").map_err(at("join", "the cgroup"))
    }

    /// Makes it the root of what can be seen of cgroups: for a process that has namespaces of its own.
    pub(crate) fn enforce_and_hide(self) -> Result<(), RunError> {
        let joins = self.door.is_some();
        self.enforce()?;
        if joins {
            sys::unshare(libc::CLONE_NEWCGROUP).map_err(at("hide", "the cgroup's place"))
        } else {
            Ok(())
        }
    }

    /// Tells that the command ended, and waits until its cgroup was looked at: with this process its place goes away.
    pub(crate) fn farewell(self) {
        drop(self.door);
        let Some(mut line) = self.line else { return };
        // Whoever listens may be gone: then nobody looks, and nothing is lost.
        if line.write_all(b"E").is_ok() {
            drop(line.read(&mut [0]));
        }
    }
}
