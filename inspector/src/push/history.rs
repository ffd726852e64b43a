//! What each command does to its ref, and the commits that upstream does not have.

use std::collections::BTreeMap;

use git2::{ObjectType, Oid, Repository};
use keyhatch_protocol::signable::{CommitText, MAX_TEXT, escaped};
use keyhatch_protocol::{
    CarriedSignature, CommitFact, Identity, RefName, RefUpdate, Risk, RiskKind, SignatureFact, TagFact,
    UpdateFact, UpdateKind,
};

use super::child::failed;
use super::quarantine::Quarantine;
use super::{Missing, Order, Refusal, signatures};

/// Commits that the facts list; the count is whole.
const LISTED: usize = 1000;
/// Commits that are counted before "more" is enough.
const COUNTED: usize = 200_000;
/// Different things that are said of the text of commits.
const MAX_DOUBTS: usize = 50;

/// What was found.
pub(super) struct History {
    pub(super) updates: Vec<UpdateFact>,
    pub(super) commit_count: u64,
    pub(super) commits: Vec<CommitFact>,
    pub(super) tags: Vec<TagFact>,
    /// The new commits, newest first, as far as they are listed.
    pub(super) new: Vec<Oid>,
    pub(super) risks: Vec<Risk>,
    /// Why the push cannot be made, unless upstream has what neither the pack nor the host has.
    pub(super) absent: Option<Refusal>,
}

/// Walks from the new tips to what upstream has.
pub(super) fn of(order: &Order, quarantine: &Quarantine, missing: &mut Missing) -> Result<History, Refusal> {
    let repository = &quarantine.repository;
    let mut history = History {
        updates: Vec::new(),
        commit_count: 0,
        commits: Vec::new(),
        tags: Vec::new(),
        new: Vec::new(),
        risks: Vec::new(),
        absent: None,
    };
    let mut tips = Vec::new();
    for update in &order.updates {
        let kind = kind(update, quarantine, &mut history, missing)?;
        if kind != UpdateKind::Delete {
            let new = quarantine.oid(&update.new)?;
            tips.extend(peeled(repository, new));
            tags(repository, new, &mut history)?;
            history.risks.extend(misnamed(repository, &update.ref_name, new));
        }
        history.updates.push(UpdateFact {
            ref_name: update.ref_name.clone(),
            kind,
            old: update.old.clone(),
            new: update.new.clone(),
        });
    }
    for known in &order.advertised {
        if peeled(repository, quarantine.oid(known)?).is_some() {
            missing.known(known);
        }
    }
    if !tips.is_empty()
        && let Err(error) = walk(order, quarantine, &tips, &mut history)
    {
        if let Walk::Refused(refusal) = error {
            return Err(refusal);
        }
        history
            .risks
            .push(unknown("the history is not complete here: not every new commit could be looked at"));
    }
    Ok(history)
}

fn kind(
    update: &RefUpdate,
    quarantine: &Quarantine,
    history: &mut History,
    missing: &mut Missing,
) -> Result<UpdateKind, Refusal> {
    if update.new.is_zero() {
        return Ok(UpdateKind::Delete);
    }
    let new = quarantine.oid(&update.new)?;
    if !quarantine.has(new) {
        // A tag on what was pushed a moment ago: git sends nothing, and the host may not have it yet.
        missing.history(update.new.clone());
        history.absent.get_or_insert(Refusal::Missing { ref_name: update.ref_name.to_string() });
        return Ok(if update.old.is_zero() { UpdateKind::Create } else { UpdateKind::Force });
    }
    if update.old.is_zero() {
        return Ok(UpdateKind::Create);
    }
    let old = quarantine.oid(&update.old)?;
    if old == new {
        return Ok(UpdateKind::FastForward);
    }
    if !quarantine.has(old) {
        missing.history(update.old.clone());
        // Closed on doubt: what cannot be shown to be an ancestor is overwritten.
        history.risks.push(unknown(&format!(
            "{} is at a commit that the host does not have",
            update.ref_name.short()
        )));
        return Ok(UpdateKind::Force);
    }
    let repository = &quarantine.repository;
    let is_commit = |oid| repository.find_commit(oid).is_ok();
    let ancestor =
        is_commit(old) && is_commit(new) && repository.graph_descendant_of(new, old).unwrap_or(false);
    Ok(if ancestor { UpdateKind::FastForward } else { UpdateKind::Force })
}

pub(super) fn unknown(detail: &str) -> Risk {
    Risk { kind: RiskKind::Unknown, detail: detail.to_owned() }
}

/// The commit that a tip leads to; none for a tag of something else.
fn peeled(repository: &Repository, oid: Oid) -> Option<Oid> {
    repository.find_object(oid, None).ok()?.peel(ObjectType::Commit).ok().map(|commit| commit.id())
}

enum Walk {
    Refused(Refusal),
    Incomplete,
}

impl From<git2::Error> for Walk {
    fn from(_: git2::Error) -> Self {
        Self::Incomplete
    }
}

