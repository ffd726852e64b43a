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
use crate::mutation::{self, Mitigation};
use crate::sys;

/// Most listeners: the kernel passes no more than 253 descriptors at once, and there is one use for each.
const MAX_LISTENERS: usize = 8;

/// The ports to listen on.
pub(crate) struct Listeners(Vec<u16>);

/// Takes the ports of the rules.
pub(crate) fn prepare(ports: &[u16]) -> Result<Listeners, RunError> {
    if ports.len() > MAX_LISTENERS {
        return Err(RunError::Listeners { most: MAX_LISTENERS });
    }
    Ok(Listeners(ports.to_vec()))
}

impl Listeners {
    /// Brings loopback up and hands a listening socket for every port to the other side, in one message.
    pub(crate) fn enforce(self, handoff: &OwnedFd) -> Result<(), RunError> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(at("open", "a socket"))?;
        if !mutation::is_off(Mitigation::NetworkNamespace) {
            sys::loopback_up(socket.as_fd()).map_err(at("bring up", "the loopback interface"))?;
        }
        let listeners: Vec<TcpListener> =
            self.0.iter().map(|port| listener(*port)).collect::<Result<_, _>>()?;
        hand_over(&listeners, handoff)
    }
}

fn listener(port: u16) -> Result<TcpListener, RunError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(at("listen on", port.to_string()))
}

/// Hands these over with one byte; none where the sandbox has no loopback of its own.
pub(crate) fn hand_over(listeners: &[TcpListener], handoff: &OwnedFd) -> Result<(), RunError> {
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
