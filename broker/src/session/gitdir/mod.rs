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

mod added;
mod admit;
mod adopt;
mod borrowed;
mod build;
mod changes;
mod coming;
mod facts;
mod flush;
mod guard;
mod headlog;
mod host;
mod inside;
mod keeper;
mod kept;
mod large;
mod layout;
#[cfg(test)]
mod lies;
mod lock;
mod mirror;
pub mod nested;
mod placeholder;
mod protect;
mod report;
mod share;
mod stash;
mod state;
mod sync;
mod touched;
mod untouched;
mod watches;
mod worktree;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_git_files::{beneath, index, reflog, refs};
use keyhatch_inspection::{harvest, verify};
use keyhatch_policies::rules::Mount;
use keyhatch_protocol::Remote;

use inside::Places;
pub use keeper::{Directories, Keeper, hold, recover};
pub(in crate::session) use keyhatch_git_files::beneath::Stamp;
pub use layout::{DotGit, LayoutError, Origin, Repository};
pub use placeholder::forget as forget_placeholders;
use state::Blank;
pub use state::{Record, State};
pub use touched::Watch;

use super::git_config::{Setting, render};
use super::told::Tracking;
use crate::paths::make_private;

/// Most repositories inside a project whose own tops are protected: each costs some twenty mounts.
const MAX_PROTECTED: usize = 50;

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

/// What a session's git directories are made of.
#[derive(Debug)]
pub struct Ground<'g> {
    /// The directory of ours that will hold them.
    pub directory: &'g Path,
    /// The repositories, the project's own first where it has one.
    pub sources: &'g [Source],
    /// Paths that the policy protects.
    pub protect: &'g [String],
    /// Where a container has the project.
    pub target: Option<&'g Path>,
}

/// Builds the git directories of a session, completes its record, and says what is mounted, parents first.
///
/// # Errors
/// When the host's git directories cannot be read, or ours not written. Nothing is left in the project.
pub fn build(ground: &Ground<'_>, record: &mut Record) -> io::Result<Vec<Mount>> {
    make_private(ground.directory).map_err(io::Error::other)?;
    let built = furnish(ground, record);
    if built.is_err() {
        drop(placeholder::remove(&record.placeholders, &record.session));
    }
    built
}

fn furnish(ground: &Ground<'_>, record: &mut Record) -> io::Result<Vec<Mount>> {
    let empty = ground.directory.join("empty");
    fs::write(&empty, "")?;
    let project = record.project.clone();
    let places = Places::new(&project, ground.target);
    let mut mounts = Vec::new();
    let mut submodules = Vec::new();
    for source in ground.sources {
        let repository = &source.repository;
        record.covered.push(repository.worktree.clone());
        mounts.extend(protect::pins(&project, &repository.worktree));
        // Worktrees of one repository share what is shared.
        let shared = record.repositories.iter().position(|state| state.common == repository.common);
        let number = shared.unwrap_or(record.repositories.len());
        if matches!(repository.dot_git, DotGit::File | DotGit::Link) {
            // The pointer itself: the host's git follows it, so it must stay what it is.
            mounts.push(places.pointer(repository, number, ground.directory)?);
        }
        if let Some(state) = shared.and_then(|shared| record.repositories.get_mut(shared)) {
            if let Some(name) = repository.linked_name() {
                drop(build::add_tree(repository, state, &format!("worktrees/{name}"), true)?);
                places.link_back(repository, &state.session())?;
            }
            continue;
        }
        let own = ground.directory.join(number.to_string());
        let config = places.settings(source);
        let (mut state, linked) = build::build(repository, (number, &own), &render(&config))?;
        places.link_back(repository, &state.session())?;
        state.tracking = tracking(&source.config);
        if number == 0 {
            submodules = linked;
        }
        if let Some(hooks) = &source.hooks {
            let name = build::borrow_hooks(&state, hooks, &project)?;
            let config = [config, vec![places.hooks(repository, number, name)]].concat();
            fs::write(state.session().join("config"), render(&config))?;
        }
        mounts.extend(mounts_of((repository, &places.mounted(repository, number)), number, &state, &empty));
        record.repositories.push(state);
    }
    let own = record
        .repositories
        .first()
        .filter(|_| ground.sources.first().is_some_and(|s| s.repository.worktree == project));
    match own.map(State::session) {
        Some(session) => {
            mounts.extend(uninitialised(ground, record, &submodules)?);
            let protected = protect::protect(&project, ground.protect, &record.session)?;
            record.placeholders.extend(protected.placeholders.iter().cloned());
            exclude(&session, &protected, &project)?;
            mounts.extend(protected.mounts);
        }
        None => {
            mounts.push(blank(ground, record)?);
            let protected = protect::protect(&project, ground.protect, &record.session)?;
            record.placeholders.extend(protected.placeholders.iter().cloned());
            mounts.extend(protected.mounts);
        }
    }
    mounts.extend(protect_nested(ground, record)?);
    if record.container {
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o444))?;
        mounts.extend(inside::mount_points(ground.directory, &mounts)?);
        let ours =
            mounts.iter().filter(|mount| !mount.read_only && mount.source.starts_with(ground.directory));
        ours.map(|mount| mount.source.as_path()).try_for_each(share::with_every_uid)?;
    }
    // A parent mounted later would hide what is mounted below it.
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// A repository inside the project is opened by itself too, so what is obeyed at its top is protected there as well.
fn protect_nested(ground: &Ground<'_>, record: &mut Record) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let inside = ground.sources.iter().map(|source| &source.repository);
    let inside = inside.filter(|r| r.worktree != record.project && r.dot_git != DotGit::Bare);
    for repository in inside.take(MAX_PROTECTED) {
        match protect::protect(&repository.worktree, &[], &record.session) {
            Ok(protected) => {
                record.placeholders.extend(protected.placeholders.iter().cloned());
                let state = record.repositories.iter().find(|state| state.common == repository.common);
                if let Some(state) = state {
                    exclude(&state.session(), &protected, &repository.worktree)?;
                }
                mounts.extend(protected.mounts);
            }
            // A directory that the user cannot write either: it does not keep a session from starting.
            Err(error) => {
                let place = repository.worktree.display();
                tracing::warn!(%error, %place, "files that are run later are not protected in a repository");
            }
        }
    }
    Ok(mounts)
}

