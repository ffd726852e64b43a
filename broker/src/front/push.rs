//! A push: claim, inspection, judgement, approval, forwarding, record. The spine of the design in one file.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use keyhatch_policies::{Service as PolicyService, judge, judge_ref, judge_remote, push_credential};
use keyhatch_protocol::{Facts, RefUpdate, Remote, Scheme};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::report::{self, Outcome};
use super::upstream_refs::{Asking, Stale, UpstreamRefs, default_branch, is_create};
use super::{Front, advertisement, facts, git_protocol, refuse, served};
use crate::approval::{
    self, Approved, Attached, Authority, Decision, Judged, Patience, Proposal, Question, Submission, admit,
};
use crate::broker::{Broker, WITHDRAWN};
use crate::cause::chain;
use crate::claim::{Certificate, PushClaim};
use crate::spool::{Altered, Arrived, Dropped, Sealed, SpoolTarget, spool_push};
use crate::upstream::{
    HeldConnection, OpenPush, PushAnswer, Service, Upstream, UpstreamError, certificate_offer,
};

/// How often a held client is written to, so that a dead connection is noticed: git's own default is 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// When a client that waits for an inspection is first written to: most take less.
const FIRST_SIGN: Duration = Duration::from_secs(1);
/// What the session reads where upstream moved between what was decided on and what would be sent.
const CHANGED: &str = "keyhatch: upstream has changed since this was shown or allowed, and nothing was sent; hint: git fetch, then push again";
/// Answers in flight to a client: a slow one slows its upstream, and costs no memory here.
const IN_FLIGHT: usize = 8;

/// `GET info/refs?service=git-receive-pack`.
pub(super) async fn advertise(front: Front, remote: Remote, request: Request) -> Response {
    let session = &front.session;
    if let Some(reason) = judge_remote(&session.policy, &session.project, PolicyService::Push, &remote) {
        let fields = vec![("remote", remote.to_string().into()), ("reason", reason.text.clone().into())];
        front.broker.refuse(&session.id, "push-denied", fields).await;
        return refuse(&format!("push denied: {}\nhint: {}", reason.text, reason.hint));
    }
    let credential = push_credential(&session.policy, &session.project, &remote);
    let upstream = Upstream::connect(&front.broker, session, &remote, &credential);
    match upstream.advertised(Service::ReceivePack, git_protocol(&request).as_deref()).await {
        Ok(advertised) => {
            if let Some(offer) = certificate_offer(&advertised.head) {
                session.nonces.record(&remote, offer);
            }
            let body = advertisement::body(&front, &remote, Service::ReceivePack, advertised);
            served(Service::ReceivePack, "advertisement", body)
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "an upstream did not advertise");
            refuse(&error.for_session())
        }
    }
}

