//! The sandbox's own network namespace: loopback and nothing else, with listeners that are served from outside.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socket_with,
};

use crate::error::{RunError, at};
use crate::sys;

/// Most listeners: the kernel passes no more than 253 descriptors at once, and there is one use for each.
const MAX_LISTENERS: usize = 8;

/// Brings loopback up and hands a listening socket for every port to the other side, in one message.
pub(crate) fn enforce(ports: &[u16], handoff: &OwnedFd) -> Result<(), RunError> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(at("open", "a socket"))?;
    sys::loopback_up(socket.as_fd()).map_err(at("bring up", "the loopback interface"))?;
    let listeners: Vec<TcpListener> = ports
        .iter()
        .take(MAX_LISTENERS)
        .map(|port| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(at("listen on", port.to_string()))
        })
        .collect::<Result<_, _>>()?;
    let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(handoff, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(at("hand over", "the listeners"))?;
    Ok(())
}
