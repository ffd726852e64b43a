//! Rows: each says whose words it has, is as wide as the screen at most, and nothing in it leaves it.

use keyhatch_protocol::text::{shown, shown_name, shown_name_whole};
use unicode_width::UnicodeWidthChar;

/// What stands before everything that a session wrote. A row of keyhatch's own never begins with it.
pub const GUTTER: &str = "│ ";
/// Marks that may stand on one letter; more would grow over other rows.
const MARKS: usize = 2;
/// Columns between tab stops.
const TAB: usize = 8;

/// A terminal's size in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Cells in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// Whose words a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// keyhatch's.
    Keyhatch,
    /// keyhatch's, of what takes something away or is a risk.
    Warning,
    /// What a session wrote.
    Session,
}

/// A row of a screen, or a line of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    voice: Voice,
    text: String,
}

impl Row {
    /// Words of keyhatch's.
    #[must_use]
    pub fn keyhatch(text: impl AsRef<str>) -> Self {
        Self { voice: Voice::Keyhatch, text: own(text.as_ref()) }
    }

    /// Words of keyhatch's that warn.
    #[must_use]
    pub fn warning(text: impl AsRef<str>) -> Self {
        Self { voice: Voice::Warning, text: own(text.as_ref()) }
    }

    /// What a session wrote, as one line: escaped, and long text without its middle.
    #[must_use]
    pub fn session(text: &str) -> Self {
        Self { voice: Voice::Session, text: presentable(&shown(text)) }
    }

    /// A name that a session chose, as one line: what could be taken for another name is escaped too.
    #[must_use]
    pub fn name(name: &str) -> Self {
        Self { voice: Voice::Session, text: presentable(&shown_name(name)) }
    }

    /// A name that a session chose, all of it.
    #[must_use]
    pub fn name_whole(name: &str, columns: usize) -> Vec<Self> {
        Self::session_whole(&shown_name_whole(name), columns)
    }

    /// What a session wrote, all of it, in as many rows as it takes at this width.
    #[must_use]
    pub fn session_whole(text: &str, columns: usize) -> Vec<Self> {
        let text = presentable(&keyhatch_protocol::text::shown_line(&expanded(text)));
        let room = columns.saturating_sub(width(GUTTER)).max(2);
        pieces(&text, room).into_iter().map(|text| Self { voice: Voice::Session, text }).collect()
    }

    /// Whose words these are.
    #[must_use]
    pub fn voice(&self) -> Voice {
        self.voice
    }

    /// The whole row, with its gutter, however wide.
    #[must_use]
    pub fn line(&self) -> String {
        match self.voice {
            Voice::Keyhatch | Voice::Warning => self.text.clone(),
            Voice::Session => format!("{GUTTER}{}", self.text),
        }
    }

    /// The row in at most so many cells. The gutter stays.
    #[must_use]
    pub fn fitted(&self, columns: usize) -> String {
        match self.voice {
            Voice::Keyhatch | Voice::Warning => cut(&self.text, columns),
            Voice::Session if columns <= width(GUTTER) => cut(GUTTER.trim_end(), columns),
            Voice::Session => format!("{GUTTER}{}", cut(&self.text, columns - width(GUTTER))),
        }
    }
}

/// Words of keyhatch's can hold what a user or a program named: that too is escaped, and never looks like a gutter.
fn own(text: &str) -> String {
    let text = presentable(&shown(text));
    match text.strip_prefix(GUTTER.trim_end()) {
        Some(rest) => format!("|{rest}"),
        None => text,
    }
}

/// How many cells a text takes. It holds no control.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Escapes marks that would stand on nothing, or grow over other rows.
#[must_use]
pub fn presentable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut marks = MARKS;
    for c in text.chars() {
        match c.width() {
            Some(0) if marks < MARKS => {
                marks += 1;
                plain.push(c);
            }
            Some(1..) => {
                marks = if c == ' ' { MARKS } else { 0 };
                plain.push(c);
            }
            _ => plain.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    plain
}

/// Tabs as spaces.
fn expanded(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut at = 0;
    for c in text.chars() {
        if c == '\t' {
            let spaces = TAB - at % TAB;
            plain.extend(std::iter::repeat_n(' ', spaces));
            at += spaces;
        } else {
            plain.push(c);
            at += c.width().unwrap_or(0);
        }
    }
    plain
}

/// A text in at most so many cells: where it is longer, its middle is left out and `…` stands there.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let tail_room = room / 3;
    let head = prefix(text, room - tail_room);
    let mut tail = text.len();
    let mut taken = 0;
    for (at, c) in text.char_indices().rev() {
        taken += c.width().unwrap_or(0);
        if taken > tail_room {
            break;
        }
        // A mark at its head would stand on the ellipsis.
        if c.width() != Some(0) {
            tail = at;
        }
    }
    format!("{head}…{}", &text[tail..])
}

/// As much of a text's head as so many cells hold.
fn prefix(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > columns {
            return &text[..at];
        }
    }
    text
}

fn pieces(mut text: &str, room: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    loop {
        let head = prefix(text, room);
        pieces.push(head.to_owned());
        text = &text[head.len()..];
        if text.is_empty() || head.is_empty() {
            return pieces;
        }
    }
}
