//! What the agent finds inside besides the project: a home, the user's tools, and nothing where files are hidden.
//!
//! Comes in: the policy, and the user's home and project as they are on the host now. Goes out: mounts for the runner and
//! what the user should know. An earlier session may have written the project: names in it are matched, never followed.

mod hide;
mod home;
pub mod system;
mod tools;

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;
use keyhatch_policies::{HomeChoice, Policy, ProjectAccess};
use thiserror::Error;

use crate::paths::{Paths, PathsError};

/// What of the host is used for one session.
#[derive(Debug, Clone, Copy)]
pub struct Host<'h> {
    /// The broker's directories.
    pub paths: &'h Paths,
    /// The user's home.
    pub home: &'h Path,
    /// The project, where the session has one.
    pub project: Option<&'h Path>,
    /// Where the policy came from: with its name it says whose the home is.
    pub origin: &'h str,
}

/// The mounts, in the order in which they are made.
#[derive(Debug, Default)]
pub struct Inside {
    /// The directory of the host that is the home; none for one in memory.
    pub home: Option<PathBuf>,
    /// Tools; once it is covered, empty files over what is hidden too.
    pub mounts: Vec<Mount>,
    /// What is hidden: paths of the host's.
    pub masked: Vec<PathBuf>,
    /// Directories with programs, for `PATH`: paths inside.
    pub programs: Vec<PathBuf>,
    /// What the user should know at the start, a line each.
    pub notes: Vec<String>,
}

/// It could not be made.
#[derive(Debug, Error)]
pub enum InsideError {
    /// The policy's own home.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// The empty file that is shown for what is hidden.
    #[error("cannot make the file that is shown for hidden ones")]
    Empty(#[source] io::Error),
    /// A tool of the policy's.
    #[error("the tool ~/{tool} leads to {leads_to}, which holds your home")]
    Tool {
        /// As the policy names it.
        tool: String,
        /// What it is.
        leads_to: PathBuf,
    },
}

/// Finds and makes what a session of this policy has inside.
///
/// # Errors
/// When the policy's home is not private, a tool leads to the whole home, or a file cannot be made.
pub fn furnish(policy: &Policy, host: &Host<'_>) -> Result<Inside, InsideError> {
    let sandbox = policy.sandbox();
    let mut inside = Inside::default();
    if sandbox.home == HomeChoice::Persistent {
        inside.home = Some(home::of_policy(host.paths, policy.name(), host.origin)?);
    }
    for tool in &sandbox.tools {
        let Some(found) = tools::find(host.home, tool)? else { continue };
        inside.programs.extend(found.programs);
        inside.masked.extend(found.masked);
        inside.mounts.push(found.mount);
    }
    if let Some(project) = host.project.filter(|_| sandbox.project != ProjectAccess::None) {
        let hidden = hide::find(project, &sandbox.hide);
        inside.notes.extend(hidden.note(project));
        inside.masked.extend(hidden.files);
    }
    Ok(inside)
}

impl Inside {
    /// Covers what is hidden with an empty file in `files`, a directory of the session's own.
    ///
    /// # Errors
    /// When the empty file cannot be made.
    pub fn cover(&mut self, files: &Path) -> Result<(), InsideError> {
        let covered = shown_empty(std::mem::take(&mut self.masked), files)?;
        self.mounts.extend(covered);
        Ok(())
    }
}

/// Empty files over what a policy hides in a project, at the host's paths, and what the user should know. `files` is a
/// directory of the session's own.
///
/// # Errors
/// When the empty file cannot be made.
pub fn over_hidden(
    policy: &Policy,
    project: &Path,
    files: &Path,
) -> Result<(Vec<Mount>, Vec<String>), InsideError> {
    let hidden = hide::find(project, &policy.sandbox().hide);
    let notes = hidden.note(project);
    Ok((shown_empty(hidden.files, files)?, notes))
}

fn shown_empty(masked: Vec<PathBuf>, files: &Path) -> Result<Vec<Mount>, InsideError> {
    if masked.is_empty() {
        return Ok(Vec::new());
    }
    let empty = empty_file(files).map_err(InsideError::Empty)?;
    let over = |target| Mount { source: empty.clone(), target, read_only: true };
    Ok(masked.into_iter().map(over).collect())
}

fn empty_file(files: &Path) -> io::Result<PathBuf> {
    let path = files.join("empty");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o444).custom_flags(libc::O_NOFOLLOW);
    options.open(&path)?;
    Ok(path)
}
