//! HTTPS upstream: smart HTTP, gitprotocol-http(5), over verified TLS.
//!
//! Certificates are checked against the system's store, or the CA that the user's own configuration names. A redirect
//! is never followed: it would carry the credential to where the server says.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use keyhatch_protocol::{Remote, text};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use url::Url;

use super::{Advertisement, Answer, MAX_ADVERTISEMENT, Service, Upstream, UpstreamError};
use crate::approval::PushBody;
use crate::credential::{HttpSettings, Login};
use crate::pktline::{Packet, Packets};

/// Longest time to a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest silence in an answer: a server's own hooks may run for minutes.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// How long an idle connection is kept for the next request of the same git command.
const IDLE: Duration = Duration::from_secs(15);

/// One client a set of settings, so that TLS sessions and connections are shared.
#[derive(Debug, Default)]
pub struct Clients {
    made: Mutex<HashMap<(HttpSettings, Reach), Client>>,
}

/// Where a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// Where the user's own git would.
    Anywhere,
    /// Where a server sends us: to nothing on this machine or in networks that are not everybody's.
    Public,
}

impl Clients {
    pub(super) fn client(&self, settings: &HttpSettings, reach: Reach) -> Result<Client, UpstreamError> {
        // Held while one is made: two first requests would each read the system's store.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (settings.clone(), reach);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = make(settings, reach)?;
        made.insert(key, client.clone());
        Ok(client)
    }
}

fn make(settings: &HttpSettings, reach: Reach) -> Result<Client, UpstreamError> {
    // One provider for the whole process; a second installation is refused, and is the same one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let loaded = match &settings.ca_file {
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(file.as_ref()), None),
        None => rustls_native_certs::load_native_certs(),
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(loaded.certs);
    if usable == 0 && settings.ca_file.is_some() {
        let why =
            loaded.errors.into_iter().next().map_or_else(|| "it holds none".into(), |e| Box::new(e).into());
        return Err(UpstreamError::CaFile(why));
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .https_only(true)
        .user_agent(concat!("git/keyhatch-", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true);
    // Through a proxy the only name that is looked up here is its own, which the user chose.
    if reach == Reach::Public && settings.proxy.is_none() {
        builder = builder.dns_resolver(std::sync::Arc::new(super::lfs::Public));
    }
    if let Some(proxy) = &settings.proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(|_| UpstreamError::Proxy)?);
    }
    builder.build().map_err(|error| UpstreamError::CaFile(Box::new(error)))
}

/// The other end with everything that a request to it needs.
pub(super) struct Target<'a> {
    upstream: &'a Upstream,
    pub(super) client: Client,
    pub(super) settings: HttpSettings,
    /// Where requests go: without the remote's user, which is no login by itself.
    pub(super) base: Url,
    /// The same with the user, for settings that are one user's.
    named: Url,
}

impl<'a> Target<'a> {
    pub(super) async fn of(upstream: &'a Upstream) -> Result<Self, UpstreamError> {
        let remote = &upstream.remote;
        let at = |authority: String| {
            Url::parse(&format!("https://{authority}/{}", remote.path())).map_err(|_| not_git(remote))
        };
        let (base, named) = (at(remote.host_port())?, at(remote.authority())?);
        let settings = upstream.broker.host_git.http_settings(named.as_str()).await;
        let client = upstream.broker.clients.client(&settings, Reach::Anywhere)?;
        Ok(Self { upstream, client, settings, base, named })
    }

    fn url(&self, suffix: &str) -> String {
        format!("{}/{suffix}", self.base.as_str().trim_end_matches('/'))
    }

    /// Adds what the user's and the project's configuration add; only where the host's credential may be used.
    pub(super) fn dressed(&self, request: RequestBuilder, login: Option<&Login>) -> RequestBuilder {
        if !self.upstream.uses_host_credential() {
            return request;
        }
        let mut headers = HeaderMap::new();
        let own = self.settings.extra_header.iter().map(|header| header.0.as_str());
        let project = self.upstream.session.secrets.headers(&self.named).map(|header| header.expose_secret());
        for (name, value) in own.chain(project).filter_map(header_of) {
            headers.append(name, value);
        }
        if let Some(login) = login
            && let Ok(mut value) = HeaderValue::from_str(login.authorization().expose_secret())
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        request.headers(headers)
    }

    /// Whether the project's own configuration holds the login. Then it is the only one: git asks nobody for another.
    fn has_own_login(&self) -> bool {
        self.upstream.uses_host_credential()
            && self.upstream.session.secrets.login(&self.upstream.remote).is_some()
    }

