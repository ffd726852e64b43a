//! What each command does to its ref, and what the ref would newly reach from where it really is.
//!
//! A ref that exists is compared with where upstream has it; one that is made, with upstream's default branch, which is
//! what a new branch is taken to start from. What other refs of upstream's reach hides nothing: a commit that is new to a
//! ref is looked at wherever else it already stands.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Oid};
use keyhatch_protocol::signable::{CommitText, MAX_TEXT, escaped};
use keyhatch_protocol::{
    CarriedSignature, CommitFact, Identity, RefName, RefUpdate, Risk, RiskKind, SignatureFact, TagFact,
    UpdateFact, UpdateKind,
};

use super::child::failed;
use super::look::Look;
use super::quarantine::Quarantine;
use super::risks::{self, excerpt};
use super::walk::{self, Reached, difference};
use super::{Order, Refusal, search, signatures};

/// Commits that the facts list, and tags; the counts are whole.
const LISTED: usize = 1000;
/// Tags of tags that are followed from one ref.
const MAX_NESTED: usize = 100;
/// New refs that are walked one by one, so that each says how many commits it reaches; more are walked together.
const WALKED_ALONE: usize = 64;
/// Bytes of a ref's name where something is said of it.
const MAX_NAME: usize = 200;

/// What was found.
#[derive(Default)]
pub(super) struct History {
    pub(super) updates: Vec<UpdateFact>,
    pub(super) commit_count: u64,
    pub(super) new_count: u64,
    pub(super) commits: Vec<CommitFact>,
    pub(super) tag_count: u64,
    pub(super) tags: Vec<TagFact>,
    /// Every commit that a ref newly reaches, newest first.
    pub(super) reached: Vec<Reached>,
    /// What each ref's content changes from and to.
    pub(super) targets: Vec<Target>,
    /// Why the push cannot be made, unless upstream has what neither the pack nor the host has.
    pub(super) absent: Option<Refusal>,
}

/// What a ref comes to hold in the end, behind its tags.
pub(super) enum Target {
    /// A tree, and the one that it is compared with.
    Tree {
        /// Where the change starts from; none where everything is new.
        base: Option<Oid>,
        /// What is there afterwards.
        tip: Oid,
    },
    /// A file by itself, under this ref.
    Blob {
        /// The ref's name, bounded.
        under: String,
        /// The file.
        oid: Oid,
    },
}

/// Walks from the new tips to what their refs reach today.
pub(super) fn of(order: &Order, look: &mut Look<'_>) -> Result<History, Refusal> {
    let mut history = History::default();
    let mut walks = Walks::of(order, look)?;
    for update in &order.updates {
        if let Some(why) = risks::of_ref(&update.ref_name) {
            look.risks.add(RiskKind::SpecialRef, why);
        }
        let (kind, commit_count) = update_of(update, look, &mut walks, &mut history)?;
        history.updates.push(UpdateFact {
            ref_name: update.ref_name.clone(),
            kind,
            old: update.old.clone(),
            new: update.new.clone(),
            commit_count,
        });
    }
    let Walks { found, tips, .. } = walks;
    history.reached = walk::in_order(found.into_values().collect());
    history.commit_count = history.reached.len() as u64;
    listed(order, look, &tips, &mut history)?;
    Ok(history)
}

/// Whether everything is at hand that commands name and are compared with; notes what is not. Without it the whole
/// history would seem to be new.
pub(super) fn has_ends(order: &Order, look: &mut Look<'_>) -> Result<bool, Refusal> {
    let makes = |update: &&RefUpdate| update.old.is_zero() && !update.new.is_zero();
    let default = order.default_branch.iter().filter(|_| order.updates.iter().any(|u| makes(&u)));
    let named = order.updates.iter().filter(|update| !update.new.is_zero());
    let ends = named.flat_map(|update| [&update.old, &update.new]).filter(|end| !end.is_zero());
    for end in ends.chain(default) {
        if !look.quarantine.has(look.quarantine.oid(end)?) {
            look.missing.history(end.clone());
        }
    }
    if !look.missing.is_empty() {
        known(order, look)?;
    }
    Ok(look.missing.is_empty())
}

