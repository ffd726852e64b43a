//! A push: claim, inspection, judgement, approval, forwarding, record. The spine of the design in one file.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use keyhatch_policies::{
    Operation, PushOperation, Service as PolicyService, Terms, judge, judge_ref, judge_remote,
    push_credential,
};
use keyhatch_protocol::{ObjectId, RefName, RefUpdate, Remote, UpdateKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::report::{self, Outcome};
use super::spool::{Arrived, Dropped, Spooled, take_in};
use super::{Front, advertisement, facts, git_protocol, refuse, served};
use crate::approval::{Approved, Attached, Authority, Decision, Judged, Patience, Submission, admit};
use crate::broker::{Broker, WITHDRAWN};
use crate::cause::chain;
use crate::claim::{Certificate, PushClaim};
use crate::upstream::{Answer, HeldConnection, Service, Upstream, UpstreamError, certificate_offer};

/// How often a held client is written to, so that a dead connection is noticed: git's own default is 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
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
    match upstream.advertisement(Service::ReceivePack, git_protocol(&request).as_deref()).await {
        Ok(answer) => {
            let (bytes, tips) = advertisement::of_receive_pack(&answer.bytes);
            session.remember_tips(&remote, tips);
            session.upstreams.note(&remote, advertisement::refs(&answer.bytes));
            if let Some(offer) = certificate_offer(&answer.bytes) {
                session.nonces.record(&remote, offer);
            }
            if let Some(held) = answer.held {
                session.held.hold(&remote, held);
            }
            let mut body = b"001f# service=git-receive-pack\n0000".to_vec();
            body.extend(bytes);
            served(Service::ReceivePack, "advertisement", Body::from(body))
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
    let (limit, spool) = (session.policy.limits().pack_bytes, front.broker.paths.spool());
    let arrived = take_in(request.into_body(), (&spool, &session.spool), limit, early).await;
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
        Ok(Arrived::Push(spooled)) => {
            let certificate = spooled.claim.certificate.as_ref();
            let nonce = certificate.map(|one| one.promise.nonce.as_deref().unwrap_or_default());
            let held = Mutex::new(front.session.held.take(&remote, nonce));
            let push = Push { front, remote, client: Client { sender }, held };
            tokio::spawn(push.run(spooled));
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
            let kinds = possible_kinds(update);
            let reason = judge_ref(&session.policy, &session.project, remote, &update.ref_name, &kinds)?;
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

fn possible_kinds(update: &RefUpdate) -> Vec<UpdateKind> {
    match (update.old.is_zero(), update.new.is_zero()) {
        (_, true) => vec![UpdateKind::Delete],
        (true, false) => vec![UpdateKind::Create],
        (false, false) => vec![UpdateKind::FastForward, UpdateKind::Force],
    }
}

fn refusal(claim: &PushClaim, reasons: &[(String, String)]) -> Bytes {
    let guilty = reasons.first().map_or("another ref", |(name, _)| name.as_str());
    report::refusal(claim, |name| {
        let own = reasons.iter().find(|(refused, _)| refused == name.as_str());
        own.map_or_else(
            || format!("keyhatch: not sent, because {guilty} was refused"),
            |(_, why)| why.clone(),
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
    async fn run(self, spooled: Spooled) {
        let claim = spooled.claim.clone();
        let Err(not_sent) = self.steps(spooled).await else { return };
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
    async fn steps(&self, spooled: Spooled) -> Result<(), NotSent> {
        let operation = self.inspect(&spooled).await?;
        let session = &self.front.session;
        let judgement = judge(&session.policy, &session.project, &operation);
        let approved = match admit(&session.id, operation, judgement) {
            Judged::Approved(approved) => approved,
            Judged::Denied(reason) => return Err(NotSent::Refused(format!("keyhatch: {}", reason.text))),
            Judged::Ask(operation, terms) => self.ask(&spooled.claim, (operation, terms)).await?,
        };
        self.forward(approved, spooled).await
    }

    async fn inspect(&self, spooled: &Spooled) -> Result<Operation, NotSent> {
        let facts = facts::of(&self.front, &self.remote, spooled).await.map_err(|error| {
            tracing::info!(remote = %self.remote, error = %chain(&error), "a push did not pass inspection");
            NotSent::Refused(format!("keyhatch: {}", error.for_session()))
        })?;
        let push_options = spooled.claim.push_options.clone();
        Ok(Operation::Push(PushOperation { remote: self.remote.clone(), facts, push_options }))
    }

    /// Holds the client until a person decides, or until it goes away.
    async fn ask(
        &self,
        claim: &PushClaim,
        question: (Operation, Terms),
    ) -> Result<Approved<Operation>, NotSent> {
        let broker = self.front.broker.clone();
        let session = &self.front.session;
        let patience = Patience { held: session.policy.approval_timeout(), withdrawn: WITHDRAWN };
        let at = (SystemTime::now(), Broker::new_request_id());
        let held = match broker.queue.submit(&session.id, question, patience, at) {
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
    async fn forward(&self, approved: Approved<Operation>, spooled: Spooled) -> Result<(), NotSent> {
        let session = &self.front.session;
        let mut fields = described(&self.remote, &approved, &spooled);
        if let Some(certificate) = &spooled.claim.certificate {
            fields.push(("certificate", self.certificate(certificate).await));
        }
        let unrecorded = |error: crate::audit::AuditError| {
            tracing::error!(%error, "a push could not be recorded, so it was not made");
            NotSent::Refused(format!("keyhatch: {error}"))
        };
        self.front.broker.record(&session.id, "push-sending", fields.clone()).await.map_err(unrecorded)?;
        let claim = &spooled.claim;
        let mut answer = match self.send(&approved, &spooled).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(remote = %self.remote, error = %chain(&error), "an upstream did not take a push");
                let reason = format!("keyhatch: {}", first_line(&error.for_session()));
                fields.push(("outcome", json!("not-sent")));
                fields.push(("error", error.to_string().into()));
                self.record_after(fields).await;
                return Err(NotSent::Refused(reason));
            }
        };
        let mut outcome = Outcome::new(claim);
        let (mut broken, mut recorded) = (false, false);
        while let Some(chunk) = answer.next().await {
            match chunk {
                Ok(bytes) => {
                    outcome.see(&bytes);
                    session.upstreams.note(&self.remote, taken(claim, &outcome));
                    // Before the client knows: its session may be closed at once, and its report says what was pushed.
                    if !recorded && outcome.is_whole() {
                        recorded = true;
                        self.record_after(answered(fields.clone(), true, &outcome.lines())).await;
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
        let lines = outcome.lines();
        if !recorded {
            let known = !broken && !lines.is_empty() || !claim.report_status;
            self.record_after(answered(fields, known, &lines)).await;
        }
        if lines.is_empty() && claim.report_status {
            let text = "keyhatch: upstream broke off; whether it took the push is unknown: fetch to see";
            self.client.send(report::refusal(claim, |_| text.to_owned())).await;
        }
        Ok(())
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

    /// One request upstream. A login that is refused was forgotten; the next one is tried once, with the same bytes.
    async fn send(&self, approved: &Approved<Operation>, spooled: &Spooled) -> Result<Answer, UpstreamError> {
        let front = &self.front;
        let upstream =
            Upstream::connect(&front.broker, &front.session, &self.remote, &approved.terms().credential);
        let body = || {
            spool_stream(&spooled.file)
                .map_err(|source| UpstreamError::Host { what: "read the spool", source })
        };
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held
            && let Ok(answer) = Upstream::answer_nonce(held, body()?)
        {
            return Ok(answer);
        }
        match upstream.rpc(Service::ReceivePack, None, None, body()?).await {
            Err(UpstreamError::Refused { .. }) => {
                upstream.rpc(Service::ReceivePack, None, None, body()?).await
            }
            answer => answer,
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
    lines: &[String],
) -> Vec<(&'static str, Value)> {
    fields.push(("outcome", json!(if known { "answered" } else { "unknown" })));
    fields.push(("report", json!(lines)));
    fields
}

/// What upstream has now, by its own report.
fn taken<'c>(claim: &'c PushClaim, outcome: &Outcome) -> impl Iterator<Item = (RefName, ObjectId)> + use<'c> {
    let lines = outcome.lines();
    let ok = move |update: &&RefUpdate| {
        !update.new.is_zero() && lines.iter().any(|line| *line == format!("ok {}", update.ref_name))
    };
    claim.updates.iter().filter(ok).map(|update| (update.ref_name.clone(), update.new.clone()))
}

fn described(
    remote: &Remote,
    approved: &Approved<Operation>,
    spooled: &Spooled,
) -> Vec<(&'static str, Value)> {
    let authority = match approved.authority() {
        Authority::Policy => "policy".to_owned(),
        Authority::Person(id) => format!("person:{id}"),
        Authority::Grant(id) => format!("grant:{id}"),
    };
    vec![
        ("remote", remote.to_string().into()),
        ("digest", approved.digest().as_str().into()),
        ("authority", authority.into()),
        ("rule", approved.terms().rule.clone().into()),
        ("updates", json!(spooled.claim.updates)),
        ("push_options", json!(spooled.claim.push_options)),
        ("bytes", spooled.bytes.into()),
    ]
}

/// The spooled bytes from the start, as a stream. The file has no name, so nobody else can have changed it.
fn spool_stream(
    file: &std::fs::File,
) -> io::Result<impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let file = Arc::new(file.try_clone()?);
    Ok(futures_util::stream::unfold((file, 0u64), |(file, offset)| async move {
        let reading = file.clone();
        let read = tokio::task::spawn_blocking(move || read_at(&reading, offset)).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                let next = offset + bytes.len() as u64;
                Some((Ok(bytes), (file, next)))
            }
            Err(error) => Some((Err(error), (file, u64::MAX))),
        }
    }))
}

fn read_at(file: &std::fs::File, offset: u64) -> io::Result<Bytes> {
    /// One read of the spool; a few are in flight.
    const CHUNK: usize = 256 * 1024;
    if offset == u64::MAX {
        return Ok(Bytes::new());
    }
    let mut buffer = vec![0; CHUNK];
    let read = std::os::unix::fs::FileExt::read_at(file, &mut buffer, offset)?;
    buffer.truncate(read);
    Ok(buffer.into())
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
