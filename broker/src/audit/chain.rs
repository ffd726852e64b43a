//! The chain of records as it lies on disk: its last record, its head, and what a start finds wrong with the two.
//!
//! Nothing here reads more than the end of the log: a log of years opens as fast as an empty one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What the first record names as the record before it.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The event that closes a line that a broker could not finish; its field `torn` is that line's hash.
pub(super) const TORN: &str = "audit-torn";
/// The event that says that the log was not as it was left.
pub(super) const BROKEN: &str = "audit-broken";
/// Bytes of one of the head's two slots: a sector, which a disk writes whole or not at all.
const SLOT: usize = 512;
/// How much of the log's end is looked at in one step.
const STEP: u64 = 64 * 1024;
/// Most bytes of the log's end that are looked at; the largest record of a push is a few MiB.
const MOST: u64 = 64 * 1024 * 1024;

/// A record's place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Last {
    pub(super) fn genesis() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// What the disk had when the head was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The number of the last record.
    pub(super) seq: u64,
    /// Its hash.
    pub(super) hash: String,
    /// Every push that was being sent has its outcome before this byte of the log.
    #[serde(default)]
    pub(super) answered: u64,
}

/// What a log is found to be when a broker goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Broken {
    /// Its end was removed.
    Cut,
    /// Its end is not what was written.
    Changed,
    /// The record of what was written last is gone.
    HeadLost,
    /// It holds what no broker wrote.
    AnotherWriter,
}

/// A line without an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) hash: String,
    pub(super) bytes: u64,
}

/// How the log ends.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) last: Last,
    pub(super) torn: Option<Torn>,
    /// Whole lines after the last record that are none.
    pub(super) foreign: bool,
    /// The newest records, newest first, for comparing with a head that is behind.
    recent: Vec<Last>,
}

impl Tail {
    /// Reads the end of a log of so many bytes.
    pub(super) fn read(log: &File, length: u64) -> io::Result<Self> {
        let mut start = length.saturating_sub(STEP);
        loop {
            let mut bytes = vec![0; usize::try_from(length - start).unwrap_or(usize::MAX)];
            log.read_exact_at(&mut bytes, start)?;
            let tail = Self::of(&bytes, start == 0);
            if tail.last.seq > 0 || start == 0 || length - start >= MOST {
                return Ok(tail);
            }
            start = start.saturating_sub((length - start).saturating_mul(4));
        }
    }

    /// Of the log's last bytes; where they are not all of it, the first line of them is not whole.
    fn of(bytes: &[u8], is_all: bool) -> Self {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, torn) = bytes.split_at(end);
        let torn = (!torn.is_empty()).then(|| Torn { hash: hash(torn), bytes: torn.len() as u64 });
        let mut lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        if !is_all && !lines.is_empty() {
            lines.remove(0);
        }
        let mut foreign = false;
        let mut recent = Vec::new();
        for line in lines.into_iter().rev() {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            match number(line) {
                Some(seq) => recent.push(Last { seq, hash: hash(line) }),
                None => foreign |= recent.is_empty(),
            }
        }
        let last = recent.first().cloned().unwrap_or_else(Last::genesis);
        Self { last, torn, foreign, recent }
    }

    /// What is wrong with it, given what was written last.
    pub(super) fn against(&self, head: &Head) -> Option<Broken> {
        if head.seq > self.last.seq {
            return Some(Broken::Cut);
        }
        let named = self.recent.iter().find(|record| record.seq == head.seq);
        if named.is_some_and(|record| record.hash != head.hash) {
            return Some(Broken::Changed);
        }
        self.foreign.then_some(Broken::AnotherWriter)
    }
}

/// A record's number; none for a line that is no record.
fn number(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Map<String, Value>>(line).ok()?.get("seq")?.as_u64()
}

/// The file that names the last record that the disk has, in two slots that are written in turns: one of them is whole
/// whatever happens while the other is written.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: File,
    next: usize,
}

impl HeadFile {
    /// Opens it, or makes it. The head is what it names; none where it names nothing that can be read.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Head>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let (head, slot) = newest(&read_slots(&mut file)?).unzip();
        Ok((Self { file, next: slot.map_or(0, |slot| 1 - slot) }, head))
    }

    pub(super) fn write(&mut self, head: &Head) -> io::Result<()> {
        let mut slot = serde_json::to_vec(head)?;
        slot.resize(SLOT - 1, b' ');
        slot.push(b'\n');
        self.file.write_all_at(&slot, (self.next * SLOT) as u64)?;
        self.next = 1 - self.next;
        Ok(())
    }
}

fn read_slots(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(2 * SLOT as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn newest(slots: &[u8]) -> Option<(Head, usize)> {
    let heads = slots.chunks(SLOT).enumerate().filter_map(|(at, slot)| {
        let head = serde_json::from_slice::<Head>(slot.trim_ascii()).ok()?;
        Some((head, at))
    });
    heads.max_by_key(|(head, _)| head.seq)
}

/// What the head names, for who only reads.
pub(super) fn read_head(log: &Path) -> io::Result<Option<Head>> {
    match File::open(head_path(log)) {
        Ok(mut file) => Ok(newest(&read_slots(&mut file)?).map(|(head, _)| head)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn head_path(log: &Path) -> PathBuf {
    log.with_extension("head")
}

pub(super) fn hash(line: &[u8]) -> String {
    Sha256::digest(line).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_from_whichever_slot_is_whole_and_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.head");
        let head = |seq| Head { seq, hash: "a".repeat(64), answered: 7 };
        let (mut file, none) = HeadFile::open(&path).expect("opens");
        assert_eq!(none, None);
        for seq in 1..=3 {
            file.write(&head(seq)).expect("writes");
            assert_eq!(HeadFile::open(&path).expect("opens").1, Some(head(seq)));
        }
        // The slot that is being written when the power goes is the one that is not needed.
        let (mut file, _) = HeadFile::open(&path).expect("opens");
        file.file.write_all_at(&[0; SLOT], (file.next * SLOT) as u64).expect("writes");
        assert_eq!(HeadFile::open(&path).expect("opens").1, Some(head(3)));
        file.write(&head(4)).expect("writes");
        assert_eq!(HeadFile::open(&path).expect("opens").1, Some(head(4)));
        // What an earlier keyhatch wrote.
        std::fs::write(&path, format!("{{\"seq\":9,\"hash\":\"{GENESIS}\"}}")).expect("writes");
        assert_eq!(HeadFile::open(&path).expect("opens").1.map(|head| head.seq), Some(9));
    }

    #[test]
    fn the_end_of_a_log_is_found_whatever_the_length_of_its_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        for length in [10, 70_000, 3_000_000] {
            let lines: Vec<String> =
                (1..=3).map(|seq| format!("{{\"seq\":{seq},\"x\":\"{}\"}}", "y".repeat(length))).collect();
            std::fs::write(&path, format!("{}\n", lines.join("\n"))).expect("writes");
            let log = File::open(&path).expect("opens");
            let tail = Tail::read(&log, log.metadata().expect("a length").len()).expect("reads");
            assert_eq!((tail.last.seq, tail.last.hash), (3, hash(lines[2].as_bytes())), "{length}");
            assert!(tail.torn.is_none() && !tail.foreign);
        }
        let tail = Tail::of(b"{\"seq\":1}\nnonsense\n{\"se", true);
        assert_eq!((tail.last.seq, tail.foreign), (1, true));
        assert_eq!(tail.torn.map(|torn| torn.bytes), Some(4));
    }
}
