//! The audit log: one line of JSON an event, each line naming the hash of the line before.
//!
//! Comes in: events of the broker's own. Goes out: lines on disk, flushed before the caller goes on, or behind it where
//! nothing was done that cannot be undone. A head record beside the log names the last line that the disk has, so that a
//! cut tail is noticed. No secret and no payload: names and digests.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What the first line names as the line before it.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The log could not be written; what was to be recorded must not happen.
#[derive(Debug, Error)]
#[error("cannot write the audit log")]
pub struct AuditError {
    #[source]
    source: io::Error,
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
    /// The log ends before the record that its head names.
    #[error("the log ends at line {found}, but line {expected} was written: its tail was cut")]
    Tail {
        /// The last line there is.
        found: u64,
        /// The last line that was written.
        expected: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    seq: u64,
    hash: String,
}

/// The open log.
#[derive(Debug)]
pub struct AuditLog {
    file: File,
    head_path: PathBuf,
    last: Mutex<Last>,
    /// How many lines the disk has, and its head names.
    flushed: Mutex<u64>,
    /// The disk failed: which lines it has is not known any more. The kernel says so once, and a later flush that goes
    /// well would hide it, so that nothing is recorded until the next start has read the log again.
    failed: AtomicBool,
}

/// The line that was written last.
#[derive(Debug, Clone)]
struct Last {
    seq: u64,
    hash: String,
}

impl AuditLog {
    /// Opens the log, continuing the chain after its last line.
    ///
    /// # Errors
    /// When the log cannot be opened or read.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let wrap = |source| AuditError { source };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(wrap)?;
        let mut last = Last { seq: 0, hash: GENESIS.to_owned() };
        let mut ends_whole = true;
        let mut reader = BufReader::new(File::open(path).map_err(wrap)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(wrap)? > 0 {
            ends_whole = line.ends_with(b"\n");
            last = Last { seq: last.seq + 1, hash: hash(line.strip_suffix(b"\n").unwrap_or(&line)) };
            line.clear();
        }
        if !ends_whole {
            // A broker that died in the middle of a line: `verify` names it, and new lines start on their own.
            (&file).write_all(b"\n").map_err(wrap)?;
        }
        let flushed = Mutex::new(last.seq);
        let failed = AtomicBool::new(false);
        Ok(Self { file, head_path: head_path(path), last: Mutex::new(last), flushed, failed })
    }

    /// Appends one event and returns its number once it is on disk.
    ///
    /// # Errors
    /// When it could not be written: the caller must not go on.
    pub fn record(&self, event: &str, fields: Map<String, Value>) -> Result<u64, AuditError> {
        let seq = self.write(event, fields)?;
        self.flush()?;
        Ok(seq)
    }

    /// Appends one event of which nothing is done that cannot be undone. From here on it outlives this process; whoever
    /// writes one has [`AuditLog::flush`] called, after which it outlives the machine's.
    ///
    /// # Errors
    /// When it could not be written: the caller must not go on.
    pub fn write(&self, event: &str, fields: Map<String, Value>) -> Result<u64, AuditError> {
        self.trusted()?;
        // The chain needs one writer at a time.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entry = Map::new();
        entry.insert("seq".into(), (last.seq + 1).into());
        entry.insert("time".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
        entry.insert("prev".into(), last.hash.clone().into());
        entry.insert("event".into(), event.into());
        entry.extend(fields);
        let line = Value::Object(entry).to_string();
        (&self.file).write_all(format!("{line}\n").as_bytes()).map_err(|source| AuditError { source })?;
        *last = Last { seq: last.seq + 1, hash: hash(line.as_bytes()) };
        Ok(last.seq)
    }

    /// Has the disk take every line that was written.
    ///
    /// # Errors
    /// When it does not. Then no further line is taken.
    pub fn flush(&self) -> Result<(), AuditError> {
        // Held across: whoever waits for a flush must hear of the failure of one that went before it.
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        self.trusted()?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if *flushed == last.seq {
            return Ok(());
        }
        let wrap = |source| AuditError { source };
        self.file.sync_data().map_err(|source| {
            self.failed.store(true, Ordering::Release);
            wrap(source)
        })?;
        // Second: a log that is shorter than its head says is one that was cut.
        self.write_head(&last).map_err(wrap)?;
        *flushed = last.seq;
        Ok(())
    }

    fn trusted(&self) -> Result<(), AuditError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(AuditError {
            source: io::Error::other("the disk may lack an earlier line: start the broker again"),
        })
    }

