//! The name that a user gives to a session: a link to its directory keeps the same path from one session to the next,
//! for files that name it (`devcontainer.json`, compose files).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name: it becomes one part of a path, and a socket's path has room for 108 bytes.
const LONGEST: usize = 64;

/// A name that is one harmless part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

/// Names for which a session is being opened at this moment: one open at a time for each.
#[derive(Debug, Default)]
pub struct NameClaims {
    opening: Mutex<HashMap<SessionName, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to open the session of a name. Held from before it is looked for until it can be found or has failed.
#[derive(Debug)]
#[must_use]
pub struct NameClaim(#[allow(dead_code, reason = "held, not read")] tokio::sync::OwnedMutexGuard<()>);

impl NameClaims {
    /// Waits until nobody else opens a session of this name.
    pub async fn claim(&self, name: &SessionName) -> NameClaim {
        let lock = {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever holds or waits for one has a reference: the others are left over.
            opening.retain(|_, lock| Arc::strong_count(lock) > 1);
            opening.entry(name.clone()).or_default().clone()
        };
        NameClaim(lock.lock_owned().await)
    }
}

/// It is no such name.
#[derive(Debug, Error)]
#[error(
    "a session's name has at most {LONGEST} letters, digits, `.`, `_` and `-`, and starts with a letter or digit"
)]
pub struct NameError;

impl SessionName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && text.len() <= LONGEST && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl TryFrom<String> for SessionName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_claimed_by_one_at_a_time_and_forgotten_afterwards() {
        let claims = NameClaims::default();
        let name = |text: &str| text.parse::<SessionName>().expect("a name");
        let named = name("box");
        let first = claims.claim(&named).await;
        let mut second = Box::pin(claims.claim(&named));
        assert!(futures_util::poll!(&mut second).is_pending(), "it waits");
        drop(claims.claim(&name("other")).await);
        drop(first);
        drop(second.await);
        drop(claims.claim(&name("third")).await);
        assert_eq!(claims.opening.lock().expect("a lock").len(), 1, "only the last one is still listed");
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        for good in ["app", "a.b_c-1", "0"] {
            assert!(good.parse::<SessionName>().is_ok(), "{good}");
        }
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", long.as_str()] {
            assert!(bad.parse::<SessionName>().is_err(), "{bad}");
        }
    }
}
