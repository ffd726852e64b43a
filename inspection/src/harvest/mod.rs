//! The harvest: what a session's git directory holds that the host's does not, gathered by a confined child.
//!
//! Comes in: a directory of hostile bytes and what both sides last agreed on. Goes out: plain data (refs, logs, index
//! entries), and objects that git's own checks accepted, in a quarantine. No git ever runs *in* the session's
//! directory, none obeys its configuration, and the process that holds secrets reads none of it.

mod bare;
pub mod check;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keyhatch_cage::{Child, ChildError, Untrusted};
use keyhatch_git_files::index::Tracked;
use keyhatch_git_files::reflog::LogEntry;
use keyhatch_git_files::refs::{Base, Head};
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::push::Limits;

pub use bare::{PROMISED, bare};
pub use check::{Agreed, Misreport, check};

/// Refs that one session may make: nobody who works makes more, and each one costs the host.
pub const MAX_REFS: usize = 10_000;
/// Entries of a log that are carried over at once: a rebase of hundreds of commits fits.
pub const LOG_TAIL: usize = 1000;
/// Largest reflog that is read.
pub const MAX_LOG: u64 = 16 * 1024 * 1024;
/// Files that say that git is in the middle of something.
pub const BUSY: &[&str] = &[
    "rebase-merge",
    "rebase-apply",
    "sequencer",
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "BISECT_LOG",
    "index.lock",
    "HEAD.lock",
];
/// Longest harvest: a pack at the default limit takes well under one.
const HARVESTS: Duration = Duration::from_secs(5 * 60);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What is to be gathered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The repository's hash.
    pub format: ObjectFormat,
    /// The session's git directory: hostile.
    pub session: PathBuf,
    /// A fresh, empty directory.
    pub quarantine: PathBuf,
    /// The directory with what both sides last agreed on.
    pub agreed: PathBuf,
    /// The host's object stores.
    pub objects: Vec<PathBuf>,
    /// Refs that both sides last agreed on.
    pub base: Base,
    /// How far back a ref may go, where that is not what the base says: none is as far as it likes.
    pub floors: BTreeMap<RefName, Option<ObjectId>>,
    /// Values of the session that were dealt with.
    pub settled: BTreeMap<RefName, Option<ObjectId>>,
    /// How many refs the session made already.
    pub made: usize,
    /// Commits that the host surely has whole.
    pub known: Vec<ObjectId>,
    /// The commit to which new submodules are compared.
    pub anchor: Option<ObjectId>,
    /// Entries of the stash that both sides have, oldest first.
    pub stash: Vec<ObjectId>,
    /// The worktrees.
    pub trees: Vec<TreeOrder>,
    /// Whether the host itself lacks objects that a remote promised.
    pub partial: bool,
    /// What is too much.
    pub limits: Limits,
}

/// One worktree of the session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeOrder {
    /// Where its `HEAD` and index lie in the session's directory: `.`, or `worktrees/NAME`.
    pub within: String,
    /// Entries of the log of its `HEAD` that the host has.
    pub logged: usize,
}

/// What was gathered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Harvest {
    /// Refs that the session changed.
    pub refs: Vec<RefChange>,
    /// How many more it changed than are looked at.
    pub too_many: usize,
    /// The stash, where it differs: all entries, oldest first.
    pub stash: Option<Vec<LogEntry>>,
    /// One for each worktree of the order.
    pub trees: Vec<TreeState>,
    /// Files to move into the host's object store, relative to the quarantine, in the order in which they get names.
    pub objects: Vec<String>,
    /// What could not be taken, for the report.
    pub refused: Vec<Refused>,
}

/// One ref that the session changed. What that would do is not asked of the child: the host's git is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefChange {
    /// Its name.
    pub name: RefName,
    /// To what; none when it was deleted.
    pub new: Option<ObjectId>,
    /// The end of its log.
    pub log: Vec<LogEntry>,
}

/// A worktree's own state.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeState {
    /// Its `HEAD`.
    pub head: Option<Head>,
    /// What is new in the log of its `HEAD`.
    pub log: Vec<LogEntry>,
    /// How many entries that log has now.
    pub logged: usize,
    /// Whether a merge, rebase or the like is under way.
    pub busy: bool,
    /// How its index differs.
    pub index: Vec<EntryChange>,
    /// Why its index cannot be taken, where it cannot.
    pub index_refused: Option<String>,
}

/// One entry of an index that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryChange {
    /// Its path; bytes, because git's paths are.
    pub path: Vec<u8>,
    /// Its stage.
    pub stage: u8,
    /// What it is now; none where it is gone.
    pub tracked: Option<Tracked>,
}

/// Something that stays inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// What: a ref, the stash, the index.
    pub what: String,
    /// Why: git's own word, or ours.
    pub why: String,
}

/// Nothing could be gathered.
#[derive(Debug, Error)]
pub enum HarvestError {
    /// The child gave no answer, most likely at one of its limits.
    #[error("the session's git directory cannot be read")]
    Silent(#[from] ChildError),
    /// What it answered is not what it was asked.
    #[error(transparent)]
    Misreported(#[from] Misreport),
    /// A file of ours that an answer is held against cannot be read.
    #[error("what was agreed on with the host cannot be read")]
    Agreed(#[from] io::Error),
}

/// Gathers in a confined child, and waits for it. What it answers is to be [checked](check()) before anything is done.
///
/// # Errors
/// When the child did not answer.
pub fn harvest(order: &Order) -> Result<Untrusted<Harvest>, HarvestError> {
    let program = crate::program("harvest", MAX_ANSWER)?;
    Ok(Child::run(&program, order, &[], HARVESTS)?)
}
