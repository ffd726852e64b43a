//! The control socket: what the user's own commands and the broker say to each other.
//!
//! Frames of JSON (`keyhatch_protocol::frame`), one request a connection. Every request carries the token that proves
//! that the client can read this user's files: peer uid alone does not, because a confined process has the same uid.

pub mod client;
mod container;
pub mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use keyhatch_policies::rules::{FileInside, Mount};
use keyhatch_policies::{CredentialChoice, Operation};
use keyhatch_protocol::{
    ChangedFile, CommitFact, RequestId, Risk, SessionId, SignFacts, TagFact, UpdateFact,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::approval::{Asked, Grant, Question, Scope, seconds};
use crate::observe::Attempt;
use crate::registries::Answer;
use crate::session::container::{Container, SessionName};
use crate::session::report::{Section, SessionReport};
use crate::signer::LockedKey;

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
        /// The digest that was shown, where the surface showed one.
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
    Pending {
        /// Oldest first.
        requests: Vec<RequestView>,
    },
    /// One request, with its diff.
    Shown(Box<ShownRequest>),
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

/// A request as `keyhatch pending --json` prints it. Stable: fields are added, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestView {
    /// What people type.
    pub id: RequestId,
    /// Who asks.
    pub session: SessionId,
    /// `push`, `fetch` or `sign`.
    pub operation: String,
    /// The remote's URL; empty for a signature.
    pub remote: String,
    /// SHA-256 over session, remote, commands and push options, in hexadecimal.
    pub digest: String,
    /// When it was asked, in seconds since the epoch.
    pub created: u64,
    /// When it ends by itself, in seconds since the epoch.
    pub expires: u64,
    /// Whether the client went away; an approval then waits for its retry.
    pub withdrawn: bool,
    /// The policy's rule that asks.
    pub rule: String,
    /// Why it asks.
    pub reason: String,
    /// Whether it can only be approved once.
    pub once_only: bool,
    /// The credential's name: `host`, `none`, or one that the user named.
    pub credential: String,
    /// What happens to each ref; empty for a fetch.
    pub updates: Vec<UpdateFact>,
    /// The options of `git push -o`.
    pub push_options: Vec<String>,
    /// What to look at.
    pub risks: Vec<Risk>,
    /// How many commits upstream does not have.
    pub commit_count: u64,
    /// The newest of them.
    pub commits: Vec<CommitFact>,
    /// The annotated tags that are brought.
    #[serde(default)]
    pub tags: Vec<TagFact>,
    /// Whether it is known what changes; for a signature it may not be.
    #[serde(default)]
    pub changes_known: bool,
    /// How many files change.
    pub file_count: u64,
    /// The first of them.
    pub files: Vec<ChangedFile>,
    /// Added lines.
    pub added: u64,
    /// Removed lines.
    pub removed: u64,
    /// Size of the pack in bytes.
    pub pack_bytes: u64,
    /// What would be signed; only for a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignFacts>,
    /// Whether an approval covers the signatures that follow, for a while.
    #[serde(default)]
    pub batch: bool,
}

/// A request with its diff.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownRequest {
    /// The request.
    #[serde(flatten)]
    pub request: RequestView,
    /// The diff as unified text; it holds what the session wrote.
    pub diff: String,
    /// Whether the diff was cut.
    pub diff_cut: bool,
}

/// Commits and files in a listing; `show` has them all.
const LISTED: usize = 50;

impl RequestView {
    /// Renders a request for surfaces.
    #[must_use]
    pub fn of(asked: &Asked, whole: bool) -> Self {
        let most = if whole { usize::MAX } else { LISTED };
        let mut view = Self {
            id: asked.id.clone(),
            session: asked.session.clone(),
            operation: String::new(),
            remote: String::new(),
            digest: asked.digest.as_str().to_owned(),
            created: seconds(asked.created),
            expires: seconds(asked.expires),
            withdrawn: asked.withdrawn,
            rule: asked.terms.rule.clone(),
            reason: asked.terms.reason.clone(),
            once_only: asked.terms.once_only,
            credential: credential_name(&asked.terms.credential),
            updates: Vec::new(),
            push_options: Vec::new(),
            risks: Vec::new(),
            commit_count: 0,
            commits: Vec::new(),
            tags: Vec::new(),
            changes_known: false,
            file_count: 0,
            files: Vec::new(),
            added: 0,
            removed: 0,
            pack_bytes: 0,
            signature: None,
            batch: false,
        };
        match &asked.operation {
            Operation::Sign(sign) => {
                view.operation = "sign".into();
                view.signature = Some(sign.facts.clone());
                view.batch = Question { sign, terms: &asked.terms }.opens_batch();
                view.risks.clone_from(&sign.facts.risks);
                view.once_only = true;
                if let Some(changes) = &sign.changes {
                    view.changes_known = true;
                    view.file_count = changes.file_count;
                    view.files = changes.files.iter().take(most).cloned().collect();
                    view.added = changes.added;
                    view.removed = changes.removed;
                }
            }
            Operation::Fetch(fetch) => {
                view.operation = "fetch".into();
                view.remote = fetch.remote.to_string();
            }
            Operation::Push(push) => {
                let facts = &push.facts;
                view.operation = "push".into();
                view.remote = push.remote.to_string();
                view.updates.clone_from(&facts.updates);
                view.push_options.clone_from(&push.push_options);
                view.risks = facts.risks.iter().take(most).cloned().collect();
                view.commit_count = facts.commit_count;
                view.commits = facts.commits.iter().take(most).cloned().collect();
                view.tags = facts.tags.iter().take(most).cloned().collect();
                view.changes_known = true;
                view.file_count = facts.file_count;
                view.files = facts.files.iter().take(most).cloned().collect();
                view.added = facts.added;
                view.removed = facts.removed;
                view.pack_bytes = facts.pack_bytes;
            }
        }
        view
    }
}

impl ShownRequest {
    /// Renders a request with its diff.
    #[must_use]
    pub fn of(asked: &Asked) -> Self {
        let (diff, diff_cut) = match &asked.operation {
            Operation::Fetch(_) => (String::new(), false),
            Operation::Sign(sign) => match &sign.changes {
                Some(changes) => (changes.diff.clone(), changes.diff_cut),
                None => (String::new(), false),
            },
            Operation::Push(push) => (push.facts.diff.clone(), push.facts.diff_cut),
        };
        Self { request: RequestView::of(asked, true), diff, diff_cut }
    }
}

fn credential_name(choice: &CredentialChoice) -> String {
    match choice {
        CredentialChoice::Host => "host".into(),
        CredentialChoice::None => "none".into(),
        CredentialChoice::Named(name) => name.clone(),
    }
}
