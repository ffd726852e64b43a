//! What a session and the host last agreed on, kept on disk: after a crash the next broker goes on from here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use keyhatch_policies::Policy;
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName, SessionId};
use serde::{Deserialize, Serialize};

use super::borrowed;
use super::harvest::Refused;
use super::placeholder::Placeholder;
use super::refs::{Base, Head};
use crate::approval::seconds;
use crate::inspect::Limits;
use crate::session::told::Tracking;

/// Longest record that is read back.
const MAX_RECORD: u64 = 256 * 1024 * 1024;
/// Most things that a report says were refused.
const MAX_REFUSED: usize = 50;

/// One session's git directories.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Whose.
    pub session: SessionId,
    /// The project's directory.
    pub project: PathBuf,
    /// Its policy's name.
    pub policy: String,
    /// When it was opened, in seconds since the epoch.
    pub opened: u64,
    /// What a session may bring.
    pub limits: Limits,
    /// Its repositories, the project's own first.
    pub repositories: Vec<State>,
    /// Where the session may make a repository of the project, which has none.
    pub blank: Option<Blank>,
    /// What was made on the host to mount on.
    pub placeholders: Vec<Placeholder>,
    /// Repositories inside the project that the session's mounts cover.
    pub covered: Vec<PathBuf>,
    /// Whether the session is lived in by a container: any uid of its may write here, and it may outlive the session.
    #[serde(default)]
    pub container: bool,
}

/// A project without a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blank {
    /// Its directory.
    pub worktree: PathBuf,
    /// The directory of ours that holds what the session makes of it.
    pub directory: PathBuf,
}

/// One repository of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The directory of ours that holds the session's git directory and what was agreed.
    pub directory: PathBuf,
    /// The host's shared git directory.
    pub common: PathBuf,
    /// The host's object stores.
    pub stores: Vec<PathBuf>,
    /// Its hash.
    pub format: ObjectFormat,
    /// Whether the host's refs are in the reftable format.
    pub reftable: bool,
    /// Whether the host lacks promised objects.
    pub partial: bool,
    /// Where the host keeps what it knows of upstreams.
    #[serde(default)]
    pub tracking: Vec<Tracking>,
    /// The worktrees that the session sees.
    pub trees: Vec<Tree>,
    /// Refs that both sides last agreed on.
    pub base: Base,
    /// Refs that the session made or moved, and how far back it may move them: none is as far as it likes.
    pub floors: BTreeMap<RefName, Option<ObjectId>>,
    /// Values of the session that were dealt with otherwise: parked, or not taken.
    pub settled: BTreeMap<RefName, Option<ObjectId>>,
    /// The session's stash, oldest first.
    pub stash: Vec<ObjectId>,
    /// The host's stash as it was last seen, oldest first.
    pub host_stash: Vec<ObjectId>,
    /// Stash entries that the session made: those it may drop.
    pub own_stash: BTreeSet<ObjectId>,
    /// Stash entries that an unfinished round may have left on the host.
    #[serde(default)]
    pub left_stash: Vec<ObjectId>,
    /// Bytes of objects that were copied to the host's store.
    #[serde(default)]
    pub brought: u64,
    /// The commit that the session began at.
    pub begun: Option<ObjectId>,
    /// What happened, for the report.
    pub outcome: Outcome,
}

/// One worktree of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Where its `HEAD` and index lie in the git directory: `.`, or `worktrees/NAME`.
    pub within: String,
    /// Whether it has files: a bare repository has none.
    pub has_index: bool,
    /// The `HEAD` that both sides last agreed on.
    pub head: Option<Head>,
    /// Entries of the session's log of `HEAD` that the host has, or had first.
    pub logged: usize,
    /// How long the host's own log of `HEAD` was when both sides last agreed on it.
    pub host_log: usize,
}

/// What a session did to a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Refs of the host that it moved: first value, last value, how many times.
    pub moved: BTreeMap<RefName, Moved>,
    /// Refs that wait: what they would have been, and why they are not.
    pub parked: BTreeMap<RefName, Parked>,
    /// Stash entries that it made.
    pub stashed: usize,
    /// What stays inside.
    pub refused: Vec<Refused>,
}

impl Outcome {
    /// Takes note of something that stays inside, once, and as much as a report has room for.
    pub(super) fn refuse(&mut self, refused: Refused) {
        if !self.refused.contains(&refused) && self.refused.len() < MAX_REFUSED {
            self.refused.push(refused);
        }
    }
}

/// How a ref of the host moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// Before the session.
    pub from: Option<ObjectId>,
    /// Now; none when it was deleted.
    pub to: Option<ObjectId>,
}

/// A ref that waits for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parked {
    /// The ref inside.
    pub wanted: RefName,
    /// Its commit.
    pub id: ObjectId,
    /// Why it was not taken.
    pub why: String,
}

impl Record {
    /// The record of a session that starts, with no repository yet.
    #[must_use]
    pub fn new(session: &SessionId, project: &Path, policy: &Policy, container: bool) -> Self {
        let limits = policy.limits();
        Self {
            session: session.clone(),
            project: project.to_owned(),
            policy: policy.name().to_owned(),
            opened: seconds(SystemTime::now()),
            limits: Limits { pack_bytes: limits.pack_bytes, objects: limits.objects },
            repositories: Vec::new(),
            blank: None,
            placeholders: Vec::new(),
            covered: Vec::new(),
            container,
        }
    }

    /// Writes it whole, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        let next = directory.join("record.next");
        let mut file = fs::File::create(&next)?;
        file.write_all(&text)?;
        fs::rename(next, directory.join("record.json"))
    }

    /// Removes it: all is brought.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(directory: &Path) -> io::Result<()> {
        fs::remove_file(directory.join("record.json"))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When none is there.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let file = super::beneath::open_file(&directory.join("record.json"))?;
        serde_json::from_reader(io::Read::take(file, MAX_RECORD)).map_err(io::Error::other)
    }
}

impl State {
    /// The session's own git directory: hostile once the session runs.
    #[must_use]
    pub fn session(&self) -> PathBuf {
        self.directory.join("git")
    }

    /// What both sides last agreed on, as files.
    #[must_use]
    pub fn agreed(&self) -> PathBuf {
        self.directory.join("agreed")
    }

    /// The agreed index of a worktree.
    #[must_use]
    pub fn agreed_index(&self, tree: usize) -> PathBuf {
        self.agreed().join(format!("index-{tree}"))
    }

    /// What a ref was when both sides last agreed.
    ///
    /// # Errors
    /// When the packed refs of the start cannot be read.
    pub fn agreed_value(&self, name: &RefName) -> io::Result<Option<ObjectId>> {
        match self.base.since.get(name) {
            // Of a hundred thousand packed ones nothing need be read.
            Some(id) => Ok(id.clone()),
            None => Ok(self.base.values(&self.start()?, std::iter::once(name)).remove(name)),
        }
    }

    /// Makes copies of what is still the host's own under a second name.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn own_agreed(&self) -> io::Result<()> {
        borrowed::own(&self.agreed().join("packed-refs"))?;
        (0..self.trees.len()).try_for_each(|tree| borrowed::own(&self.agreed_index(tree)))
    }

    /// The packed refs of the start.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn start(&self) -> io::Result<Vec<u8>> {
        fs::read(self.agreed().join("packed-refs"))
    }
}
