//! How much work one inspection may do: a pack of 2 kB can stand for endless trees.
//!
//! Everything that a session can multiply is counted here before it is done. What is beyond a limit is not looked at, and
//! that is a risk with a name of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

/// Commits that are walked over, on both sides: the longest histories that people have are of this size.
const COMMITS: u64 = 1_000_000;
/// Directories that are read, each as often as it stands at another path.
const TREES: u64 = 400_000;
/// Names in them that are compared.
const ENTRIES: u64 = 10_000_000;
/// Bytes of files, commits and tags that are read: twice a push of 100 MB.
const BYTES: u64 = 256 * 1024 * 1024;
/// Files that are too large for memory, for each of which git is run.
const STREAMS: u64 = 100;
/// The longest that all of it may take, well below what the broker waits.
const TIME: Duration = Duration::from_secs(120);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// A commit that is walked over.
    Commits,
    /// A directory that is read.
    Trees,
    /// A name in a directory.
    Entries,
    /// A byte of a file, a commit or a tag.
    Bytes,
    /// A file that is read in pieces.
    Streams,
}

/// A limit that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spent {
    /// Of work.
    Work(Work),
    /// Of time.
    Time,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(Work::Commits) => write!(f, "what lies beyond {COMMITS} commits"),
            Self::Work(Work::Trees) => write!(f, "what lies beyond {TREES} directories"),
            Self::Work(Work::Entries) => write!(f, "what lies beyond {ENTRIES} files"),
            Self::Work(Work::Bytes) => write!(f, "what lies beyond {} MiB of content", BYTES / (1024 * 1024)),
            Self::Work(Work::Streams) => write!(f, "what lies beyond {STREAMS} large files"),
            Self::Time => write!(f, "what takes longer than {} seconds", TIME.as_secs()),
        }
    }
}

/// What is left.
pub(super) struct Budget {
    commits: u64,
    trees: u64,
    entries: u64,
    bytes: u64,
    streams: u64,
    until: Instant,
    spent: BTreeSet<Spent>,
}

impl Budget {
    /// All of it.
    pub(super) fn whole() -> Self {
        Self {
            commits: COMMITS,
            trees: TREES,
            entries: ENTRIES,
            bytes: BYTES,
            streams: STREAMS,
            until: Instant::now() + TIME,
            spent: BTreeSet::new(),
        }
    }

    /// Takes some before it is used.
    pub(super) fn take(&mut self, work: Work, amount: u64) -> Result<(), Spent> {
        if Instant::now() > self.until {
            return Err(self.note(Spent::Time));
        }
        let left = match work {
            Work::Commits => &mut self.commits,
            Work::Trees => &mut self.trees,
            Work::Entries => &mut self.entries,
            Work::Bytes => &mut self.bytes,
            Work::Streams => &mut self.streams,
        };
        match left.checked_sub(amount) {
            Some(rest) => {
                *left = rest;
                Ok(())
            }
            None => Err(self.note(Spent::Work(work))),
        }
    }

    fn note(&mut self, spent: Spent) -> Spent {
        self.spent.insert(spent);
        spent
    }

    /// The limits that were met.
    pub(super) fn spent(&self) -> impl Iterator<Item = Spent> {
        self.spent.iter().copied()
    }

    /// Whether nothing more can be compared.
    pub(super) fn is_spent(&self) -> bool {
        let ends = [Spent::Time, Spent::Work(Work::Trees), Spent::Work(Work::Entries)];
        ends.iter().any(|end| self.spent.contains(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_much_is_named_and_small_work_goes_on() {
        let mut budget = Budget::whole();
        assert!(budget.take(Work::Bytes, BYTES + 1).is_err());
        assert!(budget.take(Work::Bytes, BYTES).is_ok());
        let named: Vec<String> = budget.spent().map(|spent| spent.to_string()).collect();
        assert_eq!(named, ["what lies beyond 256 MiB of content"]);
        assert!(!budget.is_spent());
        budget.until = Instant::now().checked_sub(Duration::from_secs(1)).expect("a time");
        assert!(budget.take(Work::Trees, 1).is_err() && budget.is_spent());
    }
}
