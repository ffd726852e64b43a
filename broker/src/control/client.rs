//! The commands' end of the control socket: blocking, one request a connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyhatch_cage::ChildError;
use keyhatch_protocol::frame::{self, FrameError, MAX_CONTROL_FRAME};
use thiserror::Error;

use super::{Envelope, Reply, Request, VERSION};
use crate::paths::Paths;
use crate::sys;

/// How long a new broker may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often a starting broker is asked.
const START_POLL: Duration = Duration::from_millis(5);

/// The broker could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No broker runs, or its socket is out of reach.
    #[error("no broker is running")]
    NotRunning(#[source] io::Error),
    /// The proof cannot be read.
    #[error("cannot read the control token")]
    Token(#[source] io::Error),
    /// The broker could not be started.
    #[error("cannot start the broker; its log is {log}")]
    Start {
        /// Where it writes.
        log: String,
        /// Why, where it is known.
        #[source]
        source: io::Error,
    },
    /// A program of ours is missing that the broker starts.
    #[error("cannot start the broker")]
    Incomplete(#[from] ChildError),
    /// The conversation broke.
    #[error("the broker did not answer as expected")]
    Frame(#[from] FrameError),
    /// The broker said no.
    #[error("{message}")]
    Failed {
        /// What failed.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// A connection to the broker.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    token: String,
}

impl Client {
    /// Connects to the running broker.
    ///
    /// # Errors
    /// When none runs, or the proof cannot be read.
    pub fn connect(paths: &Paths) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(paths.control_socket()).map_err(ClientError::NotRunning)?;
        let token = std::fs::read_to_string(paths.control_token()).map_err(ClientError::Token)?;
        Ok(Self { stream, token })
    }

    /// Connects, starting a broker where none runs. Two commands that start one at once both find the one that won.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn connect_or_start(paths: &Paths) -> Result<Self, ClientError> {
        match Self::connect(paths) {
            Err(ClientError::NotRunning(_)) => start(paths),
            answer => answer,
        }
    }

    /// Sends the request and reads the reply; a failure is an error.
    ///
    /// # Errors
    /// When the conversation breaks, or the broker says no.
    pub fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.reply()
    }

    /// Sends the request alone.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let envelope = Envelope { version: VERSION, token: self.token.clone(), request };
        Ok(frame::write(&mut self.stream, &envelope, MAX_CONTROL_FRAME)?)
    }

    /// Sends descriptors with one byte.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_descriptors(&mut self, descriptors: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        sys::send_descriptors(self.stream.as_fd(), descriptors).map_err(|e| FrameError::Io(e).into())
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// When the conversation breaks, or the broker says no.
    pub fn reply(&mut self) -> Result<Reply, ClientError> {
        match frame::read(&mut self.stream, MAX_CONTROL_FRAME)? {
            Reply::Failed { message, hint } => Err(ClientError::Failed { message, hint }),
            reply => Ok(reply),
        }
    }
}

fn start(paths: &Paths) -> Result<Client, ClientError> {
    // Said here, where somebody reads it, and not in the log of a broker that ends at once.
    keyhatch_inspection::open_inspector()?;
    let failed = |source| ClientError::Start { log: paths.log().display().to_string(), source };
    let log = std::fs::OpenOptions::new().append(true).create(true).open(paths.log()).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut broker = Command::new(program);
    broker.args(["broker", "--detached"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    if rustix::process::getuid().is_root() {
        // The command was let through with this flag, or it would not be here.
        broker.arg("--as-root");
    }
    broker.current_dir("/").process_group(0);
    let mut broker = broker.spawn().map_err(failed)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match Client::connect(paths) {
            Err(ClientError::NotRunning(source)) => {
                // Exit 0 is the loser of a race: the winner's socket is about to be there.
                let over = broker.try_wait().map_err(failed)?.is_some_and(|status| !status.success());
                if over || Instant::now() > deadline {
                    return Err(failed(source));
                }
                std::thread::sleep(START_POLL);
            }
            answer => return answer,
        }
    }
}
