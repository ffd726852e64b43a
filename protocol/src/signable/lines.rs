//! Headers: `name SP value LF`, up to an empty line. A value may go on over lines that start with a space.

use super::SignableError;
use crate::{ObjectFormat, ObjectId};

/// A header of any name, with all its lines.
pub(super) struct AnyHeader<'b> {
    pub(super) name: &'b [u8],
    pub(super) value: Vec<u8>,
}

/// A reader of headers, which hands over what follows them.
pub(super) struct Lines<'b> {
    rest: &'b [u8],
}

impl<'b> Lines<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next header's value, if it has this name. It is text without control characters.
    pub(super) fn header(&mut self, name: &str) -> Result<Option<&'b [u8]>, SignableError> {
        let Some((line, rest)) = self.line() else { return Ok(None) };
        let Some(value) = line.strip_prefix(name.as_bytes()).and_then(|value| value.strip_prefix(b" "))
        else {
            return Ok(None);
        };
        plain(value)?;
        self.rest = rest;
        Ok(Some(value))
    }

    /// The next header's name and value, whatever it is called, with the lines that it goes on over.
    pub(super) fn any_header(&mut self) -> Result<Option<AnyHeader<'b>>, SignableError> {
        let Some((line, rest)) = self.line().filter(|(line, _)| !line.is_empty()) else { return Ok(None) };
        let space = line.iter().position(|byte| *byte == b' ').ok_or(SignableError::UnknownHeader)?;
        let mut value = line[space + 1..].to_vec();
        self.rest = rest;
        while let Some((line, rest)) = self.line()
            && let Some(more) = line.strip_prefix(b" ")
        {
            value.push(b'\n');
            value.extend_from_slice(more);
            self.rest = rest;
        }
        value.split(|byte| *byte == b'\n').try_for_each(plain)?;
        Ok(Some(AnyHeader { name: &line[..space], value }))
    }

    /// What follows the empty line that ends the headers.
    pub(super) fn body(self) -> Option<&'b [u8]> {
        self.rest.strip_prefix(b"\n")
    }

    fn line(&self) -> Option<(&'b [u8], &'b [u8])> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        Some((&self.rest[..end], &self.rest[end + 1..]))
    }
}

/// Refuses what could hide or command in a header. Bytes above ASCII belong to an encoding.
fn plain(value: &[u8]) -> Result<(), SignableError> {
    let control = |byte: &u8| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f;
    if value.iter().any(control) { Err(SignableError::Control) } else { Ok(()) }
}

/// Object names that must all be of one format.
#[derive(Default)]
pub(super) struct Names {
    format: Option<ObjectFormat>,
}

impl Names {
    pub(super) fn parse(&mut self, value: &[u8]) -> Result<ObjectId, SignableError> {
        let text = std::str::from_utf8(value).map_err(|_| SignableError::ObjectName)?;
        let oid = ObjectId::parse(text).map_err(|_| SignableError::ObjectName)?;
        if *self.format.get_or_insert(oid.format()) == oid.format() {
            Ok(oid)
        } else {
            Err(SignableError::ObjectName)
        }
    }
}

/// Writes `name SP value LF`, going on with a space where the value has several lines.
pub(super) fn write(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    for (number, line) in value.split(|byte| *byte == b'\n').enumerate() {
        if number > 0 {
            to.push(b'\n');
        }
        to.push(b' ');
        to.extend_from_slice(line);
    }
    to.push(b'\n');
}
