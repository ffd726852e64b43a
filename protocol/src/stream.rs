//! Streams on a session's `broker.sock`: what follows a request or a reply. A frame is a channel (1 byte), a length
//! (u32, big-endian), then that many bytes.

use std::io::{self, Read, Write};

use crate::frame::FrameError;

/// Largest frame of a stream, in bytes: longer data is several frames.
pub const MAX_CHUNK: usize = 64 * 1024;
/// Bytes before the data of a frame.
pub const HEADER: usize = 5;

/// What the bytes of a frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The bytes themselves. A frame without any says that all have come.
    Data,
    /// A line for the person at the other end.
    Message,
    /// One byte: how a program at the other end would have exited. Nothing follows.
    Exit,
}

impl Channel {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Message => 2,
            Self::Exit => 3,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Data),
            2 => Some(Self::Message),
            3 => Some(Self::Exit),
            _ => None,
        }
    }
}

/// Encodes one frame.
///
/// # Errors
/// When there are more bytes than a frame holds.
pub fn encode(channel: Channel, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_CHUNK);
    let length = length.ok_or(FrameError::TooLong { limit: MAX_CHUNK })?;
    let mut frame = Vec::with_capacity(HEADER + bytes.len());
    frame.push(channel.byte());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    Ok(frame)
}

/// Decodes what stands before the bytes of a frame.
///
/// # Errors
/// When the channel is unknown or the length is over the limit; nothing was allocated.
pub fn decode_header(header: [u8; HEADER]) -> Result<(Channel, usize), FrameError> {
    let [channel, length @ ..] = header;
    let channel = Channel::of(channel).ok_or(FrameError::Channel)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_CHUNK { Err(FrameError::TooLong { limit: MAX_CHUNK }) } else { Ok((channel, length)) }
}

/// Encodes data as frames, and the one that says that all have come.
#[must_use]
pub fn encode_data(bytes: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(bytes.len() + 2 * HEADER);
    for chunk in bytes.chunks(MAX_CHUNK).chain([&[][..]]) {
        // A chunk is never longer than a frame.
        frames.extend(encode(Channel::Data, chunk).unwrap_or_default());
    }
    frames
}

/// Writes data as frames, and the one that says that all have come.
///
/// # Errors
/// When the socket fails.
pub fn write_data(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&encode_data(bytes))
}

/// Reads one frame.
///
/// # Errors
/// When it is malformed, or the socket closes first.
pub fn read(from: &mut impl Read) -> Result<(Channel, Vec<u8>), FrameError> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    let (channel, length) = decode_header(header)?;
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok((channel, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_cut_into_frames_and_ends_with_an_empty_one() {
        let long = vec![7; MAX_CHUNK + 1];
        let mut wire = Vec::new();
        write_data(&mut wire, &long).expect("writes");
        let mut from = wire.as_slice();
        let mut back = Vec::new();
        loop {
            let (channel, bytes) = read(&mut from).expect("reads");
            assert_eq!(channel, Channel::Data);
            if bytes.is_empty() {
                break;
            }
            back.extend(bytes);
        }
        assert_eq!((back, from.len()), (long, 0));
    }

    #[test]
    fn an_unknown_channel_and_a_long_frame_are_refused_before_allocation() {
        assert!(matches!(decode_header([9, 0, 0, 0, 0]), Err(FrameError::Channel)));
        assert!(matches!(decode_header([1, 0xff, 0, 0, 0]), Err(FrameError::TooLong { .. })));
    }
}