/// `POST git-receive-pack`.
pub(super) async fn receive_pack(front: Front, remote: Remote, request: Request) -> Response {
    let session = front.session.clone();
    if let Some(reason) = judge_remote(&session.policy, &session.project, PolicyService::Push, &remote) {
        return refuse(&format!("push denied: {}", reason.text));
    }
    if request.headers().contains_key("content-encoding") {
        return refuse("a compressed push is not a form that git sends");
    }
    let asking = OnceLock::new();
    let early = |claim: &PushClaim| {
        let refused = forbidden(&front, &remote, claim).is_some();
        if !refused {
            // Upstream is asked while the pack arrives.
            asking.get_or_init(|| Asking::start(&front, &remote, claim));
        }
        refused
    };
    let (limit, directory) = (session.policy.limits().pack_bytes, front.broker.paths.spool());
    let target = SpoolTarget { directory: &directory, quota: &session.spool, limit };
    let arrived = spool_push(request.into_body(), target, early).await;
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let body = Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes: Bytes| (Ok::<_, io::Error>(bytes), receiver))
    }));
    match arrived {
        Ok(Arrived::Probe) => return served(Service::ReceivePack, "result", Body::empty()),
        Ok(Arrived::Dropped(claim, Dropped::Unkept(error))) => {
            tracing::info!(%remote, error = %chain(&error), "a push was not kept");
            let reason = format!("keyhatch: {error}");
            let reasons: Vec<_> =
                claim.updates.iter().map(|u| (u.ref_name.to_string(), reason.clone())).collect();
            record_denial(&front, &remote, &claim.updates, &reasons).await;
            let answer = report::refusal(&claim, |_| reason.clone());
            return served(Service::ReceivePack, "result", Body::from(answer));
        }
        Ok(Arrived::Dropped(claim, Dropped::Refused)) => {
            let reasons = forbidden(&front, &remote, &claim).unwrap_or_default();
            record_denial(&front, &remote, &claim.updates, &reasons).await;
            return served(Service::ReceivePack, "result", Body::from(refusal(&claim, &reasons)));
        }
        Ok(Arrived::Push(sealed)) => {
            let certificate = sealed.claim().certificate.as_ref();
            let nonce = certificate.map(|one| one.promise.nonce.as_deref().unwrap_or_default());
            let held = Mutex::new(front.session.held.take(&remote, nonce));
            let asking = asking.into_inner();
            let asking = asking.unwrap_or_else(|| Asking::start(&front, &remote, sealed.claim()));
            let push = Push { front, remote, client: Client { sender }, held };
            tokio::spawn(push.run(sealed, asking));
        }
        Err(error) => {
            tracing::info!(%remote, error = %chain(&error), "a push was not taken in");
            return refuse(&format!("{error}"));
        }
    }
    served(Service::ReceivePack, "result", body)
}

/// Why refs of a claim are forbidden whatever they would hold: known before the pack is read.
fn forbidden(front: &Front, remote: &Remote, claim: &PushClaim) -> Option<Vec<(String, String)>> {
    let session = &front.session;
    if let Some(why) = claim.certificate.as_ref().and_then(|one| counts_elsewhere(front, remote, one)) {
        let reason = |update: &RefUpdate| (update.ref_name.to_string(), why.to_owned());
        return Some(claim.updates.iter().map(reason).collect());
    }
    let reasons: Vec<(String, String)> = claim
        .updates
        .iter()
        .filter_map(|update| {
            let kinds = update.possible_kinds();
            let reason = judge_ref(&session.policy, &session.project, remote, &update.ref_name, kinds)?;
            Some((update.ref_name.to_string(), format!("keyhatch: {}", reason.text)))
        })
        .collect();
    (!reasons.is_empty()).then_some(reasons)
}

/// Why a push certificate is not this push's: it would count at another server, or at another time.
fn counts_elsewhere(front: &Front, remote: &Remote, certificate: &Certificate) -> Option<&'static str> {
    if !certificate.is_for(remote) {
        return Some("keyhatch: the push certificate is for another remote");
    }
    let given = front.session.nonces.was_given(remote, certificate.promise.nonce.as_deref());
    (!given).then_some("keyhatch: the push certificate's nonce is not one that upstream gave to this session")
}

fn refusal(claim: &PushClaim, reasons: &[(String, String)]) -> Bytes {
    let guilty = reasons.first().map_or("another ref", |(name, _)| name.as_str());
    let by_ref: HashMap<&str, &str> =
        reasons.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    report::refusal(claim, |name| {
        let own = by_ref.get(name.as_str());
        own.map_or_else(
            || format!("keyhatch: not sent, because {guilty} was refused"),
            |why| (*why).to_owned(),
        )
    })
}

async fn record_denial(front: &Front, remote: &Remote, updates: &[RefUpdate], reasons: &[(String, String)]) {
    let fields =
        vec![("remote", remote.to_string().into()), ("updates", json!(updates)), ("reasons", json!(reasons))];
    front.broker.refuse(&front.session.id, "push-denied", fields).await;
}

