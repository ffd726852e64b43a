//! What the host did meanwhile, shown inside: refs that only the host moved.

use std::io;

use keyhatch_protocol::{ObjectId, RefName};

use super::harvest::Harvest;
use super::refs::{Head, MAX_PACKED, packed};
use super::state::State;
use super::sync::View;

/// Writes the host's changes into the session's refs, where the session did not touch the same ref.
///
/// # Errors
/// When our own files cannot be written. A lock that a git inside holds is waited for until the next round.
pub(super) fn refs(state: &mut State, view: &View, harvest: &Harvest) -> io::Result<()> {
    let mut gone = Vec::new();
    let before = state.base.values(&view.start, view.host_changes.keys());
    for (name, id) in &view.host_changes {
        let inside =
            harvest.refs.iter().any(|change| change.name == *name) || state.settled.contains_key(name);
        // What the session moved in this round is agreed on already.
        if inside || state.base.since.get(name) == Some(id) {
            continue;
        }
        let old = before.get(name);
        match id {
            Some(new) if set(view, name, (old, new)) => agree(state, name, Some(new.clone())),
            None if inside_value(view, name).as_ref() == old => gone.push(name.clone()),
            // Moved or locked inside since it was read: the next round sees both.
            _ => {}
        }
    }
    if !gone.is_empty() && remove(view, &gone).is_ok() {
        for name in gone {
            agree(state, &name, None);
        }
    }
    Ok(())
}

/// The host's own word is the new limit.
fn agree(state: &mut State, name: &RefName, id: Option<ObjectId>) {
    state.base.since.insert(name.clone(), id);
    state.floors.remove(name);
}

/// Moves a ref inside from exactly the value that both sides agreed on: what a git inside commits between the harvest
/// and this moment must not be lost. It takes the same lock.
fn set(view: &View, name: &RefName, (old, new): (Option<&ObjectId>, &ObjectId)) -> bool {
    let path = name.as_str();
    let parent = path.rsplit_once('/').map_or("refs", |(parent, _)| parent);
    let still = || inside_value(view, name).as_ref() == old;
    let content = format!("{new}\n");
    let written = view
        .inside
        .make_directories(parent)
        .and_then(|()| view.inside.replace(path, content.as_bytes(), still));
    if let Err(error) = &written {
        tracing::debug!(%name, %error, "a ref of the host's is not shown inside yet");
    }
    written.is_ok()
}

/// What a ref is inside at this moment.
fn inside_value(view: &View, name: &RefName) -> Option<ObjectId> {
    match Head::read(&view.inside, name.as_str()) {
        Some(Head::Detached(id)) => Some(id),
        Some(Head::Branch(_)) => None,
        None => {
            let bytes = view.inside.read("packed-refs", MAX_PACKED).ok().flatten().unwrap_or_default();
            packed(&bytes).find(|(listed, _)| listed == name).map(|(_, id)| id)
        }
    }
}

/// Takes refs away: the loose file, and the line of the packed one, by git's own lock.
fn remove(view: &View, names: &[RefName]) -> io::Result<()> {
    let before = view.inside.stamp("packed-refs");
    if let Some(bytes) = view.inside.read("packed-refs", MAX_PACKED)? {
        let listed = packed(&bytes).any(|(name, _)| names.contains(&name));
        if listed {
            let mut kept = Vec::with_capacity(bytes.len());
            let mut dropped = false;
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                let named = packed(line).next().is_some_and(|(name, _)| names.contains(&name));
                // A peeled line belongs to the one before it.
                dropped = named || (dropped && line.first() == Some(&b'^'));
                if !dropped {
                    kept.extend_from_slice(line);
                }
            }
            view.inside.replace("packed-refs", &kept, || view.inside.stamp("packed-refs") == before)?;
        }
    }
    for name in names {
        view.inside.remove(name.as_str())?;
    }
    Ok(())
}