fn walk(order: &Order, quarantine: &Quarantine, tips: &[Oid], history: &mut History) -> Result<(), Walk> {
    let repository = &quarantine.repository;
    let mut walk = repository.revwalk()?;
    walk.set_sorting(git2::Sort::TOPOLOGICAL | git2::Sort::TIME)?;
    for tip in tips {
        walk.push(*tip)?;
    }
    let olds = order.updates.iter().map(|update| &update.old).filter(|old| !old.is_zero());
    for known in order.advertised.iter().chain(olds) {
        let known = quarantine.oid(known).map_err(Walk::Refused)?;
        if let Some(commit) = peeled(repository, known) {
            walk.hide(commit)?;
        }
    }
    let mut doubts = Doubts::default();
    for oid in walk.take(COUNTED) {
        let oid = oid?;
        history.commit_count += 1;
        if history.commits.len() < LISTED {
            let signature = signatures::of_commit(repository, oid, order.object_format)?;
            history.risks.extend(signature.as_ref().and_then(|signature| bad(&oid.to_string(), signature)));
            let text = CommitText::of(repository.odb()?.read(oid)?.data());
            doubts.add(oid, &text);
            history.commits.push(CommitFact {
                oid: Quarantine::id(oid).map_err(Walk::Refused)?,
                author: text.author,
                committer: text.committer,
                subject: text.subject,
                signed: signature.is_some(),
                signature,
                parents: u32::try_from(repository.find_commit(oid)?.parent_count()).unwrap_or(u32::MAX),
            });
            history.new.push(oid);
        }
    }
    history.risks.extend(doubts.risks());
    if history.commit_count > LISTED as u64 {
        history.risks.push(unknown(&format!("only the newest {LISTED} commits were looked at one by one")));
    }
    Ok(())
}

/// The tags at which a ref would be, and those that they name in turn.
fn tags(repository: &Repository, mut oid: Oid, history: &mut History) -> Result<(), Refusal> {
    let unreadable = |error: git2::Error| failed("a tag", error);
    while history.tags.len() < LISTED
        && !history.tags.iter().any(|known| known.oid.as_str() == oid.to_string())
        && let Ok(tag) = repository.find_tag(oid)
    {
        let signature = signatures::of_tag(repository, oid).map_err(unreadable)?;
        let name = escaped(tag.name_bytes(), MAX_TEXT);
        history.risks.extend(signature.as_ref().and_then(|signature| bad(&name, signature)));
        let odb = repository.odb().map_err(unreadable)?;
        let object = odb.read(oid).map_err(unreadable)?;
        // git takes a tag's bytes for text, up to a NUL, whatever it says of an encoding.
        if object.data().contains(&0) || std::str::from_utf8(object.data()).is_err() {
            let detail = format!("tag {name}: its text is not UTF-8, or has a NUL: git shows its raw bytes");
            history.risks.push(Risk { kind: RiskKind::Encoding, detail });
        }
        let message = tag.message_bytes().unwrap_or_default();
        history.tags.push(TagFact {
            oid: Quarantine::id(oid)?,
            name,
            tagger: tag.tagger().as_ref().map(identity),
            subject: escaped(message.split(|byte| *byte == b'\n').next().unwrap_or_default(), MAX_TEXT),
            signature,
        });
        oid = tag.target_id();
    }
    Ok(())
}

/// The risk of a tag that stands at a ref of another name: a signature of `test` would be read as one of `v9`.
fn misnamed(repository: &Repository, ref_name: &RefName, oid: Oid) -> Option<Risk> {
    let tag = repository.find_tag(oid).ok()?;
    let wanted = ref_name.as_str().strip_prefix("refs/tags/")?;
    let detail =
        format!("{} would hold a tag that calls itself {}", ref_name, escaped(tag.name_bytes(), MAX_TEXT));
    (tag.name_bytes() != wanted.as_bytes()).then_some(Risk { kind: RiskKind::TagName, detail })
}

/// Commits that do not read as plain UTF-8, by what is to be said of them.
#[derive(Default)]
struct Doubts(BTreeMap<String, Doubtful>);

struct Doubtful {
    kind: RiskKind,
    first: Oid,
    commits: u64,
}

impl Doubts {
    fn add(&mut self, oid: Oid, text: &CommitText) {
        if text.jj_trees {
            self.count(oid, RiskKind::OtherTree, CommitText::JJ_TREES.to_owned());
        }
        match (&text.doubt, text.encoding) {
            (Some(doubt), _) => self.count(oid, RiskKind::Encoding, doubt.to_string()),
            (None, Some(name)) => self.count(oid, RiskKind::Encoding, CommitText::encoded(name)),
            (None, None) => {}
        }
    }

    fn count(&mut self, oid: Oid, kind: RiskKind, what: String) {
        // Names of encodings are the session's to choose: so many, and no more.
        if self.0.len() < MAX_DOUBTS || self.0.contains_key(&what) {
            self.0.entry(what).or_insert(Doubtful { kind, first: oid, commits: 0 }).commits += 1;
        }
    }

    fn risks(self) -> impl Iterator<Item = Risk> {
        self.0.into_iter().map(|(what, Doubtful { kind, first, commits })| {
            let more = if commits > 1 { format!(" ({} more)", commits - 1) } else { String::new() };
            Risk { kind, detail: format!("commit {:.8}{more}: {what}", first.to_string()) }
        })
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
