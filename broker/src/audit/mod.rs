//! The audit log: one line of JSON an event, each line naming the hash of the line before.
//!
//! Comes in: events of the broker's own. Goes out: lines on disk. A thread of its own writes them, another has the disk
//! take them (`writer`): no task of the broker ever waits for a disk but by `await`. A head beside the log names the last
//! record that the disk has (`chain`), so that a cut tail is noticed. No secret and no payload: names and digests. What a
//! session can make the log take is bounded (`share`).

mod chain;
pub mod share;
mod verify;
mod writer;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

pub use verify::{Verified, VerifyError, verify};

use writer::{Entry, Flushed, Order, Threads};

/// The log could not be written; what was to be recorded must not happen.
#[derive(Debug, Error)]
pub enum AuditError {
    /// A file of it.
    #[error("cannot write the audit log")]
    Disk(#[source] io::Error),
    /// A flush failed earlier.
    #[error("cannot write the audit log: the disk may lack an earlier line: start the broker again")]
    Failed,
    /// Its threads have ended.
    #[error("cannot write the audit log: its writer has ended: start the broker again")]
    Ended,
    /// A session has had what it may have.
    #[error("this session has filled its share of the audit log, {} MiB an hour", share::HOURLY_BYTES / 1024 / 1024)]
    Full,
}

/// The open log.
#[derive(Debug)]
pub struct AuditLog {
    threads: Threads,
}

/// A record that is in the chain, and that the disk may not have yet.
#[derive(Debug)]
#[must_use]
pub struct Appended {
    seq: u64,
    flushed: watch::Receiver<Flushed>,
}

impl Appended {
    /// Waits until the disk has it, and returns its number.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn flushed(mut self) -> Result<u64, AuditError> {
        let seq = self.seq;
        let there = |flushed: &Flushed| match flushed {
            Flushed::To(last) => *last >= seq,
            Flushed::Failed => true,
        };
        match self.flushed.wait_for(there).await.as_deref() {
            Ok(Flushed::To(_)) => Ok(seq),
            Ok(Flushed::Failed) => Err(AuditError::Failed),
            Err(_) => Err(AuditError::Ended),
        }
    }
}

impl AuditLog {
    /// Opens the log, continuing the chain after its last record. Where the log is not as it was left, that is recorded.
    ///
    /// # Errors
    /// When the log cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        Ok(Self { threads: writer::start(path).map_err(AuditError::Disk)? })
    }

    /// Appends one event and returns its number once it is on disk.
    ///
    /// # Errors
    /// When it could not be written: the caller must not go on.
    pub async fn record(&self, event: &str, fields: Map<String, Value>) -> Result<u64, AuditError> {
        self.append(event, fields).await?.flushed().await
    }

    /// Appends one event. When this returns it is in the chain and outlives this process; the disk is told at once, and
    /// what it answers is [`Appended::flushed`].
    ///
    /// # Errors
    /// When it could not be written: the caller must not go on.
    pub async fn append(&self, event: &str, fields: Map<String, Value>) -> Result<Appended, AuditError> {
        let (written, seq) = oneshot::channel();
        let entry = Entry { event: event.to_owned(), fields, written };
        self.threads.queue.send(Order::Record(entry)).await.map_err(|_| AuditError::Ended)?;
        let seq = seq.await.map_err(|_| AuditError::Ended)??;
        Ok(Appended { seq, flushed: self.threads.flushed.clone() })
    }

    /// Says that every push of an earlier broker has its outcome: [`unanswered`] need not look before this again.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn concluded(&self) -> Result<(), AuditError> {
        self.threads.queue.send(Order::Concluded).await.map_err(|_| AuditError::Ended)
    }
}

