//! Signatures: their formats, what they can cover, and what is known of one.

use serde::{Deserialize, Serialize};

use crate::{ChangedFile, Identity, ObjectId, RefUpdate, Remote, Risk};

/// Which kind of signature, by git's own `gpg.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// SSHSIG, `ssh-keygen -Y sign`.
    Ssh,
    /// `gpg`.
    OpenPgp,
    /// `gpgsm`.
    X509,
}

impl SignatureFormat {
    /// The word that git's configuration, JSON and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::OpenPgp => "openpgp",
            Self::X509 => "x509",
        }
    }

    /// The format whose armour a line starts, as git decides it (gpg-interface.c: a prefix is enough).
    #[must_use]
    pub fn of_armour(line: &[u8]) -> Option<Self> {
        const STARTS: [(&str, SignatureFormat); 4] = [
            ("-----BEGIN SSH SIGNATURE-----", SignatureFormat::Ssh),
            ("-----BEGIN PGP SIGNATURE-----", SignatureFormat::OpenPgp),
            ("-----BEGIN PGP MESSAGE-----", SignatureFormat::OpenPgp),
            ("-----BEGIN SIGNED MESSAGE-----", SignatureFormat::X509),
        ];
        STARTS.iter().find(|(start, _)| line.starts_with(start.as_bytes())).map(|(_, format)| *format)
    }
}

/// What can be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignableKind {
    /// A commit.
    Commit,
    /// An annotated tag.
    Tag,
    /// The promise of `git push --signed`.
    PushCertificate,
}

impl SignableKind {
    /// The word that policies, JSON and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
            Self::PushCertificate => "push-certificate",
        }
    }
}

/// What a signature that a session asks for would cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignFacts {
    /// Which of the three.
    pub kind: SignableKind,
    /// Which kind of signature.
    pub format: SignatureFormat,
    /// The key that would make it: a fingerprint, or what gpg calls it.
    pub key: String,
    /// Committer, tagger or pusher. None for a certificate that names the very key instead of a person.
    pub speaker: Option<Identity>,
    /// A commit's author.
    pub author: Option<Identity>,
    /// A commit's first paragraph, or a tag's first line, at most 200 bytes; text that the session wrote.
    pub subject: String,
    /// What follows of the message, at most 4 KiB; text that the session wrote.
    pub body: String,
    /// The encoding of a commit's text, where that is not UTF-8: a risk.
    pub encoding: Option<String>,
    /// Why it may be read otherwise than it is shown.
    pub risks: Vec<Risk>,
    /// What a tag names.
    pub tag: Option<Box<TagPromise>>,
    /// What a push certificate promises.
    pub certificate: Option<Box<PushPromise>>,
    /// What a commit follows, or what a tag points at.
    pub parents: Vec<ObjectId>,
    /// What a commit holds.
    pub tree: Option<ObjectId>,
    /// SHA-256 of the bytes that are signed, in hexadecimal.
    pub covered: String,
}

/// What a tag that waits for a signature names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagPromise {
    /// Its name, without `refs/tags/`.
    pub name: String,
    /// What it points at.
    pub object: ObjectId,
    /// `commit`, `tree`, `blob` or `tag`.
    pub object_type: String,
}

/// What a push certificate that waits for a signature promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushPromise {
    /// Where it is for.
    pub remote: Remote,
    /// Upstream's nonce; none where upstream takes certificates without one.
    pub nonce: Option<String>,
    /// The first of its commands, at most [`PushPromise::LISTED`].
    pub updates: Vec<RefUpdate>,
    /// How many commands it has.
    pub update_count: u64,
    /// Its push options.
    pub push_options: Vec<String>,
}

impl PushPromise {
    /// Commands that are listed: a person reads no more. The digest names them all.
    pub const LISTED: usize = 100;
}

/// What a commit that waits for a signature changes against its first parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedChanges {
    /// How many files change.
    pub file_count: u64,
    /// The first of them, at most 2,000.
    pub files: Vec<ChangedFile>,
    /// Added lines, over all files.
    pub added: u64,
    /// Removed lines, over all files.
    pub removed: u64,
    /// The diff as unified text, at most 1 MiB.
    pub diff: String,
    /// Whether the diff was cut.
    pub diff_cut: bool,
}

/// The signature that a commit or a tag of a push carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedSignature {
    /// SHA-256 of the bytes that it covers, in hexadecimal.
    pub covered: String,
    /// SHA-256 of the armoured signature, in hexadecimal.
    pub digest: String,
    /// What is known of it.
    pub fact: SignatureFact,
}

/// What is known of a signature that a push carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SignatureFact {
    /// This broker made it, for these very bytes.
    Ours {
        /// Which kind.
        format: SignatureFormat,
        /// The key.
        key: String,
        /// The number of the audit record.
        record: u64,
    },
    /// Somebody else made it.
    Foreign {
        /// Which kind; none where its first line is of no kind that git knows.
        format: Option<SignatureFormat>,
        /// The key that it verifies with, where it carries one: an ssh key's fingerprint.
        key: Option<String>,
    },
    /// It does not verify.
    Bad {
        /// Why, a few words.
        why: String,
    },
}
