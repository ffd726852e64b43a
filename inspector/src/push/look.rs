//! What one inspection has at hand while it looks: the objects, what is left of its budget, and what it notes.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, OdbLookupFlags, Oid};

use super::Missing;
use super::budget::Budget;
use super::content::Compared;
use super::quarantine::Quarantine;
use super::risks::Risks;

/// The state of one inspection.
pub(super) struct Look<'q> {
    pub(super) quarantine: &'q Quarantine,
    pub(super) budget: Budget,
    pub(super) risks: Risks,
    pub(super) missing: Missing,
    /// Pairs of files that were compared before: the same content at another path is not read again.
    pub(super) compared: BTreeMap<(Option<Oid>, Option<Oid>), Compared>,
    /// Pairs of trees that were compared from their roots.
    pub(super) trees: BTreeSet<(Option<Oid>, Oid)>,
}

impl<'q> Look<'q> {
    pub(super) fn new(quarantine: &'q Quarantine) -> Self {
        Self {
            quarantine,
            budget: Budget::whole(),
            risks: Risks::default(),
            missing: Missing::default(),
            compared: BTreeMap::new(),
            trees: BTreeSet::new(),
        }
    }

    /// Notes a commit, tree or tag that neither the pack nor the host has.
    pub(super) fn lacks_history(&mut self, oid: Oid) {
        if let Ok(id) = Quarantine::id(oid) {
            self.missing.history(id);
        }
        self.risks.not_looked_at("what builds on objects that neither the push nor the host has");
    }

    /// Notes a file whose content neither the pack nor the host has.
    pub(super) fn lacks_content(&mut self, oid: Oid) {
        self.wants_content(oid);
        self.risks.not_looked_at("files whose content neither the push nor the host has");
    }

    /// Notes a file that would make the comparison finer, and without which nothing stays unseen.
    pub(super) fn wants_content(&mut self, oid: Oid) {
        if let Ok(id) = Quarantine::id(oid) {
            self.missing.blob(id);
        }
    }

    /// What an object is, and its size, without reading it.
    pub(super) fn header(&self, oid: Oid) -> Option<(usize, ObjectType)> {
        self.quarantine.repository.odb().ok()?.read_header(oid).ok()
    }

    /// Whether it is at hand, without looking for packs that may have appeared.
    pub(super) fn is_at_hand(&self, oid: Oid) -> bool {
        let odb = self.quarantine.repository.odb();
        self.quarantine.pack.contains(&oid)
            || odb.is_ok_and(|odb| odb.exists_ext(oid, OdbLookupFlags::NO_REFRESH))
    }
}
