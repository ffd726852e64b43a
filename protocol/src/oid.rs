//! Object names: SHA-1 (40 digits) or SHA-256 (64 digits), see `gitformat-pack(5)`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The hash a repository names its objects by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectFormat {
    /// 20 bytes, 40 digits.
    Sha1,
    /// 32 bytes, 64 digits.
    Sha256,
}

impl ObjectFormat {
    /// The name that git's `object-format` capability uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// The number of hexadecimal digits in an object name.
    #[must_use]
    pub const fn digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        }
    }
}

/// The text is not an object name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an object name is 40 or 64 lower-case hexadecimal digits")]
pub struct OidError;

/// The name of an object, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(String);

impl ObjectId {
    /// Parses an object name as it stands on the wire.
    ///
    /// # Errors
    /// When it is not 40 or 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, OidError> {
        Self::try_from(text.to_owned())
    }

    /// The all-zero name, which stands for "no object".
    #[must_use]
    pub fn zero(format: ObjectFormat) -> Self {
        Self("0".repeat(format.digits()))
    }

    /// Whether this is the all-zero name.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    /// Which hash it belongs to, told by its length.
    #[must_use]
    pub fn format(&self) -> ObjectFormat {
        if self.0.len() == 40 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first ten digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl TryFrom<String> for ObjectId {
    type Error = OidError;

    fn try_from(text: String) -> Result<Self, OidError> {
        let legal =
            matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if legal { Ok(Self(text)) } else { Err(OidError) }
    }
}

impl From<ObjectId> for String {
    fn from(oid: ObjectId) -> Self {
        oid.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_name_has_a_format_and_a_zero() {
        let zero = ObjectId::zero(ObjectFormat::Sha256);
        assert!(zero.is_zero());
        assert_eq!(zero.format(), ObjectFormat::Sha256);
        assert!(ObjectId::parse(&"A".repeat(40)).is_err());
        assert!(ObjectId::parse(&"a".repeat(41)).is_err());
    }
}
