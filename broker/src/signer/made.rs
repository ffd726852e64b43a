//! Which signatures this broker made, by the digests of what they cover and of themselves: from memory, and from the
//! audit log for those of an earlier broker.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use keyhatch_protocol::SignatureFormat;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Most signatures that are remembered; the audit log knows the others.
const REMEMBERED: usize = 50_000;
/// Most bytes of a line that are read at once; a signature's record is under 2 KiB.
const MAX_RECORD: u64 = 64 * 1024;

/// A signature that this broker made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeSignature {
    /// Which kind.
    pub format: SignatureFormat,
    /// The key.
    pub key: String,
    /// The number of the audit record.
    pub record: u64,
}

/// Digests: of what is covered, and of the armoured signature.
type Digests = (String, String);

/// The signatures that this broker made, and, once somebody asked for one that it did not, those of the audit log.
#[derive(Debug, Default)]
pub struct Made {
    own: Mutex<HashMap<Digests, MadeSignature>>,
    /// Held while the log is read: whoever comes meanwhile finds it read.
    log: Arc<tokio::sync::Mutex<LogIndex>>,
}

/// Where in the log each signature's record begins, so that the log is read once, and then only what is new in it.
#[derive(Debug, Default)]
struct LogIndex {
    /// By a digest of the digests.
    at: HashMap<[u8; 16], u64>,
    /// How much of the log was read.
    read: u64,
}

/// The part of an audit record that matters here.
#[derive(Deserialize)]
struct Record {
    seq: u64,
    event: String,
    format: Option<SignatureFormat>,
    key: Option<String>,
    covered: Option<String>,
    signature: Option<String>,
}

impl Made {
    /// Remembers one.
    pub fn remember(&self, digests: Digests, made: MadeSignature) {
        let mut all = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < REMEMBERED {
            all.insert(digests, made);
        }
    }

    /// Finds those of a push. The log is read only where memory does not know one of them, and not on this thread.
    pub async fn find(&self, wanted: &[Digests], log: &Path) -> HashMap<Digests, MadeSignature> {
        let mut found: HashMap<Digests, MadeSignature> = {
            let all = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.iter().filter_map(|digests| Some((digests.clone(), all.get(digests)?.clone()))).collect()
        };
        let unknown: Vec<Digests> =
            wanted.iter().filter(|digests| !found.contains_key(digests)).cloned().collect();
        if unknown.is_empty() {
            return found;
        }
        let (mut index, log) = (self.log.clone().lock_owned().await, log.to_owned());
        let looking = tokio::task::spawn_blocking(move || index.find(&log, unknown));
        match looking.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(old) => found.extend(old),
            // Then it is not known to be ours, which a person is told.
            Err(error) => tracing::warn!(%error, "the audit log cannot be read for signatures"),
        }
        found
    }
}

impl LogIndex {
    fn find(&mut self, log: &Path, wanted: Vec<Digests>) -> io::Result<Vec<(Digests, MadeSignature)>> {
        let file = match File::open(log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        if file.metadata()?.len() < self.read {
            // It was cut: what was read may be gone.
            *self = Self::default();
        }
        self.catch_up(&file)?;
        let mut found = Vec::new();
        for digests in wanted {
            let Some(at) = self.at.get(&short(&digests)) else { continue };
            let mut reader = BufReader::new(&file);
            reader.seek(SeekFrom::Start(*at))?;
            let mut line = Vec::new();
            reader.take(MAX_RECORD).read_until(b'\n', &mut line)?;
            found.extend(made(&line).filter(|(of, _)| *of == digests));
        }
        Ok(found)
    }

    /// Reads what is new. The first record of a signature counts.
    fn catch_up(&mut self, file: &File) -> io::Result<()> {
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(self.read))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_RECORD).read_until(b'\n', &mut line)?;
            if read == 0 || (!line.ends_with(b"\n") && (read as u64) < MAX_RECORD) {
                return Ok(());
            }
            if let Some((digests, _)) = made(&line) {
                self.at.entry(short(&digests)).or_insert(self.read);
            }
            self.read += read as u64;
        }
    }
}

fn short((covered, signature): &Digests) -> [u8; 16] {
    let digest = Sha256::digest(format!("{covered} {signature}"));
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

/// The signature that a line of the log is the record of.
fn made(line: &[u8]) -> Option<(Digests, MadeSignature)> {
    // Most lines are others, and need not be parsed.
    let named = br#""event":"signed""#;
    line.windows(named.len()).any(|window| window == named).then_some(())?;
    let record: Record = serde_json::from_slice(line).ok()?;
    let made = MadeSignature { format: record.format?, key: record.key?, record: record.seq };
    (record.event == "signed").then_some(((record.covered?, record.signature?), made))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::audit::AuditLog;

    #[tokio::test]
    async fn a_signature_of_an_earlier_broker_is_found_and_the_log_is_read_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        let log = AuditLog::open(&path).expect("opens");
        let record = async |event: &str, n: u64| {
            let fields = json!({
                "format": "ssh", "key": "SHA256:k", "covered": format!("c{n}"), "signature": format!("s{n}"),
                "says": "\"event\":\"signed\"",
            });
            let fields: Map<_, _> = serde_json::from_value(fields).expect("fields");
            log.record(event, fields).await.expect("records")
        };
        for n in 0..3 {
            record("signed", n).await;
            record("sign-refused", n + 10).await;
        }
        let made = Made::default();
        let digests = |n: u64| (format!("c{n}"), format!("s{n}"));
        let found = made.find(&[digests(1), digests(11), digests(7)], &path).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), [&digests(1)]);
        assert_eq!(found[&digests(1)].record, 3);
        assert_eq!(made.log.lock().await.read, std::fs::metadata(&path).expect("a log").len());
        assert_eq!(record("signed", 7).await, 7);
        assert_eq!(made.find(&[digests(7)], &path).await[&digests(7)].record, 7);
        std::fs::write(&path, "").expect("it is cut");
        assert!(made.find(&[digests(1)], &path).await.is_empty());
    }
}
