//! The approval queue: who waits, what was decided, what a retry may use.
//!
//! One lock around plain maps. Every rule of the queue is here: once, expired, withdrawn, retried, granted, refused.

mod outcome;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyhatch_policies::{Operation, PushOperation, Terms};
use keyhatch_protocol::{RequestId, SessionId, UpdateKind};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::batch::{Batches, Covered, SignQuestion};
use super::grants::{Grant, Grants};
use super::{
    Approved, Authority, BootTime, Clock, Decision, Digest, Intent, KernelClock, Patience, Question,
    Signature,
};

pub use outcome::{DecideError, Outcome};

/// Most requests of one session that can be pending: a person reads none of a flood.
const MAX_PENDING_PER_SESSION: usize = 16;
/// How many decided ids are remembered, to say "already decided" and not "unknown".
const REMEMBERED: usize = 1_000;
/// How long a refusal answers a repeat by itself, doubled with each repeat up to the cap.
const BACK_OFF: Duration = Duration::from_secs(30);
/// The cap of the doubling.
const MAX_BACK_OFF: Duration = Duration::from_secs(15 * 60);

/// How often somebody who waits looks whether the time is up, at most late by this.
const LOOKS_AT_CLOCK: Duration = Duration::from_millis(500);

/// How far an approval reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// This operation, once.
    Once,
    /// Also later fast-forwards of the same refs of the same remote in this session.
    Session,
}

/// One request as surfaces see it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What people type.
    pub id: RequestId,
    /// Who asks.
    pub session: SessionId,
    /// What for.
    pub operation: Arc<Operation>,
    /// On which terms.
    pub terms: Terms,
    /// What a decision names.
    pub digest: Digest,
    /// When it was asked.
    pub created: BootTime,
    /// When it ends by itself.
    pub expires: BootTime,
    /// Whether the client went away: a decision then waits for its retry.
    pub withdrawn: bool,
}

#[derive(Debug)]
struct Entry {
    asked: Asked,
    patience: Patience,
    waiting: Option<oneshot::Sender<Decision>>,
    approved: bool,
    /// Whether a person was shown all of it. What an entry asks for never changes.
    shown: bool,
}

#[derive(Debug)]
struct Refusal {
    until: BootTime,
    back_off: Duration,
    reason: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<RequestId, Entry>,
    decided: VecDeque<(RequestId, Outcome)>,
    refusals: HashMap<(SessionId, Intent), Refusal>,
    grants: Grants,
    batches: Batches,
}

/// The queue of one broker. A restarted broker forgets it.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    clock: Box<dyn Clock>,
}

impl Default for Queue {
    fn default() -> Self {
        Self::with_clock(Box::new(KernelClock))
    }
}

/// What became of a question.
#[derive(Debug)]
pub enum Submission<'q, Op> {
    /// It goes through at once: a grant covers it, or it is the retry of an approved request.
    Approved(Box<Approved<Op>>),
    /// It was refused a moment ago, and the no sticks.
    Refused(Option<String>),
    /// The session asks too much.
    TooMany,
    /// A person has to decide.
    Held(Held<'q, Op>),
}

