//! A host's name or address in one spelling.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{RemoteError, forge};

/// A host name or address: lower-case ASCII letters, digits, `.`, `-`, `_`, or an IPv6 address in brackets.
///
/// There is one spelling of each: no dot at the end, an IPv4 address as four decimal numbers, also where it was written
/// shorter, in hexadecimal or as an IPv6 address. Names in other letters are taken in their ASCII form (`xn--…`) alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// Parses a host, folding case and spellings.
    ///
    /// # Errors
    /// When it is empty, starts with `-` or `.`, has a byte outside the plain set, or is a number that is no address.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let text = text.to_ascii_lowercase();
        if let Some(address) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().map_err(|_| RemoteError::Host)?;
            return Ok(Self(match address.to_ipv4_mapped() {
                Some(mapped) => mapped.to_string(),
                None => format!("[{address}]"),
            }));
        }
        let text = text.strip_suffix('.').unwrap_or(&text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let legal = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(plain)
            && !text.starts_with(['-', '.'])
            && !text.ends_with('.')
            && !text.contains("..");
        if !legal {
            return Err(RemoteError::Host);
        }
        if text.rsplit('.').next().is_some_and(is_number) {
            return ipv4(text).map(|address| Self(address.to_string())).ok_or(RemoteError::Host);
        }
        Ok(Self(text.to_owned()))
    }

    /// The host as it stands in a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that all names of one service share.
    #[must_use]
    pub fn service(&self) -> &str {
        forge::known_as(&self.0)
    }
}

impl TryFrom<String> for Host {
    type Error = RemoteError;

    fn try_from(text: String) -> Result<Self, RemoteError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// Whether resolvers take a label for a number: WHATWG URL, "ends in a number".
fn is_number(label: &str) -> bool {
    let decimal = label.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal =
        label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    !label.is_empty() && (decimal || hexadecimal)
}

/// inet_aton(3): one to four numbers, decimal, octal or hexadecimal; the last fills what is left.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x") {
        Some("") => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let left = 8 * (4 - u32::try_from(first.len()).ok()?);
    if left < 32 && *last >> left != 0 {
        return None;
    }
    let high = first.iter().enumerate().fold(0, |sum, (at, part)| sum | part << (24 - 8 * at));
    Some(Ipv4Addr::from(high | last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (written, host) in [
            ("Git.Example.ORG.", "git.example.org"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7F000001", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[::FFFF:127.0.0.1]", "127.0.0.1"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("node1", "node1"),
        ] {
            assert_eq!(Host::parse(written).expect(written).as_str(), host, "{written}");
        }
        for bad in [
            "",
            ".",
            "..",
            "h..",
            "a..b",
            "-h",
            "h\u{430}",
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.256",
            "0x",
            "[::1%lo]",
            "h h",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }
}
