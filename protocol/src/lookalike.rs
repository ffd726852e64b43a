//! Names that look like other names: what a person could take for something else is marked and is a risk.
//!
//! Comes in: the name of a ref, a path, a remote or a person, chosen by a session. Goes out: which of its characters do
//! not say what they seem to say. By UTS #39 (confusables, scripts) and UAX #15; names in one script stay readable.

use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization as _;
use unicode_script::{Script, UnicodeScript as _};
use unicode_security::{GeneralSecurityProfile as _, skeleton};

use crate::text::{is_blank, is_plain};

/// Letters of European alphabets whose UTS #39 prototype is ASCII, and that nobody reads as that.
const LIGATURES: &[char] = &['æ', 'Æ', 'œ', 'Œ'];
/// Scripts that are written together, and with Latin: UTS #39, "highly restrictive".
const WRITTEN_TOGETHER: &[Script] =
    &[Script::Han, Script::Hiragana, Script::Katakana, Script::Bopomofo, Script::Hangul];
/// Scripts from right to left: a terminal may reorder what stands around them, UAX #9.
const RIGHT_TO_LEFT: &[Script] = &[
    Script::Adlam,
    Script::Arabic,
    Script::Hanifi_Rohingya,
    Script::Hebrew,
    Script::Mandaic,
    Script::Mende_Kikakui,
    Script::Nko,
    Script::Samaritan,
    Script::Syriac,
    Script::Thaana,
];

/// Whether a name holds anything that could be taken for something else.
#[must_use]
pub fn is_lookalike(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_graphic()) && marked(name).iter().any(|mark| mark.escaped)
}

/// What a reader could take a name for: letters of one shape and case become one. Only for comparing.
#[must_use]
pub fn folded(name: &str) -> String {
    let seen: String = name.chars().filter(|c| is_plain(*c) && !is_blank(*c)).collect();
    // ASCII goes to lower case first: its capital I has the shape of an l, which its small i has not.
    let shapes: String = seen.nfkc().map(|c| c.to_ascii_lowercase()).collect();
    let shapes: String = skeleton(&shapes).flat_map(char::to_lowercase).collect();
    let one = |c: char| match c {
        'i' | '1' | '|' => 'l',
        '0' => 'o',
        c => c,
    };
    skeleton(&shapes).map(one).collect()
}

/// One character of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) c: char,
    /// Whether it is shown by its number.
    pub(crate) escaped: bool,
}

/// Every character of a name, and whether it is to be shown by its number.
pub(crate) fn marked(name: &str) -> Vec<Mark> {
    let reordered = is_reordered(name);
    let mut marks = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let word = &rest[..rest.find(is_separator).unwrap_or(rest.len())];
        let taken = if word.is_empty() { &rest[..first.len_utf8()] } else { word };
        if word.is_empty() {
            let escaped =
                !is_plain(first) || (first == ' ' && is_lonely_space(name, name.len() - rest.len()));
            marks.push(Mark { c: first, escaped });
        } else {
            let whole = Word::of(word);
            marks.extend(
                word.chars()
                    .map(|c| Mark { c, escaped: whole.hides(c) || (reordered && is_right_to_left(c)) }),
            );
        }
        rest = &rest[taken.len()..];
    }
    marks
}

/// What ends a word: every ASCII character that is no letter and no digit.
const fn is_separator(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_alphanumeric()
}

/// A space that nobody sees: at the end of a component, or beside another.
fn is_lonely_space(name: &str, at: usize) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| matches!(c, ' ' | '/'));
    edge(name[..at].chars().next_back()) || edge(name[at + 1..].chars().next())
}

/// A run of characters without ASCII separators.
struct Word {
    has_latin: bool,
    /// It mixes scripts that nobody writes together.
    is_mixed: bool,
    /// Something in it is not in the form that everybody types, or all of it could be ASCII.
    is_whole: bool,
}

impl Word {
    fn of(word: &str) -> Self {
        if word.is_ascii() {
            return Self { has_latin: false, is_mixed: false, is_whole: false };
        }
        let scripts: HashSet<Script> = word.chars().filter_map(script_of_letter).collect();
        let has_latin = scripts.contains(&Script::Latin);
        let together = |script: &Script| *script == Script::Latin || WRITTEN_TOGETHER.contains(script);
        let is_mixed = scripts.len() > 1 && !scripts.iter().all(together);
        let plain: String = word.chars().filter(|c| !LIGATURES.contains(c)).collect();
        let could_be_ascii = !plain.is_ascii() && skeleton(&plain).all(|c| c.is_ascii());
        let is_whole = could_be_ascii || !word.nfc().eq(word.chars());
        Self { has_latin, is_mixed, is_whole }
    }

