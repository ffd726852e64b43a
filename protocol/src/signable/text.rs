//! A commit as a person reads it: author, committer and subject, decoded and cut as git's `log` does it.
//!
//! Comes in: the bytes of a commit object, hostile or not, with or without a signature. Goes out: what git prints, or the
//! bytes escaped with the reason why git prints something else. Where `doubt` is none, `git log` prints exactly these words.

use thiserror::Error;

use super::Encoding;
use crate::Identity;

/// Longest subject, name or address in bytes; what is longer ends in `…`.
pub const MAX_TEXT: usize = 200;
/// Longest body in bytes; what is longer ends in `…`.
pub const MAX_BODY: usize = 4096;
/// Most bytes of text that are written as `\x46`.
const MAX_ESCAPED: usize = 40;

/// What git shows of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitText {
    /// Who wrote it.
    pub author: Identity,
    /// Who made it.
    pub committer: Identity,
    /// The first paragraph of its message, as one line.
    pub subject: String,
    /// What follows of its message, with its lines.
    pub body: String,
    /// Whether it has jj's header `jj:trees`: jj takes these trees for its content, in place of the tree that git shows.
    pub jj_trees: bool,
    /// The encoding of its text, where it is known and not UTF-8.
    pub encoding: Option<&'static str>,
    /// Why git may show other words than these.
    pub doubt: Option<TextDoubt>,
}

/// Why a commit does not read as its bytes look.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TextDoubt {
    /// Its encoding is not known here.
    #[error("the encoding {name} is not known: git shows other words than its bytes spell")]
    UnknownEncoding {
        /// As the commit has it, escaped and cut.
        name: String,
    },
    /// It has bytes that are no text.
    #[error("its text is not valid {name}: git shows its raw bytes")]
    NotText {
        /// The encoding.
        name: &'static str,
    },
    /// It has a NUL.
    #[error("it has a NUL: git shows nothing of what follows")]
    Nul,
    /// Author, committer or message are not where git writes them, or come twice.
    #[error("its author, its committer or its message is missing, malformed or comes twice")]
    Malformed,
}

impl CommitText {
    /// What is said of one with the header `jj:trees`.
    pub const JJ_TREES: &str = "it has the header jj:trees: jj reads those trees, git the one that is shown";

    /// What is said of one in another encoding than UTF-8 that is known.
    #[must_use]
    pub fn encoded(name: &str) -> String {
        format!("its text is in {name}, and shown as git shows it")
    }

    /// Reads a commit object.
    #[must_use]
    pub fn of(object: &[u8]) -> Self {
        // To git it is a string of C's.
        let end = object.iter().position(|byte| *byte == 0);
        let bytes = &object[..end.unwrap_or(object.len())];
        let named = encoding_header(bytes);
        let Some(encoding) = named.map_or(Some(Encoding::Utf8), Encoding::named) else {
            let name = escaped(named.unwrap_or_default(), MAX_TEXT);
            let doubt = TextDoubt::UnknownEncoding { name };
            return Self { doubt: Some(doubt), ..Self::read(bytes, |bytes, _| hexadecimal(bytes)) };
        };
        let Some(decoded) = encoding.decode(bytes) else {
            let doubt = TextDoubt::NotText { name: encoding.name() };
            return Self { doubt: Some(doubt), ..Self::read(bytes, escaped) };
        };
        let whole = Self::read(decoded.as_bytes(), |bytes, most| cut(&String::from_utf8_lossy(bytes), most));
        let doubt = if end.is_some() { Some(TextDoubt::Nul) } else { whole.doubt };
        let encoding = (encoding != Encoding::Utf8).then(|| encoding.name());
        Self { encoding, doubt, ..whole }
    }

    /// Takes a commit's text apart (git's pretty.c, `parse_commit_header`: the last author counts).
    fn read(bytes: &[u8], shown: impl Fn(&[u8], usize) -> String) -> Self {
        let (mut authors, mut committers) = (Vec::new(), Vec::new());
        let (mut message, mut jj_trees) = (None, false);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, after) = line(rest);
            rest = after;
            if line.is_empty() {
                message = Some(after);
                break;
            }
            jj_trees |= line.starts_with(b"jj:trees");
            authors.extend(line.strip_prefix(b"author "));
            committers.extend(line.strip_prefix(b"committer "));
        }
        let mut doubt = message.is_none() || authors.len() != 1 || committers.len() != 1;
        let mut person = |lines: &[&[u8]]| {
            let found = lines.last().and_then(|line| person(line));
            doubt |= found.is_none();
            let (name, email) = found.unwrap_or_default();
            Identity { name: shown(name, MAX_TEXT), email: shown(email, MAX_TEXT) }
        };
        let (author, committer) = (person(&authors), person(&committers));
        let (subject, body) = message_parts(message.unwrap_or_default());
        Self {
            author,
            committer,
            subject: shown(&subject, MAX_TEXT),
            body: shown(body, MAX_BODY),
            jj_trees,
            encoding: None,
            doubt: doubt.then_some(TextDoubt::Malformed),
        }
    }
}

