//! A tag as git hands it to a signer: gitformat-tag, without its signature.
//!
//! ```text
//! "object" SP oid LF  "type" SP type LF  "tag" SP name LF  "tagger" SP person LF  LF  message
//! ```

use super::lines::{self, Lines, Names};
use super::{Person, SignableError, refuse_signature};
use crate::{ObjectId, RefName};

const EXPECTED: &str = "object, type, tag and tagger";

/// What a tag points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaggedType {
    /// A commit.
    Commit,
    /// A tree.
    Tree,
    /// A blob.
    Blob,
    /// Another tag.
    Tag,
}

impl TaggedType {
    const ALL: [Self; 4] = [Self::Commit, Self::Tree, Self::Blob, Self::Tag];

    /// The word that git has for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }
}

/// An annotated tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// What it points at.
    pub object: ObjectId,
    /// Of which type that is.
    pub of: TaggedType,
    /// Its name, without `refs/tags/`.
    pub name: String,
    /// Who made it.
    pub tagger: Person,
    /// The message.
    pub message: Vec<u8>,
}

impl Tag {
    /// Parses a tag.
    ///
    /// # Errors
    /// When it is not exactly what git hands to a signer.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignableError> {
        let headers = || SignableError::Headers { expected: EXPECTED };
        if bytes.contains(&0) {
            return Err(SignableError::Control);
        }
        let (mut lines, mut names) = (Lines::new(bytes), Names::default());
        let object = names.parse(lines.header("object")?.ok_or_else(headers)?)?;
        let of = lines.header("type")?.ok_or_else(headers)?;
        let of =
            TaggedType::ALL.into_iter().find(|one| one.word().as_bytes() == of).ok_or(SignableError::Tag)?;
        let name = lines.header("tag")?.ok_or_else(headers)?;
        let full = RefName::parse(&[b"refs/tags/", name].concat()).map_err(|_| SignableError::Tag)?;
        let name = full.as_str()["refs/tags/".len()..].to_owned();
        let tagger = Person::parse(lines.header("tagger")?.ok_or_else(headers)?)?;
        let message = lines.body().ok_or_else(headers)?.to_vec();
        // git takes the last such line for the start of the signature: what it verified would be another text.
        refuse_signature(&message)?;
        if !tagger.is_utf8() || std::str::from_utf8(&message).is_err() {
            return Err(SignableError::Encoding);
        }
        Ok(Self { object, of, name, tagger, message })
    }

    /// The bytes that it was parsed from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { object, of, name, tagger, message } = self;
        let mut bytes = Vec::with_capacity(message.len() + 256);
        lines::write(&mut bytes, "object", object.as_str().as_bytes());
        lines::write(&mut bytes, "type", of.word().as_bytes());
        lines::write(&mut bytes, "tag", name.as_bytes());
        lines::write(&mut bytes, "tagger", &tagger.encode());
        bytes.push(b'\n');
        bytes.extend_from_slice(message);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_and_written_back_and_everything_else_is_refused() {
        let sound = format!(
            "object {}\ntype commit\ntag v1.0\ntagger Ada <ada@example.org> 1 +0000\n\nRelease\n",
            "a".repeat(40)
        );
        assert_eq!(Tag::parse(sound.as_bytes()).expect("a tag").encode(), sound.as_bytes());
        let parse = |text: String| Tag::parse(text.as_bytes()).expect_err("refused");
        assert_eq!(parse(sound.replace("type commit", "type bundle")), SignableError::Tag);
        assert_eq!(parse(sound.replace("tag v1.0", "tag a..b")), SignableError::Tag);
        assert_eq!(parse(sound.replace("tag v1.0", "tag -x\u{7f}")), SignableError::Control);
        assert_eq!(
            parse(sound.replace("\n\nRel", "\nx y\n\nRel")),
            SignableError::Headers { expected: EXPECTED }
        );
        assert_eq!(
            parse(sound.replace("Release", "-----BEGIN SSH SIGNATURE-----")),
            SignableError::Signature
        );
        assert_eq!(
            parse(sound.replace("Release", "-----BEGIN PGP SIGNATURE----- ")),
            SignableError::Signature
        );
        assert_eq!(parse(sound.replace("Release", "a\0")), SignableError::Control);
    }
}
