//! A commit as git hands it to a signer: gitformat-commit, without `gpgsig`.
//!
//! ```text
//! "tree" SP oid LF  *("parent" SP oid LF)  "author" SP person LF  "committer" SP person LF
//! ["encoding" SP name LF]  *(extra header)  LF  message
//! ```

use super::lines::{self, AnyHeader, Lines, Names};
use super::{CommitText, Encoding, Person, SignableError, TextDoubt};
use crate::ObjectId;

const EXPECTED: &str = "tree, parents, author and committer";
/// Most parents: the kernel's largest merge has 66.
const MAX_PARENTS: usize = 1000;
/// Headers after the committer that clients are known to write: git's merged tags, and jj's change ids and conflicts.
const EXTRA: &[&str] = &["mergetag", "change-id", "jj:trees", "jj:conflict-labels"];

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// What it holds.
    pub tree: ObjectId,
    /// What it follows.
    pub parents: Vec<ObjectId>,
    /// Who wrote it.
    pub author: Person,
    /// Who made it.
    pub committer: Person,
    /// The encoding of its text, where it is not UTF-8.
    pub encoding: Option<String>,
    /// Further headers, in their order.
    pub extra: Vec<Header>,
    /// The message.
    pub message: Vec<u8>,
}

/// A further header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// One of those that are known.
    pub name: &'static str,
    /// Its lines.
    pub value: Vec<u8>,
}

impl Commit {
    /// Parses a commit.
    ///
    /// # Errors
    /// When it is not exactly what git hands to a signer.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignableError> {
        let headers = || SignableError::Headers { expected: EXPECTED };
        if bytes.contains(&0) {
            return Err(SignableError::Control);
        }
        let (mut lines, mut names) = (Lines::new(bytes), Names::default());
        let tree = names.parse(lines.header("tree")?.ok_or_else(headers)?)?;
        let mut parents = Vec::new();
        while let Some(parent) = lines.header("parent")? {
            parents.push(names.parse(parent)?);
            if parents.len() > MAX_PARENTS {
                return Err(headers());
            }
        }
        let author = Person::parse(lines.header("author")?.ok_or_else(headers)?)?;
        let committer = Person::parse(lines.header("committer")?.ok_or_else(headers)?)?;
        let encoding = lines.header("encoding")?.map(encoding).transpose()?;
        let mut extra = Vec::new();
        while let Some(AnyHeader { name, value }) = lines.any_header()? {
            if name.starts_with(b"gpgsig") {
                return Err(SignableError::Signature);
            }
            // One of ours again, out of its place: another reader could take the second one.
            if [&b"tree"[..], b"parent", b"author", b"committer", b"encoding"].contains(&name) {
                return Err(headers());
            }
            let name =
                EXTRA.iter().find(|known| known.as_bytes() == name).ok_or(SignableError::UnknownHeader)?;
            extra.push(Header { name, value });
        }
        let message = lines.body().ok_or_else(headers)?.to_vec();
        let text = CommitText::of(bytes);
        match text.doubt {
            Some(TextDoubt::UnknownEncoding { .. }) => return Err(SignableError::UnknownEncoding),
            Some(TextDoubt::NotText { .. }) => return Err(SignableError::Encoding),
            Some(TextDoubt::Nul) => return Err(SignableError::Control),
            Some(TextDoubt::Malformed) => return Err(headers()),
            None => {}
        }
        // Controls above ASCII (U+0080 to U+009F) are seen only once they are decoded.
        let people = [&text.author, &text.committer];
        if people.iter().any(|who| who.name.chars().chain(who.email.chars()).any(char::is_control)) {
            return Err(SignableError::Control);
        }
        Ok(Self { tree, parents, author, committer, encoding, extra, message })
    }

    /// What git shows of it.
    #[must_use]
    pub fn text(&self) -> CommitText {
        CommitText::of(&self.encode())
    }

    /// The bytes that it was parsed from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { tree, parents, author, committer, encoding, extra, message } = self;
        let mut bytes = Vec::with_capacity(message.len() + 512);
        lines::write(&mut bytes, "tree", tree.as_str().as_bytes());
        parents.iter().for_each(|parent| lines::write(&mut bytes, "parent", parent.as_str().as_bytes()));
        lines::write(&mut bytes, "author", &author.encode());
        lines::write(&mut bytes, "committer", &committer.encode());
        if let Some(encoding) = encoding {
            lines::write(&mut bytes, "encoding", encoding.as_bytes());
        }
        extra.iter().for_each(|header| lines::write(&mut bytes, header.name, &header.value));
        bytes.push(b'\n');
        bytes.extend_from_slice(message);
        bytes
    }
}