    fn write_head(&self, last: &Last) -> io::Result<()> {
        let head = Head { seq: last.seq, hash: last.hash.clone() };
        let next = self.head_path.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(serde_json::to_string(&head)?.as_bytes())?;
        std::fs::rename(&next, &self.head_path)
    }
}

fn head_path(log: &Path) -> PathBuf {
    log.with_extension("head")
}

fn hash(line: &[u8]) -> String {
    Sha256::digest(line).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pushes that were about to be sent and whose outcome was never recorded: the broker died meanwhile.
///
/// # Errors
/// When the log cannot be read.
pub fn unanswered(path: &Path) -> Result<Vec<Map<String, Value>>, AuditError> {
    let file = File::open(path).map_err(|source| AuditError { source })?;
    let mut open: Vec<Map<String, Value>> = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|source| AuditError { source })?;
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

/// Checks the whole chain and returns how many lines it has.
///
/// # Errors
/// The first line that was changed, removed or moved, or a tail that was cut.
pub fn verify(path: &Path) -> Result<u64, VerifyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !head_path(path).exists() => return Ok(0),
        Err(e) => return Err(VerifyError::Read(e)),
    };
    let (mut seq, mut prev) = (0u64, GENESIS.to_owned());
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(VerifyError::Read)?;
        let at = |what| VerifyError::Line { line: seq + 1, what };
        let entry: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|_| at("it is not a whole record"))?;
        if entry.get("seq").and_then(Value::as_u64) != Some(seq + 1) {
            return Err(at("its number does not follow the line before: a line was removed, added or moved"));
        }
        if entry.get("prev").and_then(Value::as_str) != Some(prev.as_str()) {
            return Err(at("it does not follow from the line before: one of the two was changed"));
        }
        seq += 1;
        prev = hash(&line);
    }
    check_head(path, seq, &prev)
}

fn check_head(path: &Path, seq: u64, prev: &str) -> Result<u64, VerifyError> {
    let head = std::fs::read(head_path(path)).map_err(VerifyError::Read)?;
    let head: Head = serde_json::from_slice(&head).map_err(|e| VerifyError::Read(e.into()))?;
    if head.seq > seq {
        return Err(VerifyError::Tail { found: seq, expected: head.seq });
    }
    // The head is written after the line, so a crash can leave it one behind, but never with another hash.
    if head.seq == seq && head.hash != prev {
        return Err(VerifyError::Line { line: seq, what: "it is not the line that was written last" });
    }
    Ok(seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_lines(dir: &Path) -> PathBuf {
        let path = dir.join("audit.jsonl");
        let log = AuditLog::open(&path).expect("opens");
        for n in 0..3 {
            let fields = Map::from_iter([("n".to_owned(), Value::from(n))]);
            log.record("test", fields).expect("records");
        }
        path
    }

    #[test]
    fn an_untouched_log_verifies_and_continues_after_reopening() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = three_lines(dir.path());
        AuditLog::open(&path).expect("opens").record("more", Map::new()).expect("records");
        assert_eq!(verify(&path).expect("verifies"), 4);
    }

    #[test]
    fn a_changed_removed_or_cut_line_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = three_lines(dir.path());
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
    fn a_line_that_waits_for_the_disk_is_in_the_chain_and_the_head_follows() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = three_lines(dir.path());
        let log = AuditLog::open(&path).expect("opens");
        let head = || std::fs::read_to_string(head_path(&path)).expect("reads");
        let before = head();
        assert_eq!(log.write("opened", Map::new()).expect("writes"), 4);
        assert_eq!((verify(&path).expect("verifies"), head()), (4, before));
        log.flush().expect("flushes");
        assert!(head().starts_with("{\"seq\":4,"), "{}", head());
        // A record that must be there takes with it what waits.
        log.write("opened", Map::new()).expect("writes");
        assert_eq!(log.record("push-sending", Map::new()).expect("records"), 6);
        assert!(head().starts_with("{\"seq\":6,"), "{}", head());
        assert_eq!(verify(&path).expect("verifies"), 6);
    }

    #[test]
    fn after_a_disk_has_failed_nothing_is_recorded_any_more() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = three_lines(dir.path());
        let log = AuditLog::open(&path).expect("opens");
        // A pipe takes what is written, and cannot be flushed.
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        let broken = AuditLog { file: File::from(std::os::fd::OwnedFd::from(writer)), ..log };
        broken.write("opened", Map::new()).expect("writes");
        broken.flush().expect_err("it cannot be flushed");
        broken.flush().expect_err("nor later");
        broken.write("opened", Map::new()).expect_err("nor is anything written");
        broken.record("push-sending", Map::new()).expect_err("nor recorded");
    }
}
