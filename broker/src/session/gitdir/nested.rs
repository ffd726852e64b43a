//! Repositories inside the project, beside its own: submodules, checkouts in a subdirectory, linked worktrees, bare ones.
//!
//! The host's git goes into each of them when the user does, and into a submodule by itself. They are found by a walk
//! that is cut short where it would slow the start; what it did not reach is found, and said, when the session ends, and
//! the next start knows.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhatch_host::digest::sha256;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, statat};

use super::beneath::Stamp;
use super::layout::is_git_directory;
use super::watches::Watches;

/// How long the start of a session looks.
const AT_START: Duration = Duration::from_millis(25);
/// How long it is looked when a session ends.
const BEHIND: Duration = Duration::from_secs(5);
/// Deepest directory that is looked into.
const MAX_DEPTH: usize = 32;
/// Most directories that are remembered of one project.
const MAX_REMEMBERED: usize = 100_000;
/// Most repositories that one session gets git directories for.
pub const MAX_NESTED: usize = 200;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Directories with a `.git`, and bare repositories; the project itself is not among them.
    pub repositories: BTreeSet<PathBuf>,
    /// Whether everything was looked at.
    pub whole: bool,
    /// Every directory, as it was just before it was read.
    seen: Vec<Seen>,
}

/// One directory of an earlier walk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// In the project; the project itself has the empty path.
    path: PathBuf,
    /// None where a change could hide behind it.
    stamp: Option<Stamp>,
    repository: bool,
}

/// What an earlier walk saw. A directory that looks the same to the file system holds the same names, and who is inside
/// cannot make it look the same: the time of the last change is the kernel's to set.
///
/// By bytes, not by components: three thousand directories are found again at every start.
#[derive(Debug, Default)]
struct Known {
    seen: HashMap<OsString, Seen>,
    within: HashMap<OsString, Vec<PathBuf>>,
}

/// Looks at the start of a session, as long as it may: directories that did not change since an earlier walk are not
/// read again. What is not reached in time is taken from the earlier walk, as far as it is still there. Each directory is
/// watched before it is looked at, where there is something to watch with.
#[must_use]
pub(super) fn at_start(project: &Path, cache: &Path, watches: Option<&mut Watches>) -> Found {
    let mut known = Known::read(&cache_file(project, cache));
    let mut found = walk(project, AT_START, &mut known, watches);
    if !found.whole {
        let left =
            known.seen.into_values().filter(|seen| seen.repository && !seen.path.as_os_str().is_empty());
        found
            .repositories
            .extend(left.map(|seen| project.join(seen.path)).filter(|path| is_repository(path)));
    }
    found
}

/// Looks at all of it, and remembers what is there.
#[must_use]
pub(super) fn behind(project: &Path, cache: &Path, watches: Option<&mut Watches>) -> Found {
    let found = walk(project, BEHIND, &mut Known::read(&cache_file(project, cache)), watches);
    found.remember(project, cache);
    found
}

impl Found {
    /// How many directories were seen.
    pub(super) fn directories(&self) -> usize {
        self.seen.len()
    }

    /// Paths in the project of all repositories, the project's own among them.
    pub(super) fn marked(&self) -> impl Iterator<Item = &Path> {
        self.seen.iter().filter(|seen| seen.repository).map(|seen| seen.path.as_path())
    }

    /// Remembers what is there for the next start.
    pub(super) fn remember(&self, project: &Path, cache: &Path) {
        if let Err(error) = remember(&cache_file(project, cache), &list(&self.seen)) {
            tracing::warn!(%error, "the repositories inside a project are not remembered");
        }
    }
}

impl Known {
    /// A list that cannot be read is one that says nothing.
    fn read(file: &Path) -> Self {
        let mut known = Self::default();
        for line in fs::read(file).unwrap_or_default().split(|byte| *byte == 0) {
            let Some(seen) = Seen::parse(line) else { continue };
            if let Some(parent) = seen.path.parent() {
                known.within.entry(parent.as_os_str().to_owned()).or_default().push(seen.path.clone());
            }
            known.seen.insert(seen.path.as_os_str().to_owned(), seen);
        }
        known
    }

    /// Whether a directory is as it was; then whether it is a repository, and what is in it. Asked once of each.
    fn take_same(&mut self, path: &Path, now: &Stamp) -> Option<(bool, Vec<PathBuf>)> {
        let seen = self.seen.remove(path.as_os_str())?;
        let within = self.within.remove(path.as_os_str()).unwrap_or_default();
        (seen.stamp.as_ref() == Some(now)).then_some((seen.repository, within))
    }
}

impl Seen {
    /// `R NUMBERS PATH`: whether it is a repository, its stamp, its path in the project.
    fn render(&self) -> Vec<u8> {
        let mut line = if self.repository { b"r".to_vec() } else { b"d".to_vec() };
        for number in self.stamp.map(|stamp| stamp.numbers()).unwrap_or_default() {
            line.extend(format!(" {number}").bytes());
        }
        line.push(b' ');
        line.extend(self.path.as_os_str().as_bytes());
        line.push(0);
        line
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(8, |byte| *byte == b' ');
        let repository = parts.next()? == b"r";
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        }
        let path = parts.next()?;
        let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        let stamp = Stamp::of_numbers(numbers).filter(|_| numbers != [0; 6]);
        (path.is_empty() || path.split(|byte| *byte == b'/').all(plain)).then(|| Self {
            path: PathBuf::from(OsStr::from_bytes(path)),
            stamp,
            repository,
        })
    }
}

