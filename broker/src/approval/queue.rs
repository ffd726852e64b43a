//! The approval queue: who waits, what was decided, what a retry may use.
//!
//! One lock around plain maps. Every rule of the queue is here: once, expired, withdrawn, retried, granted, refused.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use keyhatch_policies::{Operation, Terms};
use keyhatch_protocol::{RequestId, SessionId, UpdateKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use super::batch::{Batches, Covered, Question};
use super::grants::{Grant, Grants};
use super::{Approved, Authority, Decision, Digest, Patience};

/// Most requests of one session that can be pending: a person reads none of a flood.
const MAX_PENDING_PER_SESSION: usize = 16;
/// How many decided ids are remembered, to say "already decided" and not "unknown".
const REMEMBERED: usize = 1_000;
/// How long a refusal answers a repeat by itself, doubled with each repeat up to the cap.
const BACK_OFF: Duration = Duration::from_secs(30);
/// The cap of the doubling.
const MAX_BACK_OFF: Duration = Duration::from_secs(15 * 60);

/// How far an approval reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// This operation, once.
    Once,
    /// Also later fast-forwards of the same refs of the same remote in this session.
    Session,
}

/// A decision came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecideError {
    /// No request of that id was ever asked of this broker.
    #[error("no approval request {0} is pending")]
    Unknown(RequestId),
    /// Somebody was faster.
    #[error("request {id} was already {how}")]
    AlreadyDecided {
        /// Which.
        id: RequestId,
        /// What became of it.
        how: &'static str,
    },
    /// What was shown is not what is asked now.
    #[error("request {0} is not the operation that was shown")]
    DigestDiffers(RequestId),
    /// The terms allow only this one operation.
    #[error("request {id} can only be approved once: {why}")]
    OnceOnly {
        /// Which.
        id: RequestId,
        /// Why a standing permission is out of the question.
        why: &'static str,
    },
}

/// One request as surfaces see it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What people type.
    pub id: RequestId,
    /// Who asks.
    pub session: SessionId,
    /// What for.
    pub operation: Operation,
    /// On which terms.
    pub terms: Terms,
    /// What a decision names.
    pub digest: Digest,
    /// When it was asked.
    pub created: SystemTime,
    /// When it ends by itself.
    pub expires: SystemTime,
    /// Whether the client went away: a decision then waits for its retry.
    pub withdrawn: bool,
}

#[derive(Debug)]
struct Entry {
    asked: Asked,
    patience: Patience,
    waiting: Option<oneshot::Sender<Decision>>,
    approved: bool,
}

#[derive(Debug)]
struct Refusal {
    until: SystemTime,
    back_off: Duration,
    reason: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<RequestId, Entry>,
    decided: VecDeque<(RequestId, &'static str)>,
    refusals: HashMap<(SessionId, Digest), Refusal>,
    grants: Grants,
    batches: Batches,
}

/// The queue of one broker. A restarted broker forgets it.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

/// What became of a question.
#[derive(Debug)]
pub enum Submission<'q> {
    /// It goes through at once: a grant covers it, or it is the retry of an approved request.
    Approved(Box<Approved<Operation>>),
    /// It was refused a moment ago, and the no sticks.
    Refused(Option<String>),
    /// The session asks too much.
    TooMany,
    /// A person has to decide.
    Held(Held<'q>),
}

/// A question that somebody waits on. Dropping it withdraws the request: nothing will be sent.
#[derive(Debug)]
pub struct Held<'q> {
    queue: &'q Queue,
    id: RequestId,
    decision: oneshot::Receiver<Decision>,
    attached: Attached,
    patience: Duration,
}

/// Whether a held question is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Asked for the first time.
    New,
    /// The retry of a request that is still undecided.
    Again,
}

