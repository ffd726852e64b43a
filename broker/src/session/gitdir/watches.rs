//! Watches on the directories of one project (inotify(7)): the kernel tells what happens to the names in each of them.
//!
//! A new watch on a directory costs time for every name that the kernel remembers of it: 50 ms for 300,000. So a start
//! makes only as many new ones as it has time for. Where that was not enough the rest is made after the end, when nobody
//! waits, and all are kept for the next session in the project: to set one again costs nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

/// What is told. Whoever can change a file has opened it: a mapped one is changed without another word, and it may be
/// closed late. What is done by name, and through a descriptor from before, is told by itself.
const TOLD: WatchFlags = WatchFlags::OPEN
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);
/// Most directories of one project: half of what the smallest machines let a user watch in all.
pub(super) const MAX_DIRECTORIES: usize = 4096;
/// How long a start makes new watches. Short: the command waits. A test waits for a busy machine.
const AT_START: Duration = if cfg!(test) { Duration::MAX } else { Duration::from_millis(2) };
/// Watches that took less to make are made again; others are kept.
const CHEAP: Duration = Duration::from_millis(1);
/// Most projects whose watches are kept, and for how long after the last session.
const MAX_KEPT: usize = 2;
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// How often it is looked whether there are any to give back.
const SWEEP: Duration = Duration::from_secs(60);
/// Room for a few hundred events.
const READ: usize = 16 * 1024;

/// One thing that happened.
#[derive(Debug)]
pub(super) struct Event {
    /// What.
    pub(super) kind: ReadFlags,
    /// The watch that told it; none of ours where the kernel could not tell everything.
    pub(super) watch: i32,
    /// The name in the directory; empty where it is about the directory itself.
    pub(super) name: OsString,
}

/// The watches on one project. Dropped, they are gone.
#[derive(Debug)]
pub(super) struct Watches {
    project: PathBuf,
    queue: OwnedFd,
    /// By watch: paths in the project.
    directories: HashMap<i32, PathBuf>,
    /// Those of an earlier session that were not set again yet.
    kept: HashSet<i32>,
    was_kept: bool,
    /// What new ones took, and may take.
    taken: Duration,
    limit: Duration,
    /// Whether every directory that was named has one.
    whole: bool,
}

/// Watches that wait for the next session in their project.
static KEPT: Mutex<Waiting> = Mutex::new(Waiting { watches: Vec::new(), is_swept: false });

struct Waiting {
    watches: Vec<(Watches, Instant)>,
    is_swept: bool,
}

impl Watches {
    /// Those that were kept of the project, or none yet; nothing where the kernel gives no more.
    pub(super) fn of(project: &Path) -> Option<Self> {
        let kept = {
            let mut waiting = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            let at = waiting.watches.iter().position(|(watches, _)| watches.project == project);
            at.map(|at| waiting.watches.swap_remove(at).0)
        };
        if let Some(mut kept) = kept {
            // What happened when no session ran is nobody's to ask for.
            kept.read(|_| {}).ok()?;
            kept.kept = kept.directories.drain().map(|(watch, _)| watch).collect();
            (kept.was_kept, kept.whole, kept.taken) = (true, true, Duration::ZERO);
            kept.limit = AT_START;
            return Some(kept);
        }
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self {
            project: project.to_owned(),
            queue,
            directories: HashMap::new(),
            kept: HashSet::new(),
            was_kept: false,
            taken: Duration::ZERO,
            limit: AT_START,
            whole: true,
        })
    }

    /// Watches a directory, before it is looked at: whatever changes in it later is told. One that cannot be watched is a
    /// doubt about all.
    pub(super) fn add(&mut self, path: &Path) {
        self.whole = self.whole
            && self.directories.len() < MAX_DIRECTORIES
            && self.taken <= self.limit
            && self.watch(path).unwrap_or(false);
    }

    fn watch(&mut self, path: &Path) -> io::Result<bool> {
        let place = self.project.join(path);
        let begun = Instant::now();
        let watch = inotify::add_watch(&self.queue, &place, TOLD)?;
        if !self.kept.remove(&watch) {
            self.taken += begun.elapsed();
        }
        // Twice the same one is a directory that has two places.
        let is_new = self.directories.insert(watch, path.to_owned()).is_none();
        Ok(is_new && (path.as_os_str().is_empty() || is_no_mount(&place)?))
    }

    /// Gives back those of an earlier session whose directories are no longer in the project.
    pub(super) fn forget_others(&mut self) {
        for watch in self.kept.drain() {
            // The kernel has given it back itself where the directory is gone.
            inotify::remove_watch(&self.queue, watch).ok();
        }
    }

    /// Whose they are.
    pub(super) fn project(&self) -> &Path {
        &self.project
    }

    /// Whether every directory that was named is watched.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The directory of a watch, in the project.
    pub(super) fn directory(&self, watch: i32) -> Option<&Path> {
        self.directories.get(&watch).map(PathBuf::as_path)
    }

    /// Shows what happened since the last time.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn read(&self, mut show: impl FnMut(Event)) -> io::Result<()> {
        let mut room = [MaybeUninit::uninit(); READ];
        let mut reader = Reader::new(&self.queue, &mut room);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    show(Event { kind: event.events(), watch: event.wd(), name: name.unwrap_or_default() });
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is to be done with them when a session has ended.
    pub(super) fn fate(&self) -> Fate {
        match self.whole {
            true if self.was_kept || self.taken > CHEAP => Fate::Keep,
            false if self.taken > self.limit => Fate::Complete,
            _ => Fate::Drop,
        }
    }

    /// Begins anew, with as much time as it takes.
    pub(super) fn anew(mut self) -> Self {
        self.kept.extend(self.directories.drain().map(|(watch, _)| watch));
        (self.whole, self.limit) = (true, Duration::MAX);
        self
    }

    /// Keeps them for the next session in the project, for a while.
    pub(super) fn keep(self) {
        let mut waiting = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.watches.retain(|(watches, _)| watches.project != self.project);
        if waiting.watches.len() >= MAX_KEPT {
            waiting.watches.remove(0);
        }
        waiting.watches.push((self, Instant::now()));
        if !waiting.is_swept {
            waiting.is_swept = thread::Builder::new().name("watches".into()).spawn(sweep).is_ok();
        }
    }
}