/// The commits at which upstream's refs are, as far as they are at hand; the first of them are named where more is
/// fetched.
fn known(order: &Order, look: &mut Look<'_>) -> Result<Vec<Oid>, Refusal> {
    let olds = order.updates.iter().map(|update| &update.old).filter(|old| !old.is_zero());
    let mut commits = Vec::new();
    for tip in olds.chain(&order.default_branch).chain(&order.advertised) {
        let oid = look.quarantine.oid(tip)?;
        if look.is_at_hand(oid)
            && let Some(commit) = terminal(look, oid).commit()
        {
            look.missing.known(tip);
            commits.push(commit);
        }
    }
    Ok(commits)
}

/// The walks of all commands.
struct Walks {
    /// Upstream's default branch, for refs that are made.
    default: Option<Oid>,
    /// Whether each new ref is walked by itself.
    one_by_one: bool,
    found: BTreeMap<Oid, Reached>,
    /// The commits at which the refs would be.
    tips: BTreeSet<Oid>,
}

impl Walks {
    fn of(order: &Order, look: &mut Look<'_>) -> Result<Self, Refusal> {
        let creates: Vec<&RefUpdate> =
            order.updates.iter().filter(|update| update.old.is_zero() && !update.new.is_zero()).collect();
        let mut default = None;
        if let Some(tip) = order.default_branch.as_ref().filter(|_| !creates.is_empty()) {
            let oid = look.quarantine.oid(tip)?;
            if look.is_at_hand(oid) {
                default = terminal(look, oid).commit();
            } else {
                // Only for want of a base: without it more appears new than is.
                look.missing.history(tip.clone());
            }
        }
        let mut walks = Self {
            default,
            one_by_one: creates.len() <= WALKED_ALONE,
            found: BTreeMap::new(),
            tips: BTreeSet::new(),
        };
        if !walks.one_by_one {
            let mut tips = Vec::new();
            for create in creates {
                let oid = look.quarantine.oid(&create.new)?;
                if look.is_at_hand(oid) {
                    tips.extend(terminal(look, oid).commit());
                }
            }
            let bases: Vec<Oid> = walks.default.into_iter().collect();
            walks.keep(difference(look, &tips, &bases).commits);
        }
        Ok(walks)
    }

    fn keep(&mut self, commits: Vec<Reached>) {
        self.found.extend(commits.into_iter().map(|commit| (commit.oid, commit)));
    }
}

/// What one command does: its kind, and how many commits its ref newly reaches, where that is known.
fn update_of(
    update: &RefUpdate,
    look: &mut Look<'_>,
    walks: &mut Walks,
    history: &mut History,
) -> Result<(UpdateKind, Option<u64>), Refusal> {
    if update.new.is_zero() {
        return Ok((UpdateKind::Delete, Some(0)));
    }
    let is_create = update.old.is_zero();
    let doubtful = if is_create { UpdateKind::Create } else { UpdateKind::Force };
    let new = look.quarantine.oid(&update.new)?;
    if !look.quarantine.has(new) {
        // A tag on what was pushed a moment ago: git sends nothing, and the host may not have it yet.
        look.missing.history(update.new.clone());
        history.absent.get_or_insert(Refusal::Missing {
            ref_name: excerpt(update.ref_name.as_str().as_bytes(), MAX_NAME),
        });
        return Ok((doubtful, None));
    }
    misnamed(look, &update.ref_name, new);
    tags(look, new, history)?;
    let old = if is_create { None } else { Some(look.quarantine.oid(&update.old)?) };
    if old == Some(new) {
        return Ok((UpdateKind::FastForward, Some(0)));
    }
    if let Some(old) = old
        && !look.quarantine.has(old)
    {
        // Closed on doubt: what cannot be shown to be an ancestor is overwritten, and nothing of it hides anything.
        let name = excerpt(update.ref_name.short().as_bytes(), MAX_NAME);
        look.risks.add(RiskKind::Unknown, format!("{name} is at a commit that the host does not have"));
    }
    let before = old.map_or(Terminal::Absent, |old| terminal(look, old));
    let moved = Moved { old, new, before };
    Ok(match terminal(look, new) {
        Terminal::Commit(tip) => history_of(&moved, tip, look, walks, history),
        Terminal::Tree(tip) => {
            history.targets.push(Target::Tree { base: before.tree(look), tip });
            (doubtful, Some(0))
        }
        Terminal::Blob(oid) => {
            let under = excerpt(update.ref_name.as_str().as_bytes(), MAX_NAME / 2);
            history.targets.push(Target::Blob { under, oid });
            (doubtful, Some(0))
        }
        // Noted where it was looked for.
        Terminal::Absent => (doubtful, None),
    })
}

