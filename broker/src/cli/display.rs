//! The user's terminal while a command runs: the command's output, or a question, never both.
//!
//! Whoever writes holds it. A question has it until it gives it back, so nothing of the command's gets between.

use std::io::{self, Stdout, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use keyhatch_policies::{Policy, TerminalAccess};
use keyhatch_terminal::{EscapeFilter, Passes, Row, Size, draw, give_back, put_aside};

/// What of the command's output the policy lets through.
pub(super) fn passes(policy: &Policy) -> Passes {
    match policy.sandbox().terminal {
        TerminalAccess::Screen => Passes::Screen,
        TerminalAccess::Everything => Passes::Everything,
    }
}

/// A writer that passes on what may be shown.
pub(super) struct Filtered<W> {
    to: W,
    filter: EscapeFilter,
    shown: Vec<u8>,
}

impl<W: Write> Filtered<W> {
    pub(super) fn new(to: W, passes: Passes) -> Self {
        Self { to, filter: EscapeFilter::new(passes), shown: Vec::new() }
    }
}

impl<W: Write> Write for Filtered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.filter.pass(bytes, &mut self.shown);
        self.to.write_all(&self.shown)?;
        self.shown.clear();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The size of the user's terminal; a usual one where it does not say.
pub(super) fn window() -> Size {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size { columns: size.ws_col, rows: size.ws_row },
        _ => Size::default(),
    }
}

/// Whether the relay may touch the user's terminal: a question takes it away for a while.
pub(super) struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    output: Mutex<Filtered<Stdout>>,
}

impl Gate {
    /// A terminal that nothing was written to yet.
    pub(super) fn new(passes: Passes) -> Self {
        let output = Mutex::new(Filtered::new(io::stdout(), passes));
        Self { shut: Mutex::new(false), opened: Condvar::new(), output }
    }

    /// Writes the command's output, when no question has the terminal.
    pub(super) fn show(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            self.wait();
            let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            // A question may have been about to have it.
            if *self.shut.lock().unwrap_or_else(PoisonError::into_inner) {
                continue;
            }
            output.filter.state().resize(window());
            output.write_all(bytes)?;
            return output.flush();
        }
    }

    /// Reads while it is open. Whoever shuts it waits for the read, so that no key of a question's gets to the command.
    pub(super) fn read_if_open(&self, read: impl FnOnce() -> io::Result<usize>) -> io::Result<Option<usize>> {
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        if *shut { Ok(None) } else { read().map(Some) }
    }

    /// Waits until no question has it.
    pub(super) fn wait(&self) {
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap_or_else(PoisonError::into_inner));
    }

    fn set_shut(&self, shut: bool) {
        *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = shut;
        self.opened.notify_all();
    }

    /// Takes the terminal for a question. It is given back when what is returned is dropped.
    ///
    /// # Errors
    /// When the terminal cannot be written to.
    pub(super) fn take(&self) -> io::Result<Taken<'_>> {
        self.set_shut(true);
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Taken { gate: self, output };
        let aside = put_aside(taken.output.filter.state());
        taken.write(&aside)?;
        Ok(taken)
    }
}

/// The terminal in a question's hands: reset, and nobody else writes to it or reads from it.
pub(super) struct Taken<'g> {
    gate: &'g Gate,
    output: MutexGuard<'g, Filtered<Stdout>>,
}

impl Taken<'_> {
    /// Draws a screen.
    pub(super) fn draw(&mut self, rows: &[Row], size: Size) -> io::Result<()> {
        self.write(&draw(rows, size))
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.output.to.write_all(text.as_bytes())?;
        self.output.to.flush()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let state = self.output.filter.state();
        state.resize(window());
        let back = give_back(state);
        if let Err(error) = self.write(&back) {
            tracing::debug!(%error, "the terminal is gone");
        }
        self.gate.set_shut(false);
    }
}
