//! What a push would do: its commands, and the facts that inspection found.

use serde::{Deserialize, Serialize};

use thiserror::Error;

use crate::{CarriedSignature, ObjectFormat, ObjectId, RefName};

/// One command of a push: `old new ref`. A create has a zero `old`, a delete a zero `new`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefUpdate {
    /// Where the client believes the ref to be; the server compares and swaps.
    pub old: ObjectId,
    /// Where the ref should be.
    pub new: ObjectId,
    /// The full name.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
}

/// Why a line is not a command.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RefUpdateError {
    /// It is not `old SP new SP ref`, or both names are zero.
    #[error("malformed command")]
    Form,
    /// The ref's name is one that git forbids.
    #[error("a command names a ref that git forbids")]
    RefName,
}

impl RefUpdate {
    /// Parses `old SP new SP ref`.
    ///
    /// # Errors
    /// When the line is anything else.
    pub fn parse(line: &[u8]) -> Result<Self, RefUpdateError> {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let mut oid = || {
            let text = parts.next().and_then(|part| std::str::from_utf8(part).ok());
            text.and_then(|text| ObjectId::parse(text).ok()).ok_or(RefUpdateError::Form)
        };
        let (old, new) = (oid()?, oid()?);
        let name = parts.next().ok_or(RefUpdateError::Form)?;
        if old.is_zero() && new.is_zero() {
            return Err(RefUpdateError::Form);
        }
        Ok(Self { old, new, ref_name: RefName::parse(name).map_err(|_| RefUpdateError::RefName)? })
    }

    /// What it can turn out to do: a command that moves a ref does not say how.
    #[must_use]
    pub fn possible_kinds(&self) -> &'static [UpdateKind] {
        match (self.old.is_zero(), self.new.is_zero()) {
            (_, true) => &[UpdateKind::Delete],
            (true, false) => &[UpdateKind::Create],
            (false, false) => &[UpdateKind::FastForward, UpdateKind::Force],
        }
    }
}

/// What a command does to its ref. A client never says "force": ancestry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateKind {
    /// The ref is new.
    Create,
    /// The old tip is an ancestor of the new one.
    FastForward,
    /// The old tip is not an ancestor of the new one, or it cannot be known.
    Force,
    /// The ref goes away.
    Delete,
}

impl UpdateKind {
    /// Everything that a command can do.
    pub const ALL: [Self; 4] = [Self::Create, Self::FastForward, Self::Force, Self::Delete];

    /// The word that policies, JSON and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::FastForward => "fast-forward",
            Self::Force => "force",
            Self::Delete => "delete",
        }
    }
}

/// One command with what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateFact {
    /// The full name.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
    /// What happens to it.
    pub kind: UpdateKind,
    /// From here.
    pub old: ObjectId,
    /// To here.
    pub new: ObjectId,
    /// How many commits the ref would newly reach: from a ref that is there, those that it does not reach today; from a new
    /// one, those that upstream's default branch does not. None where they were not counted one ref at a time.
    #[serde(default)]
    pub commit_count: Option<u64>,
}

/// A person as a commit names one: text that the session chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
}

/// One commit that a ref would newly reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitFact {
    /// Its name.
    pub oid: ObjectId,
    /// Who wrote it.
    pub author: Identity,
    /// Who committed it.
    pub committer: Identity,
    /// The first line of its message, at most 200 bytes.
    pub subject: String,
    /// Whether it carries a signature.
    pub signed: bool,
    /// Whose signature that is, as far as it is known.
    pub signature: Option<CarriedSignature>,
    /// How many parents it has.
    pub parents: u32,
    /// Whether no ref of upstream's reaches it.
    #[serde(default)]
    pub is_new: bool,
}

/// One annotated tag that the push brings: what a ref points to, or another such tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagFact {
    /// Its object name.
    pub oid: ObjectId,
    /// The name that it gives itself, lossily decoded; for people.
    pub name: String,
    /// Who made it; none where it does not say.
    pub tagger: Option<Identity>,
    /// Its message's first line, at most 200 bytes.
    pub subject: String,
    /// Its signature; none where it has none.
    pub signature: Option<CarriedSignature>,
}

/// One file that the push changes, against what upstream has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedFile {
    /// The path, lossily decoded; for people.
    pub path: String,
    /// `A`dded, `M`odified, `D`eleted, `R`enamed, `C`opied, `T`ype changed.
    pub status: char,
    /// Added lines; none for a binary file.
    pub added: Option<u64>,
    /// Removed lines; none for a binary file.
    pub removed: Option<u64>,
}