/// The waiting client.
#[derive(Debug, Clone)]
struct Client {
    sender: mpsc::Sender<Bytes>,
}

impl Client {
    /// Sends bytes; a client that is gone is noticed by [`Client::gone`].
    async fn send(&self, bytes: Bytes) {
        if !bytes.is_empty() && self.sender.send(bytes).await.is_err() {
            tracing::debug!("the client went away");
        }
    }

    async fn gone(&self) {
        self.sender.closed().await;
    }
}

/// Why a push was not made.
enum NotSent {
    /// The client went away while it was held: withdrawn, and decidable for a while.
    Withdrawn,
    /// One reason for every ref.
    Refused(String),
    /// Reasons for some refs, by name; the others are not sent because of them.
    Stale(Vec<(String, String)>),
}

/// What was decided on: where upstream's refs were, and what was found.
struct Seen {
    refs: UpstreamRefs,
    facts: Facts,
}

struct Push {
    front: Front,
    remote: Remote,
    client: Client,
    /// The connection that a signed push answers; taken when it is sent.
    held: Mutex<Option<HeldConnection>>,
}

impl Push {
    async fn run(self, sealed: Sealed, asking: Asking) {
        let claim = sealed.claim().clone();
        let Err(not_sent) = self.steps(sealed, asking).await else { return };
        let reason = match not_sent {
            NotSent::Stale(reasons) => {
                record_denial(&self.front, &self.remote, &claim.updates, &reasons).await;
                return self.client.send(refusal(&claim, &reasons)).await;
            }
            NotSent::Withdrawn => "keyhatch: withdrawn: the client went away".to_owned(),
            NotSent::Refused(reason) => reason,
        };
        let fields = vec![
            ("remote", self.remote.to_string().into()),
            ("updates", json!(claim.updates)),
            ("reason", reason.clone().into()),
        ];
        self.front.broker.refuse(&self.front.session.id, "push-refused", fields).await;
        self.client.send(report::refusal(&claim, |_| reason.clone())).await;
    }

    /// inspect → judge → approve → record → forward → record.
    async fn steps(&self, sealed: Sealed, asking: Asking) -> Result<(), NotSent> {
        let claim = sealed.claim().clone();
        let asked = self.while_waited_for(&claim, &AtomicBool::default(), asking.finish()).await?;
        let refs = asked.map_err(|error| self.not_asked(&error))?;
        let stale = refs.stale(&claim.updates);
        if !stale.is_empty() {
            let reason = |one: &Stale<'_>| (one.update.ref_name.to_string(), one.reason());
            return Err(NotSent::Stale(stale.iter().map(reason).collect()));
        }
        let facts = self.inspect(&sealed, &refs).await?;
        let seen = Seen { refs, facts: facts.outline() };
        let proposal = self.propose(sealed, facts)?;
        let session = &self.front.session;
        let judgement = judge(&session.policy, &session.project, proposal.operation());
        let approved = match admit(&session.id, proposal, judgement) {
            Judged::Approved(approved) => approved,
            Judged::Denied(reason) => return Err(NotSent::Refused(format!("keyhatch: {}", reason.text))),
            Judged::Ask(question) => self.ask(&claim, *question).await?,
        };
        let open = self.reopen(&approved, &seen).await?;
        self.forward(approved, open).await
    }

    /// Why upstream could not say what it has.
    fn not_asked(&self, error: &UpstreamError) -> NotSent {
        tracing::info!(remote = %self.remote, error = %chain(error), "an upstream did not say what it has");
        NotSent::Refused(format!("keyhatch: {}", first_line(&error.for_session())))
    }

