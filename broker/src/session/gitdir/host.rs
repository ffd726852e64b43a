//! The host's own git, on the host's own repository: refs are moved by git itself, with its locks and its rules.
//!
//! Nothing that a session can write is read: the directory is named, not discovered, no hook runs, and no
//! configuration but the repository's own is obeyed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyhatch_protocol::{ObjectId, RefName};
use thiserror::Error;

use super::beneath::Beneath;
use super::reflog::LogEntry;
use super::refs::{Head, Refs};
use super::state::State;
use keyhatch_host::git::git;

/// The host's git for one git directory.
#[derive(Debug)]
pub struct Git {
    git_dir: PathBuf,
}

/// git on the host said no.
#[derive(Debug, Error)]
pub enum HostError {
    /// It could not be run.
    #[error("cannot run git")]
    Unavailable(#[from] io::Error),
    /// It refused: somebody else was faster, or a name is in the way.
    #[error("git refused it")]
    Refused,
}

impl Git {
    /// For the shared directory of a repository.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self { git_dir: state.common.clone() }
    }

    /// For one of its worktrees.
    #[must_use]
    pub fn of_tree(state: &State, within: &str) -> Self {
        Self { git_dir: tree_directory(state, within) }
    }

    /// Every ref that is no symbolic one.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn refs(&self) -> io::Result<Refs> {
        let output = self
            .command()
            // A symbolic ref is a name and no commit: its line is empty.
            .args(["for-each-ref", "--format=%(if)%(symref)%(then)%(else)%(objectname) %(refname)%(end)"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other("git for-each-ref failed"));
        }
        Ok(super::refs::packed(&output.stdout).collect())
    }

    /// The content of a file in a commit; none where it was not there.
    #[must_use]
    pub fn blob(&self, commit: &ObjectId, path: &str) -> Option<Vec<u8>> {
        let mut git = self.command();
        git.args(["cat-file", "blob", &format!("{commit}:{path}")]);
        let output = git.stdout(Stdio::piped()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    /// Moves a ref from exactly one value to another. The log says who and why.
    ///
    /// # Errors
    /// When the ref has another value by now, or git refuses.
    pub fn update(
        &self,
        name: &RefName,
        (old, new): (Option<&ObjectId>, &ObjectId),
        entry: &LogEntry,
    ) -> Result<(), HostError> {
        let zero = ObjectId::zero(new.format());
        let message = if entry.message.is_empty() { "keyhatch" } else { &entry.message };
        let mut git = self.command();
        signed(&mut git, entry);
        git.args(["update-ref", "--create-reflog", "-m", message, name.as_str(), new.as_str()]);
        git.arg(old.unwrap_or(&zero).as_str());
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Moves many refs, each from exactly one value to another, all or none.
    ///
    /// # Errors
    /// When one of them has another value by now, or git refuses.
    pub fn update_all(&self, updates: &[(&RefName, Option<&ObjectId>, &ObjectId)]) -> Result<(), HostError> {
        let mut git = self.command();
        git.args(["update-ref", "-m", "keyhatch", "--stdin", "-z"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = git.spawn()?;
        let mut text = Vec::new();
        for (name, old, new) in updates {
            let zero = ObjectId::zero(new.format());
            text.extend(format!("update {name}\0{new}\0{}\0", old.unwrap_or(&zero)).bytes());
        }
        if let Some(mut stdin) = child.stdin.take() {
            // It ended before it read everything: its status says so.
            drop(stdin.write_all(&text));
        }
        done(child.wait()?)
    }

    /// Deletes a ref that has exactly this value.
    ///
    /// # Errors
    /// When it has another value by now, or git refuses.
    pub fn delete(&self, name: &RefName, old: &ObjectId) -> Result<(), HostError> {
        let mut git = self.command();
        git.args(["update-ref", "-d", name.as_str(), old.as_str()]);
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Points `HEAD` elsewhere.
    ///
    /// # Errors
    /// When git refuses.
    pub fn set_head(&self, head: &Head, entry: Option<&LogEntry>) -> Result<(), HostError> {
        let message = entry.map_or("keyhatch", |entry| entry.message.as_str());
        let message = if message.is_empty() { "keyhatch" } else { message };
        let mut git = self.command();
        if let Some(entry) = entry {
            signed(&mut git, entry);
        }
        match head {
            Head::Branch(name) => git.args(["symbolic-ref", "-m", message, "HEAD", name.as_str()]),
            Head::Detached(id) => git.args(["update-ref", "--no-deref", "-m", message, "HEAD", id.as_str()]),
        };
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Adds an entry to the stash.
    ///
    /// # Errors
    /// When git refuses.
    pub fn store_stash(&self, entry: &LogEntry) -> Result<(), HostError> {
        let mut git = self.command();
        signed(&mut git, entry);
        git.args(["update-ref", "--create-reflog", "-m", &entry.message, "refs/stash", entry.new.as_str()]);
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Drops an entry of the stash by its number, newest first.
    ///
    /// # Errors
    /// When git refuses.
    pub fn drop_stash(&self, number: usize, last: bool) -> Result<(), HostError> {
        let mut git = self.command();
        if last {
            git.args(["update-ref", "-d", "refs/stash"]);
        } else {
            git.args(["reflog", "delete", "--updateref", "--rewrite", &format!("refs/stash@{{{number}}}")]);
        }
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Registers a worktree at a commit, without its files.
    ///
    /// # Errors
    /// When git refuses.
    pub fn add_worktree(&self, path: &Path, at: &ObjectId) -> Result<(), HostError> {
        let mut git = self.command();
        git.args(["worktree", "add", "--quiet", "--no-checkout", "--detach"]).arg(path).arg(at.as_str());
        done(git.stderr(Stdio::null()).status()?)
    }

    /// Makes a repository where there is none.
    ///
    /// # Errors
    /// When git refuses.
    pub fn init(worktree: &Path, format: keyhatch_protocol::ObjectFormat) -> Result<(), HostError> {
        let mut git = clean();
        git.args(["init", "--quiet", "--object-format", format.name(), "--"]).arg(worktree);
        done(git.stderr(Stdio::null()).status()?)
    }

    fn command(&self) -> Command {
        let mut git = clean();
        git.arg("--git-dir").arg(&self.git_dir);
        // The user's own hooks would run for what the session did: `reference-transaction` is one.
        git.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"]);
        // What is said to have moved has moved, also after the power failed. It is git's default from 2.36 on, unless the
        // user has another; older ones do not know it.
        git.args(["-c", "core.fsync=reference", "-c", "core.fsyncMethod=fsync"]);
        git
    }
}

/// The `HEAD` of a git directory. In the reftable format its file says nothing, and git is asked.
#[must_use]
pub fn head(git_dir: &Path, reftable: bool) -> Option<Head> {
    if !reftable {
        return Head::read(&Beneath::own(git_dir).ok()?, "HEAD");
    }
    let git = Git { git_dir: git_dir.to_owned() };
    let asked = |arguments: &[&str]| {
        let output =
            git.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    let branch =
        asked(&["symbolic-ref", "-q", "HEAD"]).and_then(|name| RefName::parse(name.trim_ascii_end()).ok());
    branch.map(Head::Branch).or_else(|| Head::parse(&asked(&["rev-parse", "-q", "--verify", "HEAD"])?))
}

/// The git directory of a worktree on the host.
#[must_use]
pub fn tree_directory(state: &State, within: &str) -> PathBuf {
    if within == "." { state.common.clone() } else { state.common.join(within) }
}

/// git that obeys no configuration but what it is told.
pub(super) fn clean() -> Command {
    let mut git = git();
    git.env("GIT_COMMITTER_NAME", "keyhatch")
        .env("GIT_COMMITTER_EMAIL", "keyhatch@localhost")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    git
}

/// Who did it, as the session's log says; text that is one line each, by the parser.
fn signed(git: &mut Command, entry: &LogEntry) {
    let name = if entry.name.trim().is_empty() { "unknown" } else { &entry.name };
    git.env("GIT_COMMITTER_NAME", name).env("GIT_COMMITTER_EMAIL", &entry.email);
    git.env("GIT_COMMITTER_DATE", format!("@{}", entry.when));
}

fn done(status: std::process::ExitStatus) -> Result<(), HostError> {
    if status.success() { Ok(()) } else { Err(HostError::Refused) }
}
