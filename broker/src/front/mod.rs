//! The front end: smart HTTP (gitprotocol-http(5)) for one session, on its own loopback and on `http.sock`.
//!
//! Comes in: requests from untrusted processes. Which listener a request came through says whose it is; nothing in
//! the request does. Bounded: connections, header size and header time.

mod advertisement;
mod facts;
mod fetch;
mod lfs;
mod on_host;
mod push;
mod report;
mod upstream_refs;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use keyhatch_protocol::Remote;
use keyhatch_protocol::message::HTTP_SOCKET_NAME;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::OwnedSemaphorePermit;

use crate::broker::Broker;
use crate::network;
use crate::session::Session;
use crate::upstream::Service;

pub use on_host::OnHost;

/// How long a client may take to send its headers: git sends them in one write.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Most header bytes of a request; git's are under 1 KiB.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// A listener of a session could not be served.
#[derive(Debug, Error)]
#[error("cannot listen for the session")]
pub struct ListenError {
    #[from]
    source: io::Error,
}

/// What every request of a session shares.
#[derive(Debug, Clone)]
struct Front {
    broker: Arc<Broker>,
    session: Arc<Session>,
    /// What every path must start with, where the listener does not say whose a request is.
    word: Option<Arc<str>>,
}

impl Front {
    fn of(broker: &Arc<Broker>, session: &Arc<Session>) -> Self {
        Self { broker: broker.clone(), session: session.clone(), word: None }
    }
}

/// Serves a session on `http.sock` in its directory.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen_on_socket(broker: &Arc<Broker>, session: &Arc<Session>) -> Result<(), ListenError> {
    let listener = UnixListener::bind(session.sockets().join(HTTP_SOCKET_NAME))?;
    tokio::spawn(accept_until_closed(Front::of(broker, session), Listener::Unix(listener)));
    Ok(())
}

/// Serves a session on a listening TCP socket that its runner made in the sandbox's network namespace.
///
/// # Errors
/// When the descriptor is not a listening TCP socket on a loopback address.
pub fn listen_on_loopback(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    descriptor: OwnedFd,
) -> Result<(), ListenError> {
    let listener = network::listener(descriptor)?;
    tokio::spawn(accept_until_closed(Front::of(broker, session), Listener::Tcp(listener)));
    Ok(())
}

/// Serves a session that has the host's network, on the host's loopback.
pub fn listen_on_host(broker: &Arc<Broker>, session: &Arc<Session>, OnHost { listener, word, .. }: OnHost) {
    let front = Front { word: Some(word.into()), ..Front::of(broker, session) };
    tokio::spawn(accept_until_closed(front, Listener::OnHost(listener)));
}

/// One connection of either kind.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    /// On the host's loopback: other users' connections are closed.
    OnHost(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::OnHost(listener) => loop {
                let (stream, from) = listener.accept().await?;
                if on_host::is_ours(from) {
                    stream.set_nodelay(true)?;
                    return Ok(Box::new(stream));
                }
            },
        }
    }
}

async fn accept_until_closed(front: Front, listener: Listener) {
    let session = front.session.clone();
    loop {
        // A permit first: above the cap, connections of this session wait in its own backlog and cost nothing here.
        let Ok(permit) = front.session.connections.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => { tokio::spawn(serve(front.clone(), stream, permit)); }
                Err(error) => {
                    tracing::warn!(session = %front.session.id, %error, "cannot accept for a session");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = session.ended() => return,
        }
    }
}

async fn serve(front: Front, stream: Box<dyn Connection>, permit: OwnedSemaphorePermit) {
    let session = front.session.clone();
    let router = Router::new().fallback(route).with_state(front);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        served = connection => if let Err(error) = served {
            tracing::debug!(%error, "a session's connection ended early");
        },
        () = session.ended() => {}
    }
    drop(permit);
}

/// One request: the path says which remote and which service.
async fn route(State(front): State<Front>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let path = match &front.word {
        None => path,
        Some(word) => match path.strip_prefix(&**word).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => rest.to_owned(),
            None => return refuse("this address is another session's"),
        },
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (remote, endpoint) = match split(&path) {
        Some(parts) => parts,
        None => return refuse("this address is keyhatch's front end for git; it serves nothing else"),
    };
    let remote = match Remote::from_front_end(remote) {
        Ok(remote) => remote,
        Err(error) => return refuse(&error.to_string()),
    };
    let method = request.method().clone();
    match (method, endpoint, query.as_str()) {
        (Method::GET, "info/refs", "service=git-upload-pack") => {
            fetch::advertise(front, remote, request).await
        }
        (Method::GET, "info/refs", "service=git-receive-pack") => {
            push::advertise(front, remote, request).await
        }
        (Method::GET, "info/refs", _) => refuse("dumb HTTP is not served: a current git asks for a service"),
        (Method::POST, "git-upload-pack", "") => fetch::upload_pack(front, remote, request).await,
        (Method::POST, "git-receive-pack", "") => push::receive_pack(front, remote, request).await,
        (_, endpoint, _) if endpoint.starts_with("info/lfs") => {
            lfs::serve(front, remote, endpoint, request).await
        }
        _ => refuse("no such service"),
    }
}

/// Splits a front-end path into the remote's part and the service's.
fn split(path: &str) -> Option<(&str, &str)> {
    let suffixes = ["info/refs", "git-upload-pack", "git-receive-pack"];
    let lfs = path.find("/info/lfs").map(|at| (&path[..at], &path[at + 1..]));
    let service = suffixes.iter().find_map(|suffix| {
        let remote = path.strip_suffix(suffix)?.strip_suffix('/')?;
        Some((remote, *suffix))
    });
    service.or(lfs)
}

/// A refusal that git prints as `remote: …`. Never 401: git would ask for a password.
fn refuse(reason: &str) -> Response {
    answer(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", Body::from(format!("keyhatch: {reason}\n")))
}

/// A successful answer of a service, never cached.
fn served(service: Service, kind: &str, body: Body) -> Response {
    answer(StatusCode::OK, &format!("application/x-git-{}-{kind}", service.word()), body)
}

fn answer(status: StatusCode, content_type: &str, body: Body) -> Response {
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-cache")
        .body(body);
    // The parts above are constants of ours; a builder that refuses them is a bug that a test would show.
    response.unwrap_or_else(|_| Response::new(Body::empty()))
}

/// The `Git-Protocol` header, if it is one that git would send.
fn git_protocol(request: &Request) -> Option<String> {
    let value = request.headers().get("git-protocol")?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b':');
    (value.len() <= 64 && value.bytes().all(plain)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_remote_and_a_service() {
        assert_eq!(split("https/h/a/b.git/info/refs"), Some(("https/h/a/b.git", "info/refs")));
        assert_eq!(split("scp/git@h/a/git-receive-pack"), Some(("scp/git@h/a", "git-receive-pack")));
        assert_eq!(
            split("https/h/a.git/info/lfs/objects/batch"),
            Some(("https/h/a.git", "info/lfs/objects/batch"))
        );
        assert_eq!(split("https/h/a.git"), None);
        assert_eq!(split("info/refs"), None);
    }
}
