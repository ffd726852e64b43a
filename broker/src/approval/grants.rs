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

#[cfg(test)]
mod tests {
    use keyhatch_policies::{CredentialChoice, PushOperation};
    use keyhatch_protocol::{Facts, ObjectFormat, ObjectId, Risk, RiskKind, UpdateFact};

    use super::super::{BootTime, Digest};
    use super::*;

    /// Everything in which two pushes can differ, as far as a grant looks at it.
    #[derive(Debug, Clone)]
    struct Case {
        remote: &'static str,
        updates: Vec<(&'static str, UpdateKind)>,
        risks: Vec<RiskKind>,
        options: Vec<String>,
        once_only: bool,
    }

    impl Case {
        fn plain() -> Self {
            Self {
                remote: "https://h.example/r",
                updates: vec![("refs/heads/main", UpdateKind::FastForward)],
                risks: Vec::new(),
                options: Vec::new(),
                once_only: false,
            }
        }

        fn terms(&self) -> Terms {
            Terms {
                rule: "r".into(),
                reason: "why".into(),
                credential: CredentialChoice::Host,
                once_only: self.once_only,
            }
        }

        fn operation(&self) -> Operation {
            let zero = ObjectId::zero(ObjectFormat::Sha1);
            let update = |(name, kind): &(&str, UpdateKind)| UpdateFact {
                ref_name: RefName::parse(name.as_bytes()).expect("a ref name"),
                kind: *kind,
                old: zero.clone(),
                new: zero.clone(),
                commit_count: None,
            };
            let facts = Facts {
                object_format: ObjectFormat::Sha1,
                updates: self.updates.iter().map(update).collect(),
                commit_count: 1,
                new_commit_count: 1,
                commits: Vec::new(),
                tag_count: 0,
                tags: Vec::new(),
                file_count: 1,
                files: Vec::new(),
                added: 1,
                removed: 0,
                object_count: 3,
                pack_bytes: 300,
                risks: self.risks.iter().map(|kind| Risk { kind: *kind, detail: String::new() }).collect(),
                diff: String::new(),
                diff_cut: false,
            };
            let remote = Remote::parse(self.remote).expect("a remote");
            Operation::Push(PushOperation { remote, facts, push_options: self.options.clone() })
        }
    }

    fn covers(given: &Case, later: &Case) -> bool {
        let session = SessionId::from_random([1; 4]);
        let operation = given.operation();
        let asked = Asked {
            id: RequestId::from_random([1; 3]),
            session: session.clone(),
            digest: Digest::of(&session, &operation, &given.terms()),
            operation: operation.into(),
            terms: given.terms(),
            created: BootTime::now(),
            expires: BootTime::now(),
            withdrawn: false,
        };
        let mut grants = Grants::default();
        grants.give(&asked);
        grants.covering(&session, &later.operation(), &later.terms()).is_some()
    }

    #[test]
    fn a_grant_covers_plain_fast_forwards_of_its_own_refs_and_nothing_that_differs_in_any_other_way() {
        let changes: &[fn(&mut Case)] = &[
            |case| case.remote = "https://h.example/other",
            |case| case.updates = vec![("refs/heads/other", UpdateKind::FastForward)],
            |case| case.updates.push(("refs/heads/other", UpdateKind::FastForward)),
            |case| case.updates = vec![("refs/heads/main", UpdateKind::Create)],
            |case| case.updates = vec![("refs/heads/main", UpdateKind::Force)],
            |case| case.updates = vec![("refs/heads/main", UpdateKind::Delete)],
            |case| case.risks.push(RiskKind::Secret),
            |case| case.risks.push(RiskKind::NotLookedAt),
            |case| case.risks.push(RiskKind::SpecialRef),
            |case| case.risks.push(RiskKind::Binary),
            |case| case.options.push("ci.skip".into()),
            |case| case.once_only = true,
        ];
        assert!(covers(&Case::plain(), &Case::plain()));
        for set in 1_u32..1 << changes.len() {
            let mut later = Case::plain();
            changes.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).for_each(|(_, c)| c(&mut later));
            assert!(!covers(&Case::plain(), &later), "{later:?}");
        }
    }
}
