//! A signature: payload, parse, judge, approve, sign, record, answer. The agent's side never holds the key.

use std::sync::Arc;
use std::time::Duration;

use keyhatch_policies::judge;
use keyhatch_protocol::SignatureFormat;
use keyhatch_protocol::message::SessionReply;
use keyhatch_protocol::signable::{MAX_SIGNABLE, Signable};
use serde_json::{Value, json};

use super::look;
use super::wire::{Wire, WireError};
use crate::approval::{
    self, Approved, Authority, Decision, Judged, Patience, Proposal, Question, Submission, admit,
};
use crate::broker::{Broker, WITHDRAWN};
use crate::session::Session;
use crate::signer::{MadeSignature, Signature, Voice, digest};

/// How long a client may take to send what it wants signed: it is at hand.
const WHOLE_PAYLOAD: Duration = Duration::from_secs(20);

/// What a session asks for.
pub(super) struct Asked {
    pub(super) format: SignatureFormat,
    pub(super) key: String,
    pub(super) namespace: Option<String>,
}

/// Why there is no signature: what failed, and what to do.
struct NotSigned {
    reason: String,
    hint: String,
}

impl NotSigned {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}

/// Answers one request for a signature.
pub(super) async fn answer(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    mut wire: Wire,
    asked: Asked,
) -> Result<(), WireError> {
    let payload = match tokio::time::timeout(WHOLE_PAYLOAD, wire.data(MAX_SIGNABLE)).await {
        Ok(Ok(payload)) => payload,
        Ok(Err(error)) => return wire.refuse(&error).await,
        Err(_) => return Err(WireError::Slow),
    };
    wire.reply(&SessionReply::Answer {}).await?;
    let (voice, mut lines) = Voice::of(&session.id);
    let signing = Signing { broker, session, peer: wire.peer(), voice };
    let mut steps = std::pin::pin!(signing.steps(&asked, &payload));
    let signed = loop {
        tokio::select! {
            biased;
            Some(line) = lines.recv() => wire.say(&line).await,
            signed = &mut steps => break signed,
            // Dropping the steps withdraws what waits for a decision, or for a key.
            () = wire.gone() => return Ok(()),
        }
    };
    match signed {
        Ok(signature) => {
            for line in &signature.status {
                wire.say(line).await;
            }
            wire.finish(&signature.armoured).await
        }
        Err(NotSigned { reason, hint }) => {
            signing.record_refusal(&asked, &payload, &reason).await;
            wire.say(&format!("keyhatch: not signed: {reason}")).await;
            wire.say(&format!("hint: {hint}")).await;
            wire.fail().await
        }
    }
}

struct Signing<'a> {
    broker: &'a Arc<Broker>,
    session: &'a Arc<Session>,
    peer: Option<i32>,
    voice: Voice,
}