    /// Whether a character of this word does not say what it seems to say.
    fn hides(&self, c: char) -> bool {
        if c.is_ascii() {
            return false;
        }
        let script = c.script();
        let foreign = self.is_mixed && (script != Script::Latin || !self.has_latin);
        if !is_plain(c) || is_blank(c) || self.is_whole || foreign || has_no_shape(c, script) {
            return true;
        }
        let looks_ascii = !LIGATURES.contains(&c) && is_ascii_shape(c);
        let is_letter_of_its_word = match script {
            Script::Latin => c.identifier_allowed(),
            Script::Common | Script::Inherited => false,
            _ => !self.has_latin,
        };
        looks_ascii && !is_letter_of_its_word
    }
}

/// Marks without a letter of their own, characters that are none yet or everybody's own, letters of another width, and
/// what stands for bytes that are no text.
const fn has_no_shape(c: char, script: Script) -> bool {
    matches!(script, Script::Inherited | Script::Unknown) || matches!(c, '\u{ff00}'..='\u{ffff}')
}

fn script_of_letter(c: char) -> Option<Script> {
    let script = c.script();
    (!matches!(script, Script::Common | Script::Inherited) && !c.is_ascii_digit()).then_some(script)
}

/// Whether a character alone is drawn as ASCII ones are: by its compatibility form, or by its UTS #39 prototype.
fn is_ascii_shape(c: char) -> bool {
    let mut buffer = [0; 4];
    let text: &str = c.encode_utf8(&mut buffer);
    text.nfkc().all(|c| c.is_ascii()) || skeleton(text).all(|c| c.is_ascii())
}

fn is_right_to_left(c: char) -> bool {
    RIGHT_TO_LEFT.contains(&c.script())
}

/// Whether a terminal may draw the parts of a name in another order: a number, or a second word from right to left, behind
/// one from right to left.
fn is_reordered(name: &str) -> bool {
    let (mut behind, mut apart) = (false, false);
    for c in name.chars() {
        let right_to_left = is_right_to_left(c);
        if behind && apart && (right_to_left || c.is_numeric()) {
            return true;
        }
        if right_to_left {
            (behind, apart) = (true, false);
        } else if c.is_alphabetic() {
            behind = false;
        } else {
            apart = true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::shown_name;

    #[test]
    fn names_of_one_script_are_read_as_they_are() {
        for name in [
            "refs/heads/main",
            "refs/heads/пример",
            "refs/heads/исправление-42",
            "docs/日本語.md",
            "docs/ノート/README.md",
            "日本語README",
            "カタカナ",
            "naïve",
            "größe",
            "Blåbær",
            "vær",
            "ışık",
            "ελληνικά",
            "한국어",
            "שלום",
            "العربية",
            "हिन्दी",
            "ไทยทำ",
            "tiếng-việt",
            "feature/🚀-launch",
            "a b/c d",
            "x_y~z+1@{2}",
            "Иван Петров",
        ] {
            assert!(!is_lookalike(name), "{name}: {}", shown_name(name));
            assert_eq!(shown_name(name), name);
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_marked() {
        for name in [
            "refs/heads/mаin",
            "refs/heads/main\u{2800}",
            "refs/heads/main\u{a0}",
            "refs/heads/main\u{3164}",
            "refs/heads/ｍain",
            "refs/heads/𝐦ain",
            "refs/heads/mɑin",
            "refs/heads/maın",
            "refs/heads/сор",
            "refs/heads/ΜΑΙΝ",
            "refs/heads/main\u{301}",
            "refs/heads/mai\u{337}n",
            "refs/heads/nai\u{308}ve",
            "refs/heads/ma\u{200b}in",
            "refs/heads/\u{202e}niam",
            "refs∕heads/x",
            "src／main",
            "src⁄main",
            "srcノmain",
            "a․b",
            "a‐b",
            "a–b",
            "don’t",
            "ﬁx",
            "K\u{212a}",
            "x\u{e000}",
            "x\u{378}",
            "א/ב",
            "א/1",
            "тестv2",
            "αб",
            "README ",
            "a  b",
            " a",
            "ﾃｽﾄ",
        ] {
            assert!(is_lookalike(name), "{name:?}");
            assert!(shown_name(name).contains("\\u{"), "{}", shown_name(name));
        }
        assert_eq!(shown_name("refs/heads/mаin"), "refs/heads/m\\u{430}in");
    }

    #[test]
    fn what_looks_alike_folds_to_the_same() {
        for (name, other) in [
            ("mаin", "main"),
            ("ＭＡＩＮ", "main"),
            ("main\u{200b}", "main"),
            ("ΜΑΙΝ", "main"),
            ("maın", "main"),
        ] {
            assert_eq!(folded(name), folded(other), "{name}");
        }
        assert_ne!(folded("пример"), folded("npumep"));
    }
}
