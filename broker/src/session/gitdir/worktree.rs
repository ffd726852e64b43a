//! `HEAD` and index of a worktree, whose files both sides share: when one side checks out, commits or stages, the
//! other's must say the same, or its `git status` would show work undone.
//!
//! An index of the session is never copied to the host: its entries are read as data by the confined child, and the
//! host's own index is written again with what changed.

use std::fs;
use std::path::Path;

use keyhatch_protocol::{ObjectId, RefName};

use super::beneath::{Beneath, Stamp};
use super::harvest::{Harvest, RefChange, Refused, TreeState};
use super::host::{self, Git, tree_directory};
use super::index::{self, Changes};
use super::lock;
use super::refs::Head;
use super::state::{State, Tree};
use super::sync::{Round, SyncError, View, branch};

/// Files that say that the host's git is in the middle of something.
const BUSY: &[&str] =
    &["rebase-merge", "rebase-apply", "sequencer", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"];

/// A worktree's index on both sides, as the file system saw it before the round.
#[derive(Debug, Clone, Copy)]
pub struct Stamps {
    inside: Stamp,
    host: Stamp,
}

/// One worktree in a round.
pub(super) struct Side<'s> {
    /// Which.
    pub(super) at: usize,
    /// What the session has.
    pub(super) found: &'s TreeState,
    /// From before it was read.
    pub(super) stamps: &'s Stamps,
}

/// What both indexes look like now.
pub(super) fn stamps(state: &State) -> Vec<Stamps> {
    let of = |tree: &Tree| {
        let inside = Beneath::hostile(&state.session()).map(|s| s.stamp(&within(tree, "index")));
        let host = Beneath::own(&tree_directory(state, &tree.within)).map(|h| h.stamp("index").of_content());
        Stamps { inside: inside.unwrap_or_default(), host: host.unwrap_or_default() }
    };
    state.trees.iter().map(of).collect()
}

/// The `HEAD` that a worktree has on the host.
pub(super) fn host_head(state: &State, tree: &Tree) -> Option<Head> {
    host::head(&tree_directory(state, &tree.within), state.reftable)
}

fn within(tree: &Tree, name: &str) -> String {
    if tree.within == "." { name.to_owned() } else { format!("{}/{name}", tree.within) }
}

/// Brings `HEAD` and index of one worktree together.
pub(super) fn sync(
    round: &mut Round<'_>,
    view: &View,
    harvest: &Harvest,
    side: Side<'_>,
) -> Result<(), SyncError> {
    let Some(tree) = round.state.trees.get(side.at).cloned() else { return Ok(()) };
    let directory = tree_directory(round.state, &tree.within);
    let host_busy = BUSY.iter().any(|name| directory.join(name).exists());
    let host = view.host_heads.get(side.at).cloned().flatten();
    let inside = side.found.head.clone();
    let change = harvest.refs.iter().find(|change| branch(inside.as_ref()) == Some(&change.name));
    // In the middle of a rebase neither side is told: the branch moves when it ends.
    let still = side.found.busy || host_busy;
    match &inside {
        Some(head) if inside != tree.head && host == tree.head && !still && may_follow(round, view, head) => {
            follow(round, view, (side.at, head), (side.found, change));
        }
        _ => {
            if let Some(change) = change {
                let git = round.git_for(view, &change.name);
                bring(round, view, &git, change);
            }
        }
    }
    if host != tree.head
        && inside == tree.head
        && !still
        && let Some(host) = &host
    {
        let path = within(&tree, "HEAD");
        // Where a git inside holds the lock, the next round shows it.
        if view.inside.replace(&path, host.render().as_bytes(), || true).is_ok() {
            set_agreed(round, side.at, host.clone());
        }
    }
    if round.last {
        conclude(round, (&tree, &inside), side.found.busy);
    }
    if !still && tree.has_index {
        both_indexes(round, view, harvest, (&tree, &directory, &side))?;
    }
    Ok(())
}

/// Whether the host's `HEAD` may go to a commit: one on no branch can bring a repository of the session's as well.
fn may_follow(round: &mut Round<'_>, view: &View, head: &Head) -> bool {
    let Head::Detached(id) = head else { return true };
    let Some(path) = view.facts.added_beside_head(id).map(str::to_owned) else { return true };
    let why = format!("it adds a repository of its own inside this one: {path}");
    round.refuse(Refused { what: "HEAD".into(), why });
    false
}

/// Keeps what a session that ended in the middle of something was at.
fn conclude(round: &mut Round<'_>, (tree, inside): (&Tree, &Option<Head>), busy: bool) {
    if busy {
        let why = "a merge, a rebase or the like was under way when the session ended".to_owned();
        round.refuse(Refused { what: "HEAD".into(), why });
    }
    if let Some(Head::Detached(id)) = inside
        && host_head(round.state, tree) != *inside
        && let Ok(wanted) = RefName::parse(b"refs/heads/HEAD")
    {
        let below = within(tree, "HEAD");
        round.park_as(&below, &wanted, id, "HEAD was on no branch when the session ended".into());
    }
}

/// Takes a branch that a worktree inside is on, where nothing speaks against it.
fn bring(round: &mut Round<'_>, view: &View, git: &Git, change: &RefChange) -> bool {
    let Some(new) = &change.new else { return false };
    if round.state.settled.contains_key(&change.name) {
        return false;
    }
    let agreed = value(round, view, &change.name);
    if agreed.as_ref() == Some(new) {
        return true;
    }
    let old = view.host_changes.get(&change.name).cloned().unwrap_or(agreed);
    round.advance(git, change, old.as_ref(), new);
    value(round, view, &change.name).as_ref() == Some(new)
}