    /// Asks upstream again, on the connection that the push is sent on. Where it has changed so that more would be found
    /// than was approved, nothing is sent.
    ///
    /// Over https that is a request of its own. It is left out where nobody was asked, who would have taken time, and where
    /// each command's facts hang on the old value alone: upstream compares that itself as it takes the push.
    async fn reopen(
        &self,
        approved: &Approved<approval::Push>,
        seen: &Seen,
    ) -> Result<Option<OpenPush>, NotSent> {
        let updates = &approved.claim().updates;
        let is_compared_by_upstream = !updates.iter().any(is_create);
        let is_immediate = !matches!(approved.authority(), Authority::Person(_));
        if self.remote.scheme() == Scheme::Https && is_immediate && is_compared_by_upstream {
            return Ok(None);
        }
        let (broker, session) = (&self.front.broker, &self.front.session);
        let upstream = Upstream::connect(broker, session, approved.remote(), &approved.terms().credential);
        let (open, head) = tokio::join!(open(&upstream), default_branch(&upstream, updates));
        let open = open.map_err(|error| self.not_asked(&error))?;
        let later = UpstreamRefs::of(&open.advertisement, head, updates);
        if later == seen.refs {
            return Ok(Some(open));
        }
        let changed = || NotSent::Refused(CHANGED.to_owned());
        if !later.stale(updates).is_empty() {
            return Err(changed());
        }
        let facts = self.inspect(approved.sealed(), &later).await?;
        if seen.facts.covers(&facts) { Ok(Some(open)) } else { Err(changed()) }
    }

    async fn inspect(&self, sealed: &Sealed, refs: &UpstreamRefs) -> Result<Facts, NotSent> {
        let waits = AtomicBool::default();
        let looking = facts::of(&self.front, &self.remote, sealed, refs, &waits);
        self.while_waited_for(sealed.claim(), &waits, looking).await?.map_err(|error| {
            tracing::info!(remote = %self.remote, error = %chain(&error), "a push did not pass inspection");
            NotSent::Refused(format!("keyhatch: {}", error.for_session()))
        })
    }

    fn propose(&self, sealed: Sealed, facts: Facts) -> Result<Proposal<approval::Push>, NotSent> {
        Proposal::push(self.remote.clone(), sealed, facts).map_err(|error| {
            tracing::error!(remote = %self.remote, %error, "a push was not described by its inspection");
            NotSent::Refused("keyhatch: the push cannot be inspected".into())
        })
    }

    /// Goes on with an inspection while its client and its session are there, and says where it waits for its turn.
    async fn while_waited_for<T>(
        &self,
        claim: &PushClaim,
        waits: &AtomicBool,
        work: impl Future<Output = T>,
    ) -> Result<T, NotSent> {
        let session = &self.front.session;
        let signs_of_life = async {
            let mut said = false;
            tokio::time::sleep(FIRST_SIGN).await;
            loop {
                let first = waits.load(Ordering::Relaxed) && !std::mem::replace(&mut said, true);
                let line = "keyhatch: waiting for an inspection: other pushes are looked at first".to_owned();
                let sign = if first { report::progress(claim, &[line]) } else { report::keep_alive(claim) };
                self.client.send(sign).await;
                tokio::time::sleep(KEEP_ALIVE).await;
            }
        };
        tokio::select! {
            done = work => Ok(done),
            () = signs_of_life => Err(NotSent::Withdrawn),
            () = self.client.gone() => Err(NotSent::Withdrawn),
            () = session.ended() => Err(NotSent::Withdrawn),
        }
    }

