//! What a session may use up, while it runs: who watches, and what is said when a limit was hit.
//!
//! A cgroup holds memory, processes and processor in the kernel where one can be had ([`cgroup`]). Everything else, and
//! memory where none can be had, is watched from outside many times a second ([`watch`]).

pub mod cgroup;
mod growth;
pub mod room;
mod sample;
mod systemd;
pub mod watch;

use std::fmt;
use std::time::Duration;

use keyhatch_policies::{Bytes, Span};
use serde_json::json;

use crate::session::report::Section;

/// A limit of the policy's, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Memory of all processes together.
    Memory(u64),
    /// Processes and threads.
    Processes(u64),
    /// From start to end.
    Time(Duration),
    /// Without input, output or work.
    Idle(Duration),
    /// Files outside the project.
    Disk(u64),
    /// Growth of the project.
    Growth(u64),
    /// Output.
    Output(u64),
}

impl Limit {
    /// The word that policies, JSON and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Processes(_) => "processes",
            Self::Time(_) => "time",
            Self::Idle(_) => "idle",
            Self::Disk(_) => "disk",
            Self::Growth(_) => "growth",
            Self::Output(_) => "output",
        }
    }

    /// The cgroup's file that holds it, where one does.
    const fn file(self) -> Option<&'static str> {
        match self {
            Self::Memory(_) => Some("memory.max"),
            Self::Processes(_) => Some("pids.max"),
            _ => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) | Self::Disk(bytes) | Self::Growth(bytes) | Self::Output(bytes) => {
                Bytes(*bytes).fmt(f)
            }
            Self::Processes(count) => count.fmt(f),
            Self::Time(time) | Self::Idle(time) => Span(*time).fmt(f),
        }
    }
}

/// A limit that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Which.
    pub limit: Limit,
    /// Whether the session was ended for it; else the kernel refused and the command went on.
    pub killed: bool,
    /// Whether a cgroup held it.
    pub by_cgroup: bool,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.limit.file() {
            Some(file) if self.by_cgroup => file,
            _ => self.limit.word(),
        };
        let what = if self.killed { "killed" } else { "reached" };
        write!(f, "{what}: {name} {}", self.limit)
    }
}

/// The report's section; none where nothing was hit.
#[must_use]
pub fn section(hits: &[Hit]) -> Option<Section> {
    (!hits.is_empty()).then(|| Section {
        name: "limits".into(),
        lines: hits.iter().map(ToString::to_string).collect(),
        data: hits
            .iter()
            .map(|hit| json!({ "limit": hit.limit.word(), "value": hit.limit.to_string(), "killed": hit.killed }))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_hit_reads_as_the_policy_writes_it() {
        let hit = |limit, killed, by_cgroup| Hit { limit, killed, by_cgroup }.to_string();
        assert_eq!(hit(Limit::Memory(4 << 30), true, true), "killed: memory.max 4 GiB");
        assert_eq!(hit(Limit::Memory(256 << 20), true, false), "killed: memory 256 MiB");
        assert_eq!(hit(Limit::Time(Duration::from_secs(10)), true, true), "killed: time 10 s");
        assert_eq!(hit(Limit::Processes(64), false, true), "reached: pids.max 64");
        assert_eq!(section(&[]), None);
    }
}
