//! The session's cgroup: made and limited by `keyhatch run`, joined here.
//!
//! Comes in: the descriptor of its `cgroup.procs`, over the hand-off socket. Opened by `keyhatch
//! run`, it carries that process's right to move; init joins with it, and the outer process stays outside, so that it can
//! tell how what the kernel killed ended.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use keyhatch_policies::rules::{Foundation, Requirement};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{RunError, at};
use crate::sys;

/// The line on which its door comes and its end is told; none where there is to be none.
pub(crate) struct Cgroup {
    line: Option<UnixStream>,
    required: bool,
}

/// Keeps the line, where there is to be a cgroup.
pub(crate) fn prepare(foundation: &Foundation, handoff: &OwnedFd) -> Result<Cgroup, RunError> {
    let required = foundation.require.contains(&Requirement::Cgroup);
    let line = foundation.cgroup.then(|| handoff.try_clone().map(Into::into)).transpose();
    Ok(Cgroup { line: line.map_err(at("keep", "the hand-off socket"))?, required })
}

/// Waits for the door; none where none could be made.
fn door(line: &UnixStream) -> Result<Option<std::fs::File>, RunError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = recvmsg(line, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(at("join", "the cgroup"))?;
    if message.bytes == 0 {
        return Err(at("join", "the cgroup")(rustix::io::Errno::CONNRESET));
    }
    let door = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(door.map(Into::into))
}

impl Cgroup {
    /// Moves this process and all it starts into it. Returns whether there is one.
    pub(crate) fn enforce(self) -> Result<bool, RunError> {
        let Some(line) = self.line else { return Ok(false) };
        match door(&line)? {
            Some(mut door) => door.write_all(b"0").map_err(at("join", "the cgroup")).map(|()| true),
            None if self.required => {
                Err(at("join", "the cgroup that the policy requires")(rustix::io::Errno::NOENT))
            }
            None => Ok(false),
        }
    }

    /// Makes it the root of what can be seen of cgroups: for a process that has namespaces of its own.
    pub(crate) fn enforce_and_hide(self) -> Result<(), RunError> {
        match self.enforce()? {
            true => sys::unshare(libc::CLONE_NEWCGROUP).map_err(at("hide", "the cgroup's place")),
            false => Ok(()),
        }
    }

    /// Tells that the command ended, and waits until its cgroup was looked at: with this process its place goes away.
    pub(crate) fn farewell(self) {
        let Some(mut line) = self.line else { return };
        // Whoever listens may be gone: then nobody looks, and nothing is lost.
        if line.write_all(b"E").is_ok() {
            drop(line.read(&mut [0]));
        }
    }
}
