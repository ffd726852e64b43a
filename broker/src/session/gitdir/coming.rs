//! What a round is about to do on the host, on disk before it does it: a broker that dies in the middle leaves word of
//! what is its session's doing, and the next one does not take it for the user's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use keyhatch_protocol::{ObjectId, RefName};
use serde::{Deserialize, Serialize};

use super::harvest::{EntryChange, Harvest, RefChange};
use super::host::tree_directory;
use super::index::{self, Changes};
use super::reflog::path;
use super::refs::Head;
use super::state::{Moved, State};
use super::worktree::{host_head, keep};

/// Where it stands in a repository's directory of ours.
const NAME: &str = "coming.json";

/// The values that a round may leave on the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coming {
    /// Of refs: the last one, and those on the way, which the host's log tells too.
    refs: BTreeMap<RefName, Vec<ObjectId>>,
    /// Of the stash.
    stash: Vec<ObjectId>,
    /// Of each worktree's `HEAD`.
    heads: Vec<Option<Head>>,
    /// Of each worktree's index.
    indexes: Vec<Vec<EntryChange>>,
}

/// Notes what will be done with a harvest.
///
/// # Errors
/// When it cannot be written: then nothing must be done.
pub(super) fn note(state: &State, harvest: &Harvest) -> io::Result<()> {
    let before = state.base.values(&state.start()?, harvest.refs.iter().map(|change| &change.name));
    let values = |change: &RefChange| {
        let new = change.new.as_ref()?;
        // From what was agreed on: anything older in the log may be where the user goes back to.
        let steps = path(&change.log, before.get(&change.name), new).unwrap_or_default();
        let ids = steps.into_iter().map(|entry| entry.new).chain([new.clone()]);
        Some((change.name.clone(), ids.collect()))
    };
    let coming = Coming {
        refs: harvest.refs.iter().filter_map(values).collect(),
        stash: harvest.stash.iter().flatten().map(|entry| entry.new.clone()).collect(),
        heads: harvest.trees.iter().map(|tree| tree.head.clone()).collect(),
        indexes: harvest.trees.iter().map(|tree| tree.index.clone()).collect(),
    };
    let heads_stay = state.trees.iter().map(|tree| &tree.head).eq(coming.heads.iter());
    if coming.refs.is_empty()
        && coming.stash.is_empty()
        && coming.indexes.iter().all(Vec::is_empty)
        && heads_stay
    {
        return Ok(());
    }
    keep(&file(state), &serde_json::to_vec(&coming).map_err(io::Error::other)?)
}

/// Whether a round did not end.
pub(super) fn is_noted(state: &State) -> bool {
    file(state).exists()
}

/// Forgets it: what was done is in the record.
///
/// # Errors
/// What the kernel says.
pub(super) fn done(state: &State) -> io::Result<()> {
    match fs::remove_file(file(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes what an unfinished round left on the host for agreed.
///
/// # Errors
/// When a file of ours cannot be read or written.
pub(super) fn settle(state: &mut State, host_changes: &super::refs::Changes) -> io::Result<()> {
    let text = match fs::read(file(state)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let coming: Coming = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let start = state.start()?;
    for (name, ids) in &coming.refs {
        let Some(Some(now)) = host_changes.get(name) else { continue };
        if ids.contains(now) {
            let from = state.base.values(&start, std::iter::once(name)).remove(name);
            state.floors.entry(name.clone()).or_insert_with(|| from.clone());
            let moved = state.outcome.moved.entry(name.clone());
            moved.or_insert_with(|| Moved { from, to: None }).to = Some(now.clone());
            state.base.since.insert(name.clone(), Some(now.clone()));
        }
    }
    for (at, head) in coming.heads.iter().enumerate() {
        let Some(tree) = state.trees.get(at) else { continue };
        let host = host_head(state, tree);
        if host.is_some() && host == *head {
            state.trees[at].head = host;
        }
    }
    for (at, entries) in coming.indexes.into_iter().enumerate() {
        settle_index(state, at, entries)?;
    }
    state.left_stash = coming.stash;
    Ok(())
}

fn settle_index(state: &State, at: usize, entries: Vec<EntryChange>) -> io::Result<()> {
    let Some(tree) = state.trees.get(at).filter(|_| !entries.is_empty()) else { return Ok(()) };
    let path = state.agreed_index(at);
    let agreed = index::read_or_empty(&path)?;
    let host = index::read_or_empty(&tree_directory(state, &tree.within).join("index"))?;
    let Ok(theirs) = index::compare(&agreed, &host, state.format) else { return Ok(()) };
    let landed: Changes = entries
        .into_iter()
        .map(|entry| ((entry.path, entry.stage), entry.tracked))
        .filter(|(place, tracked)| theirs.get(place) == Some(tracked))
        .collect();
    match index::apply(&agreed, &landed, state.format) {
        Ok(agreed) if !landed.is_empty() => keep(&path, &agreed),
        _ => Ok(()),
    }
}

fn file(state: &State) -> PathBuf {
    state.directory.join(NAME)
}
