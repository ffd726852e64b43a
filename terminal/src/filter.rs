//! What of a command's output reaches the user's terminal: text, colours, cursor; nothing that reaches past the screen.
//!
//! Comes in: bytes of the sandbox, hostile. Goes out: characters and sequences that the table names, written anew from what
//! the parser read of them: no byte of a sequence is passed on as it came, so none can mean something else to a terminal that
//! reads another encoding. A parser of terminal emulators' own decides where a sequence ends.

use std::io::Write as _;

use vte::{Params, Parser, Perform};

use crate::state::{AgentState, Control, mode_passes};
use crate::table;

/// The longest sequence that is kept, in bytes: a title or a link. One that goes on is dropped, wherever it ends.
const MAX_SEQUENCE: usize = 4096;

/// What a terminal of the user's gets of the command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// What stays on the screen.
    Screen,
    /// Every byte: the policy says so, or it is no terminal.
    Everything,
}

/// Lets output through, and knows what it did to the terminal.
pub struct EscapeFilter {
    parser: Parser,
    sieve: Sieve,
    passes: Passes,
    /// Bytes since the parser last had something whole.
    held: usize,
    /// Whether a string is skipped, until where any sequence can end.
    skipping: bool,
}

impl EscapeFilter {
    /// Makes one for a fresh terminal.
    #[must_use]
    pub fn new(passes: Passes) -> Self {
        let mut sieve = Sieve::default();
        sieve.state.passes_everything = passes == Passes::Everything;
        Self { parser: Parser::new(), sieve, passes, held: 0, skipping: false }
    }

    /// Appends what may be shown of the bytes. A sequence may come in any pieces: it is passed on when it is whole.
    pub fn pass(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        for byte in bytes {
            self.take(*byte);
        }
        self.sieve.state.follow();
        match self.passes {
            Passes::Screen => to.append(&mut self.sieve.shown),
            Passes::Everything => {
                self.sieve.shown.clear();
                to.extend_from_slice(bytes);
            }
        }
    }

    /// What the agent did to the terminal so far.
    pub fn state(&mut self) -> &mut AgentState {
        &mut self.sieve.state
    }

    fn take(&mut self, byte: u8) {
        if self.skipping {
            // The parser would keep all of it: it starts anew where any sequence can end.
            if !matches!(byte, 0x07 | 0x18 | 0x1a | 0x1b) {
                return;
            }
            self.skipping = false;
            if byte == 0x07 {
                return;
            }
        }
        self.sieve.is_whole = false;
        self.parser.advance(&mut self.sieve, &[byte]);
        self.held = if self.sieve.is_whole { 0 } else { self.held + 1 };
        if self.held > MAX_SEQUENCE || std::mem::take(&mut self.sieve.names_window) {
            self.parser = Parser::new();
            (self.held, self.skipping) = (0, true);
        }
    }
}

/// Judges each sequence when the parser has all of it.
#[derive(Default)]
struct Sieve {
    /// What may be written.
    shown: Vec<u8>,
    state: AgentState,
    /// Whether the last byte ended something.
    is_whole: bool,
    /// Whether a window's name follows, as screen and tmux take one: a string that the parser does not know.
    names_window: bool,
}

impl Sieve {
    /// Sets and resets, of which each mode is judged by itself.
    fn modes(&mut self, params: &Params, intermediates: &[u8], last: u8) {
        let is_private = match intermediates {
            [] => false,
            [b'?'] => true,
            _ => return,
        };
        let prefix = if is_private { "?" } else { "" };
        for param in params.iter() {
            if let [mode] = *param
                && mode_passes(is_private, mode)
            {
                // Writing to memory cannot fail.
                let _infallible = write!(self.shown, "\x1b[{prefix}{mode}{}", char::from(last));
                self.state.mode(is_private, mode, last == b'h');
            }
        }
    }
}

impl Perform for Sieve {
    fn print(&mut self, character: char) {
        self.is_whole = true;
        // C1 controls, written as characters: some terminals obey them.
        if !character.is_control() {
            self.shown.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            self.state.printed(character);
        }
    }

    fn execute(&mut self, byte: u8) {
        self.is_whole = true;
        // ENQ asks for the answerback message, which lands where keys do.
        if matches!(byte, 0x07..=0x0f) {
            self.shown.push(byte);
            self.state.executed(byte);
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], bell_terminated: bool) {
        self.is_whole = true;
        if !table::command_passes(params) {
            return;
        }
        self.shown.extend_from_slice(b"\x1b]");
        self.shown.extend_from_slice(&params.join(&b';'));
        // The end (ESC \) that is still to come is dropped there.
        self.shown.extend_from_slice(if bell_terminated { b"\x07" } else { b"\x1b\\" });
        self.state.commanded(params);
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.is_whole = true;
        let Ok(last) = u8::try_from(action) else { return };
        if ignore {
            return;
        }
        if matches!(last, b'h' | b'l') {
            return self.modes(params, intermediates, last);
        }
        let first = params.iter().next().and_then(|param| param.first()).copied().unwrap_or(0);
        if table::control_passes(intermediates, first, last) {
            let start = self.shown.len();
            write_control(&mut self.shown, params, intermediates, last);
            let (state, shown) = (&mut self.state, &self.shown);
            state.controlled(Control { intermediates, params, last }, &shown[start..]);
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.is_whole = true;
        self.names_window = intermediates.is_empty() && byte == b'k';
        if !ignore && table::escape_passes(intermediates, byte) {
            self.shown.push(0x1b);
            self.shown.extend_from_slice(intermediates);
            self.shown.push(byte);
            self.state.escaped(intermediates, byte);
        }
    }

    fn hook(&mut self, _: &Params, _: &[u8], _: bool, _: char) {
        self.is_whole = true;
    }

    fn put(&mut self, _: u8) {
        self.is_whole = true;
    }

    fn unhook(&mut self) {
        self.is_whole = true;
    }
}

/// Writes a control sequence from its parts. A missing parameter is 0, which means the same.
fn write_control(to: &mut Vec<u8>, params: &Params, intermediates: &[u8], last: u8) {
    let is_prefix = |byte: &&u8| (b'<'..=b'?').contains(*byte);
    to.extend_from_slice(b"\x1b[");
    to.extend(intermediates.iter().filter(is_prefix));
    let has_none = params.len() == 1 && params.iter().next() == Some(&[0]);
    if !has_none {
        for (at, param) in params.iter().enumerate() {
            if at > 0 {
                to.push(b';');
            }
            for (at, value) in param.iter().enumerate() {
                if at > 0 {
                    to.push(b':');
                }
                // Writing to memory cannot fail.
                let _infallible = write!(to, "{value}");
            }
        }
    }
    to.extend(intermediates.iter().filter(|byte| !is_prefix(byte)));
    to.push(last);
}
