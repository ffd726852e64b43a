//! The command's standard descriptors: they come before the rules, because this process is started before they are there.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::error::{RunError, at};
use crate::supervise::abandoned;

/// Waits for them, and makes them this process's own.
pub(crate) fn take(line: impl AsFd) -> Result<(), RunError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(line, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(at("receive", "standard descriptors"))?;
    if message.bytes == 0 {
        abandoned();
    }
    let received: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    // Where another version of `keyhatch run` calls.
    let [input, output, error] = received.as_slice() else { return Err(RunError::Rules) };
    dup2_stdin(input).map_err(at("take", "standard input"))?;
    dup2_stdout(output).map_err(at("take", "standard output"))?;
    dup2_stderr(error).map_err(at("take", "standard error"))
}