/// A ref that is not deleted.
struct Moved {
    /// Where it is; none for a new one.
    old: Option<Oid>,
    /// Where it would be.
    new: Oid,
    /// What the old one leads to.
    before: Terminal,
}

/// What a ref that leads to a commit newly reaches.
fn history_of(
    moved: &Moved,
    tip: Oid,
    look: &mut Look<'_>,
    walks: &mut Walks,
    history: &mut History,
) -> (UpdateKind, Option<u64>) {
    let is_create = moved.old.is_none();
    walks.tips.insert(tip);
    let base = if is_create { walks.default } else { moved.before.commit() };
    let mut kind = if is_create { UpdateKind::Create } else { UpdateKind::Force };
    let mut count = None;
    if !is_create || walks.one_by_one {
        let bases: Vec<Oid> = base.into_iter().collect();
        let walked = difference(look, &[tip], &bases);
        count = walked.whole.then_some(walked.commits.len() as u64);
        // A tag that moves is overwritten even where its commit goes on.
        let are_commits = moved.old == base && moved.new == tip;
        if !is_create && are_commits && !walked.met.is_empty() {
            kind = UpdateKind::FastForward;
        }
        walks.keep(walked.commits);
    }
    let base = if is_create { fork(look, tip, &walks.found) } else { moved.before.tree(look) };
    if let Ok(commit) = look.quarantine.repository.find_commit(tip) {
        history.targets.push(Target::Tree { base, tip: commit.tree_id() });
    }
    (kind, count)
}

/// The tree that a new ref starts from: that of its first ancestor that is not new to it.
fn fork(look: &Look<'_>, tip: Oid, new: &BTreeMap<Oid, Reached>) -> Option<Oid> {
    let mut oid = tip;
    while let Some(commit) = new.get(&oid) {
        oid = *commit.parents.first()?;
    }
    look.quarantine.repository.find_commit(oid).ok().map(|commit| commit.tree_id())
}

/// What an object leads to behind its tags.
#[derive(Debug, Clone, Copy)]
enum Terminal {
    Commit(Oid),
    Tree(Oid),
    Blob(Oid),
    Absent,
}

impl Terminal {
    const fn commit(self) -> Option<Oid> {
        match self {
            Self::Commit(oid) => Some(oid),
            _ => None,
        }
    }

    fn tree(self, look: &Look<'_>) -> Option<Oid> {
        match self {
            Self::Commit(oid) => look.quarantine.repository.find_commit(oid).ok().map(|c| c.tree_id()),
            Self::Tree(oid) => Some(oid),
            Self::Blob(_) | Self::Absent => None,
        }
    }
}

fn terminal(look: &mut Look<'_>, mut oid: Oid) -> Terminal {
    for _ in 0..=MAX_NESTED {
        match look.header(oid).map(|(_, kind)| kind) {
            Some(ObjectType::Commit) => return Terminal::Commit(oid),
            Some(ObjectType::Tree) => return Terminal::Tree(oid),
            Some(ObjectType::Blob) => return Terminal::Blob(oid),
            Some(ObjectType::Tag) => match look.quarantine.repository.find_tag(oid) {
                Ok(tag) => oid = tag.target_id(),
                Err(_) => break,
            },
            _ => {
                look.lacks_history(oid);
                return Terminal::Absent;
            }
        }
    }
    look.risks.not_looked_at(format!("what lies behind {MAX_NESTED} tags of tags"));
    Terminal::Absent
}

