//! What of a command's output reaches the user's terminal: text, colours, cursor; nothing that reaches past the screen.
//!
//! Comes in: bytes of the sandbox, hostile. Goes out: the same bytes without the sequences that write the clipboard (OSC
//! 52), send notifications, print, move windows, ask for an answer that lands in the user's shell as if typed (title and
//! status reports, checksums of the screen), or speak to whatever sits behind the terminal (DCS, APC, PM, SOS). What is
//! not known to stay on the screen is dropped. A parser of terminal emulators' own decides where a sequence ends.

use std::io::{self, Write};

use keyhatch_policies::{Policy, TerminalAccess};
use vte::{Params, Parser, Perform};

/// The longest sequence that is kept, in bytes: a title or a link. One that goes on is dropped, wherever it ends.
const MAX_SEQUENCE: usize = 4096;

/// Operating system commands that stay on the screen: titles, colours and questions about them.
const COMMANDS: &[&[u8]] = &[b"0", b"1", b"2", b"4", b"10", b"11", b"12", b"104", b"110", b"111", b"112"];
/// Window operations that only answer in numbers, or keep a title: sizes (14, 16, 18, 19), title stack (22, 23).
const WINDOW: &[u16] = &[14, 16, 18, 19, 22, 23];
/// Where a hyperlink may lead. Other schemes start programs.
const LINKS: &[&[u8]] = &[b"https://", b"http://"];

/// What a terminal of the user's gets of the command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// What stays on the screen.
    Screen,
    /// Every byte: the policy says so, or it is no terminal.
    Everything,
}

impl Shown {
    /// What the policy lets through.
    pub(super) fn of(policy: &Policy) -> Self {
        match policy.sandbox().terminal {
            TerminalAccess::Screen => Self::Screen,
            TerminalAccess::Everything => Self::Everything,
        }
    }

    /// A writer that lets this through.
    pub(super) fn writer(self, to: impl Write + Send + 'static) -> Box<dyn Write + Send> {
        match self {
            Self::Screen => Box::new(Sequences::new(to)),
            Self::Everything => Box::new(to),
        }
    }
}

/// A writer that passes on what may be shown.
pub(super) struct Sequences<W> {
    to: W,
    parser: Parser,
    sieve: Sieve,
    overlong: bool,
}

impl<W: Write> Sequences<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, parser: Parser::new(), sieve: Sieve::default(), overlong: false }
    }

    fn take(&mut self, byte: u8) {
        if self.overlong {
            // The parser would keep all of it: it starts anew where any sequence can end.
            if !matches!(byte, 0x07 | 0x18 | 0x1a | 0x1b) {
                return;
            }
            self.overlong = false;
            if byte == 0x07 {
                return;
            }
        }
        if byte == 0x1b {
            // What was begun is over: a string ends here and is judged, anything else is forgotten.
            self.parser.advance(&mut self.sieve, &[byte]);
            self.sieve.begun.clear();
            self.sieve.begun.push(byte);
            return;
        }
        self.sieve.begun.push(byte);
        self.parser.advance(&mut self.sieve, &[byte]);
        if matches!(byte, 0x18 | 0x1a) {
            self.sieve.begun.clear();
        }
        if self.sieve.begun.len() > MAX_SEQUENCE {
            self.sieve.begun.clear();
            self.parser = Parser::new();
            self.overlong = true;
        }
    }
}

impl<W: Write> Write for Sequences<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.take(*byte);
        }
        self.to.write_all(&self.sieve.shown)?;
        self.sieve.shown.clear();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Judges each sequence when the parser has all of it.
#[derive(Default)]
struct Sieve {
    /// The bytes of the sequence so far, as they came.
    begun: Vec<u8>,
    /// What may be written.
    shown: Vec<u8>,
    /// Whether a string was dropped whose end (ESC \) is still to come.
    end_to_drop: bool,
}

impl Sieve {
    fn judge(&mut self, keep: bool) {
        if keep {
            self.shown.append(&mut self.begun);
        }
        self.begun.clear();
    }
}

