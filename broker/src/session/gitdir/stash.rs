//! The stash: a log of commits. What the session adds is added on the host, what it made it may drop; the user's own
//! entries stay, whatever happens to them inside.

use std::io;

use keyhatch_protocol::ObjectId;

use super::harvest::{Harvest, Refused};
use super::host::Git;
use super::reflog::LogEntry;
use super::state::State;
use super::sync::View;

/// Largest log of a stash.
const MAX_LOG: u64 = 16 * 1024 * 1024;

/// Brings both stashes together.
pub(super) fn sync(state: &mut State, harvest: &Harvest, view: &View) -> io::Result<()> {
    let git = Git::of(state);
    if let Some(entries) = &harvest.stash {
        let ids: Vec<&ObjectId> = entries.iter().map(|entry| &entry.new).collect();
        let gone: Vec<ObjectId> = state.own_stash.iter().filter(|id| !ids.contains(id)).cloned().collect();
        for id in gone {
            let now = log(view)?;
            if let Some(at) = now.iter().position(|entry| entry.new == id) {
                // It may be gone already; either way it is not ours to drop any more.
                drop(git.drop_stash(now.len() - 1 - at, now.len() == 1));
            }
            state.own_stash.remove(&id);
        }
        for entry in entries.iter().filter(|entry| !state.stash.contains(&entry.new)) {
            if let Some(path) = view.facts.added_beside_head(&entry.new) {
                let why = format!("it adds a repository of its own inside this one: {path}");
                state.outcome.refuse(Refused { what: "a stash entry".into(), why });
                continue;
            }
            // It is there where a round put it that did not end.
            let left = state.left_stash.contains(&entry.new);
            let there = left && log(view)?.iter().any(|on_host| on_host.new == entry.new);
            if there || git.store_stash(entry).is_ok() {
                state.own_stash.insert(entry.new.clone());
                state.outcome.stashed += 1;
            }
        }
        state.stash = ids.into_iter().cloned().collect();
        state.left_stash.clear();
        state.host_stash = log(view)?.into_iter().map(|entry| entry.new).collect();
        return Ok(());
    }
    let now = log(view)?;
    let host: Vec<ObjectId> = now.iter().map(|entry| entry.new.clone()).collect();
    if host != state.host_stash && state.host_stash == state.stash {
        let text: String = now.iter().map(LogEntry::render).collect();
        let written = match now.last() {
            None => view.inside.remove("refs/stash").and_then(|()| view.inside.remove("logs/refs/stash")),
            Some(entry) => view
                .inside
                .make_directories("logs/refs")
                .and_then(|()| view.inside.replace("logs/refs/stash", text.as_bytes(), || true))
                .and_then(|()| {
                    view.inside.replace("refs/stash", format!("{}\n", entry.new).as_bytes(), || true)
                }),
        };
        if written.is_ok() {
            state.stash.clone_from(&host);
        }
    }
    state.host_stash = host;
    Ok(())
}

fn log(view: &View) -> io::Result<Vec<LogEntry>> {
    let bytes = view.host.read("logs/refs/stash", MAX_LOG)?.unwrap_or_default();
    Ok(LogEntry::tail(&bytes, usize::MAX))
}
