//! What can be approved: a push, a fetch, a signature, each with the very thing that it would be done with.
//!
//! A proposal is made of the thing and of the facts that describe it to policies and people, and only where the two fit.
//! What is shown and what is done can then not come apart: an approval gives the thing back, and nothing else.

use std::sync::Arc;

use keyhatch_policies::{FetchOperation, Operation, PushOperation, SignOperation, Terms};
use keyhatch_protocol::{Facts, Remote, SignFacts, SignedChanges, UpdateFact};
use thiserror::Error;

use crate::claim::PushClaim;
use crate::spool::Sealed;

/// A push: where to, and the sealed bytes.
#[derive(Debug)]
pub struct Push {
    pub(super) remote: Remote,
    pub(super) sealed: Sealed,
}

/// A fetch, a clone, an ls-remote.
#[derive(Debug)]
pub struct Fetch {
    _made_here: (),
}

/// A signature over bytes with this digest.
#[derive(Debug)]
pub struct Signature {
    pub(super) facts: SignFacts,
}

/// A thing that a session wants to do, with what policies and people judge it by.
#[derive(Debug)]
pub struct Proposal<Op> {
    pub(super) content: Op,
    pub(super) operation: Operation,
}

/// A proposal that a person has to decide, on the policy's terms.
#[derive(Debug)]
pub struct Question<Op> {
    pub(super) proposal: Proposal<Op>,
    pub(super) terms: Terms,
}

/// The facts describe other commands than the push has: the child that found them is broken, or was taken over.
#[derive(Debug, Error)]
#[error("the inspector described another push")]
pub struct FactsDiffer;

impl<Op> Proposal<Op> {
    /// What policies and people judge it by.
    #[must_use]
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }
}

impl Proposal<Push> {
    /// A push of sealed bytes.
    ///
    /// # Errors
    /// When the facts are not about the commands at the head of these bytes.
    pub fn push(remote: Remote, sealed: Sealed, facts: Facts) -> Result<Self, FactsDiffer> {
        let claim = sealed.claim();
        if !describes(&facts.updates, claim) {
            return Err(FactsDiffer);
        }
        let push_options = claim.push_options.clone();
        let operation = Operation::Push(PushOperation { remote: remote.clone(), facts, push_options });
        Ok(Self { content: Push { remote, sealed }, operation })
    }
}

/// Whether these are the claim's commands, each doing what it can do.
fn describes(facts: &[UpdateFact], claim: &PushClaim) -> bool {
    facts.len() == claim.updates.len()
        && facts.iter().zip(&claim.updates).all(|(fact, update)| {
            (&fact.ref_name, &fact.old, &fact.new) == (&update.ref_name, &update.old, &update.new)
                && update.possible_kinds().contains(&fact.kind)
        })
}

impl Proposal<Fetch> {
    /// A fetch.
    #[must_use]
    pub const fn fetch(remote: Remote) -> Self {
        Self { content: Fetch { _made_here: () }, operation: Operation::Fetch(FetchOperation { remote }) }
    }
}

impl Proposal<Signature> {
    /// A signature, before anybody looked at what the commit changes.
    #[must_use]
    pub fn signature(facts: SignFacts) -> Self {
        let operation = Operation::Sign(SignOperation::of(facts.clone()));
        Self { content: Signature { facts }, operation }
    }
}

impl<Op> Question<Op> {
    /// On which terms it would be approved.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What the person judges it by.
    #[must_use]
    pub const fn operation(&self) -> &Operation {
        &self.proposal.operation
    }

    pub(super) fn into_parts(self) -> (Op, Arc<Operation>, Terms) {
        let Proposal { content, operation } = self.proposal;
        (content, Arc::new(operation), self.terms)
    }
}

impl Question<Signature> {
    /// What would be signed.
    #[must_use]
    pub const fn facts(&self) -> &SignFacts {
        &self.proposal.content.facts
    }

    /// The same question with what the commit changes.
    #[must_use]
    pub fn with_changes(mut self, changes: Option<SignedChanges>) -> Self {
        let facts = self.proposal.content.facts.clone();
        self.proposal.operation = Operation::Sign(SignOperation { facts, changes });
        self
    }
}
