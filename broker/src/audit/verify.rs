//! Verification: the whole chain, from the first record to the one that the head names.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};
use thiserror::Error;

use super::chain::{BROKEN, GENESIS, Head, TORN, hash, head_path, read_head};

/// Records that are remembered to tell a second writer from a changed line: two that write at once are close.
const REMEMBERED: usize = 4096;

/// A log that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many records it has.
    pub records: u64,
    /// Lines, counted from 1, that a broker died in the middle of, each named by the record after it.
    pub torn: Vec<u64>,
}

/// Where a log breaks.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The log or its head record cannot be read.
    #[error("cannot read the audit log")]
    Read(#[source] io::Error),
    /// This line is not what was written after the one before it.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two brokers wrote at once.
    #[error("line {line}: two writers: it follows the same record as line {other} does")]
    TwoWriters {
        /// Counted from 1.
        line: u64,
        /// The line that is in its place.
        other: u64,
    },
    /// The log ends before the record that its head names.
    #[error("the log ends at record {found}, but record {expected} was written: its tail was cut")]
    Tail {
        /// The last record there is.
        found: u64,
        /// The last record that was written.
        expected: u64,
    },
    /// A broker found the log shorter than it was left, and recorded that.
    #[error("line {line}: the log was cut after record {found}, and record {expected} was written")]
    Cut {
        /// The line that says so, counted from 1.
        line: u64,
        /// The last record that was left.
        found: u64,
        /// The last record that was written.
        expected: u64,
    },
    /// A broker found the log otherwise than it was left, and recorded that.
    #[error("line {line}: a broker recorded here that {what}")]
    Recorded {
        /// The line that says so, counted from 1.
        line: u64,
        /// What it found.
        what: &'static str,
    },
    /// There is a log, and no record of what was written last.
    #[error("the head of the audit log is missing or cannot be read: whether its tail was cut is not known")]
    NoHead,
}

/// Checks the whole chain.
///
/// # Errors
/// The first line that was changed, removed or moved, or a tail that was cut, now or before an earlier start.
pub fn verify(path: &Path) -> Result<Verified, VerifyError> {
    // First: a broker that writes meanwhile makes the log longer than the head that was read, never shorter.
    let head = read_head(path).map_err(VerifyError::Read)?;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !head_path(path).exists() => {
            return Ok(Verified { records: 0, torn: Vec::new() });
        }
        Err(e) => return Err(VerifyError::Read(e)),
    };
    let mut chain = Chain::new(head);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).map_err(VerifyError::Read)? > 0 {
        let whole = line.strip_suffix(b"\n");
        chain.next(whole.unwrap_or(&line), whole.is_some())?;
        line.clear();
    }
    chain.end()
}

/// What was read so far.
struct Chain {
    head: Option<Head>,
    /// Lines read.
    line: u64,
    records: u64,
    /// The number and the hash of the last record.
    seq: u64,
    prev: String,
    /// A line that is no record: the next one must name its hash.
    torn: Option<String>,
    named: Vec<u64>,
    /// By a record's hash, the line that follows it.
    followed: HashMap<String, u64>,
    order: VecDeque<String>,
    /// What a broker recorded of the log itself.
    recorded: Option<VerifyError>,
}

impl Chain {
    fn new(head: Option<Head>) -> Self {
        Self {
            head,
            line: 0,
            records: 0,
            seq: 0,
            prev: GENESIS.to_owned(),
            torn: None,
            named: Vec::new(),
            followed: HashMap::new(),
            order: VecDeque::new(),
            recorded: None,
        }
    }

    fn next(&mut self, line: &[u8], whole: bool) -> Result<(), VerifyError> {
        self.line += 1;
        let record = serde_json::from_slice::<Map<String, Value>>(line).ok().filter(|_| whole);
        let Some(record) = record else {
            return match self.torn.replace(hash(line)) {
                None => Ok(()),
                Some(_) => Err(self.not_whole(self.line - 1)),
            };
        };
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let event = text("event").unwrap_or_default();
        if let Some(torn) = self.torn.take() {
            if event != TORN || text("torn") != Some(torn.as_str()) {
                return Err(self.not_whole(self.line - 1));
            }
            self.named.push(self.line - 1);
        }
        self.links(&record, event)?;
        if event == BROKEN {
            self.note(&record);
        }
        self.followed.insert(self.prev.clone(), self.line);
        self.order.push_back(std::mem::replace(&mut self.prev, hash(line)));
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.followed.remove(&oldest);
        }
        self.records += 1;
        if self.head.as_ref().is_some_and(|head| head.seq == self.seq && head.hash != self.prev) {
            return Err(self.at("it is not the line that was written last"));
        }
        Ok(())
    }

    /// Whether a record follows from the one before it.
    fn links(&mut self, record: &Map<String, Value>, event: &str) -> Result<(), VerifyError> {
        let seq = record.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let prev = record.get("prev").and_then(Value::as_str).unwrap_or_default();
        if prev != self.prev {
            if let Some(other) = self.followed.get(prev) {
                return Err(VerifyError::TwoWriters { line: self.line, other: *other });
            }
            return Err(self.at(if seq == self.seq + 1 {
                "it does not follow from the line before: one of the two was changed"
            } else {
                "its number does not follow the line before: a line was removed, added or moved"
            }));
        }
        // Where the log was cut, the numbers of what is missing are not used again.
        if seq != self.seq + 1 && !(event == BROKEN && seq > self.seq) {
            return Err(
                self.at("its number does not follow the line before: a line was removed, added or moved")
            );
        }
        self.seq = seq;
        Ok(())
    }

    /// Remembers what a broker found when it went on with the log.
    fn note(&mut self, record: &Map<String, Value>) {
        let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
        let line = self.line;
        let what = match record.get("what").and_then(Value::as_str) {
            Some("cut") => {
                let (found, expected) = (number("found"), number("expected"));
                self.recorded.get_or_insert(VerifyError::Cut { line, found, expected });
                return;
            }
            Some("changed") => "the last line was not the one that was written",
            Some("head-lost") => "its head was lost: whether the tail was cut before is not known",
            _ => "another program had written to the log",
        };
        self.recorded.get_or_insert(VerifyError::Recorded { line, what });
    }

    fn end(self) -> Result<Verified, VerifyError> {
        if self.torn.is_some() {
            return Err(self.not_whole(self.line));
        }
        match &self.head {
            Some(head) if head.seq > self.seq => {
                return Err(VerifyError::Tail { found: self.seq, expected: head.seq });
            }
            None if self.records > 0 => return Err(VerifyError::NoHead),
            _ => {}
        }
        match self.recorded {
            Some(recorded) => Err(recorded),
            None => Ok(Verified { records: self.records, torn: self.named }),
        }
    }

    fn not_whole(&self, line: u64) -> VerifyError {
        VerifyError::Line { line, what: "it is not a whole record" }
    }

    fn at(&self, what: &'static str) -> VerifyError {
        VerifyError::Line { line: self.line, what }
    }
}
