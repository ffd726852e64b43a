//! The log of `HEAD` on the host: what the session's says, entry by entry. git itself would log only where `HEAD` went
//! between two rounds, and the user looks here for what the agent did.

use std::fs;
use std::io;

use keyhatch_protocol::SessionId;

use super::harvest::Harvest;
use super::host::tree_directory;
use super::lock::Place;
use super::reflog::LogEntry;
use super::state::State;
use super::worktree::host_head;

/// Says in the host's log what the session did, once both sides are at the same place.
///
/// # Errors
/// When the log cannot be written.
pub(super) fn tell(state: &mut State, at: usize, harvest: &Harvest, session: &SessionId) -> io::Result<()> {
    let (Some(found), Some(tree)) = (harvest.trees.get(at), state.trees.get(at)) else { return Ok(()) };
    let in_step = !found.busy && found.head == tree.head && host_head(state, tree) == tree.head;
    let directory = tree_directory(state, &tree.within);
    let path = directory.join("logs/HEAD");
    // Where the host keeps no such file (reftable), git's own entries are what there is.
    if !in_step || !path.exists() {
        return Ok(());
    }
    let (logged, mut length) = (found.logged, fs::metadata(&path)?.len());
    if !found.log.is_empty() || length != tree.host_log as u64 {
        let place = Place { directory: &directory, name: "HEAD", session: session.as_str() };
        // The lock of HEAD is what git holds while it writes this log.
        let told = place.locked(b"", |lock| {
            let now = fs::read(&path)?;
            let (agreed, since) = now.split_at(tree.host_log.min(now.len()));
            let text = merged(agreed, since, &found.log);
            length = text.len() as u64;
            if text != now {
                // Whole or not at all: the lock becomes the log, as it becomes the file itself elsewhere.
                fs::write(lock, text)?;
                fs::set_permissions(lock, fs::metadata(&path)?.permissions())?;
                fs::rename(lock, &path)?;
            }
            Ok(true)
        })?;
        if !told {
            return Ok(());
        }
    }
    if let Some(tree) = state.trees.get_mut(at) {
        (tree.logged, tree.host_log) = (logged, usize::try_from(length).unwrap_or(usize::MAX));
    }
    Ok(())
}

/// What git logged since is what the session did, less finely, or the user's own: that stays.
fn merged(agreed: &[u8], since: &[u8], entries: &[LogEntry]) -> Vec<u8> {
    let mut text = agreed.to_vec();
    for line in LogEntry::lines(since) {
        // An entry without a word of the session's is one that its log had told before HEAD itself moved.
        let ours = LogEntry::parse(line).is_some_and(|entry| {
            let silent = entry.email == "keyhatch@localhost" && entry.message == "keyhatch";
            silent || entries.iter().any(|e| e.new == entry.new)
        });
        if !ours {
            text.extend(line);
            text.push(b'\n');
        }
    }
    let rendered = render(&text, entries);
    text.extend(rendered.into_bytes());
    text
}

/// The entries, each going on from the one before it.
fn render(before: &[u8], entries: &[LogEntry]) -> String {
    let mut at = LogEntry::tail(before, 1).pop().map(|entry| entry.new);
    let mut text = String::new();
    for entry in entries {
        let mut entry = entry.clone();
        if let Some(at) = at {
            entry.old = at;
        }
        at = Some(entry.new.clone());
        text.push_str(&entry.render());
    }
    text
}