/// The pushes that were about to be sent and whose outcome was never recorded: the broker died meanwhile. Read from
/// where the head says that every earlier push was answered.
///
/// # Errors
/// When the log cannot be read.
pub fn unanswered(path: &Path) -> Result<Vec<Map<String, Value>>, AuditError> {
    let answered = chain::read_head(path).map_err(AuditError::Disk)?.map_or(0, |head| head.answered);
    let mut file = File::open(path).map_err(AuditError::Disk)?;
    // A log that was cut is shorter.
    let length = file.metadata().map_err(AuditError::Disk)?.len();
    file.seek(SeekFrom::Start(if answered > length { 0 } else { answered })).map_err(AuditError::Disk)?;
    let mut open: Vec<Map<String, Value>> = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(AuditError::Disk)?;
        // A line that is no record is for `verify` to name.
        let Ok(entry) = serde_json::from_slice::<Map<String, Value>>(&line) else { continue };
        let same = |other: &Map<String, Value>| {
            ["session", "digest"].iter().all(|field| other.get(*field) == entry.get(*field))
        };
        match entry.get("event").and_then(Value::as_str) {
            Some("push-sending") => open.push(entry),
            Some("push-sent" | "push-unknown") => open.retain(|other| !same(other)),
            _ => {}
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    fn log_in(dir: &Path) -> (PathBuf, AuditLog) {
        let path = dir.join("audit.jsonl");
        let log = AuditLog::open(&path).expect("opens");
        (path, log)
    }

    #[test]
    fn records_of_many_tasks_make_one_chain_and_each_is_on_disk_when_it_is_answered() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, log) = log_in(dir.path());
        runtime().block_on(async {
            let all = futures_util::future::join_all((0..100).map(|n| {
                let fields = Map::from_iter([("n".to_owned(), Value::from(n))]);
                log.record("test", fields)
            }));
            let mut numbers: Vec<u64> = all.await.into_iter().map(|seq| seq.expect("records")).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=100).collect::<Vec<u64>>());
        });
        assert_eq!(chain::read_head(&path).expect("reads").map(|head| head.seq), Some(100));
        assert_eq!(verify(&path).expect("verifies").records, 100);
        drop(log);
        let log = AuditLog::open(&path).expect("opens");
        assert_eq!(runtime().block_on(log.record("more", Map::new())).expect("records"), 101);
    }

    #[test]
    fn a_changed_removed_or_cut_line_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, log) = log_in(dir.path());
        for n in 0..3 {
            let fields = Map::from_iter([("n".to_owned(), Value::from(n))]);
            runtime().block_on(log.record("test", fields)).expect("records");
        }
        let whole = std::fs::read_to_string(&path).expect("reads");
        let lines: Vec<&str> = whole.lines().collect();
        let try_with = |text: String| {
            std::fs::write(&path, text).expect("writes");
            verify(&path).expect_err("must not verify").to_string()
        };
        assert!(try_with(whole.replace("\"n\":0", "\"n\":9")).starts_with("line 2:"));
        assert!(try_with(whole.replace("\"n\":2", "\"n\":9")).starts_with("line 3:"));
        assert!(try_with(format!("{}\n{}\n", lines[0], lines[2])).starts_with("line 2:"));
        assert!(try_with(format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2])).starts_with("line 1:"));
        assert!(try_with(format!("{}\n{}\n", lines[0], lines[1])).contains("tail was cut"));
        assert!(try_with(String::new()).contains("tail was cut"));
    }

    #[test]
    fn a_push_without_an_outcome_is_found_again_and_answered_ones_are_not_read_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, log) = log_in(dir.path());
        let push = |digest: &str| {
            Map::from_iter([("session".to_owned(), "s".into()), ("digest".to_owned(), digest.into())])
        };
        let digests = || -> Vec<Value> {
            unanswered(&path).expect("reads").iter().map(|push| push["digest"].clone()).collect()
        };
        runtime().block_on(async {
            log.concluded().await.expect("a writer");
            for digest in ["a", "b"] {
                log.record("push-sending", push(digest)).await.expect("records");
            }
            log.record("push-sent", push("a")).await.expect("records");
        });
        assert_eq!(digests(), ["b"]);
        drop(log);
        // Another broker, which does not conclude it: it is not forgotten.
        let log = AuditLog::open(&path).expect("opens");
        runtime().block_on(log.record("more", Map::new())).expect("records");
        assert_eq!(digests(), ["b"]);
        runtime().block_on(async {
            log.record("push-unknown", push("b")).await.expect("records");
            log.concluded().await.expect("a writer");
            log.record("more", Map::new()).await.expect("records");
        });
        assert!(digests().is_empty());
        let head = chain::read_head(&path).expect("reads").expect("a head");
        assert_eq!(head.answered, std::fs::metadata(&path).expect("a log").len());
    }
}
