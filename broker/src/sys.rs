//! The broker's system calls that no safe crate offers whole. Everything else uses rustix.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Sends one descriptor with one byte, `unix(7)` SCM_RIGHTS.
///
/// # Errors
/// What `sendmsg(2)` says.
pub fn send_descriptor(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives exactly one descriptor with one byte; anything else is an error, and surplus descriptors are closed.
///
/// # Errors
/// What `recvmsg(2)` says; `UnexpectedEof` when the peer closed; `InvalidData` when it is not one descriptor.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut received: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    match (received.pop(), received.is_empty()) {
        (Some(descriptor), true) => Ok(descriptor),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Points libgit2's search for configuration files of one level at nothing.
///
/// # Errors
/// What libgit2 says.
#[allow(unsafe_code)]
pub fn forget_search_path(level: git2::ConfigLevel) -> Result<(), git2::Error> {
    // JUSTIFICATION: git2 marks its global options unsafe, because of threads. SAFETY: the inspector has one thread.
    unsafe { git2::opts::set_search_path(level, "/nonexistent") }
}
