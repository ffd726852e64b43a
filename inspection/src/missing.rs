//! What inspection would need and does not have: the broker fetches it from upstream, and inspects again.
//!
//! Bounded: a pack can name a million objects that nobody has.

use std::collections::BTreeSet;

use keyhatch_protocol::ObjectId;
use serde::{Deserialize, Serialize};

/// Objects of one kind that are asked for: a push that builds on more cannot be shown to a person anyway.
const MAX_WANTED: usize = 2_000;
/// Tips that are named as known, so that upstream sends only what lies beyond them.
const MAX_KNOWN: usize = 64;

/// The objects that are missing, and what is known of the remote's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Commits, trees and tags.
    pub history: BTreeSet<ObjectId>,
    /// Files that the diff compares.
    pub blobs: BTreeSet<ObjectId>,
    /// Tips of upstream's that are at hand with all that they reach.
    pub known: Vec<ObjectId>,
}

impl Missing {
    /// Whether there is nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.history.is_empty() && self.blobs.is_empty()
    }

    /// Notes a commit, tree or tag.
    pub fn history(&mut self, oid: ObjectId) {
        if self.history.len() < MAX_WANTED {
            self.history.insert(oid);
        }
    }

    /// Notes a file's content.
    pub fn blob(&mut self, oid: ObjectId) {
        if self.blobs.len() < MAX_WANTED {
            self.blobs.insert(oid);
        }
    }

    /// Notes a tip that is at hand.
    pub fn known(&mut self, oid: &ObjectId) {
        if self.known.len() < MAX_KNOWN && !self.known.contains(oid) {
            self.known.push(oid.clone());
        }
    }
}
