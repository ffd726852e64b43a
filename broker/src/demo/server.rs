//! The demo's upstream: HTTPS on loopback that wants a token, and git's own `http-backend` behind it, RFC 3875.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use base64::Engine as _;
use futures_util::TryStreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{DemoError, setup};

const USER: &str = "demo";
const TOKEN: &str = "demo-token-that-must-not-be-read";
/// Most bytes of a CGI answer's headers.
const MAX_HEADERS: u64 = 16 * 1024;

/// The running server; ends with the process.
pub(super) struct Server {
    port: u16,
    ca_file: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Serves the repositories of a directory.
    pub(super) fn start(root: &Path) -> Result<Self, DemoError> {
        let broken = |error: String| setup("make a certificate")(io::Error::other(error));
        // A second installation is refused, and is the same one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (ca, config) = certificates().map_err(broken)?;
        let ca_file = root.join("ca.pem");
        std::fs::write(&ca_file, ca).map_err(setup("write a file"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(setup("start a server"))?;
        let bind = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = runtime.block_on(bind).map_err(setup("listen on loopback"))?;
        let port = listener.local_addr().map_err(setup("listen on loopback"))?.port();
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), root.to_owned()));
        Ok(Self { port, ca_file, _runtime: runtime })
    }

    pub(super) fn url(&self, repository: &str) -> String {
        format!("https://127.0.0.1:{}/{repository}", self.port)
    }

    pub(super) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The line of git-credential-store(1) for it.
    pub(super) fn credential_line(&self) -> String {
        format!("https://{USER}:{TOKEN}@127.0.0.1:{}\n", self.port)
    }
}

/// A CA and a certificate of its, made now and thrown away.
fn certificates() -> Result<(String, rustls::ServerConfig), String> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let text = |error: rcgen::Error| error.to_string();
    let mut ca = CertificateParams::new(Vec::new()).map_err(text)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().map_err(text)?).map_err(text)?;
    let key = KeyPair::generate().map_err(text)?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(text)?;
    let server = server.signed_by(&key, &ca).map_err(text)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .map_err(|error| error.to_string())?;
    Ok((ca.pem(), config))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, root: PathBuf) {
    let router = axum::Router::new().fallback(answer).with_state(Arc::<Path>::from(root));
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            // A client that goes away early is its own affair.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(State(root): State<Arc<Path>>, request: Request) -> Response<Body> {
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{TOKEN}"));
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if given != Some(format!("Basic {expected}").as_bytes()) {
        let mut response = plain(StatusCode::UNAUTHORIZED);
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"demo\""));
        return response;
    }
    backend(&root, request).await.unwrap_or_else(|_| plain(StatusCode::BAD_GATEWAY))
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The program and its environment for one request.
fn cgi(root: &Path, request: &Request) -> Command {
    let header =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut git = Command::new("git");
    git.arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REMOTE_USER", USER)
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"));
    if let Some(length) = request.headers().get("content-length").and_then(|v| v.to_str().ok()) {
        git.env("CONTENT_LENGTH", length);
    }
    git
}

/// Runs `git http-backend` for one request.
async fn backend(root: &Path, request: Request) -> io::Result<Response<Body>> {
    let mut git = cgi(root, &request);
    let mut git =
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let (Some(mut stdin), Some(stdout)) = (git.stdin.take(), git.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    tokio::spawn(async move {
        let mut body = StreamReader::new(body);
        // git may stop reading; what it answered says why.
        tokio::io::copy(&mut body, &mut stdin).await.ok();
    });
    let mut stdout = BufReader::new(stdout);
    let mut response = Response::new(());
    let mut line = String::new();
    loop {
        line.clear();
        (&mut stdout).take(MAX_HEADERS).read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("status") {
            let code = value.trim().split(' ').next().and_then(|code| code.parse().ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_GATEWAY);
        } else if let (Ok(name), Ok(value)) =
            (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim()))
        {
            response.headers_mut().insert(name, value);
        }
    }
    tokio::spawn(async move { git.wait().await });
    Ok(response.map(|()| Body::from_stream(ReaderStream::new(stdout))))
}
