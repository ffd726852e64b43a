//! What the agent set on the user's terminal: a question undoes it and gives it back.
//!
//! Follows what reached the terminal, sequence by sequence. Everything kept here has a bound: modes by the table, colours by
//! their number, texts by the longest sequence.

use std::collections::BTreeMap;

use vte::Params;

use crate::alternate::AlternateScreen;
use crate::pen::Pen;
use crate::row::Size;
use crate::table;

/// ASCII, as a character set is designated.
const ASCII: u8 = b'B';
/// Line drawing.
const LINES: u8 = b'0';

/// Flags of kitty's keyboard protocol that are kept for a screen; terminals keep about as many.
const MAX_KITTY: usize = 16;

/// What the agent set, as far as the terminal keeps it.
#[derive(Default)]
pub struct AgentState {
    /// Private modes that were set or reset, by number.
    pub(crate) private: BTreeMap<u16, bool>,
    /// Modes of ECMA-48.
    pub(crate) modes: BTreeMap<u16, bool>,
    pub(crate) keypad: bool,
    pub(crate) writing: Writing,
    pub(crate) region: Option<Margins>,
    pub(crate) sides: Option<Margins>,
    /// The hyperlink that is open: its parameters and its address.
    pub(crate) link: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) palette: BTreeMap<u16, Vec<u8>>,
    /// Colours of text, background and cursor (10 to 12).
    pub(crate) colours: BTreeMap<u8, Vec<u8>>,
    /// Titles of the icon (1) and of the window (2).
    pub(crate) titles: BTreeMap<u8, Vec<u8>>,
    /// Whether the keyboard protocol of kitty was ever spoken.
    pub(crate) speaks_kitty: bool,
    /// Its flags: for each of both screens a stack, above what is set without it.
    kitty: [Vec<u16>; 2],
    pub(crate) modified_keys: BTreeMap<u16, u16>,
    /// Whether character encodings or protected cells may be in use: only where a policy lets everything pass.
    pub(crate) passes_everything: bool,
    size: Size,
    alternate: Option<Box<AlternateScreen>>,
    is_alternate: bool,
    /// What was let through since the model of the alternate screen last took it.
    unseen: Vec<u8>,
    saved_main: Option<Writing>,
    saved_alternate: Option<Writing>,
}

/// First and last row or column, from 1; 0 for the last of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Margins {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// What saving the cursor saves beside its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writing {
    pub(crate) pen: Pen,
    pub(crate) sets: [u8; 4],
    /// Which of them letters are taken from.
    pub(crate) current: usize,
    pub(crate) origin: bool,
}

impl Default for Writing {
    fn default() -> Self {
        Self { pen: Pen::default(), sets: [ASCII; 4], current: 0, origin: false }
    }
}

/// One control sequence that passed.
#[derive(Clone, Copy)]
pub(crate) struct Control<'s> {
    pub(crate) intermediates: &'s [u8],
    pub(crate) params: &'s Params,
    pub(crate) last: u8,
}

impl Control<'_> {
    fn value(&self, at: usize) -> u16 {
        self.params.iter().nth(at).and_then(|param| param.first()).copied().unwrap_or(0)
    }
}

impl AgentState {
    /// Takes the terminal's size.
    pub fn resize(&mut self, size: Size) {
        self.size = size;
        if let Some(alternate) = &mut self.alternate {
            alternate.resize(size);
        }
    }

    /// Whether the agent has the alternate screen.
    #[must_use]
    pub fn is_alternate(&self) -> bool {
        self.is_alternate
    }

    pub(crate) fn alternate(&self) -> Option<&AlternateScreen> {
        self.alternate.as_deref()
    }

    /// Whether a mode of the private table is set, where the agent said so.
    pub(crate) fn is_set(&self, mode: u16) -> bool {
        self.private.get(&mode).copied().unwrap_or(false)
    }

    /// Has the model of the alternate screen take what was let through.
    pub(crate) fn follow(&mut self) {
        let bytes = std::mem::take(&mut self.unseen);
        if !bytes.is_empty()
            && let Some(alternate) = self.alternate.take()
        {
            self.alternate = alternate.follow(&bytes);
        }
    }

