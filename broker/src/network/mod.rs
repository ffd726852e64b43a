//! The network of a session: a proxy to the hosts that its policy names, ports that the user reaches, services of the host
//! that the agent reaches.
//!
//! Comes in: sockets of the sandbox's own loopback, made by its runner, and on them bytes of untrusted processes. Which
//! socket it is says whose they are. There is no other way out of the sandbox: nothing here depends on what its tools are
//! configured to do.
//!
//! ```text
//! http, socks ─► door (judge, limits, audit, resolve, look at the address, connect) ─► tunnel
//! names: stand-ins that lead nowhere ─► past: who went by the proxy     local: published ports, services of the host
//! ```

pub mod address;
mod door;
mod http;
mod local;
mod names;
mod past;
pub mod plan;
pub mod process;
pub mod report;
mod socks;
mod stand_in;
pub mod tally;
mod tunnel;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyhatch_policies::network::{Network, RegistryHost};
use keyhatch_protocol::{Destination, DnsName};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::broker::Broker;
use crate::front::{self, ListenError};
use crate::session::Session;
use plan::Purpose;
use stand_in::StandIns;
use tally::Tally;
use tunnel::Budget;

/// Connections to the proxy that have not said yet what they want; more wait in the listener's backlog.
const MAX_WAITING: usize = 64;
/// How long a connection may take to its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(20);
/// The first byte of SOCKS5.
const SOCKS5: u8 = 5;

/// What a session's connections share. Made when the session opens, dropped with it.
#[derive(Debug)]
pub struct SessionNetwork {
    /// What the policy opens.
    pub rules: Network,
    /// What the user's tools are configured to fetch from.
    pub registries: Vec<RegistryHost>,
    /// What was counted.
    pub tally: Tally,
    budget: Budget,
    /// One permit an open connection to a host.
    connections: Arc<Semaphore>,
    /// One permit an accepted connection, whatever it turns out to want.
    accepted: Arc<Semaphore>,
    /// Sockets of the sandbox's network that connect to published ports; empty until its runner hands them over.
    dialers: Mutex<local::Dialers>,
    /// A process in the sandbox's network, to look others up through; 0 while there is none.
    member: AtomicU32,
    /// Names that were asked for inside.
    stand_ins: Mutex<StandIns>,
}

impl SessionNetwork {
    /// Nothing used up, nothing counted.
    #[must_use]
    pub fn new(rules: Network, registries: Vec<RegistryHost>) -> Self {
        let limits = rules.limits;
        Self {
            rules,
            registries,
            tally: Tally::default(),
            budget: Budget::new(limits.sent, limits.received),
            connections: Arc::new(Semaphore::new(limits.connections)),
            accepted: Arc::new(Semaphore::new(limits.connections + MAX_WAITING)),
            dialers: Mutex::default(),
            member: AtomicU32::new(0),
            stand_ins: Mutex::default(),
        }
    }

    /// The name that is meant by an address that stands for one.
    fn meant(&self, asked: &Destination) -> Destination {
        self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner).meant(asked)
    }

    /// The address that stands for a name inside.
    fn stand_in(&self, name: &DnsName) -> Option<Ipv4Addr> {
        self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner).of(name)
    }

    fn member(&self) -> Option<u32> {
        Some(self.member.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }
}

/// What everything here needs to serve a session.
struct Served {
    broker: Arc<Broker>,
    session: Arc<Session>,
}

impl Served {
    fn network(&self) -> &SessionNetwork {
        &self.session.network
    }
}

/// Opens what a session needs on the host's side before its sandbox exists: the published ports.
///
/// # Errors
/// When a port of the host is taken.
pub fn publish(session: &Arc<Session>) -> Result<(), PublishError> {
    local::publish(session)
}

pub use local::PublishError;
pub use past::settle;

/// Serves the sockets of a session's own network, which its runner made and handed over in the plan's order.
///
/// # Errors
/// When they are not what the plan says.
pub fn serve(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    (sockets, member): (Vec<OwnedFd>, u32),
) -> Result<(), ListenError> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut sockets = sockets.into_iter();
    session.network.member.store(member, Ordering::Relaxed);
    for (purpose, wanted) in plan::sockets(&session.network.rules) {
        let given: Vec<OwnedFd> = sockets.by_ref().take(wanted.count()).collect();
        if purpose == Purpose::Dialers {
            local::take_dialers(session, given, wanted)?;
            continue;
        }
        let [socket] = <[OwnedFd; 1]>::try_from(given).map_err(|_| invalid())?;
        let served = Arc::new(Served { broker: broker.clone(), session: session.clone() });
        match purpose {
            Purpose::FrontEnd => front::listen_on_loopback(broker, session, socket)?,
            Purpose::Names => {
                let socket = UdpSocket::from_std(nonblocking_datagrams(socket)?)?;
                tokio::spawn(names::serve(served, socket));
            }
            Purpose::Proxy => {
                tokio::spawn(accept(served, listener(socket)?));
            }
            Purpose::Service(address) => {
                tokio::spawn(local::offer(served, listener(socket)?, address));
            }
            Purpose::Dialers => {}
        }
    }
    if sockets.next().is_some() { Err(invalid().into()) } else { Ok(()) }
}

fn nonblocking_datagrams(socket: OwnedFd) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::from(socket);
    if !socket.local_addr()?.ip().is_loopback() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes a listening socket over, if it is one, on a loopback address.
///
/// # Errors
/// When it is anything else.
pub(crate) fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(invalid());
    }
    let listener = std::net::TcpListener::from(socket);
    if !listener.local_addr()?.ip().is_loopback() {
        return Err(invalid());
    }
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts until the session ends; above the cap, connections wait in the backlog and cost nothing here.
async fn accept(served: Arc<Served>, listener: TcpListener) {
    loop {
        let Ok(permit) = served.network().accepted.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let served = served.clone();
                    tokio::spawn(async move {
                        speak(served, stream, from).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(session = %served.session.id, %error, "cannot accept for a session");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = served.session.ended() => return,
        }
    }
}

/// The first byte says which protocol.
async fn speak(served: Arc<Served>, stream: TcpStream, from: SocketAddr) {
    let mut first = [0];
    match tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        Ok(Ok(_) | Err(_)) | Err(_) => return,
    }
    // Answers are small and must not wait for an acknowledgement; a socket that refuses this is only slower.
    drop(stream.set_nodelay(true));
    if first == [SOCKS5] {
        socks::serve(&served, stream, from).await;
    } else {
        http::serve(served, stream, from).await;
    }
}
