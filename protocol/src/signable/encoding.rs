//! The encoding that a commit names for its text, and how git reads it (utf8.c `reencode_string_len`).
//!
//! Known are UTF-8 and encodings of one byte a character in which every ASCII byte means itself: what is a header, a
//! name or an end of line as bytes is one as text. In others it is not (EBCDIC, UTF-16, UTF-7, HZ, ISO-2022 with their
//! shifts; Shift_JIS, Big5 and GBK, where a character swallows an ASCII byte): git would read another commit.

mod tables;

use tables::{ALL, NONE};

/// How text is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8: git changes nothing.
    Utf8,
    /// One byte a character.
    SingleByte(&'static SingleByte),
}

/// An encoding of one byte a character, ASCII below 0x80.
#[derive(Debug, PartialEq, Eq)]
pub struct SingleByte {
    /// Its name, then other names of it. Case does not count.
    names: &'static [&'static str],
    /// The characters of 0x80 to 0x9f; none where these are the control characters U+0080 to U+009F.
    low: Option<&'static str>,
    /// The characters of 0xa0 to 0xff. Past its end there is none.
    high: &'static str,
}

impl Encoding {
    /// The encoding that git would take this name for; none where it is not known here.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        if is_utf8(name) {
            return Some(Self::Utf8);
        }
        let is =
            |one: &&SingleByte| one.names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
        ALL.iter().find(is).map(Self::SingleByte)
    }

    /// Every name that is known, for tests.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["UTF-8", "utf8"].into_iter().chain(ALL.iter().flat_map(|one| one.names.iter().copied()))
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::SingleByte(one) => one.names[0],
        }
    }

    /// Decodes text; none where a byte has no character. git then shows the bytes as they are.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::SingleByte(one) => {
                let high = one.upper_half();
                let character = |byte: &u8| match byte.checked_sub(0x80) {
                    None => Some(char::from(*byte)),
                    Some(at) => high.get(usize::from(at)).copied().filter(|c| *c != NONE),
                };
                bytes.iter().map(character).collect()
            }
        }
    }
}

impl SingleByte {
    fn upper_half(&self) -> Vec<char> {
        let low =
            self.low.map_or_else(|| ('\u{80}'..='\u{9f}').collect(), |low| low.chars().collect::<Vec<_>>());
        low.into_iter().chain(self.high.chars()).collect()
    }
}

/// git's own test (utf8.c, `is_encoding_utf8`): `utf8` or `utf-8`, in any case.
fn is_utf8(name: &[u8]) -> bool {
    [&b"utf8"[..], b"utf-8"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_whole_and_no_name_is_two_encodings() {
        let mut names = std::collections::HashSet::new();
        for one in ALL {
            let whole = one.upper_half().len();
            assert!(whole == 128 || one.high.is_empty() && whole == 0, "{:?}: {whole}", one.names);
            assert!(one.names.iter().all(|name| names.insert(name.to_ascii_lowercase())), "{:?}", one.names);
        }
    }

    #[test]
    fn what_does_not_keep_ascii_bytes_apart_is_not_known() {
        for name in [
            "IBM037",
            "EBCDIC-US",
            "UTF-16",
            "UTF-16LE-BOM",
            "UCS-2LE",
            "UTF-7",
            "UNICODE-1-1-UTF-7",
            "HZ",
            "ISO-2022-JP",
            "ISO-2022-KR",
            "Shift_JIS",
            "SJIS",
            "BIG5",
            "GBK",
            "GB18030",
            "JOHAB",
            "CP1255",
            "ISO-8859-1//TRANSLIT",
            "UTF-8//IGNORE",
            "ISO-10646/UTF8/",
            "utf--8",
            "utf",
            "",
            " utf-8",
            "utf-8 ",
            "UTF-8-MAC",
            "ISO-8859-1 x",
            "ISO_646.IRV:1991",
            "ISO646-DE",
            "VISCII",
            "TCVN",
        ] {
            assert_eq!(Encoding::named(name.as_bytes()), None, "{name}");
        }
        assert_eq!(Encoding::named(b"UtF-8"), Some(Encoding::Utf8));
        let decoded = |name: &str, bytes: &[u8]| Encoding::named(name.as_bytes()).expect(name).decode(bytes);
        assert_eq!(decoded("latin1", b"caf\xe9").as_deref(), Some("caf\u{e9}"));
        assert_eq!(decoded("iso-8859-15", b"\xa4").as_deref(), Some("\u{20ac}"));
        assert_eq!(decoded("cp1252", b"\x80\xe9").as_deref(), Some("\u{20ac}\u{e9}"));
        assert_eq!(decoded("windows-1252", b"\x81"), None);
        assert_eq!(decoded("us-ascii", b"\x80"), None);
        assert_eq!(decoded("ISO-8859-1", b"\x85").as_deref(), Some("\u{85}"));
    }
}
