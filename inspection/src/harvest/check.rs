//! What the child answered, held against what it was asked. It read hostile bytes with git and libgit2: whoever has found
//! a fault in them speaks in its place.
//!
//! Comes in: an answer that is a claim. Goes out: an answer in which every name, path, mode, number and text is one that
//! may be acted on. What cannot be seen from the answer alone (what objects are, what leads to what) is found out
//! afterwards, by others: the host's git, and the verifying child.

use std::collections::BTreeSet;

use keyhatch_git_files::index::{self, GITLINK, Tracked};
use keyhatch_git_files::reflog::LogEntry;
use keyhatch_git_files::refs::{Head, Refs};
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName};
use thiserror::Error;

use super::{EntryChange, Harvest, LOG_TAIL, MAX_REFS, Order, RefChange, Refused, TreeState};

/// Longest text of the child's, in bytes: a ref's name is the longest. Whoever shows it escapes and cuts it.
const MAX_TEXT: usize = 8192;
/// Longest path of an entry, in bytes: the kernel's own limit.
const MAX_PATH: usize = 4096;
/// Most entries of the log of `HEAD` that a number may stand for: the largest log that is read has fewer.
const MAX_LOGGED: usize = 1 << 24;

/// An answer that no child of ours gives: somebody speaks in its place. Nothing of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the child that reads the session's git directory is not to be believed: {what}")]
pub struct Misreport {
    /// The part of its answer that gives it away.
    pub what: &'static str,
}

/// What both sides agreed on, as far as an answer is held against it.
pub struct Agreed<'a> {
    /// The agreed values of the refs that the answer names.
    pub refs: &'a Refs,
    /// The paths of the submodules in the agreed index of a worktree, by its number.
    pub submodules: &'a dyn Fn(usize) -> std::io::Result<BTreeSet<Vec<u8>>>,
}