/// The value of the first header `encoding` (git's commit.c, `find_commit_header`: it is not empty).
fn encoding_header(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    head.filter_map(|line| line.strip_prefix(b"encoding ")).next()
}

/// Name and address (git's ident.c, `split_ident_line`).
fn person(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let open = line.iter().position(|byte| *byte == b'<')?;
    let address = &line[open + 1..];
    let close = address.iter().position(|byte| *byte == b'>')?;
    let name = &line[..open];
    let end = name.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1);
    Some((&name[..end], &address[..close]))
}

/// The first paragraph in one line, and what follows it (git's pretty.c, `format_subject` and `parse_commit_message`).
fn message_parts(message: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut lines = Vec::new();
    let mut rest = without_blank_lines(message);
    while !rest.is_empty() {
        let (whole, after) = line(rest);
        rest = after;
        let end = text_end(whole);
        if end == 0 {
            break;
        }
        lines.push(&whole[..end]);
    }
    (lines.join(&b' '), without_blank_lines(rest))
}

fn without_blank_lines(mut text: &[u8]) -> &[u8] {
    while !text.is_empty() {
        let (first, after) = line(text);
        if text_end(first) > 0 {
            break;
        }
        text = after;
    }
    text
}

/// Where a line's text ends: spaces behind it do not count.
fn text_end(line: &[u8]) -> usize {
    line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1)
}

fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    end.map_or((bytes, &[]), |end| (&bytes[..end], &bytes[end + 1..]))
}

/// git's own `isspace`.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Keeps the start of what is too long.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &text[..end])
}

/// UTF-8 as it is, every other byte as `\xff`; at most so many bytes of it.
#[must_use]
pub fn escaped(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for chunk in bytes[..bytes.len().min(most + 1)].utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    cut(&text, most)
}

/// Every byte as `\x46`: nobody takes them for the words that git shows.
fn hexadecimal(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(MAX_ESCAPED)];
    let text: String = start.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    if start.len() < bytes.len() { format!("{text}…") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(head: &str, message: &[u8]) -> Vec<u8> {
        let who = "Ada <ada@example.org> 1 +0000";
        let tree = "a".repeat(40);
        [format!("tree {tree}\nauthor {who}\ncommitter {who}\n{head}\n").as_bytes(), message].concat()
    }

    #[test]
    fn a_commit_reads_as_git_shows_it() {
        let text = CommitText::of(&commit("", b"\n \nOne \ntwo\t\n\nBody\n"));
        assert_eq!((&*text.author.name, &*text.author.email), ("Ada", "ada@example.org"));
        assert_eq!((&*text.subject, &*text.body, text.encoding), ("One two", "Body\n", None));
        assert_eq!((text.doubt, text.jj_trees), (None, false));
        assert!(CommitText::of(&commit("jj:trees a b c\n", b"x")).jj_trees);
        let latin = CommitText::of(&commit("encoding ISO-8859-1\n", b"caf\xe9"));
        assert_eq!((&*latin.subject, latin.encoding), ("café", Some("ISO-8859-1")));
    }

    #[test]
    fn what_git_reads_otherwise_is_escaped_and_named() {
        let ebcdic = CommitText::of(&commit("encoding IBM037\n", b"Fix"));
        assert_eq!((&*ebcdic.subject, &*ebcdic.author.name), ("\\x46\\x69\\x78", "\\x41\\x64\\x61"));
        assert_eq!(ebcdic.doubt, Some(TextDoubt::UnknownEncoding { name: "IBM037".into() }));
        let raw = CommitText::of(&commit("", b"caf\xe9"));
        assert_eq!((&*raw.subject, raw.doubt), ("caf\\xe9", Some(TextDoubt::NotText { name: "UTF-8" })));
        let other = CommitText::of(&commit("encoding windows-1252\n", b"x\n\n\x81"));
        assert_eq!(other.doubt, Some(TextDoubt::NotText { name: "windows-1252" }));
        assert_eq!(CommitText::of(&commit("", b"a\0b")).doubt, Some(TextDoubt::Nul));
        let twice = commit("author Eve <eve@example.org> 1 +0000\n", b"x");
        assert_eq!(CommitText::of(&twice).doubt, Some(TextDoubt::Malformed));
        assert_eq!(CommitText::of(b"").doubt, Some(TextDoubt::Malformed));
        let long = CommitText::of(&commit("", "é".repeat(400).as_bytes()));
        assert_eq!(long.subject.chars().count(), 101);
    }
}
