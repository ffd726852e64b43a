//! pkt-lines, gitprotocol-common(5): four hexadecimal digits of length, then the payload.
//!
//! Pure functions on slices, and one that takes a packet off a stream; nothing is allocated before the length is checked.

use std::io::{self, Read};

use thiserror::Error;

/// Most payload bytes of one packet: git's LARGE_PACKET_MAX without its header.
pub const MAX_DATA: usize = 65_516;

/// The bytes are not a pkt-line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("malformed pkt-line")]
pub struct PktLineError;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0000`.
    Flush,
    /// `0001`.
    Delimiter,
    /// `0002`.
    ResponseEnd,
    /// A payload.
    Data(&'a [u8]),
}

/// Reads packets from the front of a slice.
#[derive(Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
    read: usize,
}

impl<'a> Packets<'a> {
    /// Starts at the front.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, read: 0 }
    }

    /// How many bytes the packets so far had, headers included.
    #[must_use]
    pub const fn read(&self) -> usize {
        self.read
    }

    /// What was not read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next packet; none when the slice ends before it does.
    ///
    /// # Errors
    /// When the header is not a legal length.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'a>>, PktLineError> {
        let Some(header) = self.rest.get(..4) else { return Ok(None) };
        let length = announced(header)?;
        let (taken, packet) = match length {
            0 => (4, Packet::Flush),
            1 => (4, Packet::Delimiter),
            2 => (4, Packet::ResponseEnd),
            _ => match self.rest.get(4..length) {
                Some(data) => (length, Packet::Data(data)),
                None => return Ok(None),
            },
        };
        self.rest = &self.rest[taken..];
        self.read += taken;
        Ok(Some(packet))
    }
}

/// The length that a packet's first four bytes announce, themselves included; 0, 1 and 2 are the special packets.
///
/// # Errors
/// When they are not a legal length.
pub fn announced(header: &[u8]) -> Result<usize, PktLineError> {
    // Checked by hand: from_str_radix would take a sign.
    if header.len() != 4 || !header.iter().all(u8::is_ascii_hexdigit) {
        return Err(PktLineError);
    }
    let digits = std::str::from_utf8(header).map_err(|_| PktLineError)?;
    match usize::from_str_radix(digits, 16) {
        Ok(3) | Err(_) => Err(PktLineError),
        Ok(length) => Ok(length),
    }
}

/// Takes one packet off a stream, header and all; empty at the stream's end.
///
/// # Errors
/// When the stream breaks, ends within the packet, or has something else on it.
pub fn read_raw(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = Vec::with_capacity(4);
    from.by_ref().take(4).read_to_end(&mut packet)?;
    if packet.is_empty() {
        return Ok(packet);
    }
    let bad = || io::Error::new(io::ErrorKind::InvalidData, PktLineError);
    let digits = std::str::from_utf8(&packet).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let length = digits.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or_else(bad)?;
    if packet.len() < 4 || length == 3 {
        return Err(bad());
    }
    let wanted = length.saturating_sub(4);
    from.by_ref().take(wanted as u64).read_to_end(&mut packet)?;
    if packet.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(packet) }
}

/// Appends one packet. Longer data is split by the caller: see [`MAX_DATA`].
pub fn write(to: &mut Vec<u8>, data: &[u8]) {
    debug_assert!(data.len() <= MAX_DATA, "a packet's payload is bounded");
    to.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    to.extend_from_slice(data);
}

/// Appends data on a side band, split into packets. Band 1 is the report, band 2 is text for people.
pub fn write_band(to: &mut Vec<u8>, band: u8, data: &[u8]) {
    for part in data.chunks(MAX_DATA - 1) {
        to.extend_from_slice(format!("{:04x}", part.len() + 5).as_bytes());
        to.push(band);
        to.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"hello\n");
        bytes.extend_from_slice(b"00000001rest");
        let mut packets = Packets::new(&bytes);
        assert_eq!(packets.next_packet(), Ok(Some(Packet::Data(b"hello\n"))));
        assert_eq!(packets.next_packet(), Ok(Some(Packet::Flush)));
        assert_eq!(packets.next_packet(), Ok(Some(Packet::Delimiter)));
        assert_eq!(packets.rest(), b"rest");
        assert_eq!(packets.next_packet(), Err(PktLineError));
        assert_eq!(Packets::new(b"0003").next_packet(), Err(PktLineError));
        assert_eq!(Packets::new(b"+00a").next_packet(), Err(PktLineError));
        assert_eq!(Packets::new(b"000ahal").next_packet(), Ok(None));
    }

    #[test]
    fn packets_are_taken_off_a_stream_whole_and_nothing_else_is() {
        let mut stream: &[u8] = b"000ahello\n0000";
        assert_eq!(read_raw(&mut stream).expect("a packet"), b"000ahello\n");
        assert_eq!(read_raw(&mut stream).expect("a flush"), b"0000");
        assert_eq!(read_raw(&mut stream).expect("the end"), b"");
        for mut bad in [&b"0003"[..], b"+00a", b"000ahal", b"00", b"wxyz"] {
            assert!(read_raw(&mut bad).is_err(), "{bad:?}");
        }
    }
}