fn list(seen: &[Seen]) -> Vec<u8> {
    seen.iter().take(MAX_REMEMBERED).flat_map(Seen::render).collect()
}

fn remember(file: &Path, list: &[u8]) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let next = file.with_extension("next");
    fs::write(&next, list)?;
    fs::rename(next, file)
}

fn cache_file(project: &Path, cache: &Path) -> PathBuf {
    cache.join(&sha256(project.as_os_str().as_bytes())[..32])
}

/// Breadth first: what lies near the top is found first. No link is followed.
fn walk(project: &Path, budget: Duration, known: &mut Known, mut watches: Option<&mut Watches>) -> Found {
    let until = Instant::now() + budget;
    let mut found = Found { whole: true, ..Found::default() };
    let Ok(top) =
        rustix::fs::open(project, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return found;
    };
    let mut level = vec![PathBuf::new()];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for directory in level {
            if Instant::now() > until {
                found.whole = false;
                return found;
            }
            // First: what changes from here on is told, or seen.
            if let Some(watches) = &mut watches {
                watches.add(&directory);
            }
            visit(directory, (project, top.as_fd(), known), &mut next, &mut found);
        }
        if next.is_empty() {
            return found;
        }
        level = next;
    }
    found.whole = false;
    found
}

fn visit(
    path: PathBuf,
    (project, top, known): (&Path, BorrowedFd<'_>, &mut Known),
    next: &mut Vec<PathBuf>,
    found: &mut Found,
) {
    let is_project = path.as_os_str().is_empty();
    let name = if is_project { OsStr::new(".") } else { path.as_os_str() };
    // From before it is read: what is made in it meanwhile is seen the next time.
    let Ok(stat) = statat(top, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return;
    }
    let stamp = Stamp::of_stat(&stat);
    let repository = match known.take_same(&path, &stamp) {
        Some((repository, within)) => {
            next.extend(within);
            repository
        }
        None => look(project, &path, next),
    };
    if repository && !is_project {
        found.repositories.insert(project.join(&path));
    }
    let stamp = (!stamp.is_fresh()).then_some(stamp);
    found.seen.push(Seen { path, stamp, repository });
}

/// Reads a directory: what is to be looked at next, and whether it is a repository itself.
fn look(project: &Path, path: &Path, next: &mut Vec<PathBuf>) -> bool {
    let directory = project.join(path);
    let Ok(entries) = fs::read_dir(&directory) else { return false };
    let (mut directories, mut marks, mut repository) = (Vec::new(), 0, false);
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == ".git" {
            repository = true;
            continue;
        }
        marks += usize::from(name == "HEAD" || name == "objects" || name == "refs");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories.push(path.join(name));
        }
    }
    if marks == 3 && is_git_directory(&directory) {
        return true;
    }
    next.extend(directories);
    repository
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
        assert_eq!(behind(&project, &cache, None).repositories, expected);
        assert!(walk(&project, Duration::ZERO, &mut Known::default(), None).repositories.is_empty());
        let known = || Known::read(&cache_file(&project, &cache));
        let remembered = |known: &Known| known.seen.values().filter(|seen| seen.repository).count();
        // The project's own is not one of those inside it.
        assert_eq!(remembered(&known()), 4);
        fs::remove_dir(project.join("a/b/c/.git")).expect("removes");
        assert_eq!(at_start(&project, &cache, None).repositories.len(), 2);
    }

    #[test]
    fn what_looks_the_same_is_not_read_again_and_what_changed_is() {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path().join("p");
        for path in ["a/b", "c/d", "e"] {
            fs::create_dir_all(project.join(path)).expect("mkdir");
        }
        let mut found = walk(&project, BEHIND, &mut Known::default(), None);
        assert!(found.seen.iter().all(|seen| seen.stamp.is_none()), "just made, and not to be trusted");
        // As they would be remembered some seconds later.
        for seen in &mut found.seen {
            seen.stamp = Stamp::at(&project.join(&seen.path));
        }
        let file = temp.path().join("list");
        fs::write(&file, list(&found.seen)).expect("writes");
        let known = Known::read(&file);
        assert_eq!(known.seen.into_values().collect::<BTreeSet<_>>(), found.seen.into_iter().collect());

        let unchanged = |path: &str| {
            let stamp = Stamp::at(&project.join(path)).expect("it is there");
            Known::read(&file).take_same(Path::new(path), &stamp).is_some()
        };
        assert!(["", "a", "a/b", "c", "c/d", "e"].iter().all(|path| unchanged(path)));
        fs::create_dir_all(project.join("a/b/new/deep/.git")).expect("mkdir");
        fs::create_dir(project.join("e/.git")).expect("mkdir");
        // Another directory under a known name.
        fs::create_dir_all(temp.path().join("other/d/.git")).expect("mkdir");
        fs::rename(project.join("c"), temp.path().join("away")).expect("renames");
        fs::rename(temp.path().join("other"), project.join("c")).expect("renames");
        let expected: BTreeSet<PathBuf> =
            ["a/b/new/deep", "e", "c/d"].iter().map(|path| project.join(path)).collect();
        assert_eq!(walk(&project, BEHIND, &mut Known::read(&file), None).repositories, expected);
        assert!(unchanged("a") && !unchanged("a/b") && !unchanged("c") && !unchanged("e"));
    }
}
