//! What upstreams said that they have, each ref in their own words: what a session says of an upstream is only a claim.
//!
//! Comes in: answers of upstreams as they pass through the front end to the session, read before they reach it. Goes
//! out: whether a remote-tracking branch of the session says what its upstream said.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::{ObjectId, RefName, Remote};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Most values that are remembered of one session's upstreams, 16 bytes each; what comes later is not known.
const MAX_TOLD: usize = 500_000;

/// What was said: a digest of remote, name and value, so that a value costs the same however long its name is.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<[u8; 16]>>);

/// Where the host keeps what it knows of an upstream: `remote.NAME.url` and one pattern of `remote.NAME.fetch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracking {
    /// The upstream; none where it is not one that the broker can ask.
    pub remote: Option<Remote>,
    /// The ref there, or what stands before the `*`.
    pub from: String,
    /// The ref here, or what stands before the `*`.
    pub to: String,
    /// Whether both are patterns.
    pub many: bool,
}

impl Told {
    /// Notes what an upstream said.
    pub fn note(&self, remote: &Remote, refs: impl IntoIterator<Item = (RefName, ObjectId)>) {
        let words: Vec<_> = refs.into_iter().map(|(name, id)| word(remote, &name, &id)).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_TOLD.saturating_sub(all.len());
        all.extend(words.into_iter().take(room));
    }

    /// Whether an upstream said that its ref has this value.
    #[must_use]
    pub fn said(&self, remote: &Remote, name: &RefName, id: &ObjectId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&word(remote, name, id))
    }
}

fn word(remote: &Remote, name: &RefName, id: &ObjectId) -> [u8; 16] {
    // None of the three has a newline in it.
    let digest = Sha256::digest(format!("{remote}\n{name}\n{id}"));
    let mut word = [0; 16];
    word.copy_from_slice(&digest[..16]);
    word
}

impl Tracking {
    /// Parses a refspec, `[+]FROM:TO`; none for what keeps nothing here.
    #[must_use]
    pub fn parse(remote: Option<Remote>, refspec: &str) -> Option<Self> {
        let (from, to) = refspec.trim_start_matches('+').split_once(':')?;
        let (many, from, to) = match (from.strip_suffix('*'), to.strip_suffix('*')) {
            (Some(from), Some(to)) => (true, from, to),
            (None, None) => (false, from, to),
            _ => return None,
        };
        to.starts_with("refs/remotes/").then(|| Self { remote, from: from.into(), to: to.into(), many })
    }

    /// The upstream's own name for a ref that is kept here under `name`.
    #[must_use]
    pub fn there(&self, name: &RefName) -> Option<RefName> {
        let rest = name.as_str().strip_prefix(&self.to).filter(|rest| self.many || rest.is_empty())?;
        RefName::parse(format!("{}{rest}", self.from).as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_here_is_a_name_there_and_only_what_was_said_was_said() {
        let name = |name: &str| RefName::parse(name.as_bytes()).expect("a ref");
        let remote = Remote::parse("https://h.example/a").expect("a remote");
        let all =
            Tracking::parse(Some(remote.clone()), "+refs/heads/*:refs/remotes/origin/*").expect("a refspec");
        assert_eq!(all.there(&name("refs/remotes/origin/a/b")), Some(name("refs/heads/a/b")));
        assert_eq!(all.there(&name("refs/remotes/other/a")), None);
        let one = Tracking::parse(None, "refs/heads/m:refs/remotes/o/m").expect("a refspec");
        assert_eq!(one.there(&name("refs/remotes/o/m")), Some(name("refs/heads/m")));
        assert_eq!(one.there(&name("refs/remotes/o/m/x")), None);
        for nothing in ["refs/heads/main", "refs/heads/*:refs/heads/*", "refs/heads/*:refs/remotes/o/m"] {
            assert_eq!(Tracking::parse(None, nothing), None, "{nothing}");
        }
        let id = |digit: char| ObjectId::parse(&digit.to_string().repeat(40)).expect("an id");
        let told = Told::default();
        told.note(&remote, [(name("refs/heads/m"), id('1'))]);
        assert!(told.said(&remote, &name("refs/heads/m"), &id('1')));
        assert!(!told.said(&remote, &name("refs/heads/m"), &id('2')));
        assert!(!told.said(&remote, &name("refs/heads/n"), &id('1')));
        let other = Remote::parse("https://h.example/b").expect("a remote");
        assert!(!told.said(&other, &name("refs/heads/m"), &id('1')));
    }
}