fn encoding(value: &[u8]) -> Result<String, SignableError> {
    Encoding::named(value).ok_or(SignableError::UnknownEncoding)?;
    // A name that is known is ASCII.
    Ok(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const WHO: &str = "Ada <ada@example.org> 1700000000 +0100";

    fn sound() -> String {
        format!("tree {A}\nparent {A}\nparent {A}\nauthor {WHO}\ncommitter {WHO}\n\nSubject\n\nBody\n")
    }

    #[test]
    fn a_commit_is_read_and_written_back() {
        let merged = format!(
            "tree {A}\nparent {A}\nauthor {WHO}\ncommitter {WHO}\nencoding ISO-8859-1\nmergetag object {A}\n type commit\n \n \
             tag v1\nchange-id abc\n\nm"
        );
        for text in [sound(), merged, format!("tree {A}\nauthor {WHO}\ncommitter {WHO}\n\n")] {
            let commit = Commit::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(String::from_utf8(commit.encode()).expect("text"), text);
        }
        let latin =
            [sound().replace("\n\nSubject", "\nencoding latin1\n\nSubject").as_bytes(), &[0xe9]].concat();
        assert_eq!(Commit::parse(&latin).expect("a commit").encode(), latin);
    }

    #[test]
    fn what_is_not_exactly_a_commit_is_refused_with_its_reason() {
        let parse = |text: String| Commit::parse(text.as_bytes()).expect_err("refused");
        let headers = SignableError::Headers { expected: EXPECTED };
        let cases = [
            (sound().replace(&format!("tree {A}\n"), ""), headers),
            (sound().replace("committer", "comitter"), headers),
            (
                sound().replace(
                    &format!("author {WHO}\ncommitter {WHO}"),
                    &format!("committer {WHO}\nauthor {WHO}"),
                ),
                headers,
            ),
            (sound().replace("\n\nSubject", &format!("\ncommitter {WHO}\n\nSubject")), headers),
            (sound().replace("\n\nSubject\n\nBody\n", "\n"), headers),
            (sound().replace("\n\nSubject", "\nencoding utf-8\nencoding latin1\n\nSubject"), headers),
            (sound().replace("\n\nSubject", "\ngpgsig x\n\nSubject"), SignableError::Signature),
            (sound().replace("\n\nSubject", "\nx-evil y\n\nSubject"), SignableError::UnknownHeader),
            (sound().replace("\n\nSubject", "\nencoding utf-16\n\nSubject"), SignableError::UnknownEncoding),
            (sound().replace("\n\nSubject", "\nencoding IBM037\n\nSubject"), SignableError::UnknownEncoding),
            (sound().replace("\n\nSubject", "\nencoding utf-8 \n\nSubject"), SignableError::UnknownEncoding),
            (sound().replace("\n\nSubject", "\nencoding \n\nSubject"), SignableError::UnknownEncoding),
            (sound().replace("Ada", "A\u{9b}31mda"), SignableError::Control),
            (sound().replacen("Ada", "Ada ", 1), SignableError::Person),
            (sound().replacen("Ada", " Ada", 1), SignableError::Person),
            (sound().replace("Ada", "A\x1b[31mda"), SignableError::Control),
            (sound().replace("Body", "Bo\0dy"), SignableError::Control),
            (
                sound().replace(&format!("parent {A}"), &format!("parent {}", "a".repeat(64))),
                SignableError::ObjectName,
            ),
            (sound().replace(&format!("parent {A}"), "parent HEAD"), SignableError::ObjectName),
            (sound().replacen("Ada", "Ada>", 1), SignableError::Person),
        ];
        for (text, why) in cases {
            assert_eq!(parse(text.clone()), why, "{text}");
        }
        let latin = [sound().as_bytes(), &[0xe9]].concat();
        assert_eq!(Commit::parse(&latin), Err(SignableError::Encoding));
        let undefined =
            [sound().replace("\n\nSubject", "\nencoding CP1252\n\nSubject").as_bytes(), &[0x81]].concat();
        assert_eq!(Commit::parse(&undefined), Err(SignableError::Encoding));
    }
}