impl Signing<'_> {
    /// parse → judge → approve → sign → record.
    async fn steps(&self, asked: &Asked, payload: &[u8]) -> Result<Signature, NotSigned> {
        let (broker, session) = (self.broker, self.session);
        if let Some(other) = asked.namespace.as_deref().filter(|namespace| *namespace != "git") {
            let other = keyhatch_protocol::text::shown(other);
            return Err(NotSigned::new(
                format!("the namespace {other} is not git's: a signature in it would mean something else"),
                "only commits, tags and signed pushes are signed; the user signs files on the host",
            ));
        }
        let signable =
            Signable::parse(payload).map_err(|error| NotSigned::new(error.to_string(), error.hint()))?;
        let sign_error = |error: crate::signer::SignError| NotSigned::new(error.to_string(), error.hint());
        let facts = session.signing.facts(&signable, (asked.format, &asked.key)).map_err(sign_error)?;
        let proposal = Proposal::signature(facts);
        let judgement = judge(&session.policy, &session.project, proposal.operation());
        let judged = admit(&session.id, proposal, judgement);
        if !matches!(judged, Judged::Denied(_)) {
            self.check_nonce(&signable)?;
        }
        let approved = match judged {
            Judged::Approved(approved) => approved,
            Judged::Denied(reason) => return Err(NotSigned::new(reason.text, reason.hint)),
            Judged::Ask(question) => self.ask(*question).await?,
        };
        let signing = session.signing.sign(broker, &approved, &signable, &self.voice);
        let signature = signing.await.map_err(sign_error)?;
        self.record(&approved, &signature).await?;
        Ok(signature)
    }

    /// Refuses a push certificate whose nonce its remote did not give to this session: it could count at another time.
    fn check_nonce(&self, signable: &Signable) -> Result<(), NotSigned> {
        let Signable::Certificate(certificate) = signable else { return Ok(()) };
        let nonce = certificate.nonce.as_deref();
        if certificate.remote().is_some_and(|remote| self.session.nonces.was_given(&remote, nonce)) {
            return Ok(());
        }
        Err(NotSigned::new(
            "the push certificate's nonce is not one that its remote gave to this session",
            "git push --signed asks the remote for one, and uses it at once",
        ))
    }

    /// Holds the client until a person decides. One request of a session at a time: its answer covers the others.
    async fn ask(
        &self,
        question: Question<approval::Signature>,
    ) -> Result<Approved<approval::Signature>, NotSigned> {
        let session = self.session;
        let _one_at_a_time = session.asking.lock().await;
        let patience = Patience { held: session.policy.approval_timeout(), withdrawn: WITHDRAWN };
        let question = look::at(self.broker, session, question).await;
        let no = |reason: String| NotSigned::new(reason, "ask the user, then run the same command again");
        let held = match self.broker.queue.submit(&session.id, question, patience, Broker::new_request_id) {
            Submission::Approved(approved) => return Ok(*approved),
            Submission::Refused(why) => return Err(no(refused(why))),
            Submission::TooMany => return Err(no("too many requests of this session wait already".into())),
            Submission::Held(held) => held,
        };
        let id = held.id();
        self.voice.say(format!(
                "keyhatch: waiting for approval {id} (the user runs: keyhatch show {id}, then keyhatch approve {id})"
        ));
        held.decided().await.map_err(|decision| match decision {
            Decision::Refused(why) => no(refused(why)),
            Decision::Approved(_) | Decision::Unanswered => no("nobody answered in time".into()),
        })
    }

    /// Records the signature before it leaves: one that cannot be recorded is not given away.
    async fn record(
        &self,
        approved: &Approved<approval::Signature>,
        signature: &Signature,
    ) -> Result<(), NotSigned> {
        let facts = approved.facts();
        let authority = match approved.authority() {
            Authority::Policy => "policy".to_owned(),
            Authority::Person(id) => format!("person:{id}"),
            Authority::Grant(id) => format!("batch:{id}"),
        };
        let digests = (facts.covered.clone(), digest(&signature.armoured));
        let speaker = facts.speaker.as_ref().map(|who| format!("{} <{}>", who.name, who.email));
        let fields: Vec<(&str, Value)> = vec![
            ("kind", json!(facts.kind)),
            ("format", json!(facts.format)),
            ("key", facts.key.clone().into()),
            ("as", json!(speaker)),
            ("encoding", json!(facts.encoding)),
            ("tag", json!(facts.tag)),
            ("certificate", json!(facts.certificate)),
            ("covered", digests.0.clone().into()),
            ("signature", digests.1.clone().into()),
            ("authority", authority.into()),
            ("rule", approved.terms().rule.clone().into()),
            ("digest", approved.digest().as_str().into()),
            ("pid", json!(self.peer)),
        ];
        let record = self.broker.record(&self.session.id, "signed", fields).await.map_err(|error| {
            tracing::error!(%error, "a signature could not be recorded, so it was not given away");
            NotSigned::new(error.to_string(), "the user checks the host's state directory")
        })?;
        let made = MadeSignature { format: facts.format, key: facts.key.clone(), record };
        self.broker.made.remember(digests, made);
        Ok(())
    }

    async fn record_refusal(&self, asked: &Asked, payload: &[u8], reason: &str) {
        let fields = vec![
            ("format", json!(asked.format)),
            ("covered", digest(payload).into()),
            ("reason", reason.into()),
            ("pid", json!(self.peer)),
        ];
        self.broker.refuse(&self.session.id, "sign-refused", fields).await;
    }
}

fn refused(why: Option<String>) -> String {
    match why {
        Some(why) => format!("refused by the user: {}", keyhatch_protocol::text::shown(&why)),
        None => "refused by the user".to_owned(),
    }
}