/// Lists the newest commits, and tells those that no ref of upstream's reaches.
fn listed(
    order: &Order,
    look: &mut Look<'_>,
    tips: &BTreeSet<Oid>,
    history: &mut History,
) -> Result<(), Refusal> {
    let known = known(order, look)?;
    let mut new = BTreeSet::new();
    if !history.reached.is_empty() {
        let tips: Vec<Oid> = tips.iter().copied().collect();
        let walked = difference(look, &tips, &known);
        new = walked.commits.into_iter().map(|commit| commit.oid).collect();
    }
    history.new_count = history.reached.iter().filter(|commit| new.contains(&commit.oid)).count() as u64;
    let repository = &look.quarantine.repository;
    for commit in history.reached.iter().take(LISTED) {
        let unreadable = |error: git2::Error| failed("a commit", error);
        let signature =
            signatures::of_commit(repository, commit.oid, order.object_format).map_err(unreadable)?;
        if let Some(Risk { kind, detail }) = signature.as_ref().and_then(|s| bad(&commit.oid.to_string(), s))
        {
            look.risks.add(kind, detail);
        }
        let odb = repository.odb().map_err(unreadable)?;
        let CommitText { author, committer, subject, .. } =
            CommitText::of(odb.read(commit.oid).map_err(unreadable)?.data());
        history.commits.push(CommitFact {
            oid: Quarantine::id(commit.oid)?,
            author,
            committer,
            subject,
            signed: signature.is_some(),
            signature,
            parents: u32::try_from(commit.parents.len()).unwrap_or(u32::MAX),
            is_new: new.contains(&commit.oid),
        });
    }
    Ok(())
}

/// The tags at which a ref would be, and those that they name in turn.
fn tags(look: &mut Look<'_>, mut oid: Oid, history: &mut History) -> Result<(), Refusal> {
    let unreadable = |error: git2::Error| failed("a tag", error);
    let repository = &look.quarantine.repository;
    for _ in 0..=MAX_NESTED {
        let id = Quarantine::id(oid)?;
        let Ok(tag) = repository.find_tag(oid) else { return Ok(()) };
        history.tag_count += 1;
        let name = escaped(tag.name_bytes(), MAX_TEXT);
        search::message(look, oid, &format!("tag {name}"));
        if history.tags.len() < LISTED && !history.tags.iter().any(|known| known.oid == id) {
            let signature = signatures::of_tag(repository, oid).map_err(unreadable)?;
            if let Some(Risk { kind, detail }) =
                signature.as_ref().and_then(|signature| bad(&name, signature))
            {
                look.risks.add(kind, detail);
            }
            let message = tag.message_bytes().unwrap_or_default();
            history.tags.push(TagFact {
                oid: id,
                name,
                tagger: tag.tagger().as_ref().map(identity),
                subject: escaped(message.split(|byte| *byte == b'\n').next().unwrap_or_default(), MAX_TEXT),
                signature,
            });
        }
        oid = tag.target_id();
    }
    Ok(())
}

/// Notes a tag that stands at a ref of another name: a signature of `test` would be read as one of `v9`.
fn misnamed(look: &mut Look<'_>, ref_name: &RefName, oid: Oid) {
    let Ok(tag) = look.quarantine.repository.find_tag(oid) else { return };
    let Some(wanted) = ref_name.as_str().strip_prefix("refs/tags/") else { return };
    if tag.name_bytes() != wanted.as_bytes() {
        let name = excerpt(ref_name.as_str().as_bytes(), MAX_NAME / 2);
        let calls_itself = escaped(tag.name_bytes(), MAX_NAME / 2);
        look.risks
            .add(RiskKind::TagName, format!("{name} would hold a tag that calls itself {calls_itself}"));
    }
}

/// The risk of a signature that does not fit what carries it.
fn bad(of: &str, signature: &CarriedSignature) -> Option<Risk> {
    let SignatureFact::Bad { why } = &signature.fact else { return None };
    Some(Risk { kind: RiskKind::BadSignature, detail: format!("the signature of {of}: {why}") })
}

fn identity(who: &git2::Signature<'_>) -> Identity {
    Identity { name: escaped(who.name_bytes(), MAX_TEXT), email: escaped(who.email_bytes(), MAX_TEXT) }
}
