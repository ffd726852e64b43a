//! The helper's end of `broker.sock`: one request a connection.

use std::io::{self, Write};

use keyhatch_protocol::frame::{self, FrameError, MAX_SESSION_FRAME};
use keyhatch_protocol::message::{SOCKET_NAME, SessionReply, SessionRequest};
use keyhatch_protocol::stream::{self, Channel};
use thiserror::Error;

use crate::sockets::{self, Connection, Unreachable};

/// The broker could not be asked.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// There is no session here, or its broker is gone.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The conversation broke.
    #[error("the broker did not answer as expected")]
    Frame(#[from] FrameError),
    /// The broker answered another question.
    #[error("the broker answered something else")]
    Unexpected,
    /// The broker said no, and why, in a message that was printed.
    #[error("refused")]
    Said,
    /// The broker said no.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl AskError {
    /// Says what failed on standard error, and what to do.
    pub(crate) fn say(&self) {
        if matches!(self, Self::Said) {
            return;
        }
        eprintln!("keyhatch: {self}");
        if let Self::Unreachable(unreachable) = self {
            eprintln!("hint: {}", unreachable.hint());
        }
    }
}

/// A connection on which one request was sent.
pub(crate) struct Asked {
    stream: Connection,
}

impl Asked {
    /// Sends a request, with what follows it on the wire.
    pub(crate) fn send(request: &SessionRequest, then: &[u8]) -> Result<Self, AskError> {
        let mut stream = sockets::connect(SOCKET_NAME)?;
        let mut bytes = frame::encode(request, MAX_SESSION_FRAME)?;
        bytes.extend_from_slice(then);
        // A broker that refuses early closes before it has read everything; its reply is there all the same.
        if let Err(error) = stream.write_all(&bytes)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(FrameError::Io(error).into());
        }
        Ok(Self { stream })
    }

    /// Reads the reply.
    pub(crate) fn reply(&mut self) -> Result<SessionReply, AskError> {
        match frame::read(&mut self.stream, MAX_SESSION_FRAME)? {
            SessionReply::Refused { reason } => Err(AskError::Refused { reason }),
            reply => Ok(reply),
        }
    }

    /// Reads an answer that is a stream: prints its messages on standard error as they come, and returns its data.
    ///
    /// # Errors
    /// When the broker refused, with or without a stream, or the conversation broke.
    pub(crate) fn answer(mut self) -> Result<Vec<u8>, AskError> {
        match self.reply()? {
            SessionReply::Answer {} => {}
            _ => return Err(AskError::Unexpected),
        }
        let mut data = Vec::new();
        loop {
            match stream::read(&mut self.stream)? {
                (Channel::Data, bytes) => data.extend(bytes),
                (Channel::Message, line) => eprintln!("{}", String::from_utf8_lossy(&line)),
                (Channel::Exit, code) if code == [0] => return Ok(data),
                (Channel::Exit, _) => return Err(AskError::Said),
            }
        }
    }
}
