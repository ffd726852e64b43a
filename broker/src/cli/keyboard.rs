//! The person's keys while a question has the terminal: what counts as one, and when it may decide.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use keyhatch_terminal::{Key, KeyParser};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{QueueSelector, tcflush};

/// How long a question must have been seen, without anything typed or sent, before a key can decide.
const ARMING: Duration = Duration::from_millis(700);
/// How long a deciding key must stand alone: what comes in a burst was pasted or sent by the terminal.
const ALONE: i64 = 80_000_000;
/// How long one look for a key lasts. A sequence's bytes come together within it.
const LOOK: i64 = 100_000_000;

/// The keyboard in a question's hands.
pub(super) struct Keyboard {
    parser: KeyParser,
    bytes: VecDeque<u8>,
    quiet_since: Instant,
}

impl Keyboard {
    /// Takes it over. What was typed before is thrown away.
    pub(super) fn take() -> io::Result<Self> {
        tcflush(io::stdin(), QueueSelector::IFlush)?;
        Ok(Self { parser: KeyParser::default(), bytes: VecDeque::new(), quiet_since: Instant::now() })
    }

    /// Starts the wait anew: something else is on the screen.
    pub(super) fn disarm(&mut self) {
        self.quiet_since = Instant::now();
    }

    /// The next key, if one comes soon.
    pub(super) fn key(&mut self) -> io::Result<Option<Pressed>> {
        let armed = self.quiet_since.elapsed() >= ARMING && !self.parser.is_within();
        if self.bytes.is_empty() && !self.read(LOOK)? {
            return Ok(self.parser.pause().map(|key| Pressed { key, decides: false }));
        }
        self.quiet_since = Instant::now();
        while let Some(byte) = self.bytes.pop_front() {
            if let Some(key) = self.parser.take(byte) {
                let decides = armed && self.bytes.is_empty() && !self.read(ALONE)?;
                return Ok(Some(Pressed { key, decides }));
            }
        }
        Ok(None)
    }

    /// Gives it back. Nothing of a sequence that was begun reaches the command.
    pub(super) fn give_back(self) {
        if let Err(error) = tcflush(io::stdin(), QueueSelector::IFlush) {
            tracing::debug!(%error, "the terminal is gone");
        }
    }

    fn read(&mut self, nanoseconds: i64) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: nanoseconds })) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 1024];
        match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.bytes.extend(&buffer[..read]);
                Ok(true)
            }
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A key, and whether it may decide: it was pressed after the question had been seen in peace, and alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressed {
    pub(super) key: Key,
    pub(super) decides: bool,
}
