//! A question on the agent's terminal: its screen and all that it set are put aside, and come back as they were.
//!
//! Neither RIS nor DECSTR: the first loses the agent's screen, the second its saved cursors, on some terminals those of both
//! screens. Each state that the table lets an agent set is reset by name instead. The agent's own screen is kept by the
//! terminal, on whose alternate screen the question is; an agent that has that one gets it back from our copy.

use std::fmt::Write as _;

use crate::row::{Row, Size, Voice};
use crate::state::{AgentState, Margins};

/// What is reset before a question, whatever the agent is known to have set.
/// A sequence that was begun ends; ASCII in all character sets; no attributes; no link; no origin, no side margins, no
/// region; no insertion; nothing reversed; no application keys; text in its order, not turned by direction.
const RESET: &str = "\x18\x1b\\\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[0m\x1b]8;;\x1b\\\x1b[?6l\x1b[?69l\x1b[r\x1b[4l\x1b[20l\x1b[8l\x1b>";
/// Private modes that a question is asked without: reversed screen, reports of mouse, focus, size and colours, widths of
/// its own, wrapping, the cursor.
const WITHOUT: &[u16] =
    &[5, 1, 66, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2027, 2031, 2048, 45, 7, 25];
/// Modes that are on in a fresh terminal.
const ON_AT_FIRST: &[u16] = &[7, 25];
/// What only an agent can have set that everything is let through of: VT52, UTF-8, protected cells, locked memory, a status
/// line, a keyboard lock, local echo, columns.
const RESET_ALL: &str = "\x1b<\x1b%G\x1bW\x1b[0\"q\x1bm\x1b[0$}\x1b[2l\x1b[12h\x1b[?1001l\x1b[?95l\x1b[?42l";
/// A paste is marked as one while a question is open.
const MARK_PASTES: &str = "\x1b[?2004h";

/// What puts the agent's terminal aside: after it there is an empty screen in which a text is where it is written.
#[must_use]
pub fn put_aside(state: &AgentState) -> String {
    let mut text = "\x18\x1b\\\x1b[?2026l".to_owned();
    if state.passes_everything {
        text.push_str(RESET_ALL);
    }
    if !state.is_alternate() {
        // Keeps the cursor too, with its colours, character sets and origin.
        text.push_str("\x1b[?1049h");
    }
    text.push_str(RESET);
    for mode in WITHOUT {
        say(&mut text, format_args!("\x1b[?{mode}l"));
    }
    text.push_str(MARK_PASTES);
    if state.speaks_kitty {
        text.push_str("\x1b[>0u");
    }
    for key in state.modified_keys.keys() {
        say(&mut text, format_args!("\x1b[>{key}m"));
    }
    if !state.palette.is_empty() {
        text.push_str("\x1b]104\x1b\\");
    }
    for number in state.colours.keys() {
        say(&mut text, format_args!("\x1b]{}\x1b\\", 100 + number));
    }
    // Twice, for the icon and the window: what the agent called them is not what asks.
    text.push_str("\x1b[22;0t\x1b]0;keyhatch asks\x1b\\\x1b[2J\x1b[H");
    text
}