impl Queue {
    /// A channel that changes whenever the queue does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Asks for a decision on an operation.
    pub fn submit(
        &self,
        session: &SessionId,
        (operation, terms): (Operation, Terms),
        patience: Patience,
        (now, new_id): (SystemTime, RequestId),
    ) -> Submission<'_> {
        let digest = Digest::of(session, &operation);
        let mut state = self.lock();
        state.expire(now);
        if let Some(from) = state.grants.covering(session, &operation, &terms) {
            let authority = Authority::Grant(from);
            return Submission::Approved(Box::new(Approved { operation, terms, digest, authority }));
        }
        match state.batches.answer(session, &operation, &terms, now) {
            Some(Covered::Yes(from)) => {
                let authority = Authority::Grant(from);
                return Submission::Approved(Box::new(Approved { operation, terms, digest, authority }));
            }
            Some(Covered::No(reason)) => return Submission::Refused(reason),
            None => {}
        }
        if let Some(reason) = state.still_refused(session, &digest, now) {
            return Submission::Refused(reason);
        }
        // The retry rule: same session and digest, and inspection found the same facts.
        let same = |e: &&mut Entry| {
            e.asked.digest == digest && e.waiting.is_none() && e.asked.operation == operation
        };
        let (sender, decision) = oneshot::channel();
        if let Some(entry) = state.entries.values_mut().find(same) {
            let id = entry.asked.id.clone();
            if entry.approved {
                drop(state);
                let approved = |approved| Submission::Approved(Box::new(approved));
                return self.consume(&id).map_or(Submission::TooMany, approved);
            }
            entry.waiting = Some(sender);
            entry.asked.withdrawn = false;
            entry.asked.expires = now + patience.held;
            drop(state);
            self.announce();
            return Submission::Held(Held {
                queue: self,
                id,
                decision,
                attached: Attached::Again,
                patience: patience.held,
            });
        }
        if state.entries.values().filter(|e| &e.asked.session == session).count() >= MAX_PENDING_PER_SESSION {
            return Submission::TooMany;
        }
        let id = new_id;
        let asked = Asked {
            id: id.clone(),
            session: session.clone(),
            operation,
            terms,
            digest,
            created: now,
            expires: now + patience.held,
            withdrawn: false,
        };
        state.entries.insert(id.clone(), Entry { asked, patience, waiting: Some(sender), approved: false });
        drop(state);
        self.announce();
        Submission::Held(Held { queue: self, id, decision, attached: Attached::New, patience: patience.held })
    }

    /// Whether an earlier answer covers a signature, so that nobody will look at it.
    #[must_use]
    pub fn covers(&self, session: &SessionId, question: &Question<'_>, now: SystemTime) -> bool {
        self.lock().batches.has_answer(session, question, now)
    }

    /// Everything that can be decided now, oldest first.
    #[must_use]
    pub fn pending(&self, now: SystemTime) -> Vec<Asked> {
        let mut state = self.lock();
        state.expire(now);
        let mut list: Vec<Asked> =
            state.entries.values().filter(|e| !e.approved).map(|e| e.asked.clone()).collect();
        list.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        list
    }

    /// Decides a request. The digest, where given, must be the one that was shown.
    ///
    /// # Errors
    /// When it is unknown, decided, expired, another operation, or cannot be approved for longer.
    pub fn decide(
        &self,
        id: &RequestId,
        digest: Option<&str>,
        decision: Decision,
        now: SystemTime,
    ) -> Result<Asked, DecideError> {
        // Held across the check and the change: two decisions on one request must not both win.
        let mut state = self.lock();
        state.expire(now);
        let Some(entry) = state.entries.get_mut(id).filter(|e| !e.approved) else {
            return Err(state.why_not(id));
        };
        if digest.is_some_and(|digest| digest != entry.asked.digest.as_str()) {
            return Err(DecideError::DigestDiffers(id.clone()));
        }
        if decision == Decision::Approved(Scope::Session)
            && let Some(why) = once_only(&entry.asked)
        {
            return Err(DecideError::OnceOnly { id: id.clone(), why });
        }
        let asked = entry.asked.clone();
        let waiting = entry.waiting.take();
        match &decision {
            // The entry stays until the approval is used: by the client that waits, or by its retry.
            Decision::Approved(scope) => {
                entry.approved = true;
                state.batches.answered(&asked.session, &asked.operation, &asked.terms, Ok(id.clone()), now);
                if *scope == Scope::Session {
                    state.grants.give(&asked);
                }
            }
            Decision::Refused(reason) => {
                state.refuse(&asked, reason.clone(), now);
                let no = Err(reason.clone());
                state.batches.answered(&asked.session, &asked.operation, &asked.terms, no, now);
                state.finish(id, "refused");
            }
            Decision::Unanswered => state.finish(id, "unanswered"),
        }
        if let Some(waiting) = waiting
            && waiting.send(decision).is_err()
        {
            tracing::debug!(%id, "decided after the client went away");
        }
        drop(state);
        self.announce();
        Ok(asked)
    }

    /// The standing permissions, oldest first.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        self.lock().grants.list()
    }

    /// Takes a standing permission back: what it covered is asked again.
    pub fn revoke(&self, id: &RequestId) -> Option<Grant> {
        self.lock().grants.revoke(id)
    }

    /// Forgets everything of a session that has ended.
    pub fn forget(&self, session: &SessionId) {
        let mut state = self.lock();
        let ids: Vec<RequestId> = state
            .entries
            .iter()
            .filter(|(_, e)| &e.asked.session == session)
            .map(|(id, _)| id.clone())
            .collect();
        ids.iter().for_each(|id| state.finish(id, "withdrawn: its session ended"));
        state.grants.forget(session);
        state.batches.forget(session);
        state.refusals.retain(|(of, _), _| of != session);
        drop(state);
        self.announce();
    }

    /// Uses an approval up: the entry that was shown becomes the proof.
    fn consume(&self, id: &RequestId) -> Option<Approved<Operation>> {
        let mut state = self.lock();
        let asked = state.entries.get(id).filter(|e| e.approved)?.asked.clone();
        state.finish(id, "approved");
        drop(state);
        self.announce();
        let Asked { operation, terms, digest, .. } = asked;
        Some(Approved { operation, terms, digest, authority: Authority::Person(id.clone()) })
    }

    fn close(&self, id: &RequestId, how: &'static str) {
        self.lock().finish(id, how);
        self.announce();
    }

    fn withdraw(&self, id: &RequestId, now: SystemTime) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(id) else { return };
        entry.waiting = None;
        entry.asked.withdrawn = true;
        entry.asked.expires = now + entry.patience.withdrawn;
        drop(state);
        self.announce();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves whole maps: every change is one insert or one remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

