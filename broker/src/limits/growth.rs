//! How much a directory on disk grew since the session started.
//!
//! Nothing walks a large project before the start, so there is no size to compare with. What a session wrote are files
//! that changed since it started: their sum is looked at when the file system as a whole lost that much room, and now and
//! then in case somebody else made room meanwhile.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How often the file system is asked for its free room.
const TICK: Duration = Duration::from_millis(250);
/// How often the directory is walked although the file system did not lose the room.
const UNASKED: Duration = Duration::from_secs(60);

/// A directory that must not grow beyond its limit.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    /// The directory.
    pub(super) directory: PathBuf,
    /// Bytes.
    pub(super) most: u64,
}

/// Watches until told to stop, in a thread of its own: a walk may take a while. Says so once.
#[derive(Debug)]
pub(super) struct Growth {
    exceeded: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Growth {
    pub(super) fn watch(bound: Bound, runner: u32) -> Self {
        let (exceeded, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let growth = Self { exceeded: exceeded.clone(), stop: stop.clone() };
        let start = Start::now(&bound.directory);
        std::thread::spawn(move || {
            let mut walked = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let lost = start.free.saturating_sub(free(&bound.directory).unwrap_or(start.free));
                if lost < bound.most && walked.elapsed() < UNASKED {
                    continue;
                }
                let began = Instant::now();
                let written = start.written_below(&bound.directory) + held_open(runner, start.device);
                if written > bound.most {
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
}

impl Start {
    fn now(directory: &Path) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            free: free(directory).unwrap_or(0),
            device: fs::metadata(directory).map_or(0, |meta| meta.dev()),
            // Seconds of file systems are not our clock's: one earlier never misses.
            seconds: i64::try_from(since.as_secs()).unwrap_or(0) - 1,
        }
    }

    /// Bytes on disk of files that were written or made since.
    fn written_below(&self, top: &Path) -> u64 {
        let (mut total, mut left, mut seen) = (0, vec![top.to_owned()], HashSet::new());
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
fn free(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statfs(directory).ok()?;
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
        let old = temp.path().join("old");
        fs::write(&old, vec![1; 1 << 20]).expect("a file");
        let start = Start { seconds: i64::MAX, ..Start::now(temp.path()) };
        assert_eq!(start.written_below(temp.path()), 0);
        let start = Start::now(temp.path());
        let new = temp.path().join("sub/new");
        fs::create_dir(temp.path().join("sub")).expect("a directory");
        fs::write(&new, vec![1; 1 << 20]).expect("a file");
        fs::hard_link(&new, temp.path().join("again")).expect("a link");
        std::os::unix::fs::symlink("/usr", temp.path().join("link")).expect("a link");
        // `old` is as young as the test, and counts as well; the hard link counts once.
        let written = start.written_below(temp.path());
        assert!((2 << 20..3 << 20).contains(&written), "{written}");
    }
}