/// Refs that come back. `refs/replace` would change what the host's objects say; the rest is git's own scaffolding. jj
/// keeps what its operation log names, which lies in the project, by refs of its own: without them the host's jj would
/// miss its working copy's commit.
#[must_use]
pub fn is_taken(name: &RefName) -> bool {
    let taken = ["refs/heads/", "refs/tags/", "refs/notes/", "refs/remotes/", "refs/jj/keep/"];
    taken.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Whether the host's `HEAD` may follow: to a commit or a branch. On anything else the user's next commit would move it.
#[must_use]
pub fn is_followed(head: &Head) -> bool {
    match head {
        // jj's, on no commit.
        Head::Branch(name) => name.as_str().starts_with("refs/heads/") || name.as_str() == "refs/jj/root",
        Head::Detached(id) => !id.is_zero(),
    }
}

/// Whether a change may be made to the host's index: a mode that git writes into one, and a path that it would check out.
#[must_use]
pub fn is_entry(EntryChange { path, stage, tracked }: &EntryChange) -> bool {
    let shaped = *stage <= 3 && !path.is_empty() && path.len() <= MAX_PATH && !path.contains(&0);
    let mode = |mode: u32| matches!(mode, 0o100_644 | 0o100_755 | 0o120_000 | GITLINK);
    let made =
        |tracked: &Tracked| mode(tracked.mode) && !tracked.id.is_zero() && index::is_harmless_path(path);
    shaped && tracked.as_ref().is_none_or(made)
}

/// Whether an entry of a log may be told to the host's git.
#[must_use]
pub fn is_log_entry(entry: &LogEntry, format: ObjectFormat) -> bool {
    entry.is_legal() && entry.new.format() == format
}

/// Checks an answer, without believing a word of it.
///
/// # Errors
/// When no child of ours would answer this, or a file of ours cannot be read.
pub fn check(order: &Order, harvest: &Harvest, agreed: &Agreed<'_>) -> Result<(), super::HarvestError> {
    // In full: a field that is added stops the build here.
    let Harvest { refs, too_many: _, stash, trees, objects, refused } = harvest;
    check_refs(order, refs, agreed)?;
    if let Some(stash) = stash {
        check_log(order, stash)?;
    }
    if trees.len() != order.trees.len() {
        return Err(Misreport { what: "it was asked for other worktrees" }.into());
    }
    for (at, tree) in trees.iter().enumerate() {
        check_tree(order, tree)?;
        check_submodules(at, tree, agreed)?;
    }
    check_objects(order, objects)?;
    Ok(refused.iter().try_for_each(check_refused)?)
}

fn check_refs(order: &Order, refs: &[RefChange], agreed: &Agreed<'_>) -> Result<(), Misreport> {
    let mut seen = BTreeSet::new();
    let mut made = order.made;
    for RefChange { name, new, log } in refs {
        if !is_taken(name) || !seen.insert(name) {
            return Err(Misreport { what: "a ref that is not taken, or one twice" });
        }
        new.iter().try_for_each(|id| check_id(order, id))?;
        check_log(order, log)?;
        made += usize::from(!agreed.refs.contains_key(name) && !order.floors.contains_key(name));
    }
    // Those that were made before this order may be more: an older record knows no such limit.
    if made > MAX_REFS.max(order.made) {
        return Err(Misreport { what: "more refs than a session may make" });
    }
    Ok(())
}

fn check_id(order: &Order, id: &ObjectId) -> Result<(), Misreport> {
    if id.format() != order.format || id.is_zero() {
        return Err(Misreport { what: "a name of an object that is none" });
    }
    Ok(())
}

fn check_log(order: &Order, log: &[LogEntry]) -> Result<(), Misreport> {
    if log.len() > LOG_TAIL || !log.iter().all(|entry| is_log_entry(entry, order.format)) {
        return Err(Misreport { what: "a log that is too long, or has an entry that is none" });
    }
    Ok(())
}

fn check_tree(order: &Order, tree: &TreeState) -> Result<(), Misreport> {
    let TreeState { head, log, logged, busy: _, index, index_refused } = tree;
    if head.as_ref().is_some_and(|head| !is_followed(head)) {
        return Err(Misreport { what: "a HEAD that is on no branch and no commit" });
    }
    if let Some(Head::Detached(id)) = head {
        check_id(order, id)?;
    }
    check_log(order, log)?;
    if *logged > MAX_LOGGED || log.len() > *logged {
        return Err(Misreport { what: "a log of HEAD that cannot be that long" });
    }
    let mut seen = BTreeSet::new();
    for change in index {
        if !is_entry(change) || !seen.insert((&change.path, change.stage)) {
            return Err(Misreport { what: "an entry of an index that git would not make, or one twice" });
        }
        change.tracked.iter().try_for_each(|tracked| check_id(order, &tracked.id))?;
    }
    index_refused.iter().try_for_each(|why| check_text(why))
}

/// A submodule that the session made is a repository that it configured: the host's git would go into it and do what
/// that says.
fn check_submodules(at: usize, tree: &TreeState, agreed: &Agreed<'_>) -> Result<(), super::HarvestError> {
    let links =
        |change: &&EntryChange| change.tracked.as_ref().is_some_and(|tracked| tracked.mode == GITLINK);
    let mut links = tree.index.iter().filter(links).peekable();
    if links.peek().is_none() {
        return Ok(());
    }
    let known = (agreed.submodules)(at)?;
    if links.all(|change| known.contains(&change.path)) {
        return Ok(());
    }
    Err(Misreport { what: "an index with a submodule that was not there" }.into())
}

/// Loose objects, or packs each with its index after it.
fn check_objects(order: &Order, objects: &[String]) -> Result<(), Misreport> {
    if objects.len() as u64 > order.limits.objects.saturating_mul(2).saturating_add(2) {
        return Err(Misreport { what: "more objects than the policy allows" });
    }
    let mut seen = BTreeSet::new();
    for name in objects {
        let Some(target) = target_of(name, order.format) else {
            return Err(Misreport { what: "an object's file of another name" });
        };
        let index_of = target.strip_suffix(".idx").map(|stem| format!("{stem}.pack"));
        if index_of.is_some_and(|pack| !seen.contains(&pack)) || !seen.insert(target) {
            return Err(Misreport { what: "an index without its pack, or an object's file twice" });
        }
    }
    let packs = seen.iter().filter(|name| name.ends_with(".pack"));
    if packs.count() != seen.iter().filter(|name| name.ends_with(".idx")).count() {
        return Err(Misreport { what: "a pack without its index" });
    }
    Ok(())
}

fn check_refused(Refused { what, why }: &Refused) -> Result<(), Misreport> {
    check_text(what)?;
    check_text(why)
}

/// What is shown to a person: one line.
fn check_text(text: &str) -> Result<(), Misreport> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(Misreport { what: "words that are not to be shown" });
    }
    Ok(())
}

/// Where a file of the quarantine belongs in a store; none for a name that is no object's of this hash.
#[must_use]
pub fn target_of(name: &str, format: ObjectFormat) -> Option<String> {
    let digits = format.digits();
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some(pack) = name.strip_prefix("admitted/objects/pack/pack-") {
        let (stem, extension) = pack.split_once('.')?;
        return (hex(stem, digits) && matches!(extension, "pack" | "idx"))
            .then(|| format!("pack/pack-{pack}"));
    }
    let loose = name.strip_prefix("loose/objects/")?;
    let (directory, rest) = loose.split_once('/')?;
    (hex(directory, 2) && hex(rest, digits - 2)).then(|| loose.to_owned())
}
