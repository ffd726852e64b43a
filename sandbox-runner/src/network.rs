//! The sandbox's own network namespace: loopback and nothing else, with sockets that are served from outside.
//!
//! No process of ours runs inside: what listens there, and what connects to what listens there, are sockets that were
//! made here and handed out before the command starts.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use keyhatch_sandbox_rules::rules::{NetworkInside, SocketInside};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socket_with,
};

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

/// Most sockets in the one message that hands them out; the kernel's own limit is 253 (SCM_MAX_FD).
const MAX_SOCKETS: usize = 128;

/// The sockets to make.
pub(crate) struct Sockets(Vec<SocketInside>);

/// Takes the sockets of the rules; none where the network is the host's.
pub(crate) fn prepare(network: &NetworkInside) -> Result<Option<Sockets>, RunError> {
    let NetworkInside::Own { sockets } = network else { return Ok(None) };
    if sockets.iter().map(SocketInside::count).sum::<usize>() > MAX_SOCKETS {
        return Err(RunError::Sockets { most: MAX_SOCKETS });
    }
    Ok(Some(Sockets(sockets.clone())))
}

impl Sockets {
    /// Brings loopback up and hands the sockets to the other side, in one message.
    pub(crate) fn enforce(self, handoff: &OwnedFd) -> Result<(), RunError> {
        let control = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(at("open", "a socket"))?;
        if !mutation::is_off(Mitigation::NetworkNamespace) {
            sys::loopback_up(control.as_fd()).map_err(at("bring up", "the loopback interface"))?;
        }
        let mut opened = Vec::new();
        for wanted in &self.0 {
            opened.extend(open(wanted)?);
        }
        hand_over(&opened, handoff)
    }
}

fn open(wanted: &SocketInside) -> Result<Vec<OwnedFd>, RunError> {
    let named = |port: u16| at("listen on", port.to_string());
    match *wanted {
        SocketInside::Listener { port } => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(named(port))?;
            Ok(vec![listener.into()])
        }
        SocketInside::Datagrams { port } => {
            // Without the namespace, the port is the host's.
            let port = if mutation::is_off(Mitigation::NetworkNamespace) { 0 } else { port };
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map_err(named(port))?;
            Ok(vec![socket.into()])
        }
        SocketInside::Dialers { ipv6, count } => {
            let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let dialers: Result<Vec<OwnedFd>, _> =
                (0..count).map(|_| socket_with(family, SocketType::STREAM, flags, None)).collect();
            match dialers {
                // A kernel without IPv6: nobody can listen there either.
                Err(rustix::io::Errno::AFNOSUPPORT) if ipv6 => Ok(Vec::new()),
                dialers => dialers.map_err(at("open", "sockets for published ports")),
            }
        }
    }
}

/// Hands these over with one byte; none where the sandbox has no loopback of its own.
pub(crate) fn hand_over(sockets: &[OwnedFd], handoff: &OwnedFd) -> Result<(), RunError> {
    let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(handoff, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(at("hand over", "the sockets"))?;
    Ok(())
}