/// The kinds of risk that inspection looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RiskKind {
    /// An added line that looks like a secret.
    Secret,
    /// Something that was not looked at: it is too much, or not at hand. No rule and no grant covers it.
    NotLookedAt,
    /// A ref that is neither a branch nor a tag, and that whoever serves or fetches it obeys.
    SpecialRef,
    /// A workflow or pipeline file of a CI service.
    CiWorkflow,
    /// A submodule, or `.gitmodules`.
    Submodule,
    /// `.gitattributes`.
    Gitattributes,
    /// A git hook or a hook manager's file.
    Hook,
    /// A symbolic link that leaves the tree.
    Symlink,
    /// A binary file.
    Binary,
    /// A file larger than the limit.
    Big,
    /// Invisible or bidirectional characters.
    InvisibleText,
    /// A ref, a path or a remote that could be taken for another: mixed scripts, blanks, other shapes of ASCII.
    LookAlike,
    /// Objects in the pack that no command reaches.
    Unreachable,
    /// Something that could not be found out.
    Unknown,
    /// What `git fsck` warns about.
    Fsck,
    /// A push option: servers act on them.
    PushOption,
    /// A signature that does not fit the commit or the tag that carries it.
    BadSignature,
    /// A commit's text is in another encoding than UTF-8, or git shows other words than its bytes spell.
    Encoding,
    /// `.mailmap`: git shows other names for authors than their commits have.
    Mailmap,
    /// A tag's ref has another name than the tag itself.
    TagName,
    /// A header that has another program read another tree than git's.
    OtherTree,
}

impl RiskKind {
    /// The word that policies, JSON and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::NotLookedAt => "not-looked-at",
            Self::SpecialRef => "special-ref",
            Self::CiWorkflow => "ci-workflow",
            Self::Submodule => "submodule",
            Self::Gitattributes => "gitattributes",
            Self::Hook => "hook",
            Self::Symlink => "symlink",
            Self::Binary => "binary",
            Self::Big => "big",
            Self::InvisibleText => "invisible-text",
            Self::LookAlike => "look-alike",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
            Self::Fsck => "fsck",
            Self::PushOption => "push-option",
            Self::BadSignature => "bad-signature",
            Self::Encoding => "encoding",
            Self::Mailmap => "mailmap",
            Self::TagName => "tag-name",
            Self::OtherTree => "other-tree",
        }
    }
}

impl RiskKind {
    /// Whether it stands for something that nobody knows. Who accepts risks accepts those that were found.
    #[must_use]
    pub const fn is_unlooked(self) -> bool {
        matches!(self, Self::NotLookedAt | Self::Unknown)
    }
}

/// One thing that the person who decides should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    /// What kind.
    pub kind: RiskKind,
    /// Where and what, one line of at most 240 bytes; never the secret itself.
    pub detail: String,
}

/// What inspection found. Bounded: counts are whole, lists may be cut, and then say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The hash that the push uses.
    pub object_format: ObjectFormat,
    /// Each command with what it does, in the client's order.
    pub updates: Vec<UpdateFact>,
    /// How many commits the refs would newly reach, together.
    pub commit_count: u64,
    /// How many of those no ref of upstream's reaches.
    #[serde(default)]
    pub new_commit_count: u64,
    /// The newest that the refs would newly reach, at most 1,000.
    pub commits: Vec<CommitFact>,
    /// How many annotated tags the refs would be at, or lead through.
    #[serde(default)]
    pub tag_count: u64,
    /// The first of those, at most 1,000.
    pub tags: Vec<TagFact>,
    /// How many files change.
    pub file_count: u64,
    /// The first of them, at most 2,000.
    pub files: Vec<ChangedFile>,
    /// Added lines, over all files.
    pub added: u64,
    /// Removed lines, over all files.
    pub removed: u64,
    /// Objects in the pack.
    pub object_count: u64,
    /// The pack's size in bytes.
    pub pack_bytes: u64,
    /// What to look at.
    pub risks: Vec<Risk>,
    /// The diff as unified text, at most 1 MiB as JSON carries it.
    pub diff: String,
    /// Whether the diff was cut.
    pub diff_cut: bool,
}

impl Facts {
    /// What [`Facts::covers`] needs of them, without their lists and their diff.
    #[must_use]
    pub fn outline(&self) -> Self {
        Self {
            object_format: self.object_format,
            updates: self.updates.clone(),
            commit_count: self.commit_count,
            new_commit_count: self.new_commit_count,
            commits: Vec::new(),
            tag_count: self.tag_count,
            tags: Vec::new(),
            file_count: self.file_count,
            files: Vec::new(),
            added: self.added,
            removed: self.removed,
            object_count: self.object_count,
            pack_bytes: self.pack_bytes,
            risks: self.risks.clone(),
            diff: String::new(),
            diff_cut: self.diff_cut,
        }
    }

    /// Whether a later look at the same push found no more than this one: what was decided on the first holds for the second.
    /// Upstream may have moved between the two.
    #[must_use]
    pub fn covers(&self, later: &Self) -> bool {
        let same = |(one, other): (&UpdateFact, &UpdateFact)| {
            one.ref_name == other.ref_name
                && one.kind == other.kind
                && one.old == other.old
                && one.new == other.new
        };
        self.updates.len() == later.updates.len()
            && self.updates.iter().zip(&later.updates).all(same)
            && later.commit_count <= self.commit_count
            && later.new_commit_count <= self.new_commit_count
            && later.risks.iter().all(|risk| self.risks.contains(risk))
    }
}
