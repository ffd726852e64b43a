//! How much directories on disk grew since the session started.
//!
//! Nothing walks a large project before the start, so there is no size to compare with. What a session wrote are files
//! that changed since it started: their sum is looked at when the file system as a whole lost that much room, and now and
//! then in case somebody else made room meanwhile. A session's own git directory is small at the start, and is measured.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often the file system is asked for its free room.
const TICK: Duration = Duration::from_millis(250);
/// How often the directory is walked although the file system did not lose the room.
const UNASKED: Duration = Duration::from_secs(60);

/// Directories of one file system that must not grow beyond their limit, all together.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    /// The directories.
    pub(super) directories: Vec<PathBuf>,
    /// Bytes.
    pub(super) most: u64,
    /// What counts.
    pub(super) counts: Counts,
}

/// What of a directory is growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// Files that were written or made since the start.
    Young,
    /// What there is more than at the start, whatever its files say of themselves.
    More,
}

/// Watches until told to stop, in a thread of its own: a walk may take a while. Says so once.
#[derive(Debug)]
pub(super) struct Growth {
    exceeded: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Growth {
    /// Starts to watch. The runner, where there is one, is asked what its processes hold open.
    pub(super) fn watch(bound: Bound, runner: Option<u32>) -> Self {
        let (exceeded, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let growth = Self { exceeded: exceeded.clone(), stop: stop.clone() };
        let start = Start::now(&bound);
        std::thread::spawn(move || {
            let mut walked = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let lost = start.free.saturating_sub(free(&bound.directories).unwrap_or(start.free));
                if lost < bound.most && walked.elapsed() < UNASKED {
                    continue;
                }
                let began = Instant::now();
                let held = runner.map_or(0, |runner| held_open(runner, start.device));
                let grown = start.written_below(&bound.directories).saturating_sub(start.before);
                if grown + held > bound.most {
                    exceeded.store(true, Ordering::Relaxed);
                    return;
                }
                walked = Instant::now();
                // A walk of a large tree must not become this program's main work.
                std::thread::sleep(began.elapsed() * 10);
            }
        });
        growth
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What is compared with.
#[derive(Debug, Clone, Copy)]
struct Start {
    free: u64,
    device: u64,
    seconds: i64,
    /// Bytes that were there and are no growth.
    before: u64,
}

impl Start {
    fn now(bound: &Bound) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let device = bound.directories.first().and_then(|directory| fs::metadata(directory).ok());
        let start = Self {
            free: free(&bound.directories).unwrap_or(0),
            device: device.map_or(0, |meta| meta.dev()),
            // Seconds of file systems are not our clock's: one earlier never misses.
            seconds: i64::try_from(since.as_secs()).unwrap_or(0) - 1,
            before: 0,
        };
        match bound.counts {
            Counts::Young => start,
            Counts::More => {
                let all = Self { seconds: i64::MIN, ..start };
                Self { before: all.written_below(&bound.directories), ..all }
            }
        }
    }

    /// Bytes on disk of files that were written or made since.
    fn written_below(&self, tops: &[PathBuf]) -> u64 {
        let (mut total, mut left, mut seen) = (0, tops.to_vec(), HashSet::new());
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                // The entry's own: a link is not followed.
                let Ok(meta) = entry.metadata() else { continue };
                if meta.dev() != self.device {
                    continue;
                }
                if meta.is_dir() {
                    left.push(entry.path());
                } else if meta.ctime() >= self.seconds && (meta.nlink() == 1 || seen.insert(meta.ino())) {
                    total += meta.blocks() * 512;
                }
            }
        }
        total
    }
}

/// Bytes that anybody can still write there.
fn free(directories: &[PathBuf]) -> Option<u64> {
    let stat = rustix::fs::statfs(directories.first()?).ok()?;
    Some(stat.f_bfree * u64::try_from(stat.f_bsize).ok()?)
}

/// Bytes on that device of files that have no name any more and are held open inside.
fn held_open(runner: u32, device: u64) -> u64 {
    let (mut total, mut seen) = (0, HashSet::new());
    for pid in super::sample::below(runner) {
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if let Ok(meta) = fs::metadata(descriptor.path())
                && meta.is_file()
                && meta.nlink() == 0
                && meta.dev() == device
                && seen.insert(meta.ino())
            {
                total += meta.blocks() * 512;
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_does_not_count_and_what_is_written_does() {
        let temp = tempfile::tempdir().expect("tempdir");
        let top = [temp.path().to_owned()];
        let old = temp.path().join("old");
        fs::write(&old, vec![1; 1 << 20]).expect("a file");
        let bound = |counts| Bound { directories: top.to_vec(), most: 0, counts };
        let start = Start { seconds: i64::MAX, ..Start::now(&bound(Counts::Young)) };
        assert_eq!(start.written_below(&top), 0);
        let (young, more) = (Start::now(&bound(Counts::Young)), Start::now(&bound(Counts::More)));
        let new = temp.path().join("sub/new");
        fs::create_dir(temp.path().join("sub")).expect("a directory");
        fs::write(&new, vec![1; 1 << 20]).expect("a file");
        fs::hard_link(&new, temp.path().join("again")).expect("a link");
        std::os::unix::fs::symlink("/usr", temp.path().join("link")).expect("a link");
        // `old` is as young as the test, and counts as well; the hard link counts once.
        let written = young.written_below(&top);
        assert!((2 << 20..3 << 20).contains(&written), "{written}");
        let grown = more.written_below(&top) - more.before;
        assert!((1 << 20..2 << 20).contains(&grown), "{grown}");
    }
}
