//! A push: claim, inspection, judgement, approval, forwarding, record. The spine of the design in one file.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use keyhatch_policies::{Service as PolicyService, judge, judge_ref, judge_remote, push_credential};
use keyhatch_protocol::{RefUpdate, Remote};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::report::{self, Outcome};

use super::{Front, advertisement, facts, git_protocol, refuse, served};
use crate::approval::{
    self, Approved, Attached, Authority, Decision, Judged, Patience, Proposal, Question, Submission, admit,
};
use crate::broker::{Broker, WITHDRAWN};
use crate::cause::chain;
use crate::claim::{Certificate, PushClaim};
use crate::spool::{Altered, Arrived, Dropped, Sealed, SpoolTarget, spool_push};
use crate::upstream::{HeldConnection, PushAnswer, Service, Upstream, UpstreamError, certificate_offer};

/// How often a held client is written to, so that a dead connection is noticed: git's own default is 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// When a client that waits for an inspection is first written to: most take less.
const FIRST_SIGN: Duration = Duration::from_secs(1);
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
    let early = |claim: &PushClaim| forbidden(&front, &remote, claim).is_some();
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
            let push = Push { front, remote, client: Client { sender }, held };
            tokio::spawn(push.run(sealed));
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
}

struct Push {
    front: Front,
    remote: Remote,
    client: Client,
    /// The connection that a signed push answers; taken when it is sent.
    held: Mutex<Option<HeldConnection>>,
}

impl Push {
    async fn run(self, sealed: Sealed) {
        let claim = sealed.claim().clone();
        let Err(not_sent) = self.steps(sealed).await else { return };
        let reason = match not_sent {
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
    async fn steps(&self, sealed: Sealed) -> Result<(), NotSent> {
        let claim = sealed.claim().clone();
        let proposal = self.inspect(sealed).await?;
        let session = &self.front.session;
        let judgement = judge(&session.policy, &session.project, proposal.operation());
        let approved = match admit(&session.id, proposal, judgement) {
            Judged::Approved(approved) => approved,
            Judged::Denied(reason) => return Err(NotSent::Refused(format!("keyhatch: {}", reason.text))),
            Judged::Ask(question) => self.ask(&claim, *question).await?,
        };
        self.forward(approved).await
    }

    async fn inspect(&self, sealed: Sealed) -> Result<Proposal<approval::Push>, NotSent> {
        let waits = AtomicBool::default();
        let looking = facts::of(&self.front, &self.remote, &sealed, &waits);
        let facts = self.while_waited_for(sealed.claim(), &waits, looking).await?.map_err(|error| {
            tracing::info!(remote = %self.remote, error = %chain(&error), "a push did not pass inspection");
            NotSent::Refused(format!("keyhatch: {}", error.for_session()))
        })?;
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
    async fn forward(&self, approved: Approved<approval::Push>) -> Result<(), NotSent> {
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
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
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
