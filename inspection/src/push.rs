//! Inspection: what a push would really do, found out by a confined child.
//!
//! Comes in: an order (commands, limits, where objects are) and the spooled bytes. Goes out: facts. The bytes are
//! hostile, so the process that holds secrets never parses them: `keyhatch-inspect` does, started without a secret,
//! a socket or a way to write anywhere but its quarantine, with bounded memory and time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyhatch_cage::{Child, ChildError, ReadOnlyFd, Untrusted};
use keyhatch_protocol::{Facts, ObjectFormat, ObjectId, RefUpdate, SignedChanges, UpdateFact};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::missing::Missing;

/// Longest inspection: a pack at the default limit takes well under one.
const INSPECTS: Duration = Duration::from_secs(5 * 60);
/// Longest look at a commit that waits for a signature: git waits with it.
const LOOKS: Duration = Duration::from_secs(20);
/// Most bytes of an answer: the facts' own limits keep it far below.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

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
    /// Where upstream's refs are, by its own word of a moment ago.
    pub advertised: Vec<ObjectId>,
    /// Where upstream's default branch is: what a new ref is compared with.
    pub default_branch: Option<ObjectId>,
    /// Whether what is missing can be fetched: then nothing is compared before it is.
    pub may_fetch: bool,
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
pub enum Errand {
    /// To inspect a push.
    Push(Box<Order>),
    /// To look at a commit.
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
pub enum Answer {
    /// What it found.
    Found(Box<Inspected>),
    /// What it needs before it can find anything.
    Needs(Missing),
    /// What a commit changes.
    Changes(Box<SignedChanges>),
    /// Why the push cannot be made.
    Refusal(Refusal),
}

/// One look at a push.
#[derive(Debug)]
pub enum Inspection {
    /// Facts, and what would make them finer.
    Found(Box<Inspected>),
    /// None yet: what its commands name, or are compared with, is not at hand.
    Needs(Missing),
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
    /// The child could not do its work.
    #[error("the inspector failed: {step}")]
    Failed {
        /// Where; for the log, never for the session.
        step: String,
    },
    /// The child gave no answer, most likely at one of its limits.
    #[error("the inspector gave no answer")]
    Silent(#[from] ChildError),
    /// What the child said is not about what it was asked.
    #[error("the inspector said what cannot be: {what}")]
    Unbelievable {
        /// What.
        what: &'static str,
    },
    /// What it needs cannot be had.
    #[error("the inspector cannot be run")]
    Unavailable(#[from] io::Error),
}

impl InspectError {
    /// What the session may read.
    #[must_use]
    pub fn for_session(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.to_string(),
            Self::Silent(
                ChildError::TimedOut { .. }
                | ChildError::Stalled { .. }
                | ChildError::TooLarge { .. }
                | ChildError::Died { .. }
                | ChildError::Unreadable,
            ) => "the pack needs more memory or time than inspection may use".to_owned(),
            Self::Silent(_) | Self::Failed { .. } | Self::Unbelievable { .. } | Self::Unavailable(_) => {
                "the push cannot be inspected".to_owned()
            }
        }
    }
}

/// Inspects a push in a confined child.
///
/// # Errors
/// When the push is refused, or the child did not answer.
pub async fn inspect(order: &Order, spool: &File) -> Result<Inspection, InspectError> {
    let fds = vec![ReadOnlyFd::reopen(spool)?];
    let answer = send(&ErrandOut::Push(order), fds, INSPECTS).await?;
    answer.check(|answer| match answer {
        Answer::Found(found) => about(order, *found).map(|found| Inspection::Found(Box::new(found))),
        Answer::Needs(missing) => Ok(Inspection::Needs(missing)),
        other => Err(other.unexpected()),
    })
}

/// Holds what was found against what was asked: the same commands, in the same order.
fn about(order: &Order, found: Inspected) -> Result<Inspected, InspectError> {
    let facts = &found.facts;
    let is_same = |(asked, said): (&RefUpdate, &UpdateFact)| {
        asked.ref_name == said.ref_name && asked.old == said.old && asked.new == said.new
    };
    let all = order.updates.len() == facts.updates.len();
    if !all || !order.updates.iter().zip(&facts.updates).all(is_same) {
        return Err(InspectError::Unbelievable { what: "other commands" });
    }
    if facts.object_format != order.object_format {
        return Err(InspectError::Unbelievable { what: "another hash" });
    }
    Ok(found)
}

/// Finds out what a commit changes that waits for a signature, in a confined child.
///
/// # Errors
/// When its objects are not at hand, or the child did not answer.
pub async fn changes_of(errand: &CommitErrand) -> Result<SignedChanges, InspectError> {
    send(&ErrandOut::Commit(errand), Vec::new(), LOOKS).await?.check(|answer| match answer {
        Answer::Changes(changes) => Ok(*changes),
        other => Err(other.unexpected()),
    })
}

impl Answer {
    fn unexpected(self) -> InspectError {
        match self {
            Self::Refusal(Refusal::Failed { step }) => InspectError::Failed { step },
            Self::Refusal(refusal) => refusal.into(),
            Self::Found(_) | Self::Needs(_) | Self::Changes(_) => {
                InspectError::Unbelievable { what: "the answer to another question" }
            }
        }
    }
}

/// Asks a child, which is ended when nobody waits for it any more.
async fn send(
    errand: &ErrandOut<'_>,
    fds: Vec<ReadOnlyFd>,
    patience: Duration,
) -> Result<Untrusted<Answer>, InspectError> {
    let program = crate::program("inspect", MAX_ANSWER)?;
    Ok(Child::start(&program, errand, fds, patience)?.await?)
}

/// Where the packs that upstream sent are indexed.
#[must_use]
pub fn base_packs(quarantine: &Path) -> PathBuf {
    quarantine.join("bases/pack")
}