/// What becomes of watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are worth keeping.
    Keep,
    /// They would be, were they complete.
    Complete,
    /// They are as soon made again, or cannot be had.
    Drop,
}

/// Gives back what nobody came for.
fn sweep() {
    loop {
        thread::sleep(SWEEP);
        let mut waiting = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.watches.retain(|(_, since)| since.elapsed() < KEPT_FOR);
        if waiting.watches.is_empty() {
            waiting.is_swept = false;
            return;
        }
    }
}

/// Whether a directory is where nothing is mounted: what is mounted may go, and may be told of by others than the kernel.
fn is_no_mount(place: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let told = statx(CWD, place, flags, StatxFlags::TYPE)?;
    let mount = StatxAttributes::MOUNT_ROOT;
    Ok(told.stx_attributes_mask.contains(mount) && !told.stx_attributes.contains(mount))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_took_too_long_to_make_is_completed_after_the_end_and_kept_for_the_next_session() {
        let temp = tempfile::tempdir().expect("a directory");
        let project = temp.path();
        let paths = ["", "a", "a/b", "c"].map(Path::new);
        fs::create_dir_all(project.join("a/b")).expect("a directory");
        fs::create_dir_all(project.join("c")).expect("a directory");
        let add = |watches: &mut Watches| paths.iter().for_each(|path| watches.add(path));

        let mut watches = Watches::of(project).expect("a queue");
        watches.limit = Duration::ZERO;
        add(&mut watches);
        assert!(!watches.is_whole());
        assert_eq!(watches.fate(), Fate::Complete);
        let mut watches = watches.anew();
        add(&mut watches);
        assert!(watches.is_whole());
        watches.keep();
        fs::write(project.join("a/b/while-none-runs"), "").expect("writes");
        fs::rename(project.join("c"), project.join("a/moved")).expect("renames");
        fs::create_dir(project.join("c")).expect("a directory");

        let mut watches = Watches::of(project).expect("those that were kept");
        watches.limit = Duration::ZERO;
        paths[..3].iter().for_each(|path| watches.add(path));
        assert!(watches.is_whole() && watches.taken.is_zero(), "none of them was new");
        assert_eq!(watches.fate(), Fate::Keep);
        watches.forget_others();
        let told = |watches: &Watches| {
            let mut told = Vec::new();
            watches.read(|event| told.push((event.kind, event.name))).expect("reads");
            told
        };
        assert!(told(&watches).iter().all(|(kind, _)| *kind == ReadFlags::IGNORED));
        fs::write(project.join("a/moved/file"), "").expect("writes");
        assert_eq!(told(&watches), [], "it is no directory that was named");
        fs::remove_file(project.join("a/b/while-none-runs")).expect("removes");
        assert_eq!(told(&watches), [(ReadFlags::DELETE, "while-none-runs".into())]);
        assert!(Watches::of(project).expect("new ones").directories.is_empty(), "they are taken once");
    }

    #[test]
    fn more_directories_than_a_user_may_watch_are_a_doubt() {
        let temp = tempfile::tempdir().expect("a directory");
        let mut watches = Watches::of(temp.path()).expect("a queue");
        for number in 0..MAX_DIRECTORIES {
            let name = number.to_string();
            fs::create_dir(temp.path().join(&name)).expect("a directory");
            watches.add(Path::new(&name));
        }
        assert!(watches.is_whole());
        watches.add(Path::new(""));
        assert!(!watches.is_whole());
    }

    #[test]
    fn watches_that_cost_nothing_and_those_that_cannot_be_had_are_not_kept() {
        let temp = tempfile::tempdir().expect("a directory");
        let mut watches = Watches::of(temp.path()).expect("a queue");
        watches.add(Path::new(""));
        watches.taken = CHEAP;
        assert_eq!(watches.fate(), Fate::Drop);
        watches.add(Path::new("absent"));
        assert!(!watches.is_whole());
        assert_eq!(watches.fate(), Fate::Drop);
    }
}
