//! Speaking with a child, with patience that ends: for the whole, for each step of request and answer, and when nobody waits.

use std::io::{self, PipeReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::ChildError;

/// Longest pause within a request that is being read, or an answer that has begun: both are moved from memory.
const STALL: Duration = Duration::from_secs(20);
/// Longest time between the end of an answer and the end of the child.
const LEAVE: Duration = Duration::from_secs(10);
/// Most bytes of standard error that are kept.
const MAX_SAID: usize = 2 * 1024;
/// Most reads of standard error in a row: a child that never stops writing it does not keep the clock from being looked at.
const MAX_READS: usize = 16;
/// One read.
const CHUNK: usize = 64 * 1024;

/// A conversation.
pub(crate) struct Talk<'t> {
    socket: &'t UnixStream,
    errors: Option<&'t PipeReader>,
    cancelled: Option<BorrowedFd<'t>>,
    patience: Duration,
    deadline: Instant,
    said: Vec<u8>,
}

/// What [`Talk::wait`] saw.
struct Seen {
    readable: bool,
    writable: bool,
    other: bool,
}

impl<'t> Talk<'t> {
    pub(crate) fn new(
        socket: &'t UnixStream,
        errors: &'t PipeReader,
        cancelled: Option<BorrowedFd<'t>>,
        patience: Duration,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(errors, true)?;
        let deadline = Instant::now() + patience;
        Ok(Self { socket, errors: Some(errors), cancelled, patience, deadline, said: Vec::new() })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn speak(&mut self, request: &[u8], max_answer: usize) -> Result<Vec<u8>, ChildError> {
        let (mut left, mut answer) = (request, Vec::new());
        let mut chunk = vec![0; CHUNK];
        if left.is_empty() {
            self.socket.shutdown(Shutdown::Write)?;
        }
        loop {
            let stalls = match (left.is_empty(), answer.is_empty()) {
                (false, _) => Some("its request"),
                (true, false) => Some("its answer"),
                (true, true) => None,
            };
            let seen =
                self.wait(self.socket.as_fd(), !left.is_empty(), stalls.map(|during| (during, STALL)))?;
            if seen.writable && !left.is_empty() {
                left = self.send(left);
                if left.is_empty() {
                    // One that is gone already shows in its answer.
                    drop(self.socket.shutdown(Shutdown::Write));
                }
            }
            if seen.readable {
                match (&mut &*self.socket).read(&mut chunk) {
                    Ok(0) => return Ok(answer),
                    Ok(read) if answer.len() + read > max_answer => {
                        return Err(ChildError::TooLarge { limit: max_answer });
                    }
                    Ok(read) => answer.extend_from_slice(&chunk[..read]),
                    Err(error) if is_early(&error) => {}
                    // It ended with bytes of its request unread.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(answer),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// Sends what goes in; nothing is left where the child does not read any more: how it ended says why.
    fn send<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        match (&mut &*self.socket).write(bytes) {
            Ok(sent) => &bytes[sent..],
            Err(error) if is_early(&error) => bytes,
            Err(_) => &[],
        }
    }

    /// Waits until a child that has answered is gone.
    pub(crate) fn wait_for(&mut self, ended: &mut Ended) -> Result<ExitStatus, ChildError> {
        let pidfd = ended.pidfd()?;
        while !self.wait(pidfd.as_fd(), false, Some(("its end", LEAVE)))?.readable {}
        ended.kill();
        ended.status.ok_or(ChildError::Lost)
    }

    /// The first of what it wrote to standard error, as text on one line.
    pub(crate) fn said(&mut self) -> String {
        self.hear();
        let text = String::from_utf8_lossy(&self.said);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Waits for something to do with a descriptor; nothing seen is a signal or standard error.
    fn wait(
        &mut self,
        descriptor: BorrowedFd<'_>,
        write: bool,
        stall: Option<(&'static str, Duration)>,
    ) -> Result<Seen, ChildError> {
        let pause_ends = stall.map(|(_, pause)| Instant::now() + pause);
        loop {
            let until = pause_ends.map_or(self.deadline, |pause| pause.min(self.deadline));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(match stall {
                    Some((during, _)) if until < self.deadline => ChildError::Stalled { during },
                    _ => ChildError::TimedOut { patience: self.patience },
                });
            }
            let seen = self.look(descriptor, write, left)?;
            if seen.other {
                self.hear();
            }
            if seen.readable || seen.writable {
                return Ok(seen);
            }
        }
    }

    fn look(&self, descriptor: BorrowedFd<'_>, write: bool, left: Duration) -> Result<Seen, ChildError> {
        let wanted = if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut polled = vec![PollFd::from_borrowed_fd(descriptor, wanted)];
        polled.extend(self.cancelled.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty())));
        let cancelled = self.cancelled.map(|_| 1);
        polled.extend(self.errors.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let errors = self.errors.map(|_| polled.len() - 1);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {
                return Ok(Seen { readable: false, writable: false, other: false });
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let is_set = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
        if is_set(cancelled) {
            return Err(ChildError::Cancelled);
        }
        let main = polled[0].revents();
        Ok(Seen {
            readable: main.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            writable: main.contains(PollFlags::OUT),
            other: is_set(errors),
        })
    }

    /// Reads standard error: the first of it is kept, the rest is nobody's.
    fn hear(&mut self) {
        let mut chunk = [0; 4096];
        for _ in 0..MAX_READS {
            let Some(errors) = self.errors else { return };
            match (&mut &*errors).read(&mut chunk) {
                Err(error) if is_early(&error) => return,
                Ok(0) | Err(_) => self.errors = None,
                Ok(read) => {
                    let room = MAX_SAID.saturating_sub(self.said.len()).min(read);
                    self.said.extend_from_slice(&chunk[..room]);
                }
            }
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A child that is killed with all that it started, and reaped, whatever happens.
pub(crate) struct Ended {
    child: Child,
    status: Option<ExitStatus>,
}

impl Ended {
    pub(crate) const fn new(child: Child) -> Self {
        Self { child, status: None }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = self.pid().ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Kills its process group, then reaps it. Until it is reaped its number is nobody else's.
    pub(crate) fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Some(pid) = self.pid() {
            // Gone already is what is wanted.
            kill_process_group(pid, Signal::KILL).ok();
        }
        self.status = self.child.wait().ok();
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.kill();
    }
}
