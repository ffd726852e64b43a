//! Approval: the only room that can turn a judgement or a person's decision into `Approved<Op>`.
//!
//! Comes in: operations with their facts, and decisions that name a digest. Goes out: a proof, by value, that this one
//! operation may be done once. Nothing here does I/O; time is an argument.

mod batch;
mod grants;
mod queue;

use std::time::{Duration, SystemTime};

use keyhatch_policies::{Judgement, Operation, Reason, Terms};
use keyhatch_protocol::{RequestId, SessionId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use batch::{BATCH_HOLDS, BATCH_LASTS, Question};
pub use grants::Grant;
pub use queue::{Asked, Attached, DecideError, Held, Queue, Scope, Submission};

/// Names an operation: session, remote, commands and push options. Object names fix the content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of what a session wants to do.
    #[must_use]
    pub fn of(session: &SessionId, operation: &Operation) -> Self {
        let mut hasher = Sha256::new();
        // Every part is followed by a NUL, which none of them can contain: no two operations share an encoding.
        let mut part = |text: &str| {
            hasher.update(text.as_bytes());
            hasher.update([0]);
        };
        part("keyhatch-operation-1");
        part(session.as_str());
        match operation {
            Operation::Fetch(fetch) => {
                part("fetch");
                part(&fetch.remote.to_string());
            }
            Operation::Push(push) => {
                part("push");
                part(&push.remote.to_string());
                for update in &push.facts.updates {
                    part(update.old.as_str());
                    part(update.new.as_str());
                    part(update.ref_name.as_str());
                }
                part("options");
                push.push_options.iter().for_each(|option| part(option));
            }
            Operation::Sign(sign) => {
                part("sign");
                part(sign.facts.kind.word());
                part(sign.facts.format.word());
                part(&sign.facts.key);
                part(&sign.facts.covered);
            }
        }
        Self(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// The policy allows it without asking.
    Policy,
    /// A person approved exactly this.
    Person(RequestId),
    /// A grant that a person gave to this session earlier.
    Grant(RequestId),
}

/// The proof that this one operation may be done once.
#[derive(Debug)]
#[must_use = "an approval that is not used does nothing"]
pub struct Approved<Op> {
    operation: Op,
    terms: Terms,
    digest: Digest,
    authority: Authority,
}

impl<Op> Approved<Op> {
    /// What was approved.
    pub const fn operation(&self) -> &Op {
        &self.operation
    }

    /// On which terms.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The digest that was shown.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Who agreed.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// A judged operation: done, held for a person, or refused.
pub enum Judged {
    /// May be done.
    Approved(Approved<Operation>),
    /// Must be asked.
    Ask(Operation, Terms),
    /// Must not be done.
    Denied(Reason),
}

/// Takes the policy's word for an operation.
pub fn admit(session: &SessionId, operation: Operation, judgement: Judgement) -> Judged {
    match judgement {
        Judgement::Allow(terms) => {
            let digest = Digest::of(session, &operation);
            Judged::Approved(Approved { operation, terms, digest, authority: Authority::Policy })
        }
        Judgement::Ask(terms) => Judged::Ask(operation, terms),
        Judgement::Deny(reason) => Judged::Denied(reason),
    }
}

/// A decision that let an operation through or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A person agreed.
    Approved(Scope),
    /// A person said no, perhaps with words.
    Refused(Option<String>),
    /// Nobody answered in time.
    Unanswered,
}

/// How long a request can be decided.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// While the client waits.
    pub held: Duration,
    /// After the client went away.
    pub withdrawn: Duration,
}

/// Seconds since the epoch, for comparison and JSON.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
