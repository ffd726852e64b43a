//! The session's own git directory: git works inside, and nothing in it is a way out.
//!
//! ```text
//! host's .git ──build──► session's git directory ──mounted over .git──► the agent's git, hooks and all
//!      ▲                          │ hostile bytes from here on
//!      └──sync (refs, HEAD, index, stash)◄──harvest (confined child: objects checked, the rest as data)
//! ```
//!
//! Comes in: the host's repository, and what the session leaves in its directory. Goes out: mounts for the runner,
//! objects and refs for the host. Configuration and hooks never come back.

mod admit;
mod beneath;
mod build;
pub mod harvest;
mod headlog;
mod host;
mod index;
mod keeper;
mod layout;
mod lock;
mod mirror;
mod reflog;
mod refs;
mod report;
mod stash;
mod state;
mod sync;
mod worktree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;

pub use keeper::{Keeper, hold, recover};
pub use layout::{DotGit, Repository};
pub use state::{Record, State};

use super::git_config::{Setting, render};
use crate::paths::make_private;

/// A repository with the configuration that its session gets.
#[derive(Debug)]
pub struct Source {
    /// Where it lies.
    pub repository: Repository,
    /// Its configuration without secrets, programs and includes.
    pub config: Vec<Setting>,
    /// Hooks that lie outside the project.
    pub hooks: Option<PathBuf>,
}

/// Builds the git directories of a session under `directory`, and says what is mounted.
///
/// # Errors
/// When the host's git directories cannot be read, or ours not written.
pub fn build(directory: &Path, sources: &[Source]) -> io::Result<(Vec<State>, Vec<Mount>)> {
    make_private(directory).map_err(io::Error::other)?;
    let empty = directory.join("empty");
    fs::write(&empty, "")?;
    let (mut states, mut mounts) = (Vec::new(), Vec::new());
    for (number, source) in sources.iter().enumerate() {
        let own = directory.join(number.to_string());
        let state = build::build(&source.repository, (number, &own), &render(&source.config))?;
        if let Some(hooks) = &source.hooks {
            let inside = build::borrow_hooks(&state, hooks)?;
            let mut config = source.config.clone();
            config.push(Setting { key: "core.hookspath".into(), value: inside.display().to_string() });
            fs::write(state.session().join("config"), render(&config))?;
        }
        mounts.extend(mounts_of(&source.repository, number, &state, &empty));
        states.push(state);
    }
    Ok((states, mounts))
}

/// What of one repository is mounted where.
fn mounts_of(repository: &Repository, number: usize, state: &State, empty: &Path) -> Vec<Mount> {
    let read_only = |source: &Path, target: &Path| Mount {
        source: source.into(),
        target: target.into(),
        read_only: true,
    };
    let mut mounts =
        vec![Mount { source: state.session(), target: repository.common.clone(), read_only: false }];
    for (at, store) in repository.stores.iter().enumerate() {
        let inside = build::store_inside(number, at);
        mounts.push(read_only(store, &inside));
        // Every store is named in the session's own list; what one names by a path of the host's is not there.
        if store.join("info/alternates").is_file() {
            mounts.push(read_only(empty, &inside.join("info/alternates")));
        }
        // git-lfs looks for borrowed files beside borrowed objects.
        let large = store.with_file_name("lfs");
        if large.is_dir() {
            mounts.push(read_only(&large, &inside.with_file_name("lfs")));
        }
    }
    if matches!(repository.dot_git, DotGit::File | DotGit::Link) {
        // The pointer itself: the host's git follows it, so it must stay what it is.
        let pointer = repository.worktree.join(".git");
        mounts.push(read_only(&pointer, &pointer));
    }
    mounts
}