    /// A login that is at hand, without asking anybody.
    pub(super) fn login_at_hand(&self) -> Option<Login> {
        let upstream = self.upstream;
        if !upstream.uses_host_credential() {
            return None;
        }
        upstream
            .session
            .secrets
            .login(&upstream.remote)
            .or_else(|| upstream.broker.host_git.known(&upstream.remote))
    }

    async fn ask_for_login(&self) -> Result<Login, UpstreamError> {
        let upstream = self.upstream;
        if !upstream.uses_host_credential() {
            return Err(UpstreamError::NoCredential { authority: upstream.remote.authority() });
        }
        upstream.broker.host_git.fill(&upstream.remote).await.map_err(|error| {
            tracing::info!(remote = %upstream.remote, %error, "no login");
            UpstreamError::NoCredential { authority: upstream.remote.authority() }
        })
    }

    fn post(&self, service: Service) -> RequestBuilder {
        let word = service.word();
        self.client
            .post(self.url(&format!("git-{word}")))
            .header(header::CONTENT_TYPE, format!("application/x-git-{word}-request"))
            .header(header::ACCEPT, format!("application/x-git-{word}-result"))
    }

    /// Sends a request that can be sent only once.
    async fn answer(
        &self,
        service: Service,
        request: RequestBuilder,
        login: Option<Login>,
    ) -> Result<Answer, UpstreamError> {
        let upstream = self.upstream;
        let response = self.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            if let Some(refused) = &login {
                upstream.broker.host_git.reject(&upstream.remote, refused).await;
            }
            return Err(UpstreamError::Refused { authority: upstream.remote.authority() });
        }
        let response = accepted(&upstream.remote, response, service, "result")?;
        Ok(Box::pin(response.bytes_stream().map_err(io::Error::other)))
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, UpstreamError> {
        request.send().await.map_err(|error| failed(&self.upstream.remote, error))
    }

    /// Sends a request once as it is, and where the server wants a login, with one; a refused login is asked for again
    /// once.
    pub(super) async fn with_login(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<(Response, Option<Login>), UpstreamError> {
        let (git, remote) = (&self.upstream.broker.host_git, &self.upstream.remote);
        let mut login = self.login_at_hand();
        let mut response = self.send(self.dressed(request(), login.as_ref())).await?;
        // At most: the login at hand refused, then a fresh one refused too.
        for _ in 0..2 {
            if response.status() != StatusCode::UNAUTHORIZED {
                break;
            }
            if let Some(refused) = login.take() {
                if self.has_own_login() {
                    return Err(UpstreamError::Refused { authority: remote.authority() });
                }
                git.reject(remote, &refused).await;
            }
            let fresh = self.ask_for_login().await?;
            response = self.send(self.dressed(request(), Some(&fresh))).await?;
            login = Some(fresh);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            if let Some(refused) = &login {
                git.reject(remote, refused).await;
            }
            return Err(UpstreamError::Refused { authority: remote.authority() });
        }
        Ok((response, login))
    }
}

/// `GET info/refs`, whole.
pub(super) async fn advertisement(
    upstream: &Upstream,
    service: Service,
    git_protocol: Option<&str>,
) -> Result<Advertisement, UpstreamError> {
    let response = info_refs(upstream, service, git_protocol).await?;
    let bytes = capped(&upstream.remote, response, MAX_ADVERTISEMENT).await?;
    Ok(Advertisement::of(without_service(&upstream.remote, &bytes, service)?))
}

/// `GET info/refs`, as it comes.
pub(super) async fn advertised(
    upstream: &Upstream,
    service: Service,
    git_protocol: Option<&str>,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static, UpstreamError> {
    let response = info_refs(upstream, service, git_protocol).await?;
    Ok(response.bytes_stream().map_err(io::Error::other))
}

async fn info_refs(
    upstream: &Upstream,
    service: Service,
    git_protocol: Option<&str>,
) -> Result<Response, UpstreamError> {
    let target = Target::of(upstream).await?;
    let url = target.url(&format!("info/refs?service=git-{}", service.word()));
    let (response, login) = target
        .with_login(|| {
            let request = target.client.get(&url).header(header::PRAGMA, "no-cache");
            match git_protocol {
                Some(version) => request.header("git-protocol", version),
                None => request,
            }
        })
        .await?;
    let response = accepted(&upstream.remote, response, service, "advertisement")?;
    if let Some(login) = &login {
        upstream.broker.host_git.approve(&upstream.remote, login).await;
    }
    Ok(response)
}

/// `POST git-upload-pack`.
pub(super) async fn upload_pack<S>(
    upstream: &Upstream,
    git_protocol: Option<&str>,
    content_encoding: Option<&str>,
    body: S,
) -> Result<Answer, UpstreamError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let target = Target::of(upstream).await?;
    let mut request = target.post(Service::UploadPack);
    if let Some(version) = git_protocol {
        request = request.header("git-protocol", version);
    }
    if let Some(encoding) = content_encoding {
        request = request.header(header::CONTENT_ENCODING, encoding);
    }
    let login = target.login_at_hand();
    let request = target.dressed(request, login.as_ref()).body(reqwest::Body::wrap_stream(body));
    target.answer(Service::UploadPack, request, login).await
}

/// `POST git-receive-pack`.
pub(super) async fn receive_pack(upstream: &Upstream, body: PushBody) -> Result<Answer, UpstreamError> {
    let target = Target::of(upstream).await?;
    let mut login = target.login_at_hand();
    if login.is_none() && upstream.uses_host_credential() {
        // A person may have taken longer than a login is kept. A server that wants none is pushed to without.
        login = target.ask_for_login().await.ok();
    }
    let request = target.dressed(target.post(Service::ReceivePack), login.as_ref());
    target.answer(Service::ReceivePack, request.body(reqwest::Body::wrap_stream(body)), login).await
}

/// Only a 200 is an answer.
pub(super) fn fine(remote: &Remote, response: Response) -> Result<Response, UpstreamError> {
    let (authority, status) = (remote.authority(), response.status());
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let place = location.and_then(|location| response.url().join(location).ok());
        // What is no place on the web says everything in its path.
        let place = place.filter(|place| matches!(place.scheme(), "https" | "http"));
        let target = place.map_or_else(|| "nowhere".to_owned(), |place| host_and_path(&place));
        return Err(UpstreamError::Redirect { authority, target });
    }
    if status != StatusCode::OK {
        return Err(UpstreamError::Status { authority, status: status.as_u16() });
    }
    Ok(response)
}