/// A question that somebody waits on, with the thing that would be done. Dropping it withdraws the request: nothing will
/// be done.
#[derive(Debug)]
pub struct Held<'q, Op> {
    queue: &'q Queue,
    id: RequestId,
    /// Given away with the approval.
    content: Option<Op>,
    decision: oneshot::Receiver<Decision>,
    attached: Attached,
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

    /// A queue that reads the time elsewhere.
    #[must_use]
    pub fn with_clock(clock: Box<dyn Clock>) -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0), clock }
    }

    /// The queue's time.
    #[must_use]
    pub fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// Asks for a decision. `new_id` makes the id of a new request; one that was used before is not taken.
    pub fn submit<Op>(
        &self,
        session: &SessionId,
        question: Question<Op>,
        patience: Patience,
        mut new_id: impl FnMut() -> RequestId,
    ) -> Submission<'_, Op> {
        let now = self.now();
        let (content, operation, terms) = question.into_parts();
        let digest = Digest::of(session, &operation, &terms);
        let intent = Intent::of(session, &operation);
        let mut state = self.lock();
        state.expire(now);
        let from = match state.batches.answer(session, &operation, &terms, now) {
            Some(Covered::No(reason)) => return Submission::Refused(reason),
            Some(Covered::Yes(from)) => Some(from),
            None => state.grants.covering(session, &operation, &terms),
        };
        if let Some(from) = from {
            let authority = Authority::Grant(from);
            return Submission::Approved(Box::new(Approved { content, terms, digest, authority }));
        }
        if let Some(reason) = state.still_refused(session, &intent, now) {
            return Submission::Refused(reason);
        }
        // The retry rule: same session, and all that is shown is the same.
        let same = |e: &&mut Entry| {
            e.asked.digest == digest && e.waiting.is_none() && e.asked.operation == operation
        };
        let (sender, decision) = oneshot::channel();
        let found = state.entries.values_mut().find(same).map(|entry| {
            if !entry.approved {
                entry.asked.withdrawn = false;
                entry.asked.expires = now + patience.held;
            }
            (entry.asked.id.clone(), entry.approved)
        });
        let (id, attached) = match found {
            Some((id, true)) => {
                let approved = state.consume(&id, content, now);
                drop(state);
                self.announce();
                // It was found under this lock, and has not expired.
                return approved
                    .map_or(Submission::TooMany, |approved| Submission::Approved(Box::new(approved)));
            }
            Some((id, false)) => (id, Attached::Again),
            None => {
                let id = state.unused(&mut new_id);
                state.replace(session, &operation, &id);
                if state.entries.values().filter(|e| &e.asked.session == session).count()
                    >= MAX_PENDING_PER_SESSION
                {
                    return Submission::TooMany;
                }
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
                let entry = Entry { asked, patience, waiting: None, approved: false, shown: false };
                state.entries.insert(id.clone(), entry);
                (id, Attached::New)
            }
        };
        if let Some(entry) = state.entries.get_mut(&id) {
            entry.waiting = Some(sender);
        }
        drop(state);
        self.announce();
        Submission::Held(Held { queue: self, id, content: Some(content), decision, attached })
    }

    /// Whether an earlier answer covers a signature, so that nobody will look at it.
    #[must_use]
    pub fn covers(&self, session: &SessionId, question: &Question<Signature>) -> bool {
        let Operation::Sign(sign) = question.operation() else { return false };
        let asked = SignQuestion { sign, terms: question.terms() };
        self.lock().batches.has_answer(session, &asked, self.now())
    }

    /// Everything that can be decided now, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Asked> {
        let mut state = self.lock();
        state.expire(self.now());
        let mut list: Vec<Asked> =
            state.entries.values().filter(|e| !e.approved).map(|e| e.asked.clone()).collect();
        list.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        list
    }

    /// Renders one request for a person. One that could be rendered can then be approved by its id alone: what an id
    /// stands for never changes.
    ///
    /// # Errors
    /// When it cannot be decided.
    pub fn show<T>(
        &self,
        id: &RequestId,
        render: impl FnOnce(&Asked) -> Option<T>,
    ) -> Result<Option<T>, DecideError> {
        let mut state = self.lock();
        state.expire(self.now());
        let Some(entry) = state.entries.get(id).filter(|e| !e.approved) else {
            return Err(state.why_not(id));
        };
        let asked = entry.asked.clone();
        drop(state);
        // Without the lock: there may be much to render.
        let rendered = render(&asked);
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.shown |= rendered.is_some();
        }
        Ok(rendered)
    }

    /// Decides a request. An approval means what the digest names, or what was shown of this request.
    ///
    /// # Errors
    /// When it is unknown, decided, expired, another operation, was not shown, or cannot be approved for longer.
    pub fn decide(
        &self,
        id: &RequestId,
        digest: Option<&str>,
        decision: Decision,
    ) -> Result<Asked, DecideError> {
        let now = self.now();
        // Held across the check and the change: two decisions on one request must not both win.
        let mut state = self.lock();
        state.expire(now);
        let Some(entry) = state.entries.get_mut(id).filter(|e| !e.approved) else {
            return Err(state.why_not(id));
        };
        match (digest, &decision) {
            (Some(digits), _) if !entry.asked.digest.is_named_by(digits) => {
                return Err(DecideError::DigestDiffers(id.clone()));
            }
            (None, Decision::Approved(_)) if !entry.shown => return Err(DecideError::NotShown(id.clone())),
            _ => {}
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
                state.finish(id, Outcome::Refused);
            }
            Decision::Unanswered => state.finish(id, Outcome::Unanswered),
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
        ids.iter().for_each(|id| state.finish(id, Outcome::SessionEnded));
        state.grants.forget(session);
        state.batches.forget(session);
        state.refusals.retain(|(of, _), _| of != session);
        drop(state);
        self.announce();
    }

    /// Uses an approval up.
    fn consume<Op>(&self, id: &RequestId, content: Op) -> Option<Approved<Op>> {
        let approved = self.lock().consume(id, content, self.now());
        self.announce();
        approved
    }

    /// Ends what nobody answered in time; false while there is time.
    fn is_over(&self, id: &RequestId) -> bool {
        let now = self.now();
        let mut state = self.lock();
        let left = state.entries.get(id).is_some_and(|entry| entry.asked.expires > now);
        if !left {
            state.finish(id, Outcome::Unanswered);
            drop(state);
            self.announce();
        }
        !left
    }

    fn withdraw(&self, id: &RequestId) {
        let now = self.now();
        let mut state = self.lock();
        state.expire(now);
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

impl<Op> Held<'_, Op> {
    /// The id that people type.
    #[must_use]
    pub const fn id(&self) -> &RequestId {
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
    pub async fn decided(mut self) -> Result<Approved<Op>, Decision> {
        let decision = loop {
            // A timer does not count while the machine sleeps; the queue's clock does, and is asked often enough.
            match tokio::time::timeout(LOOKS_AT_CLOCK, &mut self.decision).await {
                Ok(Ok(decision)) => break decision,
                // The session ended, or the time was up: both are a no.
                Ok(Err(_)) => break Decision::Unanswered,
                Err(_) if self.queue.is_over(&self.id) => {
                    break self.decision.try_recv().unwrap_or(Decision::Unanswered);
                }
                Err(_) => {}
            }
        };
        let content = self.content.take();
        match decision {
            Decision::Approved(_) => {
                content.and_then(|content| self.queue.consume(&self.id, content)).ok_or(Decision::Unanswered)
            }
            no @ (Decision::Refused(_) | Decision::Unanswered) => Err(no),
        }
    }
}

impl<Op> Drop for Held<'_, Op> {
    fn drop(&mut self) {
        // What was decided and used has no entry any more.
        self.queue.withdraw(&self.id);
    }
}

