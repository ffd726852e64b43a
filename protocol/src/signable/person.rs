//! A person in a header: `Name SP <email> SP seconds SP zone` (git's ident.c, `fmt_ident`).

use super::SignableError;
use crate::Identity;

/// Most digits of a time: git's own is a 64-bit number.
const MAX_DIGITS: usize = 19;

/// A person and a time. Name and address are bytes of whatever encoding the object names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The name; git forbids an empty one, and old commits have it.
    pub name: Vec<u8>,
    /// The address.
    pub email: Vec<u8>,
    /// Seconds since the epoch, as they were written.
    pub seconds: String,
    /// `+hhmm` or `-hhmm`.
    pub zone: String,
}

impl Person {
    /// Parses a person.
    ///
    /// # Errors
    /// When it is not written as git writes one.
    pub fn parse(value: &[u8]) -> Result<Self, SignableError> {
        let open = value.iter().position(|byte| *byte == b'<').ok_or(SignableError::Person)?;
        let close = value.iter().rposition(|byte| *byte == b'>').ok_or(SignableError::Person)?;
        let (name, email) = (&value[..open], value.get(open + 1..close).ok_or(SignableError::Person)?);
        // git writes the space also after an empty name.
        let name = name.strip_suffix(b" ").ok_or(SignableError::Person)?;
        let (seconds, zone) = time(value[close + 1..].strip_prefix(b" ").ok_or(SignableError::Person)?)?;
        let odd = |byte: &u8| matches!(byte, b'<' | b'>' | b'\t');
        // git writes none at the ends of a name, and shows none.
        let padded = name.starts_with(b" ") || name.ends_with(b" ");
        if padded || name.iter().chain(email).any(odd) {
            return Err(SignableError::Person);
        }
        Ok(Self { name: name.to_vec(), email: email.to_vec(), seconds, zone })
    }

    /// As it stands in a header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { name, email, seconds, zone } = self;
        [name, &b" <"[..], email, b"> ", seconds.as_bytes(), b" ", zone.as_bytes()].concat()
    }

    /// Name and address, lossily decoded.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Identity { name: text(&self.name), email: text(&self.email) }
    }

    pub(super) fn is_utf8(&self) -> bool {
        std::str::from_utf8(&self.name).is_ok() && std::str::from_utf8(&self.email).is_ok()
    }
}

/// Parses `seconds SP zone`.
pub(super) fn time(text: &[u8]) -> Result<(String, String), SignableError> {
    let text = std::str::from_utf8(text).map_err(|_| SignableError::Person)?;
    let (seconds, zone) = text.split_once(' ').ok_or(SignableError::Person)?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A leading zero is a second way to write a number: git fsck calls it zeroPaddedDate.
    let number =
        digits(seconds) && seconds.len() <= MAX_DIGITS && (seconds == "0" || !seconds.starts_with('0'));
    let offset = zone.strip_prefix(['+', '-']).is_some_and(|zone| zone.len() == 4 && digits(zone));
    if number && offset { Ok((seconds.to_owned(), zone.to_owned())) } else { Err(SignableError::Person) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_read_and_written_back() {
        for text in ["Ada L <ada@example.org> 1700000000 +0100", " <> 0 -0000", "A <a b@c> 1 +9999"] {
            let person = Person::parse(text.as_bytes()).expect(text);
            assert_eq!(person.encode(), text.as_bytes());
        }
    }

    #[test]
    fn what_git_would_not_write_is_refused() {
        for bad in [
            "",
            "Ada",
            "Ada <ada@example.org>",
            "Ada<ada@example.org> 1 +0000",
            "Ada <ada@example.org> 1",
            "Ada <ada@example.org> 01 +0000",
            "Ada <ada@example.org> -1 +0000",
            "Ada <ada@example.org> 1 0000",
            "Ada <ada@example.org> 1 +00000",
            "Ada <ada@example.org>  1 +0000",
            "Ada <ada@example.org> 1 +0000 ",
            "Eve <eve@x> 1 +0000> <ada@example.org> 1 +0000",
            "Ada > <ada@example.org> 1 +0000",
            "Ada  <ada@example.org> 1 +0000",
            " Ada <ada@example.org> 1 +0000",
            "Ada <ada@example.org> 99999999999999999999 +0000",
        ] {
            assert_eq!(Person::parse(bad.as_bytes()), Err(SignableError::Person), "{bad}");
        }
    }
}
