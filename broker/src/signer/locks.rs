//! Keys that wait for a passphrase. It is typed on a surface of the user's, never where the agent could see it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyhatch_protocol::SessionId;
use serde::{Deserialize, Serialize};
use ssh_key::PrivateKey;
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// How long a signature waits for its key to be opened.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// A key that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKey {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Its file on the host.
    pub path: PathBuf,
    /// The sessions that wait for it.
    pub sessions: Vec<SessionId>,
}

/// A key was not opened.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnlockError {
    /// No signature waits for it.
    #[error("nothing waits for the key {0}")]
    Unknown(String),
    /// Wrong.
    #[error("this is not the passphrase of {0}")]
    Passphrase(String),
}

#[derive(Debug)]
struct Wanted {
    path: PathBuf,
    key: PrivateKey,
    waiting: Vec<SessionId>,
    opened: Option<Arc<PrivateKey>>,
}

/// The keys of one broker that wait, by fingerprint.
#[derive(Debug)]
pub struct Locks {
    wanted: Mutex<BTreeMap<String, Wanted>>,
    changed: watch::Sender<u64>,
}

impl Default for Locks {
    fn default() -> Self {
        Self { wanted: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// A signature that waits; one that goes away no longer does.
struct Waiting<'l> {
    locks: &'l Locks,
    fingerprint: String,
    session: SessionId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut wanted = self.locks.lock();
        if let Some(one) = wanted.get_mut(&self.fingerprint) {
            if let Some(at) = one.waiting.iter().position(|session| session == &self.session) {
                one.waiting.remove(at);
            }
            if one.waiting.is_empty() {
                wanted.remove(&self.fingerprint);
            }
        }
    }
}

impl Locks {
    /// Waits until the user opens a key, by its fingerprint and file, for a session; none where nobody does.
    pub async fn opened(
        &self,
        (fingerprint, path, session): (String, PathBuf, SessionId),
        key: PrivateKey,
    ) -> Option<Arc<PrivateKey>> {
        let mut changes = self.changed.subscribe();
        let fresh = || Wanted { path, key, waiting: Vec::new(), opened: None };
        self.lock().entry(fingerprint.clone()).or_insert_with(fresh).waiting.push(session.clone());
        let waiting = Waiting { locks: self, fingerprint, session };
        self.announce();
        let opening = async {
            loop {
                changes.borrow_and_update();
                if let Some(key) = self.lock().get(&waiting.fingerprint).and_then(|one| one.opened.clone()) {
                    return Some(key);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(PATIENCE, opening).await.ok().flatten()
    }

    /// What waits.
    #[must_use]
    pub fn locked(&self) -> Vec<LockedKey> {
        let wanted = self.lock();
        let still = wanted.iter().filter(|(_, one)| one.opened.is_none());
        still
            .map(|(fingerprint, one)| LockedKey {
                fingerprint: fingerprint.clone(),
                path: one.path.clone(),
                sessions: one.waiting.clone(),
            })
            .collect()
    }

    /// Opens a key that waits.
    ///
    /// # Errors
    /// When nothing waits for it, or the passphrase is wrong.
    pub async fn open(&self, fingerprint: &str, passphrase: Zeroizing<String>) -> Result<(), UnlockError> {
        let key = self.lock().get(fingerprint).map(|one| one.key.clone());
        let key = key.ok_or_else(|| UnlockError::Unknown(fingerprint.to_owned()))?;
        // The derivation takes a tenth of a second of a processor.
        let opening = tokio::task::spawn_blocking(move || key.decrypt(passphrase.as_bytes()));
        let wrong = || UnlockError::Passphrase(fingerprint.to_owned());
        let opened = opening.await.map_err(|_| wrong())?.map_err(|_| wrong())?;
        if let Some(one) = self.lock().get_mut(fingerprint) {
            one.opened = Some(Arc::new(opened));
        }
        self.announce();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}
