//! A call through the session's hatch, in a sandbox without sockets: two named pipes in place of one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::message::hatch::{CALLS, Call, Called, DOOR, NAME_LENGTH};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, mkfifoat, open};
use rustix::io::Errno;

/// How long a call waits to be answered: where all connections are in use, until one ends.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A connection through the hatch.
#[derive(Debug)]
pub(crate) struct Pipes {
    down: File,
    /// None once nothing more is written.
    up: Mutex<Option<File>>,
}

/// Calls one of the session's sockets.
pub(crate) fn call(hatch: &Path, socket: Called) -> io::Result<Pipes> {
    let mut random = [0; NAME_LENGTH];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let call = Call::new(socket, random);
    let calls = hatch.join(CALLS);
    let (up, down) = (calls.join(call.up()), calls.join(call.down()));
    let connected = connect(&hatch.join(DOOR), &call, (&up, &down));
    if connected.is_err() {
        // Whoever answered has removed them already.
        drop((std::fs::remove_file(up), std::fs::remove_file(down)));
    }
    Ok(connected?)
}

fn connect(door: &Path, call: &Call, (up, down): (&Path, &Path)) -> Result<Pipes, Errno> {
    let own =
        |path: &Path, access: OFlags| open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    // Nobody reads it where the session has ended, which ENXIO says.
    let door = own(door, OFlags::WRONLY).map_err(|error| match error {
        Errno::NXIO => Errno::CONNREFUSED,
        other => other,
    })?;
    for path in [up, down] {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
    }
    let down = own(down, OFlags::RDONLY)?;
    // A pipe without a reader cannot be opened for writing without waiting: this one goes when there is another.
    let reader = own(up, OFlags::RDONLY)?;
    let up = own(up, OFlags::WRONLY)?;
    let line = call.line();
    // It is written whole or not at all.
    while let Err(error) = rustix::io::write(&door, line.as_bytes()) {
        match error {
            Errno::AGAIN => wait(&door, PollFlags::OUT, None)?,
            other => return Err(other),
        }
    }
    wait(&down, PollFlags::IN, Some(&door))?;
    let mut answer = [0];
    match rustix::io::read(&down, &mut answer)? {
        1 if answer == [0] => {}
        1 => return Err(Errno::from_raw_os_error(answer[0].into())),
        _ => return Err(Errno::CONNRESET),
    }
    drop(reader);
    let blocking = |end: OwnedFd| fcntl_setfl(&end, OFlags::empty()).map(|()| File::from(end));
    Ok(Pipes { down: blocking(down)?, up: Mutex::new(Some(blocking(up)?)) })
}

/// Waits for one end, and no longer than the other side is at the door.
fn wait(end: &OwnedFd, event: PollFlags, door: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut watched = vec![PollFd::new(end, event)];
    watched.extend(door.map(|door| PollFd::new(door, PollFlags::empty())));
    loop {
        match poll(&mut watched, Some(&PATIENCE)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) if !watched[0].revents().is_empty() => return Ok(()),
            Ok(_) => return Err(Errno::CONNREFUSED),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

impl Pipes {
    /// Says that nothing more will be written.
    pub(crate) fn end_writing(&self) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Read for &Pipes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.down).read(buffer)
    }
}

impl Write for &Pipes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.up.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(up) => up.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
