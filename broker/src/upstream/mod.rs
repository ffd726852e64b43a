//! Upstream: the real git server, reached with what the user already has.
//!
//! Comes in: a parsed remote and the policy's choice of credential. Goes out: an advertisement, or one request with its
//! streamed answer. Not trusted: the server. What it says is capped, its redirects are not followed, and its errors
//! reach a session only as words of ours.

mod advertised;
mod bases;
mod cache;
mod head;
mod held;
mod http;
mod keyed;
pub(crate) mod lfs;
mod nonces;
mod ssh;

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use keyhatch_policies::CredentialChoice;
use keyhatch_protocol::{Remote, Scheme};
use thiserror::Error;

pub use advertised::{Advertised, Patience};
pub use held::HeldConnection;
use held::Way;
pub(crate) use held::{Held, HeldConnections, certificate_offer};
pub use http::Clients;
pub(crate) use nonces::{CertificateOffer, GivenNonces};

use crate::approval::{Approved, Push, PushBody};
use crate::broker::Broker;
use crate::session::Session;
use crate::spool::{Altered, Integrity};

/// Most bytes of a ref advertisement: a million refs fit.
const MAX_ADVERTISEMENT: usize = 128 * 1024 * 1024;

/// A git service, gitprotocol-pack(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Fetch.
    UploadPack,
    /// Push.
    ReceivePack,
}

impl Service {
    /// Its name without `git-`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }
}

/// What a service says first.
#[derive(Debug)]
pub struct Advertisement {
    /// pkt-lines, after the `# service=` packet of smart HTTP.
    pub bytes: Vec<u8>,
    /// The connection that waits for a signed push, where the server gave a nonce on it.
    pub(crate) held: Option<Held>,
}

impl Advertisement {
    /// One whose connection is done with.
    const fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, held: None }
    }
}

/// A push that is about to be sent.
#[derive(Debug)]
pub(crate) struct OpenPush {
    /// What upstream has, said on this very connection; over https in the request before the push's.
    pub(crate) advertisement: Vec<u8>,
    /// The connection that waits for the push; https has none.
    pub(crate) connection: Option<HeldConnection>,
}

/// A streamed answer.
pub type Answer = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What a server answers to a push.
pub struct PushAnswer {
    /// Its bytes, as they come.
    pub answer: Answer,
    /// Whether the push was sent to its end, unchanged. Known once the answer has ended.
    pub integrity: Integrity,
}

/// Why the bytes of a push cannot be sent.
fn unreadable(error: io::Error) -> UpstreamError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Altered>()) {
        Some(altered) => UpstreamError::Altered(*altered),
        None => UpstreamError::Host { what: "read the spool", source: error },
    }
}

