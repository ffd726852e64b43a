//! Frames: a length (u32, big-endian), then that many bytes of JSON. See `ARCHITECTURE.md`, "the sockets".

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Largest frame that a session may send, in bytes: no message of ours comes near it.
pub const MAX_SESSION_FRAME: usize = 64 * 1024;

/// Largest frame on the control socket, in bytes: a shown request carries its diff.
pub const MAX_CONTROL_FRAME: usize = 8 * 1024 * 1024;

/// A frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The peer announced more than the limit; nothing was allocated.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// The limit in force.
        limit: usize,
    },
    /// A frame of a stream names a channel that does not exist.
    #[error("the message names an unknown channel")]
    Channel,
    /// The bytes are not a message of this version.
    #[error("the message is not of this protocol's version")]
    Decode(#[source] serde_json::Error),
    /// The socket failed.
    #[error("the socket closed")]
    Io(#[from] io::Error),
}

/// Encodes a message with its length.
///
/// # Errors
/// When the message is longer than `limit`.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message).map_err(FrameError::Decode)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= limit);
    let length = length.ok_or(FrameError::TooLong { limit })?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Checks the announced length of a frame.
///
/// # Errors
/// When it is over `limit`.
pub fn body_length(header: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > limit { Err(FrameError::TooLong { limit }) } else { Ok(length) }
}

/// Decodes the body of a frame.
///
/// # Errors
/// When it is not exactly one message of the expected type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Decode)
}

/// Writes one frame.
///
/// # Errors
/// When the message is too long or the socket fails.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T, limit: usize) -> Result<(), FrameError> {
    to.write_all(&encode(message, limit)?)?;
    Ok(to.flush()?)
}

/// Reads one frame.
///
/// # Errors
/// When it is too long, not a message, or the socket closes first.
pub fn read<T: DeserializeOwned>(from: &mut impl Read, limit: usize) -> Result<T, FrameError> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_length(header, limit)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_and_its_body() {
        let frame = encode(&"hi", 64).expect("encodes");
        assert_eq!(frame, b"\0\0\0\x04\"hi\"");
        let back: String = read(&mut frame.as_slice(), 64).expect("decodes");
        assert_eq!(back, "hi");
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_allocation() {
        let claim = [0xff, 0xff, 0xff, 0xff, b'x'];
        let answer = read::<String>(&mut claim.as_slice(), 64);
        assert!(matches!(answer, Err(FrameError::TooLong { limit: 64 })));
    }
}
