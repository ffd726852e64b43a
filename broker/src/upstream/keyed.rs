//! SSH upstream with a key that keyhatch itself holds: through russh, with strict known_hosts.
//!
//! No configuration of ssh's is read and no program run: the host is dialled by its own name, its key must stand in
//! known_hosts and not be revoked, host certificates are not asked for, and compression is off: a compressed stream is
//! a server's way to make a small packet large.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use keyhatch_protocol::{ObjectFormat, ObjectId, agent};
use russh::client::{self, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::AgentIdentity;
use russh::{ChannelStream, Disconnect, Preferred, compression};
use ssh_key::encoding::Encode;
use ssh_key::{HashAlg, PublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ssh::{quoted, read_to_flush, speaks_v2};
use super::{
    Advertisement, Answer, Held, HeldConnection, OpenPush, Service, Upstream, UpstreamError, Way, head, held,
};
use crate::approval::PushBody;
use crate::credential::named;
use crate::signer::{SshKey, Voice};
use crate::ssh_agent::hosts;

/// Longest time to a login: a key in an ssh-agent may want a touch.
const LOGS_IN: Duration = Duration::from_secs(90);
/// Longest time from there to the end of an advertisement.
const ADVERTISES: Duration = Duration::from_secs(60);
/// Longest silence: a server's own hooks may run for minutes.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// The port of ssh.
const SSH_PORT: u16 = 22;

/// A running service on the other end. The handle keeps the connection.
pub(crate) struct Connection {
    handle: Handle<KnownServer>,
    stream: ChannelStream<Msg>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Whether the server is still there, as far as russh knows.
    pub(super) fn is_alive(&self) -> bool {
        !self.handle.is_closed()
    }
}

pub(super) async fn advertisement(
    upstream: &Upstream,
    name: &str,
    service: Service,
) -> Result<Advertisement, UpstreamError> {
    let mut connection = connect(upstream, name, service).await?;
    let bytes = read_advertisement(upstream, &mut connection).await?;
    if service == Service::ReceivePack
        && let Some(nonce) = held::nonce(&bytes)
    {
        let connection = HeldConnection(Way::Keyed(connection));
        return Ok(Advertisement { bytes, held: Some(Held { nonce, connection }) });
    }
    // A flush instead of a request ends the conversation; the other end may have gone first.
    drop(connection.stream.write_all(b"0000").await);
    drop(connection.handle.disconnect(Disconnect::ByApplication, "", "").await);
    if service == Service::UploadPack && !speaks_v2(&bytes) {
        return Err(UpstreamError::OldProtocol { authority: upstream.remote.authority() });
    }
    Ok(Advertisement::of(bytes))
}

/// Opens what a push is sent on.
pub(super) async fn open_push(upstream: &Upstream, name: &str) -> Result<OpenPush, UpstreamError> {
    let mut connection = connect(upstream, name, Service::ReceivePack).await?;
    let advertisement = read_advertisement(upstream, &mut connection).await?;
    Ok(OpenPush { advertisement, connection: Some(HeldConnection(Way::Keyed(connection))) })
}

/// Where the default branch is, on one connection.
pub(super) async fn head(
    upstream: &Upstream,
    name: &str,
    format: ObjectFormat,
) -> Result<Option<ObjectId>, UpstreamError> {
    let mut connection = connect(upstream, name, Service::UploadPack).await?;
    let mut refs = read_advertisement(upstream, &mut connection).await?;
    if speaks_v2(&refs) {
        let asked = connection.stream.write_all(&head::ls_head(format)).await;
        asked.map_err(|source| UpstreamError::Host { what: "ask over ssh", source })?;
        refs = read_advertisement(upstream, &mut connection).await?;
    }
    drop(connection.stream.write_all(b"0000").await);
    drop(connection.handle.disconnect(Disconnect::ByApplication, "", "").await);
    Ok(head::head_of(&refs))
}

/// Sends one request of a fetch on a connection of its own, and returns the answer as it comes.
pub(super) async fn upload_pack(
    upstream: &Upstream,
    name: &str,
    request: Bytes,
) -> Result<Answer, UpstreamError> {
    let connection = ready(upstream, name, Service::UploadPack).await?;
    Ok(converse(connection, futures_util::stream::once(std::future::ready(Ok(request)))))
}

/// Sends a push on a connection of its own, and returns the answer as it comes.
pub(super) async fn receive_pack(
    upstream: &Upstream,
    name: &str,
    body: PushBody,
) -> Result<Answer, UpstreamError> {
    Ok(converse(ready(upstream, name, Service::ReceivePack).await?, body))
}

/// A connection whose advertisement was read.
async fn ready(upstream: &Upstream, name: &str, service: Service) -> Result<Connection, UpstreamError> {
    let mut connection = connect(upstream, name, service).await?;
    read_advertisement(upstream, &mut connection).await?;
    Ok(connection)
}

/// Sends the body while the answer is read; the answer ends when the service does.
pub(super) fn converse<S>(connection: Connection, body: S) -> Answer
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let Connection { handle, stream } = connection;
    let (from, mut to) = tokio::io::split(stream);
    tokio::spawn(async move {
        let mut body = std::pin::pin!(body);
        while let Some(Ok(chunk)) = body.next().await {
            if let Err(error) = to.write_all(&chunk).await {
                tracing::debug!(%error, "an upstream stopped reading");
                return;
            }
        }
        // The service ends where its input does.
        if let Err(error) = to.shutdown().await {
            tracing::debug!(%error, "an upstream is gone");
        }
    });
    /// One read of the channel.
    const CHUNK: usize = 64 * 1024;
    Box::pin(futures_util::stream::unfold((handle, from), |(handle, mut from)| async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(buffer.freeze()), (handle, from))),
            Err(error) => Some((Err(error), (handle, from))),
        }
    }))
}