    /// Holds the client until a person decides, or until it goes away.
    async fn ask(
        &self,
        claim: &PushClaim,
        question: Question<approval::Push>,
    ) -> Result<Approved<approval::Push>, NotSent> {
        let broker = self.front.broker.clone();
        let session = &self.front.session;
        let patience = Patience { held: session.policy.approval_timeout(), withdrawn: WITHDRAWN };
        let held = match broker.queue.submit(&session.id, question, patience, Broker::new_request_id) {
            Submission::Approved(approved) => return Ok(*approved),
            Submission::Refused(why) => return Err(NotSent::Refused(refused(why))),
            Submission::TooMany => {
                let text = "keyhatch: too many requests of this session wait for a decision already";
                return Err(NotSent::Refused(text.into()));
            }
            Submission::Held(held) => held,
        };
        self.client.send(report::progress(claim, &waiting(held.id().as_str(), held.attached()))).await;
        let keep_alive = async {
            loop {
                tokio::time::sleep(KEEP_ALIVE).await;
                self.client.send(report::keep_alive(claim)).await;
            }
        };
        // Dropping the held request, as the other arms do, withdraws it.
        tokio::select! {
            decision = held.decided() => decision.map_err(|decision| NotSent::Refused(match decision {
                Decision::Refused(why) => refused(why),
                Decision::Approved(_) | Decision::Unanswered =>
                    "keyhatch: nobody answered in time".to_owned(),
            })),
            () = self.client.gone() => Err(NotSent::Withdrawn),
            () = keep_alive => Err(NotSent::Withdrawn),
        }
    }

    /// Sends exactly the bytes that were approved, on a fresh connection, and relays what upstream says.
    async fn forward(
        &self,
        approved: Approved<approval::Push>,
        open: Option<OpenPush>,
    ) -> Result<(), NotSent> {
        let (broker, session) = (&self.front.broker, &self.front.session);
        let claim = approved.claim().clone();
        let mut fields = described(&approved);
        if let Some(certificate) = &claim.certificate {
            fields.push(("certificate", self.certificate(certificate).await));
        }
        let unrecorded = |error: crate::audit::AuditError| {
            tracing::error!(%error, "a push could not be recorded, so it was not made");
            NotSent::Refused(format!("keyhatch: {error}"))
        };
        broker.record(&session.id, "push-sending", fields.clone()).await.map_err(unrecorded)?;
        // A signed push goes where its nonce counts; any other on the connection that upstream was asked on.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let held = held.or_else(|| open.and_then(|open| open.connection));
        match Upstream::push(broker, session, approved, held).await {
            Ok(answer) => self.relay(&claim, answer, fields).await,
            Err(error) => Err(self.not_sent(&error, fields).await),
        }
    }