/// The server did not do what was asked.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// No connection.
    #[error("{authority} cannot be reached")]
    Unreachable {
        /// Who.
        authority: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its certificate is not trusted.
    #[error("the certificate of {authority} is not trusted")]
    Certificate {
        /// Whose.
        authority: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The CA file of the user's configuration cannot be used.
    #[error("the certificates of http.sslCAInfo cannot be used")]
    CaFile(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The proxy of the user's configuration cannot be used.
    #[error("the proxy of http.proxy cannot be used")]
    Proxy,
    /// It wants a login, and none is known.
    #[error("no credential is known for {authority}")]
    NoCredential {
        /// Who wants it.
        authority: String,
    },
    /// It refused the login; the helpers were told.
    #[error("{authority} refused the credential")]
    Refused {
        /// Who.
        authority: String,
    },
    /// It answered something else.
    #[error("{authority} answered with status {status}")]
    Status {
        /// Who.
        authority: String,
        /// HTTP's number.
        status: u16,
    },
    /// It wants us to go elsewhere.
    #[error("{authority} redirects to {target}, and a redirect is not followed with a credential")]
    Redirect {
        /// Who.
        authority: String,
        /// Where to: host and path, escaped.
        target: String,
    },
    /// It is no git server, or broke off.
    #[error("{authority} did not answer as a git server")]
    NotGit {
        /// Who.
        authority: String,
    },
    /// It sends us for a large file where nobody sends us.
    #[error(
        "{authority} has its large files at a place that is not reached from here: {why}; the user gets them on the host: git lfs fetch"
    )]
    Elsewhere {
        /// Who.
        authority: String,
        /// Why not.
        why: &'static str,
    },
    /// Its host key is unknown or has changed.
    #[error("the host key of {authority} is not known, or has changed")]
    HostKey {
        /// Whose.
        authority: String,
    },
    /// Its ssh server drops the variable that asks for protocol v2.
    #[error("{authority} speaks only git's old protocol, which a named credential does not fetch over")]
    OldProtocol {
        /// Who.
        authority: String,
    },
    /// ssh failed otherwise.
    #[error("ssh to {authority} failed: {said}")]
    Ssh {
        /// To whom.
        authority: String,
        /// The last line that it said, for the log.
        said: String,
    },
    /// A program of the host's, or a disk of ours.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What would be sent is not what was approved.
    #[error("the push changed on the host's disk after it was taken in: it was stopped")]
    Altered(#[source] Altered),
    /// The policy names a credential that is not set up.
    #[error("the credential {name:?} is not set up")]
    UnknownCredential {
        /// Its name.
        name: String,
    },
}

impl UpstreamError {
    /// What the session may read: no host path, no echoed bytes but the server's name.
    #[must_use]
    pub fn for_session(&self) -> String {
        match self {
            Self::Status { status: 404, .. } => {
                format!(
                    "{self}: no such repository, or no access to it\nhint: the user checks the URL, and the login"
                )
            }
            Self::Ssh { authority, .. } => {
                format!(
                    "ssh to {authority} failed\nhint: on the host, the user runs: ssh -T -o BatchMode=yes {authority}"
                )
            }
            Self::HostKey { authority } => {
                format!(
                    "{self}\nhint: on the host, the user runs ssh {authority} once and compares its fingerprint"
                )
            }
            Self::NoCredential { .. } | Self::Refused { .. } => {
                format!(
                    "{self}\nhint: on the host, the user runs git fetch there once, or sets up a credential helper"
                )
            }
            Self::Unreachable { .. } => format!("{self}\nhint: the user checks the host's network"),
            Self::Certificate { .. } => {
                format!("{self}\nhint: the user names its CA in http.sslCAInfo of the global configuration")
            }
            Self::Altered(_) => {
                format!("{self}\nhint: run the same command again; where it happens again, tell the user")
            }
            Self::Host { .. } => "the host cannot do this now\nhint: the broker's log says why".to_owned(),
            _ => self.to_string(),
        }
    }
}

/// One remote with the credential that the policy chose for it.
#[derive(Debug)]
pub struct Upstream {
    broker: Arc<Broker>,
    session: Arc<Session>,
    remote: Remote,
    credential: CredentialChoice,
}

impl Upstream {
    /// Names the other end; nothing is sent yet.
    #[must_use]
    pub fn connect(
        broker: &Arc<Broker>,
        session: &Arc<Session>,
        remote: &Remote,
        credential: &CredentialChoice,
    ) -> Self {
        Self {
            broker: broker.clone(),
            session: session.clone(),
            remote: remote.clone(),
            credential: credential.clone(),
        }
    }

    /// Fetches the ref advertisement, capped.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is no git server.
    pub async fn advertisement(
        &self,
        service: Service,
        git_protocol: Option<&str>,
    ) -> Result<Advertisement, UpstreamError> {
        if let Some(name) = self.named_key()? {
            return keyed::advertisement(self, name, service).await;
        }
        match self.remote.scheme() {
            Scheme::Https => http::advertisement(self, service, git_protocol).await,
            Scheme::Ssh | Scheme::Scp => ssh::advertisement(self, service, git_protocol).await,
        }
    }

    /// Sends one request of a fetch on a fresh connection and returns its answer as it comes.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses; later failures are errors of the stream.
    pub async fn upload_pack<S>(
        &self,
        git_protocol: Option<&str>,
        content_encoding: Option<&str>,
        body: S,
    ) -> Result<Answer, UpstreamError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        if let Some(name) = self.named_key()? {
            // A session's git sends small requests packed; the other end of ssh reads them plain.
            let request = cache::whole_request(&self.remote, content_encoding, body).await?;
            return keyed::upload_pack(self, name, request).await;
        }
        match self.remote.scheme() {
            Scheme::Https => http::upload_pack(self, git_protocol, content_encoding, body).await,
            Scheme::Ssh | Scheme::Scp => ssh::upload_pack(self, content_encoding, body).await,
        }
    }

    /// Opens what a push is sent on, and reads what upstream has on it.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is no git server.
    pub(crate) async fn open_push(&self) -> Result<OpenPush, UpstreamError> {
        if let Some(name) = self.named_key()? {
            return keyed::open_push(self, name).await;
        }
        match self.remote.scheme() {
            Scheme::Https => {
                let Advertisement { bytes, .. } =
                    http::advertisement(self, Service::ReceivePack, None).await?;
                Ok(OpenPush { advertisement: bytes, connection: None })
            }
            Scheme::Ssh | Scheme::Scp => ssh::open_push(self).await,
        }
    }

    /// Sends the push that was approved, where it was approved to go, with the credential that was approved: the only way
    /// to a server's `receive-pack`. A signed one goes on the connection that its certificate's nonce belongs to, where
    /// that is still there. A login that is refused was forgotten; the next one is tried once, with the same bytes.
    ///
    /// # Errors
    /// When the bytes are not those that were approved, or the server cannot be reached or refuses; later failures are
    /// errors of the stream.
    pub async fn push(
        broker: &Arc<Broker>,
        session: &Arc<Session>,
        approved: Approved<Push>,
        held: Option<HeldConnection>,
    ) -> Result<PushAnswer, UpstreamError> {
        let upstream = Self::connect(broker, session, approved.remote(), &approved.terms().credential);
        let body = async || approved.body().await.map_err(unreadable);
        if let Some(mut held) = held
            && held.is_alive()
        {
            let body = body().await?;
            let integrity = body.integrity();
            let answer = match held.0 {
                Way::Ssh(connection) => ssh::converse(connection, body),
                Way::Keyed(connection) => keyed::converse(connection, body),
            };
            return Ok(PushAnswer { answer, integrity });
        }
        match upstream.receive_pack(body().await?).await {
            Err(UpstreamError::Refused { .. }) => upstream.receive_pack(body().await?).await,
            answer => answer,
        }
    }

    async fn receive_pack(&self, body: PushBody) -> Result<PushAnswer, UpstreamError> {
        let integrity = body.integrity();
        let answer = match (self.named_key()?, self.remote.scheme()) {
            (Some(name), _) => keyed::receive_pack(self, name, body).await,
            (None, Scheme::Https) => http::receive_pack(self, body).await,
            (None, Scheme::Ssh | Scheme::Scp) => ssh::receive_pack(self, body).await,
        };
        match answer {
            Ok(answer) => Ok(PushAnswer { answer, integrity }),
            Err(_) if integrity.is_broken() => Err(UpstreamError::Altered(Altered)),
            Err(error) => Err(error),
        }
    }

    /// The named key that logs in, where the policy names one: keys log in over ssh.
    fn named_key(&self) -> Result<Option<&str>, UpstreamError> {
        match (&self.credential, self.remote.scheme()) {
            (CredentialChoice::Host | CredentialChoice::None, _) => Ok(None),
            (CredentialChoice::Named(name), Scheme::Ssh | Scheme::Scp) => Ok(Some(name)),
            (CredentialChoice::Named(name), Scheme::Https) => {
                Err(UpstreamError::UnknownCredential { name: name.clone() })
            }
        }
    }

    fn uses_host_credential(&self) -> bool {
        matches!(self.credential, CredentialChoice::Host)
    }
}
