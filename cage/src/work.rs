//! The child's side: a request comes in, one answer goes out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// No request could be had, or the answer not given.
#[derive(Debug, Error)]
pub enum WorkError {
    /// A system call failed.
    #[error("cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The parent is gone.
    #[error("whoever asked is gone")]
    ParentGone,
    /// The request is larger than it may be.
    #[error("the request is larger than {limit} bytes")]
    TooLarge {
        /// The bound in force.
        limit: u64,
    },
    /// The request or the answer does not fit its type.
    #[error("the message does not fit")]
    Message(#[from] serde_json::Error),
}

/// What a child was given.
#[derive(Debug)]
pub struct Work<Q> {
    /// What is asked: by the parent, which is trusted.
    pub request: Q,
    /// Descriptors, each open for reading alone.
    pub fds: Vec<OwnedFd>,
    socket: File,
}

impl<Q: DeserializeOwned> Work<Q> {
    /// Receives a request of at most so many bytes. The first call of a child's main: it closes what was inherited, and has the
    /// kernel kill this process with its parent.
    ///
    /// # Errors
    /// When there is no request, or nobody waits for its answer.
    pub fn receive(max_request: u64) -> Result<Self, WorkError> {
        let step = |step| move |source: io::Error| WorkError::Step { step, source };
        keyhatch_host::sys::close_inherited().map_err(step("close what was inherited"))?;
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| step("die with the parent")(error.into()))?;
        let socket = io::stdout().as_fd().try_clone_to_owned().map_err(step("keep the socket"))?;
        // What this process starts gets no way to the parent.
        let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        null.and_then(|null| rustix::stdio::dup2_stdout(&null))
            .map_err(|error| step("leave standard output")(error.into()))?;
        let fds =
            keyhatch_host::sys::receive_descriptors(socket.as_fd()).map_err(step("receive descriptors"))?;
        let socket = File::from(socket);
        let mut text = Vec::new();
        (&socket).take(max_request + 1).read_to_end(&mut text).map_err(step("read the request"))?;
        if text.len() as u64 > max_request {
            return Err(WorkError::TooLarge { limit: max_request });
        }
        if is_closed(&socket).map_err(step("look at the socket"))? {
            return Err(WorkError::ParentGone);
        }
        Ok(Self { request: serde_json::from_slice(&text)?, fds, socket })
    }
}

impl<Q> Work<Q> {
    /// Gives the answer.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn answer(self, answer: &impl Serialize) -> Result<(), WorkError> {
        let text = serde_json::to_vec(answer)?;
        let mut socket = self.socket;
        socket.write_all(&text).map_err(|source| WorkError::Step { step: "give the answer", source })
    }

    /// Takes the request out, to be answered later.
    pub fn split(self) -> (Q, Vec<OwnedFd>, Work<()>) {
        (self.request, self.fds, Work { request: (), fds: Vec::new(), socket: self.socket })
    }
}

/// Whether the other end is closed altogether, not only done with writing. A parent that died before its death was watched has
/// closed it.
fn is_closed(socket: &File) -> io::Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().contains(PollFlags::HUP))
}