async fn read_advertisement(
    upstream: &Upstream,
    connection: &mut Connection,
) -> Result<Vec<u8>, UpstreamError> {
    let reading = read_to_flush(&mut connection.stream);
    match tokio::time::timeout(ADVERTISES, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) | Err(_) => Err(UpstreamError::NotGit { authority: upstream.remote.authority() }),
    }
}

async fn connect(upstream: &Upstream, name: &str, service: Service) -> Result<Connection, UpstreamError> {
    let remote = &upstream.remote;
    let authority = || remote.authority();
    let unknown = |why| {
        tracing::info!(name, why, "a named credential cannot be used");
        UpstreamError::UnknownCredential { name: name.to_owned() }
    };
    let key = named::ssh_key(name).map_err(unknown)?;
    let handle = tokio::time::timeout(LOGS_IN, log_in(upstream, &key)).await;
    let handle = handle.map_err(|_| UpstreamError::Unreachable {
        authority: authority(),
        source: "it did not answer in time".into(),
    })??;
    let failed = |error: russh::Error| UpstreamError::Ssh { authority: authority(), said: error.to_string() };
    let channel = handle.channel_open_session().await.map_err(failed)?;
    if service == Service::UploadPack {
        // A server that does not take it answers in another version, which is seen.
        channel.set_env(false, "GIT_PROTOCOL", "version=2").await.map_err(failed)?;
    }
    let command = format!("git-{} {}", service.word(), quoted(&remote.ssh_path()));
    channel.exec(true, command).await.map_err(failed)?;
    Ok(Connection { handle, stream: channel.into_stream() })
}