/// Where a server sends to, without what may be a ticket for going there: user, query and fragment.
fn host_and_path(place: &Url) -> String {
    let host = place.host_str().unwrap_or_default();
    let port = place.port().map(|port| format!(":{port}")).unwrap_or_default();
    text::shown_name(&format!("{}://{host}{port}{}", place.scheme(), place.path()))
}

/// Only one with the service's content type is git's.
fn accepted(
    remote: &Remote,
    response: Response,
    service: Service,
    kind: &str,
) -> Result<Response, UpstreamError> {
    let response = fine(remote, response)?;
    let authority = remote.authority();
    let expected = format!("application/x-git-{}-{kind}", service.word());
    let matches =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == expected.as_str());
    if matches { Ok(response) } else { Err(UpstreamError::NotGit { authority }) }
}

/// Reads an answer whole, which has at most so many bytes.
pub(super) async fn capped(
    remote: &Remote,
    response: Response,
    most: usize,
) -> Result<Vec<u8>, UpstreamError> {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| failed(remote, error))?;
        if bytes.len() + chunk.len() > most {
            return Err(not_git(remote));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Takes the `# service=…` packet and its flush away, which smart HTTP puts before an advertisement. A server that
/// speaks protocol v2 may leave them out.
fn without_service(remote: &Remote, bytes: &[u8], service: Service) -> Result<Vec<u8>, UpstreamError> {
    let mut packets = Packets::new(bytes);
    let expected = format!("# service=git-{}", service.word());
    match packets.next_packet() {
        Ok(Some(Packet::Data(line))) if line.trim_ascii_end() == expected.as_bytes() => {}
        Ok(Some(Packet::Data(line))) if line.starts_with(b"version ") => return Ok(bytes.to_vec()),
        _ => return Err(not_git(remote)),
    }
    match packets.next_packet() {
        Ok(Some(Packet::Flush)) => Ok(packets.rest().to_vec()),
        _ => Err(not_git(remote)),
    }
}

fn header_of(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

pub(super) fn not_git(remote: &Remote) -> UpstreamError {
    UpstreamError::NotGit { authority: remote.authority() }
}

pub(super) fn failed(remote: &Remote, error: reqwest::Error) -> UpstreamError {
    let authority = remote.authority();
    // The URL holds no secret of ours, but a log line is clearer without it.
    let error = error.without_url();
    if is_about_certificate(&error) {
        return UpstreamError::Certificate { authority, source: Box::new(error) };
    }
    UpstreamError::Unreachable { authority, source: Box::new(error) }
}

/// Whether a certificate was refused, somewhere among the causes.
fn is_about_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // An io::Error names the cause of what it wraps as its own, and so hides what it wraps.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.is_some_and(|wrapped| is_about_certificate(wrapped))
        || error.source().is_some_and(is_about_certificate)
}
