//! Keys, and only keys: whatever else a terminal sends (arrows, mouse, focus, paste, answers) is told apart from them.
//!
//! A sequence that comes in pieces is still one. What cannot be told yet is no key.

/// What a person pressed, or what a terminal sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A key that writes a character.
    Character(char),
    /// Return.
    Enter,
    /// Control and C.
    Interrupt,
    /// A line up.
    Up,
    /// A line down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first line.
    Home,
    /// To the last one.
    End,
    /// Anything else: it means nothing here.
    Other,
}

/// The longest sequence that is remembered; what is longer is no key anyway.
const MAX_HELD: usize = 32;

/// Reads bytes as keys and sequences.
#[derive(Debug, Default)]
pub struct KeyParser {
    state: State,
    held: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC O: one more byte, with digits before it.
    Single,
    /// After ESC [.
    Control,
    /// A mouse report of the oldest kind: so many bytes are still to come.
    Mouse(u8),
    /// A string, until BEL or ESC \.
    String,
    /// The same, after ESC.
    StringEscape,
    /// Pasted text, until its end mark.
    Paste,
    /// The rest of a character that is not ASCII.
    Character(u8),
}

impl KeyParser {
    /// Takes a byte; none while a sequence goes on.
    pub fn take(&mut self, byte: u8) -> Option<Key> {
        match self.state {
            State::Ground => self.ground(byte),
            State::Escape => self.escape(byte),
            State::Single => match byte {
                b'0'..=b'9' | b';' => None,
                _ => self.end(cursor_key(byte)),
            },
            State::Control => self.control(byte),
            State::Mouse(1) => self.end(Key::Other),
            State::Mouse(left) => self.go_on(State::Mouse(left - 1)),
            State::String => match byte {
                0x07 | 0x18 | 0x1a => self.end(Key::Other),
                0x1b => self.go_on(State::StringEscape),
                _ => None,
            },
            State::StringEscape if byte == b'\\' => self.end(Key::Other),
            State::StringEscape => {
                self.state = State::Escape;
                self.escape(byte)
            }
            State::Paste => {
                self.held.push(byte);
                if self.held.ends_with(b"\x1b[201~") {
                    return self.end(Key::Other);
                }
                if self.held.len() > MAX_HELD {
                    self.held.drain(..MAX_HELD / 2);
                }
                None
            }
            State::Character(1) => self.end(Key::Other),
            State::Character(left) => self.go_on(State::Character(left - 1)),
        }
    }

    /// Nothing came for a while: an ESC that stands alone is a key, and one that means nothing.
    pub fn pause(&mut self) -> Option<Key> {
        match self.state {
            State::Escape => self.end(Key::Other),
            _ => None,
        }
    }

    /// Whether a sequence or a paste has begun that is not over.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.state != State::Ground
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        match byte {
            0x1b => self.go_on(State::Escape),
            // C1 controls of one byte: introducers of the same sequences.
            0x9b => self.go_on(State::Control),
            0x8f => self.go_on(State::Single),
            0x90 | 0x98 | 0x9d..=0x9f => self.go_on(State::String),
            b'\r' | b'\n' => Some(Key::Enter),
            0x03 => Some(Key::Interrupt),
            0x20..=0x7e => Some(Key::Character(char::from(byte))),
            0xc2..=0xdf => self.go_on(State::Character(1)),
            0xe0..=0xef => self.go_on(State::Character(2)),
            0xf0..=0xf4 => self.go_on(State::Character(3)),
            _ => Some(Key::Other),
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => self.go_on(State::Control),
            b'O' => self.go_on(State::Single),
            b'P' | b'X' | b']' | b'^' | b'_' => self.go_on(State::String),
            0x1b => None,
            // A key with Alt.
            _ => self.end(Key::Other),
        }
    }

    fn control(&mut self, byte: u8) -> Option<Key> {
        match byte {
            0x1b => {
                self.held.clear();
                return self.go_on(State::Escape);
            }
            b'M' if self.held.is_empty() => return self.go_on(State::Mouse(3)),
            // The console's function keys: ESC [ [ A.
            b'[' if self.held.is_empty() => {}
            0x40..=0x7e if self.held != b"[" || byte != b'[' => return self.control_ends(byte),
            _ => {}
        }
        if self.held.len() < MAX_HELD {
            self.held.push(byte);
        }
        None
    }

    fn control_ends(&mut self, last: u8) -> Option<Key> {
        if (self.held.as_slice(), last) == (b"200", b'~') {
            self.held.clear();
            return self.go_on(State::Paste);
        }
        let key = match (self.held.as_slice(), last) {
            (b"", _) => cursor_key(last),
            (b"5", b'~') => Key::PageUp,
            (b"6", b'~') => Key::PageDown,
            (b"1" | b"7", b'~') => Key::Home,
            (b"4" | b"8", b'~') => Key::End,
            _ => Key::Other,
        };
        self.end(key)
    }

    fn go_on(&mut self, state: State) -> Option<Key> {
        self.state = state;
        None
    }

    #[allow(clippy::unnecessary_wraps, reason = "the end of every branch of take")]
    fn end(&mut self, key: Key) -> Option<Key> {
        self.state = State::Ground;
        self.held.clear();
        Some(key)
    }
}

fn cursor_key(last: u8) -> Key {
    match last {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'H' => Key::Home,
        b'F' => Key::End,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut parser = KeyParser::default();
        bytes.iter().filter_map(|byte| parser.take(*byte)).collect()
    }

    #[test]
    fn what_a_terminal_sends_by_itself_is_never_a_key() {
        for sent in [
            &b"\x1b[I"[..],
            b"\x1b[O",
            b"\x1b[<0;10;10M",
            b"\x1b[<0;10;10m",
            b"\x1b[Mada",
            b"\x1b[M !!",
            b"\x1b[97u",
            b"\x1b[97;1:1u",
            b"\x1b[27;5;97~",
            b"\x1b[a",
            b"\x1bOa",
            b"\x1bO5a",
            b"\x1ba",
            b"\x1bd",
            b"\x1b[12;40R",
            b"\x1b[?62;c",
            b"\x1b]11;rgb:aaaa/dddd/ffff\x07",
            b"\x1b]11;rgb:aaaa/dddd/ffff\x1b\\",
            b"\x1bP1$r0m\x1b\\",
            b"\x1b[200~a d l \n a\x1b[201~",
            b"\x1b[200~\x1b[20a\x1b[201~",
            b"\x1b[[A",
            b"\x9ba",
            b"\x8fa",
            "\u{e4}\u{15b}\u{1f600}".as_bytes(),
            b"\x00\x01\x7f\xff",
        ] {
            let got = keys(sent);
            assert!(
                !got.iter().any(|key| matches!(key, Key::Character(_) | Key::Enter)),
                "{sent:?}: {got:?}"
            );
            // And what follows is a key again.
            assert_eq!(keys(&[sent, b"a"].concat()).last(), Some(&Key::Character('a')), "{sent:?}");
        }
    }

    #[test]
    fn keys_and_a_lone_escape_are_told_apart() {
        assert_eq!(keys(b"av\r\x03"), [Key::Character('a'), Key::Character('v'), Key::Enter, Key::Interrupt]);
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[5~\x1b[6~"), [Key::Up, Key::Down, Key::PageUp, Key::PageDown]);
        let mut parser = KeyParser::default();
        assert_eq!(parser.take(0x1b), None);
        assert_eq!(parser.pause(), Some(Key::Other));
        assert_eq!(parser.take(b'a'), Some(Key::Character('a')));
    }
}