/// What gives the terminal back: the agent's screen, and all that it set.
#[must_use]
pub fn give_back(state: &AgentState) -> String {
    let mut text = "\x18\x1b\\\x1b[0m\x1b[8h\x1b[?7h\x1b[2J\x1b[H".to_owned();
    if let Some(alternate) = state.alternate() {
        text.push_str(&alternate.contents());
    }
    titles_and_colours(state, &mut text);
    if state.speaks_kitty {
        text.push_str("\x1b[<u");
    }
    for (key, value) in &state.modified_keys {
        say(&mut text, format_args!("\x1b[>{key};{value}m"));
    }
    for mode in WITHOUT.iter().chain(&[2004]) {
        let is_on = state.private.get(mode).copied().unwrap_or(ON_AT_FIRST.contains(mode));
        say(&mut text, format_args!("\x1b[?{mode}{}", if is_on { 'h' } else { 'l' }));
    }
    if state.keypad {
        text.push_str("\x1b=");
    }
    for mode in [4, 20] {
        if state.modes.get(&mode) == Some(&true) {
            say(&mut text, format_args!("\x1b[{mode}h"));
        }
    }
    places(state, &mut text);
    if state.kitty_flags() > 0 {
        // Some forget what was set without the stack.
        say(&mut text, format_args!("\x1b[={};1u", state.kitty_flags()));
    }
    // Once more where the terminal brought back with the cursor what it kept with it.
    writing(state, &mut text);
    if state.is_set(2026) {
        text.push_str("\x1b[?2026h");
    }
    text
}

/// Margins, then the cursor, which setting them moves.
fn places(state: &AgentState, text: &mut String) {
    if state.is_set(69) {
        text.push_str("\x1b[?69h");
        if let Some(Margins { first, last }) = state.sides {
            say(text, format_args!("\x1b[{first};{}s", shown_last(last)));
        }
    }
    if let Some(Margins { first, last }) = state.region {
        say(text, format_args!("\x1b[{first};{}r", shown_last(last)));
    }
    if state.writing.origin {
        text.push_str("\x1b[?6h");
    }
    if !state.is_alternate() {
        text.push_str("\x1b[?1049l");
    } else if let Some(alternate) = state.alternate() {
        let top = state.region.filter(|_| state.writing.origin).map_or(0, |region| region.first - 1);
        text.push_str(&alternate.cursor(top));
    }
}

fn shown_last(last: u16) -> String {
    if last == 0 { String::new() } else { last.to_string() }
}

fn writing(state: &AgentState, text: &mut String) {
    for (set, designator) in ['(', ')', '*', '+'].into_iter().zip(state.writing.sets) {
        say(text, format_args!("\x1b{set}{}", char::from(designator)));
    }
    text.push_str(["\x0f", "\x0e", "\x1bn", "\x1bo"][state.writing.current]);
    text.push_str(&state.writing.pen.sequence());
    if let Some((parameters, address)) = &state.link {
        let (parameters, address) = (String::from_utf8_lossy(parameters), String::from_utf8_lossy(address));
        say(text, format_args!("\x1b]8;{parameters};{address}\x1b\\"));
    }
}

fn titles_and_colours(state: &AgentState, text: &mut String) {
    text.push_str("\x1b[23;0t");
    for (number, title) in &state.titles {
        say(text, format_args!("\x1b]{number};{}\x1b\\", String::from_utf8_lossy(title)));
    }
    for (index, colour) in &state.palette {
        say(text, format_args!("\x1b]4;{index};{}\x1b\\", String::from_utf8_lossy(colour)));
    }
    for (number, colour) in &state.colours {
        say(text, format_args!("\x1b]{number};{}\x1b\\", String::from_utf8_lossy(colour)));
    }
}

/// What draws rows on a terminal that was put aside: each at its place, all of its width, nothing below.
#[must_use]
pub fn draw(rows: &[Row], size: Size) -> String {
    let columns = usize::from(size.columns);
    let mut text = String::new();
    for (at, row) in rows.iter().take(usize::from(size.rows)).enumerate() {
        let fitted = row.fitted(columns);
        let style = if row.voice() == Voice::Warning { "\x1b[0;1m" } else { "\x1b[0m" };
        // A single-width line, erased, then written over to its end: cells that cannot be erased go too.
        say(&mut text, format_args!("\x1b[{};1H{style}\x1b#5\x1b[2K{fitted}\x1b[0m", at + 1));
        let left = columns.saturating_sub(crate::row::width(&fitted));
        text.extend(std::iter::repeat_n(' ', left));
    }
    text
}

fn say(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = text.write_fmt(arguments);
}
