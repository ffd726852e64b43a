//! Repositories inside the project, beside its own: submodules, checkouts in a subdirectory, linked worktrees, bare ones.
//!
//! The host's git goes into each of them when the user does, and into a submodule by itself. They are found by a walk
//! that is cut short where it would slow the start; what it did not reach is found, and said, when the session ends, and
//! the next start knows.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::layout::is_git_directory;

/// How long the start of a session looks.
const AT_START: Duration = Duration::from_millis(25);
/// How long it is looked when a session ends.
const BEHIND: Duration = Duration::from_secs(5);
/// Deepest directory that is looked into.
const MAX_DEPTH: usize = 32;
/// Most repositories that one session gets git directories for.
pub const MAX_NESTED: usize = 200;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Directories with a `.git`, and bare repositories; the project itself is not among them.
    pub repositories: BTreeSet<PathBuf>,
    /// Whether everything was looked at.
    pub whole: bool,
}

/// Looks at the start of a session: what an earlier walk found, as far as it is still there, and what a short one finds.
#[must_use]
pub fn at_start(project: &Path, cache: &Path) -> Found {
    let mut found = walk(project, AT_START);
    if !found.whole {
        let known = fs::read(cache_file(project, cache)).unwrap_or_default();
        let paths = known.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let paths = paths.map(|path| project.join(std::ffi::OsStr::from_bytes(path)));
        found.repositories.extend(paths.filter(|path| path.starts_with(project) && is_repository(path)));
    }
    found
}

/// Looks at all of it, and remembers what is there.
#[must_use]
pub fn behind(project: &Path, cache: &Path) -> Found {
    let found = walk(project, BEHIND);
    let list: Vec<u8> = found
        .repositories
        .iter()
        .filter_map(|path| path.strip_prefix(project).ok())
        .flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0]))
        .collect();
    if let Err(error) = remember(&cache_file(project, cache), &list) {
        tracing::warn!(%error, "the repositories inside a project are not remembered");
    }
    found
}

fn remember(file: &Path, list: &[u8]) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let next = file.with_extension("next");
    fs::write(&next, list)?;
    fs::rename(next, file)
}

fn cache_file(project: &Path, cache: &Path) -> PathBuf {
    let digest: String = Sha256::digest(project.as_os_str().as_bytes())
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    cache.join(digest)
}

/// Breadth first: what lies near the top is found first. No link is followed.
fn walk(project: &Path, budget: Duration) -> Found {
    let until = Instant::now() + budget;
    let mut found = Found { whole: true, ..Found::default() };
    let mut level = vec![project.to_owned()];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for directory in level {
            if Instant::now() > until {
                found.whole = false;
                return found;
            }
            look(&directory, project, &mut next, &mut found);
        }
        if next.is_empty() {
            return found;
        }
        level = next;
    }
    found.whole = false;
    found
}

fn look(directory: &Path, project: &Path, next: &mut Vec<PathBuf>, found: &mut Found) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let (mut directories, mut marks) = (Vec::new(), 0);
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == ".git" {
            if directory != project {
                found.repositories.insert(directory.to_owned());
            }
            continue;
        }
        marks += usize::from(name == "HEAD" || name == "objects" || name == "refs");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories.push(directory.join(name));
        }
    }
    if marks == 3 && directory != project && is_git_directory(directory) {
        found.repositories.insert(directory.to_owned());
        return;
    }
    next.extend(directories);
}

/// Whether a git would take this directory for a repository.
#[must_use]
pub fn is_repository(path: &Path) -> bool {
    fs::symlink_metadata(path.join(".git")).is_ok() || is_git_directory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_found_at_every_depth_and_remembered() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (project, cache) = (temp.path().join("p"), temp.path().join("cache"));
        for path in ["a/.git", "a/b/c/.git", ".git", "x/bare/objects", "x/bare/refs", "y/refs"] {
            fs::create_dir_all(project.join(path)).expect("mkdir");
        }
        fs::write(project.join("x/bare/HEAD"), "ref: refs/heads/main").expect("writes");
        std::os::unix::fs::symlink(&project, project.join("a/loop")).expect("links");
        let expected: BTreeSet<PathBuf> =
            ["a", "a/b/c", "x/bare"].iter().map(|path| project.join(path)).collect();
        assert_eq!(behind(&project, &cache).repositories, expected);
        assert!(walk(&project, Duration::ZERO).repositories.is_empty());
        fs::remove_dir(project.join("a/b/c/.git")).expect("removes");
        let listed = fs::read(cache_file(&project, &cache)).expect("remembered");
        assert_eq!(listed, b"a\0a/b/c\0x/bare\0");
        assert_eq!(at_start(&project, &cache).repositories.len(), 2);
    }
}
