//! Objects that no command reaches: data that rides along in a pack without being pushed anywhere.

use std::collections::HashSet;

use git2::{ObjectType, Oid};
use keyhatch_protocol::{Risk, RiskKind};

use super::history::unknown;
use super::quarantine::Quarantine;
use super::{Order, Refusal};

/// Compares what the pack holds with what its commands lead to.
pub(super) fn of(order: &Order, quarantine: &Quarantine) -> Result<Vec<Risk>, Refusal> {
    let mut reached: HashSet<Oid> = HashSet::new();
    let mut missing = false;
    let mut waiting = Vec::new();
    for update in order.updates.iter().filter(|update| !update.new.is_zero()) {
        waiting.push(quarantine.oid(&update.new)?);
    }
    while let Some(oid) = waiting.pop() {
        // Only through the pack: what is not in it was upstream's or the host's before.
        if !quarantine.pack.contains(&oid) {
            missing |= !quarantine.has(oid);
            continue;
        }
        if reached.insert(oid) {
            children(quarantine, oid, &mut waiting);
        }
    }
    let stray = quarantine.pack.len() - reached.len();
    let mut risks = Vec::new();
    if stray > 0 {
        let detail =
            format!("{stray} of the pack's {} objects belong to none of its refs", quarantine.pack.len());
        risks.push(Risk { kind: RiskKind::Unreachable, detail });
    }
    if missing {
        risks.push(unknown("the pack builds on objects that the host does not have"));
    }
    Ok(risks)
}

/// The objects that one names. What cannot be read was refused when the pack was indexed, or leads nowhere.
fn children(quarantine: &Quarantine, oid: Oid, to: &mut Vec<Oid>) {
    let repository = &quarantine.repository;
    let kind = repository.odb().and_then(|odb| odb.read_header(oid)).map(|(_, kind)| kind);
    match kind {
        Ok(ObjectType::Commit) => {
            if let Ok(commit) = repository.find_commit(oid) {
                to.push(commit.tree_id());
                to.extend(commit.parent_ids());
            }
        }
        Ok(ObjectType::Tree) => {
            if let Ok(tree) = repository.find_tree(oid) {
                // A submodule's commit is in another repository.
                to.extend(
                    tree.iter().filter(|entry| entry.kind() != Some(ObjectType::Commit)).map(|e| e.id()),
                );
            }
        }
        Ok(ObjectType::Tag) => to.extend(repository.find_tag(oid).map(|tag| tag.target_id())),
        _ => {}
    }
}
