//! Between the host's loopback and the sandbox's: ports of the sandbox that the user reaches, and services of the host that
//! the agent reaches.
//!
//! Nothing of ours runs inside to do this. A socket stays in the network that it was made in: the runner makes some that
//! are not connected yet and hands them over, and the broker connects them when the user's browser comes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use keyhatch_policies::rules::SocketInside;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Served, SessionNetwork, tunnel};
use crate::front::ListenError;
use crate::session::Session;

/// How long a local server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections to one service of the host at once.
const MAX_TO_SERVICE: usize = 64;

/// A port cannot be published.
#[derive(Debug, Error)]
#[error("port {port} of this machine cannot be used for the sandbox's port {port}")]
pub struct PublishError {
    /// Which.
    pub port: u16,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Sockets of a sandbox's network that are not connected.
#[derive(Debug, Default)]
pub(super) struct Dialers {
    ipv4: Vec<OwnedFd>,
    ipv6: Vec<OwnedFd>,
}

impl Dialers {
    fn of(&mut self, ipv6: bool) -> &mut Vec<OwnedFd> {
        if ipv6 { &mut self.ipv6 } else { &mut self.ipv4 }
    }
}

/// A socket that goes back to the others when it is dropped.
struct Dialer<'n> {
    socket: Option<OwnedFd>,
    ipv6: bool,
    network: &'n SessionNetwork,
}

impl Drop for Dialer<'_> {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        // connect(2), AF_UNSPEC: the connection is over, and the socket can be connected again. One that cannot is closed.
        if rustix::net::connect_unspec(&socket).is_ok() {
            self.network.dialers.lock().unwrap_or_else(PoisonError::into_inner).of(self.ipv6).push(socket);
        }
    }
}

impl SessionNetwork {
    fn dialer(&self, ipv6: bool) -> Option<Dialer<'_>> {
        let socket = self.dialers.lock().unwrap_or_else(PoisonError::into_inner).of(ipv6).pop()?;
        Some(Dialer { socket: Some(socket), ipv6, network: self })
    }
}

/// Keeps the sockets that a runner handed over for published ports.
pub(super) fn take_dialers(
    session: &Session,
    given: Vec<OwnedFd>,
    wanted: SocketInside,
) -> Result<(), ListenError> {
    let SocketInside::Dialers { ipv6, .. } = wanted else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    session.network.dialers.lock().unwrap_or_else(PoisonError::into_inner).of(ipv6).extend(given);
    Ok(())
}

/// Listens on the host's loopback for every published port of a session.
pub(super) fn publish(session: &Arc<Session>) -> Result<(), PublishError> {
    for port in session.network.rules.publish.clone() {
        let wrap = |source| PublishError { port, source };
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(wrap)?;
        listener.set_nonblocking(true).map_err(wrap)?;
        let listener = TcpListener::from_std(listener).map_err(wrap)?;
        tokio::spawn(accept_published(session.clone(), listener, port));
    }
    Ok(())
}

async fn accept_published(session: Arc<Session>, listener: TcpListener, port: u16) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = session.ended() => return,
        };
        match accepted {
            Ok((outside, _)) => {
                let session = session.clone();
                tokio::spawn(async move { enter(&session, outside, port).await });
            }
            Err(error) => {
                tracing::warn!(session = %session.id, %error, "cannot accept for a published port");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Connects the user to what listens inside: on 127.0.0.1, or on ::1, where many tools listen when told "localhost".
async fn enter(session: &Session, outside: TcpStream, port: u16) {
    let network = &session.network;
    for (ipv6, address) in [(false, IpAddr::V4(Ipv4Addr::LOCALHOST)), (true, IpAddr::V6(Ipv6Addr::LOCALHOST))]
    {
        // None free, or nobody listening: the browser sees a closed connection, as without a sandbox.
        let Some(dialer) = network.dialer(ipv6) else { continue };
        let Ok(inside) = dial(&dialer, SocketAddr::new(address, port)).await else { continue };
        network.tally.published();
        drop((inside.set_nodelay(true), outside.set_nodelay(true)));
        tunnel::join(session, "", (&inside, &outside), network.rules.limits.idle).await;
        return;
    }
}

async fn dial(dialer: &Dialer<'_>, to: SocketAddr) -> io::Result<TcpStream> {
    // A second descriptor of the same socket: this one is closed with the stream, the dialer's is used again.
    let socket = dialer.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()?;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    tokio::time::timeout(CONNECT, socket.connect(to)).await?
}

/// Serves a listener inside that stands for a service of the host.
pub(super) async fn offer(served: Arc<Served>, listener: TcpListener, service: SocketAddr) {
    let permits = Arc::new(tokio::sync::Semaphore::new(MAX_TO_SERVICE));
    let name = service.to_string();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = served.session.ended() => return,
        };
        let Ok((inside, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (served, name) = (served.clone(), name.clone());
        tokio::spawn(async move {
            reach(&served, inside, (service, &name)).await;
            drop(permit);
        });
    }
}

async fn reach(served: &Served, inside: TcpStream, (service, name): (SocketAddr, &str)) {
    let network = served.network();
    if network.tally.served(name) == 1 {
        let recorded =
            served.broker.record(&served.session.id, "network-service", vec![("service", name.into())]).await;
        if let Err(error) = recorded {
            tracing::error!(%error, "a connection to a service could not be recorded");
            return;
        }
    }
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(service)).await;
    let Ok(Ok(outside)) = connected else {
        tracing::debug!(service = %name, "a service of the host does not answer");
        return;
    };
    drop((inside.set_nodelay(true), outside.set_nodelay(true)));
    tunnel::join(&served.session, name, (&inside, &outside), network.rules.limits.idle).await;
}
