//! The proxy's HTTP: CONNECT (RFC 9110 9.3.6) for everything, and requests in absolute form for `http://`.
//!
//! Comes in: requests of untrusted processes. Only the request's target says where to; a Host header that says something
//! else is replaced. TLS is not ended here: what is inside a tunnel is between the tool and the host.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use keyhatch_protocol::{Destination, DestinationError};
use tokio::net::TcpStream;

use super::door::{self, NoWay, NoWayKind, Open};
use super::{Served, tunnel};

/// How long a client may take to send its headers: tools send them in one write.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// Most header bytes of a request.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// The port of `http://` without one.
const HTTP_PORT: u16 = 80;

/// Headers that are about one connection (RFC 9110 7.6.1), and what is meant for the proxy itself.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// Serves one connection until it ends or becomes a tunnel.
pub(super) async fn serve(served: Arc<Served>, stream: TcpStream, from: SocketAddr) {
    let session = served.session.clone();
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, Infallible>(answer(served, request, from).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a proxy connection ended early");
        },
        () = session.ended() => {}
    }
}

async fn answer(served: Arc<Served>, request: Request<Incoming>, from: SocketAddr) -> Response<Body> {
    let answered = if request.method() == Method::CONNECT {
        connect(served.clone(), request, from).await
    } else {
        forward(&served, request, from).await
    };
    match answered {
        Ok(answer) => answer,
        Err(no) => {
            if let No::Unreadable(error) = no {
                door::odd(&served, error, from).await;
            }
            refuse(&no)
        }
    }
}

/// A request that was not served.
enum No {
    /// It is not one that this proxy serves.
    Invalid(&'static str),
    /// It asks for what is no destination.
    Unreadable(DestinationError),
    /// It asked for what it may not have, or what is not there.
    Way(Destination, NoWay),
}

impl From<DestinationError> for No {
    fn from(error: DestinationError) -> Self {
        Self::Unreadable(error)
    }
}

async fn connect(
    served: Arc<Served>,
    mut request: Request<Incoming>,
    from: SocketAddr,
) -> Result<Response<Body>, No> {
    // The authority as it was sent, user information and all: the strict parser takes HOST:PORT and nothing more.
    let target = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let asked = Destination::parse(&target)?;
    let open = door::open(&served, &asked, from).await.map_err(|no_way| No::Way(asked, no_way))?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(become_tunnel(served, upgrade, open));
    Ok(Response::new(Body::empty()))
}

async fn become_tunnel(served: Arc<Served>, upgrade: OnUpgrade, open: Open) {
    let parts = match upgrade.await.map(hyper::upgrade::Upgraded::downcast::<TokioIo<TcpStream>>) {
        Ok(Ok(parts)) => parts,
        // The client went away between its request and our answer.
        Ok(Err(_)) | Err(_) => return,
    };
    // Bytes that came with the request are the tunnel's first.
    let Parts { io, read_buf, .. } = parts;
    tunnel::run(&served, (io.into_inner(), read_buf), open).await;
}

async fn forward(
    served: &Served,
    request: Request<Incoming>,
    from: SocketAddr,
) -> Result<Response<Body>, No> {
    let (mut head, body) = request.into_parts();
    if head.uri.scheme_str() != Some("http") {
        return Err(No::Invalid("this is keyhatch's proxy: it takes CONNECT, and http:// in absolute form"));
    }
    let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
    let asked = Destination::parse_authority(&authority, HTTP_PORT)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse::<Uri>().map_err(|_| No::Invalid("the request's path is not one"))?;
    strip(&mut head.headers);
    let host = if asked.port() == HTTP_PORT { asked.host().to_string() } else { asked.to_string() };
    let host = HeaderValue::try_from(host).map_err(|_| No::Invalid("the request's host is not one"))?;
    head.headers.insert(header::HOST, host);
    let open = door::open(served, &asked, from).await.map_err(|no_way| No::Way(asked.clone(), no_way))?;
    let exchanged = exchange(served, open, Request::from_parts(head, body)).await;
    let mut answer = exchanged.map_err(|no_way| No::Way(asked, no_way))?;
    strip(answer.headers_mut());
    Ok(answer.map(Body::new))
}

/// One request and its answer on a connection of its own.
async fn exchange(
    served: &Served,
    Open { stream, permit, name }: Open,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, NoWay> {
    let no_way = |kind, reason: String| NoWay { kind, reason, hint: None };
    let unreachable = |_| no_way(NoWayKind::Unreachable, "it does not answer as an HTTP server".into());
    let metered = tunnel::Metered::new(stream, served.session.clone(), name, permit);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(metered)).await.map_err(unreachable)?;
    let (session, idle) = (served.session.clone(), served.network().rules.limits.idle);
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a host ended its answer early");
            },
            () = session.ended() => {}
        }
    });
    let late = |_| no_way(NoWayKind::TimedOut, format!("it did not answer in {} s", idle.as_secs()));
    tokio::time::timeout(idle, sender.send_request(request)).await.map_err(late)?.map_err(unreachable)
}

/// Takes away what is about one connection, and what its Connection header names.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

/// A refusal as people and tools read it: the reason in the status line too, because many print only that.
fn refuse(no: &No) -> Response<Body> {
    let (status, reason, hint) = match no {
        No::Invalid(reason) => (StatusCode::BAD_REQUEST, (*reason).to_owned(), None),
        No::Unreadable(error) => (StatusCode::BAD_REQUEST, error.to_string(), None),
        No::Way(asked, no_way) => {
            let status = match no_way.kind {
                NoWayKind::Refused => StatusCode::FORBIDDEN,
                NoWayKind::Limit => StatusCode::SERVICE_UNAVAILABLE,
                NoWayKind::Unreachable => StatusCode::BAD_GATEWAY,
                NoWayKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            };
            (status, format!("{asked}: {}", no_way.reason), no_way.hint.as_deref())
        }
    };
    let hint = hint.map(|hint| format!("hint: the user can allow it: {hint}\n")).unwrap_or_default();
    let mut response = Response::new(Body::from(format!("keyhatch: {reason}\n{hint}")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(phrase) = ReasonPhrase::try_from(format!("keyhatch: {reason}")) {
        response.extensions_mut().insert(phrase);
    }
    response
}
