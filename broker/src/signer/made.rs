//! Which signatures this broker made, by the digests of what they cover and of themselves: from memory, and from the
//! audit log for those of an earlier broker.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::SignatureFormat;
use serde::Deserialize;

/// Most signatures that are remembered; the audit log knows the others.
const REMEMBERED: usize = 50_000;

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

/// The signatures that this broker made.
#[derive(Debug, Default)]
pub struct Made(Mutex<HashMap<Digests, MadeSignature>>);

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
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < REMEMBERED {
            all.insert(digests, made);
        }
    }

    /// Finds those of a push. The log is read only where memory does not know one of them.
    #[must_use]
    pub fn find(&self, wanted: &[Digests], log: &Path) -> HashMap<Digests, MadeSignature> {
        let mut found: HashMap<Digests, MadeSignature> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.iter().filter_map(|digests| Some((digests.clone(), all.get(digests)?.clone()))).collect()
        };
        if wanted.iter().any(|digests| !found.contains_key(digests)) {
            for (digests, made) in of_log(log) {
                if wanted.contains(&digests) {
                    found.entry(digests).or_insert(made);
                }
            }
        }
        found
    }
}

fn of_log(log: &Path) -> impl Iterator<Item = (Digests, MadeSignature)> {
    let lines = File::open(log).ok().into_iter().flat_map(|file| BufReader::new(file).lines());
    lines.map_while(Result::ok).filter(|line| line.contains("\"signed\"")).filter_map(|line| {
        let record: Record = serde_json::from_str(&line).ok()?;
        let made = MadeSignature { format: record.format?, key: record.key?, record: record.seq };
        (record.event == "signed").then_some(((record.covered?, record.signature?), made))
    })
}