/// Connects, checks the server, and logs in.
async fn log_in(upstream: &Upstream, key: &SshKey) -> Result<Handle<KnownServer>, UpstreamError> {
    let remote = &upstream.remote;
    let authority = remote.authority();
    let host = remote.host().as_str().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = remote.port().unwrap_or(SSH_PORT);
    let user = remote.user().ok_or_else(|| UpstreamError::Refused { authority: authority.clone() })?;
    let server = KnownServer { keys: hosts::keys(&host, port) };
    let connecting = client::connect(Arc::new(config()), (host.as_str(), port), server).await;
    let mut handle = connecting.map_err(|error| match error {
        russh::Error::UnknownKey => UpstreamError::HostKey { authority: authority.clone() },
        russh::Error::IO(error) => {
            UpstreamError::Unreachable { authority: authority.clone(), source: Box::new(error) }
        }
        error => UpstreamError::Ssh { authority: authority.clone(), said: error.to_string() },
    })?;
    let mut signer = LoginSigner { upstream, key };
    let hash = key.is_rsa().then_some(HashAlg::Sha512);
    let answer = handle.authenticate_publickey_with(user, key.public(), hash, &mut signer).await;
    match answer {
        Ok(result) if result.success() => Ok(handle),
        Ok(_) => Err(UpstreamError::Refused { authority }),
        Err(error) => Err(UpstreamError::Ssh { authority, said: error.to_string() }),
    }
}

/// What is offered to a server: russh's own choice of ciphers and key exchanges, strict ones first, and no compression.
fn config() -> client::Config {
    client::Config {
        preferred: Preferred { compression: Cow::Borrowed(&[compression::NONE]), ..Preferred::default() },
        inactivity_timeout: Some(SILENCE),
        nodelay: true,
        ..client::Config::default()
    }
}

/// The keys that known_hosts has for the server.
struct KnownServer {
    keys: Vec<PublicKey>,
}

impl client::Handler for KnownServer {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let known = self.keys.iter().any(|one| one.key_data() == key.key_data());
        Ok(known && hosts::objection(key).is_none())
    }
}

/// Signs the login, from wherever the private key is.
struct LoginSigner<'a> {
    upstream: &'a Upstream,
    key: &'a SshKey,
}

/// A login could not be signed.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error("the connection broke")]
    Send(#[from] russh::SendError),
    #[error(transparent)]
    Sign(#[from] crate::signer::SignError),
    #[error("the signature cannot be written")]
    Encode,
    #[error("the server asks for something else than a login")]
    NotALogin,
}

impl russh::Signer for LoginSigner<'_> {
    type Error = LoginError;

    fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Self::Error>> + Send {
        let (broker, session, key) =
            (self.upstream.broker.clone(), self.upstream.session.id.clone(), self.key);
        let signing: Pin<Box<dyn Future<Output = Result<Vec<u8>, LoginError>> + Send>> =
            Box::pin(async move {
                // The same check as for a session's own login: nothing but a login is signed with a login's key.
                agent::parse_login(&to_sign).map_err(|_| LoginError::NotALogin)?;
                let (voice, _unheard) = Voice::of(&session);
                let signature = key.login(&broker, to_sign.clone(), &voice).await?;
                let bytes = signature.encode_vec().map_err(|_| LoginError::Encode)?;
                agent::put(&mut to_sign, &bytes);
                Ok(to_sign)
            });
        signing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_compressed_and_the_key_exchange_is_strict() {
        let preferred = config().preferred;
        let names: Vec<&str> = preferred.compression.iter().map(AsRef::as_ref).collect();
        assert_eq!(names, ["none"]);
        let kex: Vec<&str> = preferred.kex.iter().map(AsRef::as_ref).collect();
        assert!(kex.contains(&"kex-strict-c-v00@openssh.com"), "{kex:?}");
        assert!(preferred.host_key_certificates.is_empty());
    }

    #[test]
    fn russh_is_not_older_than_its_known_holes() {
        let lock = include_str!("../../../Cargo.lock");
        let at = lock.find("name = \"russh\"\n").expect("russh is locked");
        let version = lock[at..].lines().nth(1).and_then(|line| line.split('"').nth(1)).expect("a version");
        let numbers: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
        assert!(numbers >= vec![0, 63, 1], "{version}");
    }
}
