//! Text that a session chose, made safe to show to a person.

use crate::lookalike;

/// Longest piece of foreign text that is shown whole, in characters.
pub const MAX_SHOWN: usize = 400;

/// Whether a character is shown as it is: everything that could hide, reorder or command is not.
#[must_use]
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !is_invisible(c)
}

/// Characters that are not seen, or that change the order of what is seen (Trojan Source).
#[must_use]
pub const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
}

/// Characters that are drawn as nothing, as a space is, and are none.
#[must_use]
pub fn is_blank(c: char) -> bool {
    (c.is_whitespace() && !c.is_ascii()) || c == '\u{2800}'
}

/// Escapes what is not plain as `\u{…}`, and keeps head and tail of what is too long.
#[must_use]
pub fn shown(text: &str) -> String {
    cut(text, |piece| {
        piece.chars().map(|c| if is_plain(c) && !is_blank(c) { c.to_string() } else { escaped(c) }).collect()
    })
}

/// The same for a name (a ref, a path, a remote, a person): what could be taken for another name is escaped too.
#[must_use]
pub fn shown_name(name: &str) -> String {
    cut(name, shown_name_whole)
}

/// The same, with nothing left out.
#[must_use]
pub fn shown_name_whole(name: &str) -> String {
    let marks = lookalike::marked(name).into_iter();
    marks.map(|mark| if mark.escaped { escaped(mark.c) } else { mark.c.to_string() }).collect()
}

/// Shows a text whole, or its head and its tail.
fn cut(text: &str, show: impl Fn(&str) -> String) -> String {
    let (head, tail) = (MAX_SHOWN * 3 / 4, MAX_SHOWN / 4);
    let count = text.chars().count();
    if count <= MAX_SHOWN {
        return show(text);
    }
    let at = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let left_out = count - head - tail;
    format!("{}…({left_out} more characters)…{}", show(&text[..at(head)]), show(&text[at(count - tail)..]))
}

/// Escapes one line of a diff: tabs stay, everything else as in [`shown`], nothing is cut.
#[must_use]
pub fn shown_line(line: &str) -> String {
    line.chars().map(|c| if c == '\t' || is_plain(c) { c.to_string() } else { escaped(c) }).collect()
}

fn escaped(c: char) -> String {
    format!("\\u{{{:x}}}", c as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_orders_are_made_visible_and_long_text_keeps_its_ends() {
        assert_eq!(shown("a\x1b[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        let long = format!("{}END", "x".repeat(10_000));
        let shown = shown(&long);
        assert!(shown.ends_with("END") && shown.len() < 600, "{shown}");
    }
}
