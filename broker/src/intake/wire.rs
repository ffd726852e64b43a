//! Frames on a session's socket, read by `recvmsg` without room for descriptors: where one was sent, the kernel drops
//! it and says so, and the connection ends.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use keyhatch_protocol::frame::{self, FrameError, MAX_SESSION_FRAME};
use keyhatch_protocol::message::SessionReply;
use keyhatch_protocol::stream::{self, Channel};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, recvmsg};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// A connection came to nothing.
#[derive(Debug, Error)]
pub(super) enum WireError {
    /// The bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors were sent along.
    #[error("this socket takes no file descriptors")]
    Descriptors,
    /// The request did not come in time.
    #[error("the request did not come in time")]
    Slow,
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

/// One connection.
pub(super) struct Wire {
    stream: UnixStream,
}

impl Wire {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Reads one message.
    pub(super) async fn request<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let mut header = [0; 4];
        self.read_exact(&mut header).await?;
        let mut body = vec![0; frame::body_length(header, MAX_SESSION_FRAME)?];
        self.read_exact(&mut body).await?;
        Ok(frame::decode(&body)?)
    }

    /// Sends one reply.
    pub(super) async fn reply(&mut self, reply: &SessionReply) -> Result<(), WireError> {
        let frame = frame::encode(reply, MAX_SESSION_FRAME)?;
        Ok(self.write(&frame).await?)
    }

    /// Reads a stream of data to its end, capped.
    pub(super) async fn data(&mut self, limit: usize) -> Result<Vec<u8>, WireError> {
        let mut data = Vec::new();
        loop {
            let mut header = [0; stream::HEADER];
            self.read_exact(&mut header).await?;
            let (channel, length) = stream::decode_header(header)?;
            if channel != Channel::Data {
                return Err(FrameError::Channel.into());
            }
            if length == 0 {
                return Ok(data);
            }
            if data.len() + length > limit {
                return Err(FrameError::TooLong { limit }.into());
            }
            let start = data.len();
            data.resize(start + length, 0);
            self.read_exact(&mut data[start..]).await?;
        }
    }

    /// Sends a line for the person at the other end; one that is gone is noticed by [`Wire::gone`].
    pub(super) async fn say(&self, line: &str) {
        let line = &line.as_bytes()[..line.len().min(stream::MAX_CHUNK)];
        if let Ok(frame) = stream::encode(Channel::Message, line)
            && let Err(error) = self.write(&frame).await
        {
            tracing::debug!(%error, "a client went away");
        }
    }

    /// Sends data, and success.
    pub(super) async fn finish(&self, data: &[u8]) -> Result<(), WireError> {
        let mut frames = stream::encode_data(data);
        frames.extend(stream::encode(Channel::Exit, &[0])?);
        Ok(self.write(&frames).await?)
    }

    /// Sends failure.
    pub(super) async fn fail(&self) -> Result<(), WireError> {
        Ok(self.write(&stream::encode(Channel::Exit, &[1])?).await?)
    }

    /// Waits until the other end closes, or says something when it has nothing to say.
    pub(super) async fn gone(&self) {
        let mut byte = [0];
        drop(self.stream.async_io(Interest::READABLE, || receive(&self.stream, &mut byte)).await);
    }

    /// The process at the other end, as this host numbers it.
    pub(super) fn peer(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says why a request was not taken, where the other end can still read it.
    pub(super) async fn refuse(&mut self, why: &WireError) -> Result<(), WireError> {
        match why {
            WireError::Frame(FrameError::Io(_)) | WireError::Slow => Ok(()),
            why => self.reply(&SessionReply::Refused { reason: why.to_string() }).await,
        }
    }

    async fn read_exact(&mut self, mut into: &mut [u8]) -> Result<(), WireError> {
        while !into.is_empty() {
            let read = self.stream.async_io(Interest::READABLE, || receive(&self.stream, into)).await?;
            let Some(bytes) = read else { return Err(WireError::Descriptors) };
            if bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            into = &mut into[bytes..];
        }
        Ok(())
    }
}

/// Reads some bytes; none where a descriptor came with them.
fn receive(stream: &UnixStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    let mut ancillary = RecvAncillaryBuffer::new(&mut []);
    let message =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(into)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok((!message.flags.contains(ReturnFlags::CTRUNC)).then_some(message.bytes))
}