impl Perform for Sieve {
    fn print(&mut self, character: char) {
        self.begun.clear();
        // C1 controls, written as characters: some terminals obey them.
        if !('\u{80}'..='\u{9f}').contains(&character) {
            self.shown.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        // Also in the middle of a sequence, which goes on behind it.
        if self.begun.last() == Some(&byte) {
            self.begun.pop();
        }
        // ENQ asks for the answerback message, which lands where keys do.
        if matches!(byte, 0x07..=0x0f) {
            self.shown.push(byte);
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], bell_terminated: bool) {
        let keep = match params {
            [b"8", _, link] => link.is_empty() || LINKS.iter().any(|scheme| link.starts_with(scheme)),
            [command, ..] => COMMANDS.contains(command),
            [] => false,
        };
        self.end_to_drop = !keep && !bell_terminated;
        self.judge(keep);
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        let first = params.iter().next().and_then(|param| param.first()).copied().unwrap_or(0);
        let keep = match (intermediates, action) {
            _ if ignore => false,
            // Window operations: title reports (20, 21) and whatever moves, resizes or hides.
            ([], 't') => WINDOW.contains(&first),
            // Media copy: prints.
            (_, 'i') => false,
            // A checksum of a rectangle tells what is on the screen.
            ([b'*'], 'y') => false,
            _ => true,
        };
        self.judge(keep);
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        let ends_dropped = std::mem::take(&mut self.end_to_drop) && byte == b'\\';
        let starts_string = intermediates.is_empty() && matches!(byte, b'P' | b'X' | b'^' | b'_' | b']');
        self.judge(!ignore && !ends_dropped && !starts_string);
    }

    fn hook(&mut self, _: &Params, _: &[u8], _: bool, _: char) {
        self.begun.clear();
    }

    fn put(&mut self, _: u8) {
        self.begun.clear();
    }

    fn unhook(&mut self) {
        self.begun.clear();
        self.end_to_drop = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(pieces: &[&[u8]]) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut sequences = Sequences::new(&mut shown);
        for piece in pieces {
            sequences.write_all(piece).expect("memory takes all");
        }
        shown
    }

    /// Whole, and byte by byte: a sequence may come in any pieces.
    #[track_caller]
    fn assert_shown(given: &[u8], shown: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&through(&[given])), text(shown));
        let bytes: Vec<&[u8]> = given.chunks(1).collect();
        assert_eq!(text(&through(&bytes)), text(shown), "byte by byte");
    }

    #[test]
    fn text_colours_and_cursor_pass_as_they_are() {
        for given in [
            &b"plain\r\n\ttext\x07\x08"[..],
            "\u{e4} \u{1f600} \u{2500}".as_bytes(),
            b"\x1b[1;31mred\x1b[0m\x1b[38:2::1:2:3mx\x1b[m",
            b"\x1b[2J\x1b[H\x1b[?1049h\x1b[?25l\x1b[;5H\x1b[6n\x1b[c\x1b[>q\x1b[18t\x1b[22;0t",
            b"\x1b]0;a title\x07\x1b]11;?\x1b\\\x1b7\x1b8\x1b(B\x1b=\x1b>\x1bM",
            b"\x1b]8;;https://example.org/\x1b\\link\x1b]8;;\x1b\\",
            b"\x1b[?2026h\x1b[4:3m\x1b[ q\x1b[!p\x1b[?1$p",
        ] {
            assert_shown(given, given);
        }
    }

    #[test]
    fn what_reaches_past_the_screen_is_dropped_and_the_text_around_it_stays() {
        for dropped in [
            &b"\x1b]52;c;ZXZpbA==\x07"[..],
            b"\x1b]52;c;?\x1b\\",
            b"\x1b]9;a notification\x07",
            b"\x1b]777;notify;a;b\x1b\\",
            b"\x1b]1337;File=name=x:eA==\x07",
            b"\x1b]51;Aeval\x07",
            b"\x1b]633;E;rm -rf ~\x07",
            b"\x1b]7;file://host/\x07",
            b"\x1b]50;font\x07",
            b"\x1b]8;;file:///etc/passwd\x1b\\",
            b"\x1b]8;;vscode://x\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1bP+q544e\x1b\\",
            b"\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\",
            b"\x1b_Gi=1;x\x1b\\",
            b"\x1b^private\x1b\\",
            b"\x1bXstring\x1b\\",
            b"\x1b[21t",
            b"\x1b[20t",
            b"\x1b[2t",
            b"\x1b[8;1;1t",
            b"\x1b[5i",
            b"\x1b[?5i",
            b"\x1b[1;1;1;1;1;1*y",
            b"\x05",
            "\u{9d}52;c;eA==\u{9c}".as_bytes(),
        ] {
            let given = [b"before ", dropped, b" after"].concat();
            let shown = through(&[&given]);
            let text = String::from_utf8_lossy(&shown);
            assert!(text.starts_with("before ") && text.ends_with(" after"), "{text:?}");
            assert!(!text.contains('\x1b') || text == "before \x1b\\ after", "{text:?}");
            assert!(!text.contains('\u{9d}') && !text.contains('\x05'), "{text:?}");
            let bytes: Vec<&[u8]> = given.chunks(1).collect();
            assert_eq!(String::from_utf8_lossy(&through(&bytes)), text, "byte by byte");
        }
    }

    #[test]
    fn a_sequence_that_never_ends_takes_no_memory_and_does_not_swallow_what_follows() {
        let mut given = b"\x1b]0;".to_vec();
        given.extend(std::iter::repeat_n(b'x', 1 << 20));
        given.extend(b"\x07after");
        assert_shown(&given, b"after");
    }

    #[test]
    fn a_control_within_a_sequence_and_an_aborted_one_leave_nothing_half() {
        assert_shown(b"\x1b[3\n1mx", b"\n\x1b[31mx");
        assert_shown(b"\x1b]52;c;eA\x18x", b"x");
        assert_shown(b"\x1b]52;c;e\x1b[31mx\x07", b"\x1b[31mx\x07");
    }

    #[test]
    fn bytes_that_are_no_utf8_cannot_become_controls_of_another_encoding() {
        let shown = through(&[b"a\x9d52;c;eA==\x9cb\x90q\xff"]);
        assert!(std::str::from_utf8(&shown).is_ok(), "{shown:?}");
        let text = String::from_utf8_lossy(&shown);
        assert!(!text.chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c)), "{text:?}");
    }
}