    /// A character that is printed.
    pub(crate) fn printed(&mut self, character: char) {
        if self.alternate.is_none() {
            return;
        }
        let character = self.drawn(character);
        if self.modes.get(&4) == Some(&true) {
            let cells = crate::row::width(character.encode_utf8(&mut [0; 4]));
            self.unseen.extend_from_slice(format!("\x1b[{}@", cells.max(1)).as_bytes());
        }
        self.unseen.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// A control of one byte.
    pub(crate) fn executed(&mut self, byte: u8) {
        match byte {
            0x0e => self.writing.current = 1,
            0x0f => self.writing.current = 0,
            _ if self.alternate.is_some() => self.unseen.push(byte),
            _ => {}
        }
    }

    /// An escape sequence.
    pub(crate) fn escaped(&mut self, intermediates: &[u8], last: u8) {
        match (intermediates, last) {
            ([], b'7') => self.save_cursor(),
            ([], b'8') => self.restore_cursor(),
            ([], b'=') => self.keypad = true,
            ([], b'>') => {
                self.keypad = false;
                self.private.remove(&66);
            }
            ([], b'n') => self.writing.current = 2,
            ([], b'o') => self.writing.current = 3,
            ([], b'c') => self.reset(),
            ([set @ b'('..=b'+'], designator) => self.writing.sets[usize::from(set - b'(')] = designator,
            _ => {}
        }
        if self.alternate.is_some() && intermediates.is_empty() && !matches!(last, b'n' | b'o' | b'N' | b'O')
        {
            self.unseen.extend_from_slice(&[0x1b, last]);
        }
    }

    /// An operating system command.
    pub(crate) fn commanded(&mut self, params: &[&[u8]]) {
        match params {
            [b"0", title @ ..] => {
                self.titles.insert(1, title.join(&b';'));
                self.titles.insert(2, title.join(&b';'));
            }
            [b"1", title @ ..] => drop(self.titles.insert(1, title.join(&b';'))),
            [b"2", title @ ..] => drop(self.titles.insert(2, title.join(&b';'))),
            [b"8", parameters, address] => {
                self.link = (!address.is_empty()).then(|| (parameters.to_vec(), address.to_vec()));
            }
            [b"4", pairs @ ..] => {
                for pair in pairs.chunks(2) {
                    if let ([index, colour], true) = (pair, pair.last() != Some(&&b"?"[..])) {
                        self.palette.insert(index_of(index), colour.to_vec());
                    }
                }
            }
            [command @ (b"10" | b"11" | b"12"), colours @ ..] => {
                for (number, colour) in (10 + command[1] - b'0'..).zip(colours) {
                    if *colour != b"?" {
                        self.colours.insert(number, colour.to_vec());
                    }
                }
            }
            [b"104"] => self.palette.clear(),
            [b"104", indices @ ..] => {
                for index in indices {
                    self.palette.remove(&index_of(index));
                }
            }
            [command @ (b"110" | b"111" | b"112")] => drop(self.colours.remove(&(10 + command[2] - b'0'))),
            _ => {}
        }
    }

    /// A control sequence, whose modes were looked at one by one.
    pub(crate) fn controlled(&mut self, control: Control<'_>, bytes: &[u8]) {
        match (control.intermediates, control.last) {
            ([], b'm') => self.writing.pen.apply(control.params),
            ([], b'r') => self.region = margins(&control),
            ([], b's') if self.is_set(69) => self.sides = margins(&control),
            ([], b's') => return self.save_cursor_as(b"\x1b7"),
            ([], b'u') => return self.restore_cursor_as(b"\x1b8"),
            ([b'!'], b'p') => self.soft_reset(),
            ([b'>'], b'm') if control.params.len() < 2 => drop(self.modified_keys.remove(&control.value(0))),
            ([b'>'], b'm') => drop(self.modified_keys.insert(control.value(0), control.value(1))),
            ([b'>'], b'n') => drop(self.modified_keys.insert(control.value(0), 0)),
            ([prefix @ (b'>' | b'=' | b'<')], b'u') => self.keyboard(*prefix, &control),
            _ => {}
        }
        if self.alternate.is_some() {
            self.unseen.extend_from_slice(bytes);
        }
    }

    /// The flags of kitty's keyboard protocol that are in force.
    pub(crate) fn kitty_flags(&self) -> u16 {
        self.kitty[usize::from(self.is_alternate)].last().copied().unwrap_or(0)
    }

    fn keyboard(&mut self, prefix: u8, control: &Control<'_>) {
        self.speaks_kitty = true;
        let (first, second) = (control.value(0), control.value(1));
        let stack = &mut self.kitty[usize::from(self.is_alternate)];
        if stack.is_empty() {
            stack.push(0);
        }
        match prefix {
            b'>' if stack.len() > MAX_KITTY => {
                stack.remove(0);
                stack.push(first);
            }
            b'>' => stack.push(first),
            b'<' => stack.truncate(stack.len().saturating_sub(usize::from(first.max(1)))),
            _ => {
                let top = stack.len() - 1;
                match second {
                    2 => stack[top] |= first,
                    3 => stack[top] &= !first,
                    _ => stack[top] = first,
                }
            }
        }
    }

    /// A mode that is set or reset.
    pub(crate) fn mode(&mut self, is_private: bool, mode: u16, is_on: bool) {
        if !is_private {
            self.modes.insert(mode, is_on);
            return;
        }
        match mode {
            47 | 1047 | 1049 => self.switch(mode, is_on),
            1048 if is_on => self.save_cursor(),
            1048 => self.restore_cursor(),
            6 => self.writing.origin = is_on,
            _ => {
                match mode {
                    69 if !is_on => self.sides = None,
                    // The other way to say the same.
                    66 if !is_on => self.keypad = false,
                    _ => {}
                }
                self.private.insert(mode, is_on);
            }
        }
        if self.alternate.is_some() && !matches!(mode, 47 | 1047 | 1049) {
            let last = if is_on { 'h' } else { 'l' };
            self.unseen.extend_from_slice(format!("\x1b[?{mode}{last}").as_bytes());
        }
    }

    fn switch(&mut self, mode: u16, is_on: bool) {
        if is_on == self.is_alternate {
            return;
        }
        self.follow();
        if is_on && mode == 1049 {
            self.saved_main = Some(self.writing.clone());
        }
        self.is_alternate = is_on;
        self.alternate = is_on.then(|| Box::new(AlternateScreen::new(self.size)));
        if !is_on && mode == 1049 {
            self.writing = self.saved_main.clone().unwrap_or_default();
        }
        if is_on {
            // It has the margins and colours that are in force.
            let mut known = String::new();
            if let Some(Margins { first, last }) = self.region {
                known.push_str(&if last == 0 {
                    format!("\x1b[{first}r")
                } else {
                    format!("\x1b[{first};{last}r")
                });
            }
            known.push_str(&self.writing.pen.sequence());
            self.unseen = known.into_bytes();
        }
    }

    fn save_cursor_as(&mut self, bytes: &[u8]) {
        self.save_cursor();
        if self.alternate.is_some() {
            self.unseen.extend_from_slice(bytes);
        }
    }

    fn restore_cursor_as(&mut self, bytes: &[u8]) {
        self.restore_cursor();
        if self.alternate.is_some() {
            self.unseen.extend_from_slice(bytes);
        }
    }

    fn save_cursor(&mut self) {
        let saved = Some(self.writing.clone());
        if self.is_alternate {
            self.saved_alternate = saved;
        } else {
            self.saved_main = saved;
        }
    }

    fn restore_cursor(&mut self) {
        let saved = if self.is_alternate { &self.saved_alternate } else { &self.saved_main };
        self.writing = saved.clone().unwrap_or_default();
    }

    fn soft_reset(&mut self) {
        for mode in [1, 7, 25, 66, 69] {
            self.private.remove(&mode);
        }
        self.modes.remove(&4);
        self.keypad = false;
        self.writing = Writing::default();
        (self.region, self.sides) = (None, None);
        (self.saved_main, self.saved_alternate) = (None, None);
    }

    fn reset(&mut self) {
        let (size, passes_everything) = (self.size, self.passes_everything);
        *self = Self { size, passes_everything, ..Self::default() };
    }

    /// The character as the current set draws it.
    fn drawn(&self, character: char) -> char {
        const DRAWN: [char; 31] = [
            '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼',
            '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
        ];
        if self.writing.sets[self.writing.current] != LINES {
            return character;
        }
        let at = u32::from(character).checked_sub(0x60).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| DRAWN.get(at)).copied().unwrap_or(character)
    }
}

fn margins(control: &Control<'_>) -> Option<Margins> {
    let (first, last) = (control.value(0).max(1), control.value(1));
    (first > 1 || last > 0).then_some(Margins { first, last })
}

fn index_of(text: &[u8]) -> u16 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a mode may be set at all; asked before it is followed.
pub(crate) fn mode_passes(is_private: bool, mode: u16) -> bool {
    if is_private { table::PRIVATE_MODES.contains(&mode) } else { table::MODES.contains(&mode) }
}
