//! Inspection: what a push would really do, found out by a confined child.
//!
//! Comes in: an order (commands, limits, where objects are) and the spooled bytes. Goes out: facts. The bytes are
//! hostile, so the process that holds secrets never parses them: `keyhatch inspect` does, re-executed without a
//! secret, a socket or a way to write anywhere but its quarantine, with bounded memory and time.

mod changes;
mod child;
pub(crate) mod confine;
mod history;
mod missing;
pub(crate) mod quarantine;
mod reach;
mod secrets;
mod signatures;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use keyhatch_protocol::{Facts, ObjectFormat, ObjectId, RefUpdate, SignedChanges};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

pub use child::main as child_main;
pub use missing::Missing;
pub(crate) use quarantine::base_packs;

/// Longest inspection: a pack at the default limit takes well under one.
const INSPECTS: Duration = Duration::from_secs(5 * 60);
/// Longest look at a commit that waits for a signature: git waits with it.
const LOOKS: Duration = Duration::from_secs(20);
/// Most bytes of an answer: the facts' own limits keep it far below.
const MAX_ANSWER: u64 = 32 * 1024 * 1024;

/// What is to be inspected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The hash that the push uses.
    pub object_format: ObjectFormat,
    /// Its commands.
    pub updates: Vec<RefUpdate>,
    /// Where in the spooled bytes the pack begins; none when everything is deleted.
    pub pack_offset: Option<u64>,
    /// A fresh, empty directory.
    pub quarantine: PathBuf,
    /// Object directories of the host that may hold what the pack builds on.
    pub objects: Vec<PathBuf>,
    /// Packs of the quarantine's own directory that upstream sent: what the push builds on.
    pub bases: Vec<PathBuf>,
    /// What upstream said it has.
    pub advertised: Vec<ObjectId>,
    /// What is too much.
    pub limits: Limits,
}

/// A commit that waits for a signature: what does it change?
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitErrand {
    /// Its tree.
    pub tree: ObjectId,
    /// Its first parent.
    pub parent: Option<ObjectId>,
    /// A fresh, empty directory.
    pub quarantine: PathBuf,
    /// Object directories, the session's own among them.
    pub objects: Vec<PathBuf>,
    /// What may be read: where a session can put links, the directory around its objects, whose name is ours.
    pub readable: Vec<PathBuf>,
    /// What is too much.
    pub limits: Limits,
}

/// What the child is told.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Errand {
    Push(Box<Order>),
    Commit(Box<CommitErrand>),
}

/// The same, as it is sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum ErrandOut<'o> {
    Push(&'o Order),
    Commit(&'o CommitErrand),
}

/// Limits of the policy.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the pack.
    pub pack_bytes: u64,
    /// Objects in it.
    pub objects: u64,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// What it found.
    Found(Box<Inspected>),
    /// What a commit changes.
    Changes(Box<SignedChanges>),
    /// Why the push cannot be made.
    Refusal(Refusal),
}

/// What inspection found, and what it could not look at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspected {
    /// The facts, as far as they could be had.
    pub facts: Facts,
    /// What would be needed to know more.
    pub missing: Missing,
    /// The refusal that stands where it cannot be had.
    pub absent: Option<Refusal>,
}

/// A push that inspection refuses.
#[derive(Debug, Clone, Serialize, Deserialize, Error)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Refusal {
    /// The bytes are not a pack.
    #[error("the pack is malformed")]
    Malformed,
    /// More objects than the policy's limit.
    #[error("the pack has {objects} objects, more than the limit of {limit}")]
    TooManyObjects {
        /// How many.
        objects: u64,
        /// The limit in force.
        limit: u64,
    },
    /// git's own checks found an error.
    #[error("git fsck refuses the pack: {check}")]
    Fsck {
        /// The check's name, one of `git help fsck`, the part after `fsck.`.
        check: String,
    },
    /// A command names an object that the pack, the host and upstream do not have.
    #[error("{ref_name} would point to an object that was not sent")]
    Missing {
        /// Which ref.
        ref_name: String,
    },
    /// The child could not do its work.
    #[error("the push cannot be inspected")]
    Failed {
        /// Where, for the log.
        step: String,
    },
}

/// No facts.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The push is bad.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The child took too long.
    #[error("inspection took longer than {} seconds", INSPECTS.as_secs())]
    TimedOut,
    /// The child could not do its work.
    #[error("the inspector failed: {step}")]
    Failed {
        /// Where; for the log, never for the session.
        step: String,
    },
    /// The child died, most likely at one of its limits.
    #[error("the inspector died: {how}")]
    Died {
        /// Its exit status.
        how: String,
    },
    /// The child could not be started or spoken to.
    #[error("the inspector cannot be run")]
    Unavailable(#[from] io::Error),
}

impl InspectError {
    /// What the session may read.
    #[must_use]
    pub fn for_session(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.to_string(),
            Self::TimedOut | Self::Died { .. } => {
                "the pack needs more memory or time than inspection may use".to_owned()
            }
            Self::Failed { .. } | Self::Unavailable(_) => "the push cannot be inspected".to_owned(),
        }
    }
}

/// Inspects a push in a confined child.
///
/// # Errors
/// When the push is refused, or the child did not answer.
pub async fn inspect(order: &Order, spool: &File) -> Result<Inspected, InspectError> {
    match send(&ErrandOut::Push(order), Stdio::from(spool.try_clone()?), INSPECTS).await? {
        Answer::Found(found) => Ok(*found),
        other => Err(other.unexpected()),
    }
}

/// Finds out what a commit changes that waits for a signature, in a confined child.
///
/// # Errors
/// When its objects are not at hand, or the child did not answer.
pub async fn changes_of(errand: &CommitErrand) -> Result<SignedChanges, InspectError> {
    match send(&ErrandOut::Commit(errand), Stdio::null(), LOOKS).await? {
        Answer::Changes(changes) => Ok(*changes),
        other => Err(other.unexpected()),
    }
}

impl Answer {
    fn unexpected(self) -> InspectError {
        match self {
            Self::Refusal(Refusal::Failed { step }) => InspectError::Failed { step },
            Self::Refusal(refusal) => refusal.into(),
            Self::Found(_) | Self::Changes(_) => {
                InspectError::Died { how: "it answered another question".to_owned() }
            }
        }
    }
}

async fn send(errand: &ErrandOut<'_>, stdin: Stdio, patience: Duration) -> Result<Answer, InspectError> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("keyhatch-inspect")
        .arg("inspect")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let talk = async {
        ours.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(ours)?.into_split();
        let text = serde_json::to_vec(errand).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        // A child that dies while it is told shows in its answer.
        let told = async {
            writer.write_all(&text).await?;
            writer.shutdown().await
        };
        let told: io::Result<()> = told.await;
        reader.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        let status = child.wait().await?;
        Ok::<_, io::Error>((told, bytes, status))
    };
    let (_told, bytes, status) =
        tokio::time::timeout(patience, talk).await.map_err(|_| InspectError::TimedOut)??;
    if !status.success() {
        return Err(InspectError::Died { how: status.to_string() });
    }
    let unreadable = |_| InspectError::Died { how: "it said nothing that can be read".to_owned() };
    serde_json::from_slice(&bytes).map_err(unreadable)
}
