//! What a signature of git's covers: a commit, a tag or a push certificate, parsed strictly from its bytes.
//!
//! The broker signs what it parsed and nothing else: each parser is a pure function on a slice, and what it accepts is
//! written back to the very same bytes by [`Signable::encode`]. A bare digest, a blob or an ssh login is none of these.

mod certificate;
mod commit;
mod encoding;
mod lines;
mod person;
mod signed;
mod tag;
mod text;

use thiserror::Error;

pub use certificate::PushCertificate;
pub use commit::{Commit, Header};
pub use encoding::{Encoding, SingleByte};
pub use person::Person;
pub use signed::{SignedObject, split_commit, split_tag};
pub use tag::{Tag, TaggedType};
pub use text::{CommitText, MAX_BODY, MAX_TEXT, TextDoubt, escaped};

use crate::{Identity, Risk, RiskKind, SignableKind, SignatureFormat};

/// The namespace of git's ssh signatures.
pub const NAMESPACE: &str = "git";
/// Most bytes that can be signed: a commit with a hundred merged tags has 64 KiB.
pub const MAX_SIGNABLE: usize = 1024 * 1024;

/// Why bytes are not something that git signs. Nothing of them is repeated: they may be hostile.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum SignableError {
    /// Over the limit.
    #[error("it is longer than {MAX_SIGNABLE} bytes")]
    TooLong,
    /// Of no kind that is known.
    #[error("it is neither a commit, a tag nor a push certificate, and nothing else is signed")]
    Kind,
    /// A header is missing, comes twice or in the wrong place.
    #[error("its headers are not {expected}, in this order")]
    Headers {
        /// What a sound one has.
        expected: &'static str,
    },
    /// A header that git does not write.
    #[error("it has a header that is not known")]
    UnknownHeader,
    /// NUL, or a control character in a header.
    #[error("it has a NUL, or a control character in a header")]
    Control,
    /// A person that is not `Name <email> seconds zone`.
    #[error("a person is not written as Name <email> seconds zone")]
    Person,
    /// An object name that is none, or of two formats.
    #[error("an object name is malformed, or of another format than the others")]
    ObjectName,
    /// Bytes that are no text in the encoding that it names.
    #[error(
        "it is not UTF-8 and names no encoding, or is not in the one that it names (i18n.commitEncoding)"
    )]
    Encoding,
    /// An encoding in which ASCII bytes may mean something else, or that is not known.
    #[error("its encoding is not one that is signed: git would show other words than its bytes spell")]
    UnknownEncoding,
    /// It holds a signature already, or a line that reads like one.
    #[error("it holds a signature already, or a line that starts one")]
    Signature,
    /// A tag's name or type.
    #[error("its tag has a name or a type that git forbids")]
    Tag,
    /// A certificate's commands or options.
    #[error("its commands are none, too many, malformed or twice for one ref")]
    Commands,
}

impl SignableError {
    /// What the one who asks can do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Encoding | Self::UnknownEncoding => {
                "git config i18n.commitEncoding UTF-8; ISO-8859, windows-125x and KOI8 are signed too"
            }
            _ => "git commit -S, git tag -s and git push --signed are signed",
        }
    }
}

/// What a signature covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signable {
    /// A commit.
    Commit(Commit),
    /// An annotated tag.
    Tag(Tag),
    /// What `git push --signed` promises.
    Certificate(PushCertificate),
}

impl Signable {
    /// Parses bytes that somebody wants a signature for.
    ///
    /// # Errors
    /// When git would never ask for a signature of them, with the reason.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignableError> {
        if bytes.len() > MAX_SIGNABLE {
            return Err(SignableError::TooLong);
        }
        if bytes.starts_with(b"tree ") {
            Ok(Self::Commit(Commit::parse(bytes)?))
        } else if bytes.starts_with(b"object ") {
            Ok(Self::Tag(Tag::parse(bytes)?))
        } else if bytes.starts_with(b"certificate version ") {
            Ok(Self::Certificate(PushCertificate::parse(bytes)?))
        } else {
            Err(SignableError::Kind)
        }
    }

    /// The bytes that it was parsed from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Commit(commit) => commit.encode(),
            Self::Tag(tag) => tag.encode(),
            Self::Certificate(certificate) => certificate.encode(),
        }
    }

    /// Which of the three it is.
    #[must_use]
    pub const fn kind(&self) -> SignableKind {
        match self {
            Self::Commit(_) => SignableKind::Commit,
            Self::Tag(_) => SignableKind::Tag,
            Self::Certificate(_) => SignableKind::PushCertificate,
        }
    }

    /// Who speaks in it: committer, tagger, or pusher. None for a certificate that names a key instead of a person.
    #[must_use]
    pub fn speaker(&self) -> Option<Identity> {
        match self {
            Self::Commit(commit) => Some(commit.text().committer),
            Self::Tag(tag) => Some(tag.tagger.identity()),
            Self::Certificate(certificate) => certificate.pusher_identity(),
        }
    }

    /// Who wrote what it holds, where that can be another than who speaks in it.
    #[must_use]
    pub fn author(&self) -> Option<Identity> {
        match self {
            Self::Commit(commit) => Some(commit.text().author),
            Self::Tag(_) | Self::Certificate(_) => None,
        }
    }

    /// The encoding of a commit's text, where that is not UTF-8.
    #[must_use]
    pub fn encoding(&self) -> Option<&'static str> {
        match self {
            Self::Commit(commit) => commit.text().encoding,
            Self::Tag(_) | Self::Certificate(_) => None,
        }
    }

    /// Why a reader may see something else than what is shown of it.
    #[must_use]
    pub fn risks(&self) -> Vec<Risk> {
        let Self::Commit(commit) = self else { return Vec::new() };
        let text = commit.text();
        let encoding =
            text.encoding.map(|name| Risk { kind: RiskKind::Encoding, detail: CommitText::encoded(name) });
        let trees = text
            .jj_trees
            .then(|| Risk { kind: RiskKind::OtherTree, detail: CommitText::JJ_TREES.to_owned() });
        encoding.into_iter().chain(trees).collect()
    }

    /// What follows the first line or paragraph of its message, at most [`MAX_BODY`] bytes.
    #[must_use]
    pub fn body(&self) -> String {
        match self {
            Self::Commit(commit) => commit.text().body,
            Self::Tag(tag) => {
                let after = tag.message.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default();
                escaped(after, MAX_BODY)
            }
            Self::Certificate(_) => String::new(),
        }
    }

    /// Its message's first line, or what stands for it. Lossy: for people.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Commit(commit) => commit.text().subject,
            Self::Tag(tag) => format!("{}: {}", tag.name, first_line(&tag.message)),
            Self::Certificate(certificate) => {
                let refs: Vec<&str> =
                    certificate.updates.iter().map(|update| update.ref_name.short()).collect();
                format!("push of {}", refs.join(", "))
            }
        }
    }
}

/// The first line of text, at most 200 bytes of it.
fn first_line(text: &[u8]) -> String {
    const MOST: usize = 200;
    let line = text.split(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(MOST)]).into_owned()
}

/// Refuses a text with a line at which git would see a signature start (gpg-interface.c, `get_format_by_sig`). In a
/// commit git does not look there; in a tag and in a certificate it takes the last such line.
fn refuse_signature(text: &[u8]) -> Result<(), SignableError> {
    let starts_one = |line: &[u8]| SignatureFormat::of_armour(line).is_some();
    if text.split(|byte| *byte == b'\n').any(starts_one) { Err(SignableError::Signature) } else { Ok(()) }
}
