//! Identifiers that the broker hands out: sessions and approval requests.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The text is not an identifier that this broker could have made.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an id is {expected} lower-case hexadecimal digits")]
pub struct IdError {
    /// How many digits were expected.
    pub expected: usize,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $digits:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// How many hexadecimal digits it has.
            pub const DIGITS: usize = $digits;

            /// Makes one from random bytes, which the caller supplies.
            #[must_use]
            pub fn from_random(bytes: [u8; $digits / 2]) -> Self {
                Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }

            /// The digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                let legal = text.len() == $digits
                    && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if legal { Ok(Self(text)) } else { Err(IdError { expected: $digits }) }
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id!(
    /// Names one session: one project, one policy, one expiry.
    SessionId,
    8
);
hex_id!(
    /// Names one approval request. Short, because people type it; unknown to other sessions.
    RequestId,
    6
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_digits_of_the_right_number_are_an_id() {
        assert_eq!(RequestId::from_random([0x7f, 0x3a, 1]).as_str(), "7f3a01");
        for bad in ["", "7f3a0", "7F3A01", "7f3a011", "../../", "7f3a0g"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
    }
}
