//! What passes, as data: everything that is not named here is dropped.
//!
//! A sequence is here when it stays on the screen and its effect is known, so that a question can undo it and give it back
//! (see `state`). Not here, beside what reaches past the screen: other character encodings (`ESC %`), eight-bit replies,
//! conformance levels, protected cells, lines of double width, locked memory, the status line, keyboard locks: nothing of
//! today needs them, and each could hide a question or survive it.

/// Private modes (`CSI ? … h` and `l`).
pub(crate) const PRIVATE_MODES: &[u16] = &[
    1, 5, 6, 7, 9, 12, 25, 45, 47, 66, 67, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1034,
    1035, 1036, 1047, 1048, 1049, 2004, 2026, 2027, 2031, 2048,
];
/// Modes of ECMA-48: insert, and line feeds that return.
pub(crate) const MODES: &[u16] = &[4, 20];
/// Window operations that only answer in numbers, or keep a title: sizes (14, 16, 18, 19), title stack (22, 23).
const WINDOW: &[u16] = &[14, 16, 18, 19, 22, 23];
/// Questions about the terminal's state that it answers in numbers: status, cursor.
const REPORTS: &[u16] = &[5, 6];
/// The same with `?`: cursor and page, colour scheme.
const PRIVATE_REPORTS: &[u16] = &[6, 996];
/// Which keys are reported with modifiers (`CSI > … m`).
pub(crate) const MODIFIED_KEYS: &[u16] = &[0, 1, 2, 3, 4];
/// Where a hyperlink may lead. Other schemes start programs.
const LINKS: &[&[u8]] = &[b"https://", b"http://"];
/// The longest specification of a colour, in bytes.
const MAX_COLOUR: usize = 64;

/// Whether a control sequence passes. Sets and resets of modes are looked at one by one instead.
pub(crate) fn control_passes(intermediates: &[u8], first: u16, last: u8) -> bool {
    match (intermediates, last) {
        (
            [],
            b'@'
            | b'A'..=b'M'
            | b'P'
            | b'S'
            | b'T'
            | b'X'
            | b'Z'
            | b'`'
            | b'a'..=b'g'
            | b'm'
            | b'r'
            | b's'
            | b'u',
        ) => true,
        ([], b'n') => REPORTS.contains(&first),
        ([], b't') => WINDOW.contains(&first),
        ([b'?'], b'J' | b'K' | b'u' | b'm') => true,
        ([b'?'], b'n') => PRIVATE_REPORTS.contains(&first),
        ([b'>'], b'c' | b'q') => first == 0,
        ([b'>'], b'm' | b'n') => MODIFIED_KEYS.contains(&first),
        ([b'>' | b'<' | b'='], b'u') | ([b'='], b'c') => true,
        // Cursor style, scrolling to the side, soft reset, requests for a mode, columns.
        ([b' '], b'q' | b'@' | b'A') | ([b'!'], b'p') | ([b'$'] | [b'?', b'$'], b'p') => true,
        ([b'\''], b'}' | b'~') => true,
        // Rectangles that are filled, copied and erased; the stack of colours.
        ([b'$'], b'x' | b'z' | b'v' | b'{') | ([b'#'], b'P' | b'Q' | b'R') => true,
        _ => false,
    }
}

/// Whether an escape sequence passes.
pub(crate) fn escape_passes(intermediates: &[u8], last: u8) -> bool {
    match (intermediates, last) {
        (
            [],
            b'7' | b'8' | b'=' | b'>' | b'D' | b'E' | b'H' | b'M' | b'N' | b'O' | b'Z' | b'c' | b'n' | b'o',
        ) => true,
        // Character sets: ASCII, British, line drawing.
        ([b'(' | b')' | b'*' | b'+'], b'0' | b'A' | b'B') => true,
        _ => false,
    }
}

/// Whether an operating system command passes: titles, links, colours and questions about them.
pub(crate) fn command_passes(params: &[&[u8]]) -> bool {
    if !params.iter().all(|param| is_text(param)) {
        return false;
    }
    match params {
        [b"0" | b"1" | b"2", ..] => true,
        [b"8", _, link] => link.is_empty() || LINKS.iter().any(|scheme| link.starts_with(scheme)),
        [b"4", pairs @ ..] => {
            let (pairs, rest) = pairs.as_chunks::<2>();
            rest.is_empty() && pairs.iter().all(|[index, colour]| is_index(index) && is_colour(colour))
        }
        // Each further colour is for the next command: what follows 12 is not on the list.
        [b"10", colours @ ..] => colours.len() <= 3 && colours.iter().all(|colour| is_colour(colour)),
        [b"11", colours @ ..] => colours.len() <= 2 && colours.iter().all(|colour| is_colour(colour)),
        [b"12", colour] => is_colour(colour),
        [b"104", indices @ ..] => indices.iter().all(|index| index.is_empty() || is_index(index)),
        [b"110" | b"111" | b"112"] => true,
        _ => false,
    }
}

/// Text without a control, of any encoding of one: terminals obey C1 controls also as UTF-8, also within a string.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control))
}

fn is_index(text: &[u8]) -> bool {
    (1..=3).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

fn is_colour(text: &[u8]) -> bool {
    (1..=MAX_COLOUR).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}
