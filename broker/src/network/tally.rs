//! What a session connected to and what was refused: counted a destination, for its report and the audit's last word.
//!
//! Comes in: destinations that the session chose. Bounded: beyond the cap, only sums are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Destinations that are listed one by one: a build reaches a handful, an attack as many as it likes.
const MAX_LISTED: usize = 256;
/// Processes that are named for one destination.
const MAX_PROCESSES: usize = 4;

/// What happened with one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Attempts that the policy allowed.
    pub allowed: u64,
    /// Connections that were made.
    pub connected: u64,
    /// Attempts that the policy or the address filter refused.
    pub refused: u64,
    /// Attempts that were allowed and failed.
    pub failed: u64,
    /// Bytes that left.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
    /// Why the last attempt was refused or failed.
    pub reason: Option<String>,
    /// The policy line that would allow it.
    pub line: Option<String>,
    /// Who asked, as far as it is known; what they are called is the session's own word.
    pub processes: BTreeSet<String>,
}

/// Everything that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// By `HOST:PORT`, or the bare name where only the name was asked for.
    pub destinations: BTreeMap<String, Count>,
    /// The sum over destinations that are not listed.
    pub others: Count,
    /// Connections to published ports.
    pub published: u64,
    /// Connections to services of the host, by address.
    pub services: BTreeMap<String, u64>,
}

impl Counts {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The sums over all destinations.
    #[must_use]
    pub fn sums(&self) -> Count {
        let add = |sum: Count, one: &Count| Count {
            allowed: sum.allowed + one.allowed,
            connected: sum.connected + one.connected,
            refused: sum.refused + one.refused,
            failed: sum.failed + one.failed,
            sent: sum.sent + one.sent,
            received: sum.received + one.received,
            ..Count::default()
        };
        self.destinations.values().chain([&self.others]).fold(Count::default(), add)
    }
}

/// The counts of a session while it lasts.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<Counts>,
}

/// How an attempt ended that made no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It was not allowed.
    Refused,
    /// It was allowed, and failed.
    Failed,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt that the policy allows; true for the first one to this destination.
    pub fn allowed(&self, destination: &str) -> bool {
        let mut counts = self.lock();
        let count = counts.entry(destination);
        count.allowed += 1;
        count.allowed == 1
    }

    /// Counts a connection.
    pub fn connected(&self, destination: &str) {
        self.lock().entry(destination).connected += 1;
    }

    /// Counts a miss; true for the first one of this destination.
    pub fn missed(&self, destination: &str, miss: Miss, (reason, line): (&str, Option<&str>)) -> bool {
        let mut counts = self.lock();
        let listed = counts.has_room_for(destination);
        let count = counts.entry(destination);
        match miss {
            Miss::Refused => count.refused += 1,
            Miss::Failed => count.failed += 1,
        }
        let first = count.refused + count.failed == 1;
        if listed {
            count.reason = Some(reason.to_owned());
            count.line = line.map(str::to_owned);
        }
        first && listed
    }

    /// Forgets what was counted under a name: it is counted anew under a better one.
    pub fn forget(&self, destination: &str) {
        self.lock().destinations.remove(destination);
    }

    /// Names a process that asked.
    pub fn asked_by(&self, destination: &str, process: String) {
        if let Some(count) = self.lock().destinations.get_mut(destination)
            && count.processes.len() < MAX_PROCESSES
        {
            count.processes.insert(process);
        }
    }

    /// Whether the processes that ask for a destination are worth looking for: it costs reading `/proc`.
    pub fn wants_processes(&self, destination: &str) -> bool {
        self.lock().destinations.get(destination).is_some_and(|count| {
            count.processes.len() < MAX_PROCESSES && count.refused + count.failed <= MAX_PROCESSES as u64
        })
    }

    /// Counts bytes.
    pub fn moved(&self, destination: &str, sent: u64, received: u64) {
        let mut counts = self.lock();
        let count = counts.entry(destination);
        count.sent += sent;
        count.received += received;
    }

    /// Counts a connection to a published port.
    pub fn published(&self) {
        self.lock().published += 1;
    }

    /// Counts a connection to a service of the host, and returns how many there were.
    pub fn served(&self, service: &str) -> u64 {
        let mut counts = self.lock();
        let count = counts.services.entry(service.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }
}

impl Counts {
    fn has_room_for(&self, destination: &str) -> bool {
        self.destinations.len() < MAX_LISTED || self.destinations.contains_key(destination)
    }

    fn entry(&mut self, destination: &str) -> &mut Count {
        if self.has_room_for(destination) {
            self.destinations.entry(destination.to_owned()).or_default()
        } else {
            &mut self.others
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_cap_only_sums_are_kept() {
        let tally = Tally::default();
        for n in 0..10_000 {
            let first = tally.missed(&format!("h{n}.example:443"), Miss::Refused, ("r", Some("l")));
            assert_eq!(first, n < MAX_LISTED);
        }
        tally.connected("h1.example:443");
        let counts = tally.counts();
        assert_eq!(counts.destinations.len(), MAX_LISTED);
        assert_eq!((counts.sums().refused, counts.sums().connected), (10_000, 1));
        assert_eq!(counts.others.reason, None);
    }
}
