//! The name that a user gives to a session: a link to its directory keeps the same path from one session to the next,
//! for files that name it (`devcontainer.json`, compose files).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name: it becomes one part of a path, and a socket's path has room for 108 bytes.
const LONGEST: usize = 64;

/// A name that is one harmless part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

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
