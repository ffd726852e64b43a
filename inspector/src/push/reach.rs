//! Objects that no command reaches: data that rides along in a pack without being pushed anywhere.

use std::collections::BTreeSet;

use git2::{ObjectType, Oid};
use keyhatch_protocol::RiskKind;

use super::look::Look;
use super::quarantine::Quarantine;
use super::{Order, Refusal};

/// Compares what the pack holds with what its commands lead to.
pub(super) fn of(order: &Order, look: &mut Look<'_>) -> Result<(), Refusal> {
    let quarantine = look.quarantine;
    let mut reached: BTreeSet<Oid> = BTreeSet::new();
    let mut waiting = Vec::new();
    for update in order.updates.iter().filter(|update| !update.new.is_zero()) {
        waiting.push((quarantine.oid(&update.new)?, Is::History));
    }
    while let Some((oid, is)) = waiting.pop() {
        // Only through the pack: what is not in it was upstream's or the host's before. A file's content is needed
        // only where the diff shows it.
        if !quarantine.pack.contains(&oid) {
            if is == Is::History && !quarantine.has(oid) {
                look.lacks_history(oid);
            }
            continue;
        }
        if reached.insert(oid) {
            children(quarantine, oid, &mut waiting);
        }
    }
    let stray = quarantine.pack.len() - reached.len();
    if stray > 0 {
        let detail =
            format!("{stray} of the pack's {} objects belong to none of its refs", quarantine.pack.len());
        look.risks.add(RiskKind::Unreachable, detail);
    }
    Ok(())
}

/// What an object is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    /// A commit, a tree or a tag: without it, what lies behind is unknown.
    History,
    /// A file's content.
    Content,
}

/// The objects that one names. What cannot be read was refused when the pack was indexed, or leads nowhere.
fn children(quarantine: &Quarantine, oid: Oid, to: &mut Vec<(Oid, Is)>) {
    let repository = &quarantine.repository;
    let kind = repository.odb().and_then(|odb| odb.read_header(oid)).map(|(_, kind)| kind);
    match kind {
        Ok(ObjectType::Commit) => {
            if let Ok(commit) = repository.find_commit(oid) {
                to.push((commit.tree_id(), Is::History));
                to.extend(commit.parent_ids().map(|parent| (parent, Is::History)));
            }
        }
        Ok(ObjectType::Tree) => {
            if let Ok(tree) = repository.find_tree(oid) {
                // A submodule's commit is in another repository.
                to.extend(tree.iter().filter_map(|entry| match entry.kind() {
                    Some(ObjectType::Tree) => Some((entry.id(), Is::History)),
                    Some(ObjectType::Blob) => Some((entry.id(), Is::Content)),
                    _ => None,
                }));
            }
        }
        Ok(ObjectType::Tag) => {
            to.extend(repository.find_tag(oid).map(|tag| (tag.target_id(), Is::History)));
        }
        _ => {}
    }
}
