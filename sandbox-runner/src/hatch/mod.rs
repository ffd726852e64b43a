//! The hatch: the way from a command without any socket to its session, by named pipes.
//!
//! Comes in: lines on the door, which the command writes and which are believed in nothing, and the pipes that they name.
//! Goes out: connections to the session's own sockets and to no others. Pipes and not a descriptor that is inherited:
//! programs close those that they do not know (node and python do), and a path stays where it is.
//!
//! One thread of the process that watches over the command, outside of the command's Landlock domain. Nothing here waits
//! for the command but `poll(2)`: pipes are opened without waiting for their other end, looked at once they are open, and
//! bytes are moved by the kernel as far as both sides take them.

mod connection;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::message::hatch::{CALLS, Call, DOOR, MAX_LINE};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkfifoat, open, openat2, unlinkat};
use rustix::io::Errno;

use crate::error::{RunError, at};
use crate::ruleset::{Grant, May};
use connection::Connection;

/// Most connections at once: what the broker takes of one session. Further calls wait in the door.
const MAX_CONNECTIONS: usize = 64;
/// What one read of the door takes: two dozen calls.
const READ: usize = 512;

/// A hatch that was made and does not serve yet.
#[derive(Debug)]
pub struct Hatch {
    directory: PathBuf,
    /// Held open for writing too: it never seems to end because its last writer went.
    door: OwnedFd,
    calls: OwnedFd,
    sockets: PathBuf,
}

/// What was read of the door.
#[derive(Debug, Default)]
struct Lines {
    unfinished: Vec<u8>,
    calls: VecDeque<Call>,
}

impl Hatch {
    /// Makes the door and the directory of the callers' pipes in a directory that is not there yet. Calls will lead to the
    /// session's sockets in another one.
    ///
    /// # Errors
    /// When they cannot be made: what is there already is not taken over.
    pub fn prepare(directory: &Path, sockets: &Path) -> Result<Self, RunError> {
        let failed = |path: &Path| at("make the hatch", path.display().to_string());
        let (door, calls) = (directory.join(DOOR), directory.join(CALLS));
        for made in [directory, &calls] {
            fs::DirBuilder::new().mode(0o700).create(made).map_err(|error| failed(made)(error))?;
        }
        let own = Mode::RUSR | Mode::WUSR;
        mkfifoat(CWD, &door, own).map_err(|error| failed(&door)(error.into()))?;
        let door_flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let calls_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Self {
            door: open(&door, door_flags, Mode::empty()).map_err(|error| failed(&door)(error.into()))?,
            calls: open(&calls, calls_flags, Mode::empty()).map_err(|error| failed(&calls)(error.into()))?,
            directory: directory.to_owned(),
            sockets: sockets.to_owned(),
        })
    }

    /// Its directory, which the environment names.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the command may do with it: the door cannot be read, removed or replaced, and beside it only pipes are made.
    pub(crate) fn grants(&self) -> [Grant; 2] {
        [
            Grant { path: self.directory.join(DOOR), may: May::WriteExisting },
            Grant { path: self.directory.join(CALLS), may: May::Pipes },
        ]
    }

    /// Serves from a thread of its own, as long as this process lives.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn serve(self) -> Result<(), RunError> {
        let served = std::thread::Builder::new().name("hatch".into()).spawn(move || self.relay());
        served.map(drop).map_err(at("start", "the hatch"))
    }

    fn relay(&self) {
        let (mut lines, mut connections) = (Lines::default(), Vec::new());
        loop {
            while connections.len() < MAX_CONNECTIONS
                && let Some(call) = lines.calls.pop_front()
            {
                connections.extend(self.answer(&call));
            }
            // A full house does not listen: whoever calls meanwhile waits, and the door is as long as a pipe.
            let listens = lines.calls.is_empty();
            let mut watched = Vec::with_capacity(1 + 2 * connections.len());
            watched.push(PollFd::new(&self.door, if listens { PollFlags::IN } else { PollFlags::empty() }));
            connections.iter().for_each(|connection: &Connection| connection.watch(&mut watched));
            match poll(&mut watched, None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Out of memory, at most: whoever calls finds nobody at the door.
                Err(_) => return,
            }
            let answers: Vec<PollFlags> = watched.iter().map(PollFd::revents).collect();
            let mut answers = answers.into_iter();
            if answers.next().is_some_and(|answer| listens && answer.contains(PollFlags::IN)) {
                lines.read(&self.door);
            }
            connections.retain_mut(|connection| connection.advance(&mut answers));
        }
    }

    /// Opens a caller's pipes, and says on one of them whether there is a connection. None where there is none.
    fn answer(&self, call: &Call) -> Option<Connection> {
        let up = self.pipe(&call.up(), OFlags::RDONLY);
        // Without a reader it does not open: a caller that did not open its own end is gone, or never was.
        let down = self.pipe(&call.down(), OFlags::WRONLY);
        for name in [call.up(), call.down()] {
            // It is the caller's, who may have removed it.
            unlinkat(&self.calls, &name, AtFlags::empty()).ok();
        }
        let (up, down) = (up.ok()?, down.ok()?);
        let socket = connection::connect(&self.sockets.join(call.socket.socket()));
        let answer = socket.as_ref().map_or_else(|error| error.raw_os_error(), |_| 0);
        let answer = u8::try_from(answer).unwrap_or(u8::MAX);
        match rustix::io::write(&down, &[answer]) {
            Ok(1) => Some(Connection::new(up, down, socket.ok()?)),
            // The caller is gone, or filled its own pipe.
            _ => None,
        }
    }

    /// Opens a pipe of the callers' directory. The descriptor is looked at, not the name: what has the name may be a link, a
    /// file or another one by now.
    fn pipe(&self, name: &str, access: OFlags) -> io::Result<OwnedFd> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let pipe = openat2(&self.calls, name, flags, Mode::empty(), resolve)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&pipe)?.st_mode);
        if kind == rustix::fs::FileType::Fifo { Ok(pipe) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

impl Lines {
    /// Takes what is there. A line that is too long is no call whatever follows.
    fn read(&mut self, door: impl AsFd) {
        let mut buffer = [0; READ];
        let Ok(read) = rustix::io::read(door, &mut buffer) else { return };
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                self.calls.extend(Call::parse(&self.unfinished));
                self.unfinished.clear();
            } else if self.unfinished.len() <= MAX_LINE {
                self.unfinished.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests;