/// What both sides agree that a ref is.
fn value(round: &Round<'_>, view: &View, name: &RefName) -> Option<ObjectId> {
    round.state.base.values(&view.start, std::iter::once(name)).remove(name)
}

/// The host's `HEAD` goes where the session's went.
fn follow(
    round: &mut Round<'_>,
    view: &View,
    (at, head): (usize, &Head),
    (found, change): (&TreeState, Option<&RefChange>),
) {
    let Some(tree) = round.state.trees.get(at).cloned() else { return };
    let git = Git::of_tree(round.state, &tree.within);
    if let Head::Branch(name) = head {
        // What was parked is not on the host under this name.
        if view.elsewhere.contains(name) || round.state.settled.contains_key(name) {
            return;
        }
        if let Some(change) = change
            && value(round, view, name).is_none()
            && let Some(begun) = beginning(change)
        {
            round.advance(&git, &begun, None, &begun.log[0].new);
        }
    }
    let moving = found.log.iter().rev().find(|entry| entry.message.starts_with("checkout: moving"));
    if git.set_head(head, moving).is_ok() {
        set_agreed(round, at, head.clone());
    }
    if let Some(change) = change {
        bring(round, view, &git, change);
    }
}

/// A new branch as it began: made first, so that the log of `HEAD` tells what was done on it afterwards.
fn beginning(change: &RefChange) -> Option<RefChange> {
    let first = change.log.first().filter(|entry| entry.old.is_zero() && change.log.len() > 1)?;
    Some(RefChange { name: change.name.clone(), new: Some(first.new.clone()), log: vec![first.clone()] })
}

fn set_agreed(round: &mut Round<'_>, at: usize, head: Head) {
    if let Some(tree) = round.state.trees.get_mut(at) {
        tree.head = Some(head);
    }
}

fn both_indexes(
    round: &mut Round<'_>,
    view: &View,
    harvest: &Harvest,
    (tree, directory, side): (&Tree, &Path, &Side<'_>),
) -> Result<(), SyncError> {
    if let Some(why) = &side.found.index_refused {
        round.refuse(Refused { what: "the index".into(), why: why.clone() });
        return Ok(());
    }
    let format = round.state.format;
    let agreed_path = round.state.agreed_index(side.at);
    let agreed = index::read_or_empty(&agreed_path)?;
    let host = index::read_or_empty(&directory.join("index"))?;
    let Ok(theirs) = index::compare(&agreed, &host, format) else { return Ok(()) };
    let ours: Changes =
        side.found.index.iter().map(|c| ((c.path.clone(), c.stage), c.tracked.clone())).collect();
    if theirs.is_empty() && ours.is_empty() {
        return Ok(());
    }
    // An index belongs to the commit that it is compared with: where HEAD could not follow, neither can it.
    let now = host_head(round.state, tree);
    if now.is_none() || !same_commit(round, view, harvest, (now.as_ref(), side.found.head.as_ref())) {
        return Ok(());
    }
    let to_host: Changes = ours
        .iter()
        .filter(|(place, _)| !theirs.contains_key(*place))
        .map(|(p, t)| (p.clone(), t.clone()))
        .collect();
    let merged = if to_host.is_empty() {
        host.clone()
    } else {
        let Ok(merged) = index::apply(&host, &to_host, format) else { return Ok(()) };
        let read = side.stamps.host;
        let place = lock::Place { directory, name: "index", session: round.session.as_str() };
        let still = || Beneath::own(directory).is_ok_and(|host| host.stamp("index").of_content() == read);
        if !place.replace(&merged, still)? {
            return Ok(());
        }
        merged
    };
    if !theirs.is_empty() {
        // Where the session changed nothing, the host's own file serves, with what the file system said.
        let path = within(tree, "index");
        let same = || view.inside.stamp(&path) == side.stamps.inside;
        if view.inside.replace(&path, &merged, same).is_err() {
            // A git inside is at work. What the host changed is still to be shown, what the session changed is not.
            let Ok(between) = index::apply(&agreed, &to_host, format) else { return Ok(()) };
            return Ok(keep(&agreed_path, &between)?);
        }
    }
    Ok(keep(&agreed_path, &merged)?)
}

/// Writes what was agreed, whole or not at all: half an index would look like files that were taken away.
///
/// # Errors
/// When it cannot be written.
pub(super) fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, bytes)?;
    fs::rename(next, path)
}

/// Whether both `HEAD`s are at one commit.
fn same_commit(
    round: &Round<'_>,
    view: &View,
    harvest: &Harvest,
    (host, inside): (Option<&Head>, Option<&Head>),
) -> bool {
    let on_host = |head: &Head| match head {
        Head::Detached(id) => Some(id.clone()),
        Head::Branch(name) => value(round, view, name),
    };
    let within = |head: &Head| match head {
        Head::Detached(id) => Some(id.clone()),
        Head::Branch(name) => match round.state.settled.get(name) {
            Some(id) => id.clone(),
            None => match harvest.refs.iter().find(|change| change.name == *name) {
                Some(change) => change.new.clone(),
                None => value(round, view, name),
            },
        },
    };
    host.map(on_host) == inside.map(within)
}
