//! Grants: what a person allowed for the rest of a session. They can be listed, and taken back.

use keyhatch_policies::{Operation, Terms};
use keyhatch_protocol::{RefName, Remote, RequestId, SessionId, UpdateKind};
use serde::{Deserialize, Serialize};

use super::Asked;

/// One standing permission. Made when a person approves for the session; ends with the session, or when it is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The request that it was given with, which is how people name it.
    pub id: RequestId,
    /// Whose it is.
    pub session: SessionId,
    /// `push` or `fetch`.
    pub operation: String,
    /// To or from where.
    pub remote: Remote,
    /// For a push: fast-forwards of these refs, and of no other.
    pub refs: Vec<RefName>,
}

/// The grants of one broker. A restarted broker forgets them.
#[derive(Debug, Default)]
pub(super) struct Grants(Vec<Grant>);

impl Grants {
    /// Takes a request that a person approved for its session; a signature opens a batch instead.
    pub(super) fn give(&mut self, asked: &Asked) {
        let (operation, remote, refs) = match &*asked.operation {
            Operation::Sign(_) => return,
            Operation::Fetch(fetch) => ("fetch", fetch.remote.clone(), Vec::new()),
            Operation::Push(push) => {
                let refs = push.facts.updates.iter().map(|update| update.ref_name.clone()).collect();
                ("push", push.remote.clone(), refs)
            }
        };
        let (id, session) = (asked.id.clone(), asked.session.clone());
        self.0.push(Grant { id, session, operation: operation.to_owned(), remote, refs });
    }

    /// The grant that covers an operation, by its id.
    pub(super) fn covering(
        &self,
        session: &SessionId,
        operation: &Operation,
        terms: &Terms,
    ) -> Option<RequestId> {
        let covers = |grant: &&Grant| {
            &grant.session == session
                && match operation {
                    Operation::Sign(_) => false,
                    Operation::Fetch(fetch) => grant.operation == "fetch" && grant.remote == fetch.remote,
                    Operation::Push(push) => {
                        grant.operation == "push"
                            && !terms.once_only
                            && grant.remote == push.remote
                            && push.push_options.is_empty()
                            && push.facts.risks.is_empty()
                            && push.facts.updates.iter().all(|update| {
                                update.kind == UpdateKind::FastForward
                                    && grant.refs.contains(&update.ref_name)
                            })
                    }
                }
        };
        self.0.iter().find(covers).map(|grant| grant.id.clone())
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> Vec<Grant> {
        self.0.clone()
    }

    /// Takes one back; `None` where there is none of that id.
    pub(super) fn revoke(&mut self, id: &RequestId) -> Option<Grant> {
        let at = self.0.iter().position(|grant| &grant.id == id)?;
        Some(self.0.remove(at))
    }

    /// Drops those of a session that has ended.
    pub(super) fn forget(&mut self, session: &SessionId) {
        self.0.retain(|grant| &grant.session != session);
    }
}
