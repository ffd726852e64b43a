//! Approval: the only room that can turn a judgement or a person's decision into `Approved<Op>`.
//!
//! Comes in: operations with their facts, and decisions that name a digest. Goes out: a proof, by value, that this one
//! operation may be done once. Nothing here does I/O; time is an argument.

mod batch;
mod clock;
mod grants;
mod proposal;
mod queue;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use keyhatch_policies::{CredentialChoice, Judgement, Operation, Reason, Terms};
use keyhatch_protocol::{Remote, RequestId, SessionId, SignFacts};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::claim::PushClaim;
use crate::spool::{Integrity, Reading, Sealed};

pub use batch::{BATCH_HOLDS, BATCH_LASTS, SignQuestion};
pub use clock::{BootTime, Clock, KernelClock};
pub use grants::Grant;
pub use proposal::{FactsDiffer, Fetch, Proposal, Push, Question, Signature};
pub use queue::{Asked, Attached, DecideError, Held, Outcome, Queue, Scope, Submission};

/// Hexadecimal digits of a digest that people read and type: with the request's id they name what was shown.
pub const SHORT_DIGEST: usize = 12;

/// Names everything that is shown of an operation: session, remote, commands, push options, the facts that inspection
/// found, and the policy's terms. Equal digests are equal requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

/// Names what a session wants to do, whatever inspection found this time: a no sticks to this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Intent(String);

