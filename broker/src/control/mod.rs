//! The control socket: what the user's own commands and the broker say to each other.
//!
//! Frames of JSON (`keyhatch_protocol::frame`), one request a connection. Every request carries the token that proves
//! that the client can read this user's files: peer uid alone does not, because a confined process has the same uid.

pub mod client;
mod container;
pub mod server;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;

use keyhatch_policies::rules::{FileInside, Mount};
use keyhatch_protocol::{RequestId, SessionId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::approval::{Grant, Scope};
use crate::observe::Attempt;
use crate::registries::Answer;
use crate::session::container::{Container, SessionName};
use crate::session::report::{Section, SessionReport};
use crate::signer::LockedKey;

pub use view::{Listing, RequestView, ShownRequest};

/// The version that both ends must speak: they are two runs of one program, but an old broker may still be up.
pub const VERSION: u32 = 1;

/// One request with its proof.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Must be [`VERSION`].
    pub version: u32,
    /// The content of `control.token`.
    pub token: String,
    /// What is asked for.
    pub request: Request,
}

/// What a command can ask of the broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Whether a broker is there.
    Ping,
    /// Opens a session, which lives as long as this connection.
    OpenSession {
        /// The project's directory, absolute; none where the policy wants none.
        project: Option<PathBuf>,
        /// Where the policy came from, for messages.
        policy_origin: String,
        /// The policy's text.
        policy: String,
        /// What the user's tools said about the policy's registries.
        registries: Vec<Answer>,
    },
    /// Opens a session for a container that keyhatch did not make; it lives as long as `container` says.
    OpenForContainer {
        /// The project's directory, absolute; none where the policy wants none.
        project: Option<PathBuf>,
        /// Where the policy came from, for messages.
        policy_origin: String,
        /// The policy's text.
        policy: String,
        /// How the container is.
        container: Container,
    },
    /// Hands over the sockets of the session's own network: the descriptors follow with one byte.
    AttachSockets {
        /// Whose.
        session: SessionId,
        /// The runner's process, which stays in that network.
        runner: u32,
    },
    /// Ends a session and asks for its report; the connection that opened it is told nothing more.
    CloseSession {
        /// Which.
        session: SessionId,
        /// What the command that ran it knows.
        known: Known,
    },
    /// Shows what a session did, or has done so far.
    ShowSession {
        /// Which.
        session: SessionId,
    },
    /// Lists what waits for a decision.
    Pending {
        /// Answer only when there is something, or when the queue changed.
        wait: bool,
    },
    /// Shows one request with its diff.
    Show {
        /// Which.
        id: RequestId,
    },
    /// Decides one request.
    Decide {
        /// Which.
        id: RequestId,
        /// The digest that was shown, whole or its first digits; none where `show` showed the request.
        digest: Option<String>,
        /// What was decided.
        decision: Verdict,
    },
    /// Lists the standing permissions.
    Grants,
    /// Takes a standing permission back.
    RevokeGrant {
        /// The request that it was given with.
        id: RequestId,
    },
    /// Lists the open sessions.
    Sessions,
    /// Lists the keys that signatures wait for.
    Locked,
    /// Opens one of them.
    Unlock {
        /// Which.
        fingerprint: String,
        /// Its passphrase.
        passphrase: Hidden,
    },
}

/// What a command knows of a session that ends.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// For the report.
    pub sections: Vec<Section>,
    /// Connections that it saw processes try past the proxy.
    pub attempts: Vec<Attempt>,
    /// Whether nothing of it runs any more: of a container only its user knows.
    pub is_over: bool,
    /// Whether it knows that nothing of the host could be written by it but what it had mounted.
    #[serde(default)]
    pub enclosed: bool,
}

/// A secret that crosses the control socket: wiped when dropped, and never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// Takes a secret.
    #[must_use]
    pub fn new(secret: Zeroizing<String>) -> Self {
        Self(secret.as_str().to_owned())
    }

    /// The secret.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.clone())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

/// A person's word as it crosses the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Yes, this far.
    Approve {
        /// How far.
        scope: Scope,
    },
    /// No.
    Deny {
        /// Words for the agent.
        reason: Option<String>,
    },
}

/// The broker's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// A broker is there.
    Pong {
        /// Its process.
        pid: u32,
    },
    /// A session is open; it ends when this connection does.
    Opened(Box<OpenedSession>),
    /// A container's session is open.
    OpenedForContainer(Box<OpenedContainer>),
    /// The listener is served.
    Attached,
    /// What a session did.
    Report(Box<SessionReport>),
    /// What waits.
    Pending(Listing),
    /// One request, with its diff.
    Shown(Box<ShownRequest>),
    /// The request was not decided: nobody was shown what it asks for, and the decision does not name it.
    NotShown {
        /// Which.
        id: RequestId,
    },
    /// The decision counts.
    Decided {
        /// The request that was decided.
        request: Box<RequestView>,
    },
    /// The standing permissions, or the one that was taken back.
    Grants {
        /// Oldest first.
        grants: Vec<Grant>,
    },
    /// The open sessions.
    Sessions {
        /// In no order.
        sessions: Vec<SessionView>,
    },
    /// The keys that signatures wait for.
    Locked {
        /// By fingerprint.
        keys: Vec<LockedKey>,
    },
    /// The key is open.
    Unlocked,
    /// It could not be done.
    Failed {
        /// What failed.
        message: String,
        /// What to do, where there is a remedy.
        hint: Option<String>,
    },
}

/// What a runner needs to know of a new session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedSession {
    /// Its name.
    pub session: SessionId,
    /// The directory of its sockets on the host.
    pub sockets: PathBuf,
    /// Mounts over the project.
    pub mounts: Vec<Mount>,
    /// Files inside, git's system configuration among them.
    pub files: Vec<FileInside>,
    /// Variables that lead tools to the session's proxy and registries.
    pub env: BTreeMap<String, String>,
    /// What the user should know at the start, a line each.
    pub notes: Vec<String>,
}

/// What whoever starts a container needs to know of a new session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedContainer {
    /// Its name.
    pub session: SessionId,
    /// The project's directory on the host.
    pub project: PathBuf,
    /// Its policy's name.
    pub policy: String,
    /// Where the project is mounted inside, as far as it was told.
    pub target: Option<PathBuf>,
    /// A directory of its own on the host, for files that are mounted one by one.
    pub files: PathBuf,
    /// The directory of its sockets, and mounts over the project; targets are paths inside.
    pub mounts: Vec<Mount>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// What the user should know, a line each.
    pub warnings: Vec<String>,
    /// When it ends by itself, in seconds since the epoch.
    pub expires: u64,
}

/// One open session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// Its project.
    pub project: PathBuf,
    /// Its policy's name.
    pub policy: String,
    /// When it was opened, in seconds since the epoch.
    pub opened: u64,
    /// When it ends by itself, in seconds since the epoch; none for one that lives as long as its sandbox.
    pub expires: Option<u64>,
    /// What the user calls it.
    pub name: Option<SessionName>,
}
