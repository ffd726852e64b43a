//! Where a session wants to connect to: a host and a port, parsed once and strictly.
//!
//! Comes in: what a proxy was asked for, chosen by a session, or what a policy names. Goes out: a value that no resolver
//! reads differently: no NUL, no percent sign, no number that a resolver takes for an address in disguise.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, RFC 1035 2.3.4.
const MAX_NAME: usize = 253;
/// Longest label, RFC 1035 2.3.4.
const MAX_LABEL: usize = 63;

/// Why a destination was refused. The text is not repeated: it may be hostile.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum DestinationError {
    /// Not `HOST:PORT`.
    #[error("a destination is written HOST:PORT")]
    Form,
    /// Characters outside letters, digits, `-`, `_` and `.`, or labels that are empty or too long.
    #[error("the host is not a plain ASCII name or an address")]
    Name,
    /// `2130706433`, `0x7f.1`, `127.1`: resolvers read these as addresses, checks read them as names.
    #[error("the host ends in a number but is not an address in its usual form")]
    Number,
    /// Outside 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// A host name: lower-case labels of letters, digits, `-` and `_`, the last of which is no number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(String);

impl DnsName {
    /// Parses a name, folding case. One dot at the end is refused: two spellings of one name pass one check.
    ///
    /// # Errors
    /// When it is not plain, or could be read as an address.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let legal = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-')
        };
        if text.len() > MAX_NAME || !text.split('.').all(legal) {
            return Err(DestinationError::Name);
        }
        let last = text.rsplit('.').next().unwrap_or_default();
        // The rule of the URL standard: what ends in a number is an address, and this is not the usual form of one.
        let number =
            last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
        if number { Err(DestinationError::Number) } else { Ok(Self(text.to_ascii_lowercase())) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationHost {
    /// To be resolved.
    Name(DnsName),
    /// In its usual form.
    Address(IpAddr),
}

impl DestinationHost {
    /// Parses a host: a name, four decimal numbers, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// As [`DnsName::parse`].
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // No zone: `%` is not part of an address that anybody else could mean.
            let address: Ipv6Addr = inner.parse().map_err(|_| DestinationError::Name)?;
            return Ok(Self::Address(address.into()));
        }
        // The standard library takes decimal numbers without leading zeros only: no octal, no hexadecimal, no `127.1`.
        match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(address.into())),
            Err(_) => DnsName::parse(text).map(Self::Name),
        }
    }
}

impl fmt::Display for DestinationHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    host: DestinationHost,
    port: u16,
}

impl Destination {
    /// Puts the parts together, as a SOCKS request carries them.
    ///
    /// # Errors
    /// When the port is 0.
    pub fn new(host: DestinationHost, port: u16) -> Result<Self, DestinationError> {
        if port == 0 { Err(DestinationError::Port) } else { Ok(Self { host, port }) }
    }

    /// Parses `HOST:PORT`, as CONNECT carries it.
    ///
    /// # Errors
    /// One variant of [`DestinationError`] for each part that can be wrong.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let (host, port) = text.rsplit_once(':').ok_or(DestinationError::Form)?;
        Self::new(DestinationHost::parse(host)?, parse_port(port)?)
    }

    /// Parses `HOST` or `HOST:PORT` of a URL.
    ///
    /// # Errors
    /// As [`Destination::parse`].
    pub fn parse_authority(text: &str, usual_port: u16) -> Result<Self, DestinationError> {
        let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
        if text[after_brackets..].contains(':') {
            return Self::parse(text);
        }
        Self::new(DestinationHost::parse(text)?, usual_port)
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &DestinationHost {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// Parses a port: decimal digits without a leading zero, so that there is one way to write it.
///
/// # Errors
/// When it is anything else.
pub fn parse_port(text: &str) -> Result<u16, DestinationError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    digits.then(|| text.parse().ok()).flatten().ok_or(DestinationError::Port)
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        Self::parse(&text)
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_parse_to_one_spelling() {
        for (text, printed) in [
            ("API.Example.org:443", "api.example.org:443"),
            ("a_b.example.org:8080", "a_b.example.org:8080"),
            ("localhost:1", "localhost:1"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
        ] {
            assert_eq!(Destination::parse(text).expect(text).to_string(), printed);
        }
        let usual = |text| Destination::parse_authority(text, 80).expect("parses").to_string();
        assert_eq!((usual("h.example"), usual("[::1]")), ("h.example:80".into(), "[::1]:80".into()));
    }

    #[test]
    fn a_host_that_a_resolver_reads_differently_is_refused() {
        for text in [
            "evil.example\0.example.org:443",
            "evil.example\n.example.org:443",
            "evil.example#.example.org:443",
            "evil.example%00.example.org:443",
            "user@example.org:443",
            "example.org/:443",
            "example.org.:443",
            ".example.org:443",
            "a..b:443",
            "-x.example.org:443",
            "*.example.org:443",
            "b\u{fc}cher.example:443",
            "a b:443",
            ":443",
            "[fe80::1%eth0]:443",
            "[::1:443",
            "::1:443",
        ] {
            assert_eq!(Destination::parse(text), Err(DestinationError::Name), "{text:?}");
        }
        let long = format!("{}:443", "a.".repeat(127) + "a");
        assert!(Destination::parse(&long).is_err());
    }

    #[test]
    fn an_address_in_disguise_is_refused() {
        for text in [
            "2130706433:1",
            "0x7f000001:1",
            "0x7f.1:1",
            "127.1:1",
            "0177.0.0.1:1",
            "1.2.3.4.5:1",
            "a.0x1:1",
            "256.1.1.1:1",
        ] {
            assert_eq!(Destination::parse(text), Err(DestinationError::Number), "{text}");
        }
    }

    #[test]
    fn a_port_is_a_plain_number_in_range() {
        for port in ["0", "65536", "", "+443", "443 ", "0443", "4a", "-1"] {
            assert!(Destination::parse(&format!("h.example:{port}")).is_err(), "{port:?}");
        }
        assert_eq!(Destination::parse("h.example"), Err(DestinationError::Form));
    }
}