    /// Passes on what upstream says, and records what became of the push.
    async fn relay(
        &self,
        claim: &PushClaim,
        sent: PushAnswer,
        fields: Vec<(&'static str, Value)>,
    ) -> Result<(), NotSent> {
        let PushAnswer { mut answer, integrity } = sent;
        let mut outcome = Outcome::new(claim);
        let (mut broken, mut recorded) = (false, false);
        while let Some(chunk) = answer.next().await {
            match chunk {
                Ok(bytes) => {
                    let taken = outcome.see(&bytes);
                    let taken = taken.into_iter().map(|at| &claim.updates[at]).filter(|u| !u.new.is_zero());
                    let taken = taken.map(|update| (update.ref_name.clone(), update.new.clone()));
                    self.front.session.upstreams.note(&self.remote, taken);
                    // Before the client knows: its session may be closed at once, and its report says what was pushed.
                    if !recorded && outcome.is_whole() && !integrity.is_broken() {
                        recorded = true;
                        self.record_after(answered(fields.clone(), true, &outcome)).await;
                    }
                    // A client that left now does not stop what was approved and sent.
                    self.client.send(bytes).await;
                }
                Err(error) => {
                    tracing::info!(remote = %self.remote, %error, "an upstream broke off");
                    broken = true;
                    break;
                }
            }
        }
        let silent = outcome.lines().is_empty();
        if integrity.is_broken() {
            let not_sent = self.not_sent(&UpstreamError::Altered(Altered), fields).await;
            // A client that has upstream's report takes no second one.
            return if silent { Err(not_sent) } else { Ok(()) };
        }
        if !recorded {
            let known = !broken && !silent || !claim.report_status;
            self.record_after(answered(fields, known, &outcome)).await;
        }
        if silent && claim.report_status {
            let text = "keyhatch: upstream broke off; whether it took the push is unknown: fetch to see";
            self.client.send(report::refusal(claim, |_| text.to_owned())).await;
        }
        Ok(())
    }

    /// Records that upstream did not get the push, and why.
    async fn not_sent(&self, error: &UpstreamError, mut fields: Vec<(&'static str, Value)>) -> NotSent {
        if matches!(error, UpstreamError::Altered(_)) {
            tracing::error!(remote = %self.remote, %error, "something on this machine writes into the broker's spool");
        } else {
            tracing::info!(remote = %self.remote, error = %chain(error), "an upstream did not take a push");
        }
        fields.push(("outcome", json!("not-sent")));
        fields.push(("error", error.to_string().into()));
        self.record_after(fields).await;
        NotSent::Refused(format!("keyhatch: {}", first_line(&error.for_session())))
    }

    /// Whose promise a signed push makes.
    async fn certificate(&self, certificate: &Certificate) -> Value {
        let broker = &self.front.broker;
        let found = broker.made.find(std::slice::from_ref(&certificate.digests), &broker.paths.audit()).await;
        match found.get(&certificate.digests) {
            Some(made) => json!({"is": "ours", "key": made.key, "record": made.record}),
            None => json!({"is": "foreign", "signature": certificate.digests.1}),
        }
    }

    async fn record_after(&self, fields: Vec<(&'static str, Value)>) {
        // It has been sent: what cannot be recorded any more is said in the log, and "push-sending" stands.
        let recorded = self.front.broker.record_outcome(&self.front.session.id, "push-sent", fields).await;
        if let Err(error) = recorded {
            tracing::error!(%error, "a push was sent, but its outcome could not be recorded");
        }
    }
}

/// Opens what a push is sent on. A login that is refused was forgotten; the next one is tried once.
async fn open(upstream: &Upstream) -> Result<OpenPush, UpstreamError> {
    match upstream.open_push().await {
        Err(UpstreamError::Refused { .. }) => upstream.open_push().await,
        open => open,
    }
}

/// What is recorded of a push that was sent.
fn answered(
    mut fields: Vec<(&'static str, Value)>,
    known: bool,
    outcome: &Outcome,
) -> Vec<(&'static str, Value)> {
    fields.push(("outcome", json!(if known { "answered" } else { "unknown" })));
    fields.push(("report", json!(outcome.lines())));
    if outcome.left_out() > 0 {
        fields.push(("report_left_out", json!(outcome.left_out())));
    }
    fields
}

fn described(approved: &Approved<approval::Push>) -> Vec<(&'static str, Value)> {
    let authority = match approved.authority() {
        Authority::Policy => "policy".to_owned(),
        Authority::Person(id) => format!("person:{id}"),
        Authority::Grant(id) => format!("grant:{id}"),
    };
    let claim = approved.claim();
    vec![
        ("remote", approved.remote().to_string().into()),
        ("digest", approved.digest().as_str().into()),
        ("authority", authority.into()),
        ("rule", approved.terms().rule.clone().into()),
        ("updates", json!(claim.updates)),
        ("push_options", json!(claim.push_options)),
        ("bytes", approved.bytes().into()),
    ]
}

fn waiting(id: &str, attached: Attached) -> Vec<String> {
    let what = match attached {
        Attached::New => "waiting for approval",
        Attached::Again => "still waiting for approval",
    };
    vec![
        format!("keyhatch: {what} {id} (the user runs: keyhatch show {id}, then keyhatch approve {id})"),
        "keyhatch: if this is interrupted, run the same command again".to_owned(),
    ]
}

/// A report line is one line; what to do about it is in the broker's log and the documentation.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn refused(why: Option<String>) -> String {
    match why {
        Some(why) => format!("keyhatch: refused by the user: {}", keyhatch_protocol::text::shown(&why)),
        None => "keyhatch: refused by the user".to_owned(),
    }
}
