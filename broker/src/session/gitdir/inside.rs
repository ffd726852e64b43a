//! Where a container has what git's own files name by path: pointers to git directories, worktrees, hooks.
//!
//! A sandbox of ours shows the host's paths. A container has the project at a place of its own, and nothing of the host
//! beside it: whatever names a path is written anew, as the container reads it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;

use super::Source;
use super::layout::{DotGit, Repository};
use crate::session::git_config::Setting;

/// Where git directories and object stores from outside of the project are.
const OUTSIDE: &str = "/run/keyhatch-git";

/// The places of one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'p> {
    project: &'p Path,
    /// Where the project is in a container; none where paths are the host's.
    target: Option<&'p Path>,
}

impl<'p> Places<'p> {
    pub(super) const fn new(project: &'p Path, target: Option<&'p Path>) -> Self {
        Self { project, target }
    }

    /// Where something of the project is inside. What lies elsewhere keeps its name.
    fn of(&self, path: &Path) -> PathBuf {
        match (self.target, path.strip_prefix(self.project)) {
            (Some(target), Ok(rest)) if rest.as_os_str().is_empty() => target.to_owned(),
            (Some(target), Ok(rest)) => target.join(rest),
            _ => path.to_owned(),
        }
    }

    /// Where a repository's shared git directory is mounted, as the host names what is in the project.
    pub(super) fn mounted(&self, repository: &Repository, number: usize) -> PathBuf {
        if self.target.is_none() || repository.common.starts_with(self.project) {
            return repository.common.clone();
        }
        Path::new(OUTSIDE).join(number.to_string()).join("git")
    }

    /// Where it is inside.
    fn common(&self, repository: &Repository, number: usize) -> PathBuf {
        self.of(&self.mounted(repository, number))
    }

    /// What is mounted over a `.git` that is no directory, so that it stays what it is: itself, or in a container a file of
    /// ours in `directory` that names the git directory there.
    pub(super) fn pointer(
        &self,
        repository: &Repository,
        number: usize,
        directory: &Path,
    ) -> io::Result<Mount> {
        let target = repository.worktree.join(".git");
        if self.target.is_none() {
            return Ok(Mount { source: target.clone(), target, read_only: true });
        }
        if repository.dot_git == DotGit::Link {
            // Nothing can be mounted over a link, and the host's git would follow the one that a container leaves.
            return Err(io::Error::other(format!(
                "{} is a symbolic link, which a container could replace: keyhatch run works here, or git init --separate-git-dir",
                target.display()
            )));
        }
        let within = repository.git_dir.strip_prefix(&repository.common).unwrap_or(Path::new(""));
        let git_dir = self.common(repository, number).join(within);
        let name = repository.linked_name().unwrap_or_default();
        let source = directory.join(format!("pointer-{number}-{name}"));
        // gitrepository-layout(5): a trailing slash is none of git's.
        let text = format!("gitdir: {}\n", git_dir.components().collect::<PathBuf>().display());
        fs::write(&source, text)?;
        fs::set_permissions(&source, fs::Permissions::from_mode(0o444))?;
        Ok(Mount { source, target, read_only: true })
    }

    /// A repository's configuration as it holds inside.
    pub(super) fn settings(&self, source: &Source) -> Vec<Setting> {
        let moved = |setting: &Setting| match setting.key.as_str() {
            // Relative to the git directory, which may lie elsewhere inside.
            "core.worktree" if self.target.is_some() => Setting {
                value: self.of(&source.repository.worktree).display().to_string(),
                ..setting.clone()
            },
            "core.hookspath" => {
                Setting { value: self.of(Path::new(&setting.value)).display().to_string(), ..setting.clone() }
            }
            _ => setting.clone(),
        };
        source.config.iter().map(moved).collect()
    }

    /// Where hooks are inside that were copied into a repository's git directory.
    pub(super) fn hooks(&self, repository: &Repository, number: usize, name: &Path) -> Setting {
        let path = self.common(repository, number).join(name);
        Setting { key: "core.hookspath".into(), value: path.display().to_string() }
    }

    /// Tells a linked worktree's entry in the session's git directory where the worktree is: `git worktree prune` removes
    /// those that are nowhere.
    pub(super) fn link_back(&self, repository: &Repository, session: &Path) -> io::Result<()> {
        let Some(name) = repository.linked_name().filter(|_| self.target.is_some()) else { return Ok(()) };
        let path = self.of(&repository.worktree.join(".git"));
        fs::write(session.join("worktrees").join(name).join("gitdir"), format!("{}\n", path.display()))
    }
}

/// The directory that everything from outside of the project is mounted in, with a place for each: engines make missing
/// ones as they please, and some for root alone.
pub(super) fn mount_points(directory: &Path, mounts: &[Mount]) -> io::Result<Option<Mount>> {
    let top = directory.join("mount-points");
    let mut any = false;
    for mount in mounts {
        let Ok(rest) = mount.target.strip_prefix(OUTSIDE) else { continue };
        // What is mounted over a part of another mount has its place there.
        if mounts.iter().any(|other| other.target != mount.target && mount.target.starts_with(&other.target))
        {
            continue;
        }
        any = true;
        make(&top, rest)?;
    }
    Ok(any.then(|| Mount { source: top, target: OUTSIDE.into(), read_only: true }))
}

/// Makes a directory that every uid may pass, whatever the umask.
fn make(top: &Path, rest: &Path) -> io::Result<()> {
    let mut path = top.to_owned();
    for part in std::iter::once(Path::new("")).chain(rest.iter().map(Path::new)) {
        path.push(part);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