/// SHA-256 over parts that each end with a NUL, which none of them can contain: no two lists share an encoding.
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, text: &str) {
        self.0.update(text.as_bytes());
        self.0.update([0]);
    }

    /// Adds what serialises. JSON has no NUL, and says the same of equal values only.
    fn add_json(&mut self, value: &impl Serialize) {
        // Facts are text, numbers and lists: there is nothing in them that JSON cannot say.
        let text = serde_json::to_string(value).unwrap_or_default();
        self.add(&text);
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Intent {
    fn of(session: &SessionId, operation: &Operation) -> Self {
        Self(Self::parts(session, operation).finish())
    }

    fn parts(session: &SessionId, operation: &Operation) -> Parts {
        let mut parts = Parts(Sha256::new());
        parts.add("keyhatch-operation-2");
        parts.add(session.as_str());
        match operation {
            Operation::Fetch(fetch) => {
                parts.add("fetch");
                parts.add(&fetch.remote.to_string());
            }
            Operation::Push(push) => {
                parts.add("push");
                parts.add(&push.remote.to_string());
                for update in &push.facts.updates {
                    parts.add(update.old.as_str());
                    parts.add(update.new.as_str());
                    parts.add(update.ref_name.as_str());
                }
                parts.add("options");
                push.push_options.iter().for_each(|option| parts.add(option));
            }
            Operation::Sign(sign) => {
                parts.add("sign");
                parts.add(sign.facts.kind.word());
                parts.add(sign.facts.format.word());
                parts.add(&sign.facts.key);
                parts.add(&sign.facts.covered);
            }
        }
        parts
    }
}

impl Digest {
    /// The digest of what a session wants to do, on the policy's terms.
    #[must_use]
    pub fn of(session: &SessionId, operation: &Operation, terms: &Terms) -> Self {
        let mut parts = Intent::parts(session, operation);
        parts.add("facts");
        match operation {
            Operation::Fetch(_) => {}
            Operation::Push(push) => parts.add_json(&push.facts),
            Operation::Sign(sign) => parts.add_json(&(&sign.facts, &sign.changes)),
        }
        parts.add("terms");
        let credential = match &terms.credential {
            CredentialChoice::Host => ("host", ""),
            CredentialChoice::None => ("none", ""),
            CredentialChoice::Named(name) => ("named", name.as_str()),
        };
        parts.add_json(&(&terms.rule, &terms.reason, credential, terms.once_only));
        Self(parts.finish())
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether somebody named this digest: whole, or by its first digits, at least [`SHORT_DIGEST`].
    #[must_use]
    pub fn is_named_by(&self, digits: &str) -> bool {
        digits.len() >= SHORT_DIGEST && self.0.starts_with(digits)
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

/// The proof that this one thing may be done once. Made here alone, cannot be copied, and is used up by value:
///
/// ```compile_fail,E0451
/// # use keyhatch_broker::approval::{Approved, Authority, Digest, Push};
/// # fn take(content: Push, terms: keyhatch_policies::Terms, digest: Digest) -> Approved<Push> {
/// Approved { content, terms, digest, authority: Authority::Policy }
/// # }
/// ```
///
/// ```compile_fail,E0599
/// # use keyhatch_broker::approval::{Approved, Push};
/// # fn twice(approved: Approved<Push>) -> (Approved<Push>, Approved<Push>) {
/// (approved.clone(), approved)
/// # }
/// ```
///
/// One kind is not another, and nothing is pushed without one, nor twice with the same:
///
/// ```compile_fail,E0308
/// # use keyhatch_broker::approval::{Approved, Fetch, Push};
/// # fn other(fetch: Approved<Fetch>) -> Approved<Push> {
/// fetch
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # use std::sync::Arc;
/// # use keyhatch_broker::{approval::{Approved, Push}, broker::Broker, session::Session, upstream::Upstream};
/// # async fn twice(broker: &Arc<Broker>, session: &Arc<Session>, approved: Approved<Push>) {
/// let first = Upstream::push(broker, session, approved, None).await;
/// let again = Upstream::push(broker, session, approved, None).await;
/// # }
/// ```
#[derive(Debug)]
#[must_use = "an approval that is not used does nothing"]
pub struct Approved<Op> {
    content: Op,
    terms: Terms,
    digest: Digest,
    authority: Authority,
}

impl<Op> Approved<Op> {
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

impl Approved<Push> {
    /// Where it goes.
    pub const fn remote(&self) -> &Remote {
        &self.content.remote
    }

    /// Its commands and options.
    pub const fn claim(&self) -> &Arc<PushClaim> {
        self.content.sealed.claim()
    }

    /// The push itself, to be looked at again before it is sent.
    pub(crate) const fn sealed(&self) -> &Sealed {
        &self.content.sealed
    }

    /// How many bytes are sent.
    pub const fn bytes(&self) -> u64 {
        self.content.sealed.bytes()
    }

    /// The bytes that are sent, from the start.
    ///
    /// # Errors
    /// When they are not those that were approved, or the disk fails.
    pub(crate) async fn body(&self) -> std::io::Result<PushBody> {
        let reading: Reading = self.content.sealed.read().await?;
        Ok(PushBody { integrity: reading.integrity(), stream: Box::pin(reading.stream()) })
    }
}

impl Approved<Signature> {
    /// What may be signed.
    pub const fn facts(&self) -> &SignFacts {
        &self.content.facts
    }
}

/// The bytes of a push that was approved: the only thing that the ways to a server's `receive-pack` take.
pub(crate) struct PushBody {
    stream: Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
    integrity: Integrity,
}

impl PushBody {
    /// Tells later whether the bytes were the approved ones to the end.
    pub(crate) fn integrity(&self) -> Integrity {
        self.integrity.clone()
    }
}

impl Stream for PushBody {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

/// A judged proposal: done, held for a person, or refused.
pub enum Judged<Op> {
    /// May be done.
    Approved(Approved<Op>),
    /// Must be asked.
    Ask(Box<Question<Op>>),
    /// Must not be done.
    Denied(Reason),
}

/// Takes the policy's word for a proposal.
pub fn admit<Op>(session: &SessionId, proposal: Proposal<Op>, judgement: Judgement) -> Judged<Op> {
    match judgement {
        Judgement::Allow(terms) => {
            let Proposal { content, operation } = proposal;
            let digest = Digest::of(session, &operation, &terms);
            Judged::Approved(Approved { content, terms, digest, authority: Authority::Policy })
        }
        Judgement::Ask(terms) => Judged::Ask(Box::new(Question { proposal, terms })),
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
