//! Whether a session that ends left its git directory as it was agreed on: then nothing can come of it, and no child
//! need be started to look.
//!
//! By content, not by times: whatever a session did in the last moment shows. Only names, values and bytes are compared.

use std::fs;
use std::io;

use super::beneath::Beneath;
use super::coming;
use super::harvest::{BUSY, MAX_LOG};
use super::index::MAX_INDEX;
use super::reflog::LogEntry;
use super::refs::Head;
use super::state::{State, Tree};

/// Whether nothing is new inside. What cannot be read may be new.
pub(super) fn is(state: &State) -> bool {
    look(state).unwrap_or(false)
}

fn look(state: &State) -> io::Result<bool> {
    let inside = Beneath::hostile(&state.session())?;
    let changes = state.base.changes(&state.start()?, &inside)?;
    if coming::is_noted(state) || changes.iter().any(|(name, new)| state.settled.get(name) != Some(new)) {
        return Ok(false);
    }
    let log = inside.read("logs/refs/stash", MAX_LOG)?.unwrap_or_default();
    let stash = LogEntry::tail(&log, usize::MAX);
    if !stash.iter().map(|entry| &entry.new).eq(&state.stash) {
        return Ok(false);
    }
    for entry in inside.list("worktrees", 1000)? {
        if !state.common.join("worktrees").join(&entry.name).exists() {
            return Ok(false);
        }
    }
    for (at, tree) in state.trees.iter().enumerate() {
        if !same_tree(state, &inside, (at, tree))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_tree(state: &State, inside: &Beneath, (at, tree): (usize, &Tree)) -> io::Result<bool> {
    let within =
        |name: &str| if tree.within == "." { name.to_owned() } else { format!("{}/{name}", tree.within) };
    if Head::read(inside, &within("HEAD")) != tree.head || BUSY.iter().any(|name| inside.has(&within(name))) {
        return Ok(false);
    }
    let log = inside.read(&within("logs/HEAD"), MAX_LOG)?.unwrap_or_default();
    if LogEntry::lines(&log).count() != tree.logged {
        return Ok(false);
    }
    let agreed = match fs::read(state.agreed_index(at)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        agreed => agreed.unwrap_or_default(),
    };
    Ok(inside.read(&within("index"), MAX_INDEX)?.unwrap_or_default() == agreed)
}