impl State {
    fn expire(&mut self, now: BootTime) {
        let over: Vec<RequestId> =
            self.entries.iter().filter(|(_, e)| e.asked.expires <= now).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.finish(id, Outcome::Expired));
        self.refusals.retain(|_, refusal| refusal.until + refusal.back_off > now);
    }

    /// The entry that was shown becomes the proof, while it lasts.
    fn consume<Op>(&mut self, id: &RequestId, content: Op, now: BootTime) -> Option<Approved<Op>> {
        self.expire(now);
        let Asked { terms, digest, .. } = self.entries.get(id).filter(|e| e.approved)?.asked.clone();
        self.finish(id, Outcome::Approved);
        Some(Approved { content, terms, digest, authority: Authority::Person(id.clone()) })
    }

    /// An id that names no other request, and none that people may remember.
    fn unused(&self, new_id: &mut impl FnMut() -> RequestId) -> RequestId {
        loop {
            let id = new_id();
            if !self.entries.contains_key(&id) && self.decided.iter().all(|(decided, _)| *decided != id) {
                return id;
            }
        }
    }

    /// Ends what the session does not push any more: withdrawn and undecided, and for a ref that it pushes otherwise now.
    fn replace(&mut self, session: &SessionId, operation: &Operation, by: &RequestId) {
        let Operation::Push(new) = operation else { return };
        let same_ref = |old: &PushOperation| {
            let mut updates = old.facts.updates.iter();
            old.remote == new.remote
                && updates.any(|old| new.facts.updates.iter().any(|new| old.ref_name == new.ref_name))
        };
        let is_replaced = |entry: &Entry| {
            let Operation::Push(old) = &*entry.asked.operation else { return false };
            &entry.asked.session == session && entry.asked.withdrawn && !entry.approved && same_ref(old)
        };
        let over: Vec<RequestId> =
            self.entries.iter().filter(|(_, e)| is_replaced(e)).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.finish(id, Outcome::Replaced(by.clone())));
    }

    fn finish(&mut self, id: &RequestId, outcome: Outcome) {
        if self.entries.remove(id).is_some() {
            self.decided.push_back((id.clone(), outcome));
            if self.decided.len() > REMEMBERED {
                self.decided.pop_front();
            }
        }
    }

    fn why_not(&self, id: &RequestId) -> DecideError {
        let id = id.clone();
        if self.entries.contains_key(&id) {
            return DecideError::Over { id, outcome: Outcome::Approved };
        }
        match self.decided.iter().find(|(decided, _)| *decided == id) {
            Some((_, outcome)) => DecideError::Over { id, outcome: outcome.clone() },
            None => DecideError::Unknown(id),
        }
    }

    /// A second no, to what was asked again when the first had run out, counts for longer than the first.
    fn refuse(&mut self, asked: &Asked, reason: Option<String>, now: BootTime) {
        let key = (asked.session.clone(), Intent::of(&asked.session, &asked.operation));
        let earlier = self.refusals.get(&key).map(|refusal| refusal.back_off);
        let back_off = earlier.map_or(BACK_OFF, |earlier| (earlier * 2).min(MAX_BACK_OFF));
        self.refusals.insert(key, Refusal { until: now + back_off, back_off, reason });
    }

    /// A no sticks: a repeat within the back-off is refused by itself, and lengthens it.
    fn still_refused(
        &mut self,
        session: &SessionId,
        intent: &Intent,
        now: BootTime,
    ) -> Option<Option<String>> {
        let refusal = self.refusals.get_mut(&(session.clone(), intent.clone()))?;
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
    match &*asked.operation {
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
mod model;
#[cfg(test)]
mod tests;
