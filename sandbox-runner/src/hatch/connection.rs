//! One connection: a caller's two pipes, joined to a socket of the session.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::{SpliceFlags, splice};

/// Most bytes moved at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// How often one direction is moved before others have their turn.
const TURNS: usize = 8;

/// What one direction waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For more bytes.
    Bytes,
    /// For room where they go.
    Room,
}

/// What became of one direction.
enum Moved {
    Waits(Waits),
    /// It has ended, at either end.
    Ended,
}

/// A connection, until both directions have ended or the caller is gone.
#[derive(Debug)]
pub(super) struct Connection {
    /// From the caller; none once it has ended.
    up: Option<(OwnedFd, Waits)>,
    /// To the caller.
    down: OwnedFd,
    downward: Waits,
    socket: OwnedFd,
}

/// Connects without waiting: a session that takes no more says so.
pub(super) fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

impl Connection {
    pub(super) const fn new(up: OwnedFd, down: OwnedFd, socket: OwnedFd) -> Self {
        Self { up: Some((up, Waits::Bytes)), down, downward: Waits::Bytes, socket }
    }

    /// What it waits for, in the order in which [`Connection::advance`] takes the answers.
    pub(super) fn watch<'c>(&'c self, watched: &mut Vec<PollFd<'c>>) {
        if let Some((up, Waits::Bytes)) = &self.up {
            watched.push(PollFd::new(up, PollFlags::IN));
        }
        // Whatever is asked of it, the kernel says when nobody reads it any more.
        let room = if self.downward == Waits::Room { PollFlags::OUT } else { PollFlags::empty() };
        watched.push(PollFd::new(&self.down, room));
        if let Some(events) = self.of_socket() {
            watched.push(PollFd::new(&self.socket, events));
        }
    }

    /// What is asked of the socket. None while nothing could be done with it: one that has ended is ready for ever.
    fn of_socket(&self) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::OUT, matches!(self.up, Some((_, Waits::Room))));
        events.set(PollFlags::IN, self.downward == Waits::Bytes);
        Some(events).filter(|events| !events.is_empty())
    }

    /// Moves what can be moved. False where nothing more will come.
    pub(super) fn advance(&mut self, answers: &mut impl Iterator<Item = PollFlags>) -> bool {
        const OVER: PollFlags = PollFlags::ERR.union(PollFlags::HUP);
        let has_socket = self.of_socket().is_some();
        let from_up = match self.up {
            Some((_, Waits::Bytes)) => answers.next(),
            _ => None,
        };
        let to_down = answers.next().unwrap_or(PollFlags::empty());
        let socket = if has_socket { answers.next() } else { None }.unwrap_or(PollFlags::empty());
        // Its caller is gone: a request that is held while a person thinks is withdrawn.
        if to_down.intersects(PollFlags::ERR) {
            return false;
        }
        let downward = match self.downward {
            Waits::Bytes => socket.intersects(PollFlags::IN | OVER),
            Waits::Room => to_down.intersects(PollFlags::OUT),
        };
        if let Some((up, waits)) = &mut self.up
            && from_up.map_or(socket.intersects(PollFlags::OUT | OVER), |answer| !answer.is_empty())
        {
            match pass(&*up, &self.socket, *waits) {
                Moved::Waits(now) => *waits = now,
                Moved::Ended => {
                    self.up = None;
                    // A session that is gone has nothing to be told.
                    rustix::net::shutdown(&self.socket, Shutdown::Write).ok();
                }
            }
        }
        if downward {
            match pass(&self.socket, &self.down, self.downward) {
                Moved::Waits(now) => self.downward = now,
                Moved::Ended => return false,
            }
        }
        true
    }
}

fn pass(from: impl AsFd, to: impl AsFd, waits: Waits) -> Moved {
    for turn in 0..TURNS {
        match splice(&from, None, &to, None, CHUNK, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => return Moved::Ended,
            Ok(_) => {}
            Err(Errno::INTR) => {}
            // The kernel does not say of which end: it is the other one than what was waited for just now.
            Err(Errno::AGAIN) if turn == 0 && waits == Waits::Bytes => return Moved::Waits(Waits::Room),
            Err(Errno::AGAIN) => return Moved::Waits(Waits::Bytes),
            Err(_) => return Moved::Ended,
        }
    }
    Moved::Waits(Waits::Bytes)
}
