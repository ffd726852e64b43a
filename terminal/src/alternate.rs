//! What is on the alternate screen while the agent has it: there is only one, and a question is drawn on it.

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::row::Size;

/// A copy of the alternate screen, from the moment at which the agent switched to it.
pub(crate) struct AlternateScreen {
    model: vt100::Parser,
}

impl AlternateScreen {
    pub(crate) fn new(size: Size) -> Self {
        let (rows, columns) = counts(size);
        Self { model: vt100::Parser::new(rows, columns, 0) }
    }

    /// Takes what was let through to the terminal. None when the model cannot follow: nothing is redrawn then.
    pub(crate) fn follow(mut self: Box<Self>, bytes: &[u8]) -> Option<Box<Self>> {
        // The bytes are the sandbox's: a fault in the model costs the copy, not the relay.
        catch_unwind(AssertUnwindSafe(move || {
            self.model.process(bytes);
            self
        }))
        .ok()
    }

    /// Takes the terminal's new size.
    pub(crate) fn resize(&mut self, size: Size) {
        let (rows, columns) = counts(size);
        if self.model.screen().size() != (rows, columns) {
            self.model.set_size(rows, columns);
        }
    }

    /// What draws it again, on a terminal without margins that wraps.
    pub(crate) fn contents(&self) -> String {
        self.model.screen().contents_formatted()
    }

    /// The sequence that puts the cursor where it was.
    pub(crate) fn cursor(&self, top_of_region: u16) -> String {
        let (row, column) = self.model.screen().cursor_position();
        format!("\x1b[{};{}H", (row + 1).saturating_sub(top_of_region).max(1), column + 1)
    }
}

fn counts(size: Size) -> (NonZeroU16, NonZeroU16) {
    let count = |number: u16| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN);
    (count(size.rows), count(size.columns))
}