/// Has the git inside leave placeholders out, whatever is added.
fn exclude(session: &Path, protected: &protect::Protected, worktree: &Path) -> io::Result<()> {
    // Appended: a file system flushes what is truncated and written anew when it is closed.
    let mut file = fs::OpenOptions::new().append(true).create(true).open(session.join("info/exclude"))?;
    file.write_all(format!("\n{}", protected.excluded(worktree)).as_bytes())
}

/// Where a configuration keeps what it knows of upstreams.
fn tracking(config: &[Setting]) -> Vec<Tracking> {
    let fetches = config.iter().filter_map(|setting| {
        let name = setting.key.strip_prefix("remote.")?.strip_suffix(".fetch")?;
        Some((name, setting.value.as_str()))
    });
    let upstreams = |name: &str| -> Vec<Option<Remote>> {
        let keys = [format!("remote.{name}.url"), format!("remote.{name}.pushurl")];
        let urls = config.iter().filter(|setting| keys.contains(&setting.key));
        urls.map(|setting| Remote::parse(&setting.value).ok()).collect()
    };
    let of = |(name, refspec)| {
        upstreams(name).into_iter().filter_map(move |remote| Tracking::parse(remote, refspec))
    };
    fetches.flat_map(of).collect()
}

/// A project without a repository: where git inside may make one. The host's own would obey what it finds there.
fn blank(ground: &Ground<'_>, record: &mut Record) -> io::Result<Mount> {
    let directory = ground.directory.join("blank");
    let target = record.project.join(".git");
    fs::create_dir_all(directory.join("git"))?;
    record.placeholders.extend(placeholder::place(&target, true, &record.session)?.ours());
    let mount = Mount { source: directory.join("git"), target, read_only: false };
    record.blank = Some(Blank { worktree: record.project.clone(), directory });
    Ok(mount)
}

/// Submodules that are not there yet. What a session checks out there is a repository that it configured, and the
/// host's `git status` would go into it: so it stays inside.
fn uninitialised(ground: &Ground<'_>, record: &Record, submodules: &[Vec<u8>]) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (at, path) in submodules.iter().take(nested::MAX_NESTED).enumerate() {
        let path = record.project.join(std::ffi::OsStr::from_bytes(path));
        let plain = path.canonicalize().is_ok_and(|real| real == path);
        if !plain || nested::is_repository(&path) {
            continue;
        }
        let own = ground.directory.join(format!("submodule-{at}"));
        fs::create_dir_all(&own)?;
        mounts.extend(protect::pins(&record.project, path.parent().unwrap_or(&record.project)));
        mounts.push(Mount { source: own, target: path, read_only: false });
    }
    Ok(mounts)
}

/// What of one repository is mounted where.
fn mounts_of(
    (repository, common): (&Repository, &Path),
    number: usize,
    state: &State,
    empty: &Path,
) -> Vec<Mount> {
    let read_only = |source: &Path, target: &Path| Mount {
        source: source.into(),
        target: target.into(),
        read_only: true,
    };
    let mut mounts = vec![Mount { source: state.session(), target: common.to_owned(), read_only: false }];
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
    mounts
}