impl Held<'_> {
    /// The id that people type.
    #[must_use]
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether it is new.
    #[must_use]
    pub const fn attached(&self) -> Attached {
        self.attached
    }

    /// Waits for the decision. An approval comes with its proof.
    ///
    /// # Errors
    /// The decision that was not an approval.
    pub async fn decided(mut self) -> Result<Approved<Operation>, Decision> {
        let decision = match tokio::time::timeout(self.patience, &mut self.decision).await {
            Ok(Ok(decision)) => decision,
            // The session ended, or nobody answered: both are a no.
            Ok(Err(_)) | Err(_) => Decision::Unanswered,
        };
        match decision {
            Decision::Approved(_) => self.queue.consume(&self.id).ok_or(Decision::Unanswered),
            Decision::Unanswered => {
                self.queue.close(&self.id, "unanswered");
                Err(Decision::Unanswered)
            }
            refused @ Decision::Refused(_) => Err(refused),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.queue.withdraw(&self.id, SystemTime::now());
    }
}

impl State {
    fn expire(&mut self, now: SystemTime) {
        let over: Vec<RequestId> =
            self.entries.iter().filter(|(_, e)| e.asked.expires <= now).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.finish(id, "expired"));
        self.refusals.retain(|_, refusal| refusal.until + refusal.back_off > now);
    }

    fn finish(&mut self, id: &RequestId, how: &'static str) {
        if self.entries.remove(id).is_some() {
            self.decided.push_back((id.clone(), how));
            if self.decided.len() > REMEMBERED {
                self.decided.pop_front();
            }
        }
    }

    fn why_not(&self, id: &RequestId) -> DecideError {
        if self.entries.contains_key(id) {
            return DecideError::AlreadyDecided { id: id.clone(), how: "approved" };
        }
        match self.decided.iter().find(|(decided, _)| decided == id) {
            Some((_, how)) => DecideError::AlreadyDecided { id: id.clone(), how },
            None => DecideError::Unknown(id.clone()),
        }
    }

    fn refuse(&mut self, asked: &Asked, reason: Option<String>, now: SystemTime) {
        let refusal = Refusal { until: now + BACK_OFF, back_off: BACK_OFF, reason };
        self.refusals.insert((asked.session.clone(), asked.digest.clone()), refusal);
    }

    /// A no sticks: a repeat within the back-off is refused by itself, and lengthens it.
    fn still_refused(
        &mut self,
        session: &SessionId,
        digest: &Digest,
        now: SystemTime,
    ) -> Option<Option<String>> {
        let refusal = self.refusals.get_mut(&(session.clone(), digest.clone()))?;
        if refusal.until <= now {
            return None;
        }
        refusal.back_off = (refusal.back_off * 2).min(MAX_BACK_OFF);
        refusal.until = now + refusal.back_off;
        Some(refusal.reason.clone())
    }
}

/// Why this request can never become a standing permission.
fn once_only(asked: &Asked) -> Option<&'static str> {
    match &asked.operation {
        Operation::Fetch(_) => None,
        Operation::Sign(_) => Some("an answer covers the signatures that follow for a while as it is"),
        Operation::Push(push) => {
            let plain = |kind| matches!(kind, UpdateKind::Create | UpdateKind::FastForward);
            if !push.facts.updates.iter().all(|update| plain(update.kind)) {
                Some("it forces or deletes a ref")
            } else if !push.facts.risks.is_empty() {
                Some("it carries a risk")
            } else if asked.terms.once_only {
                Some("the policy says so")
            } else {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
