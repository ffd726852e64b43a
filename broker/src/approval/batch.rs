//! Batches: one answer for the signatures of one rebase.
//!
//! git asks for one signature after the other, and fifty questions are no question. So an approved signature opens a
//! batch: further ones of the same session, kind, key and person go through for a while. A refused one closes it.

use std::time::{Duration, SystemTime};

use keyhatch_policies::{Operation, SignOperation, Terms};
use keyhatch_protocol::{Identity, RequestId, SessionId, SignableKind};

/// How long an answer covers what follows: a long rebase with tests in between.
pub const BATCH_LASTS: Duration = Duration::from_secs(10 * 60);
/// How many signatures one answer covers.
pub const BATCH_HOLDS: u32 = 500;
/// How long a no answers the signatures that follow it.
const NO_LASTS: Duration = Duration::from_secs(30);

/// What the signatures of a batch have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Common {
    session: SessionId,
    kind: SignableKind,
    key: String,
    speaker: Option<Identity>,
}

impl Common {
    fn of(session: &SessionId, sign: &SignOperation) -> Self {
        let facts = &sign.facts;
        Self {
            session: session.clone(),
            kind: facts.kind,
            key: facts.key.clone(),
            speaker: facts.speaker.clone(),
        }
    }
}

#[derive(Debug)]
enum Answer {
    Yes { from: RequestId, left: u32 },
    No { reason: Option<String> },
}

#[derive(Debug)]
struct Batch {
    common: Common,
    until: SystemTime,
    answer: Answer,
}

/// The batches of one broker.
#[derive(Debug, Default)]
pub(super) struct Batches(Vec<Batch>);

/// What an earlier answer says of a signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Covered {
    /// Yes, by the request of this id.
    Yes(RequestId),
    /// No, with the words that were said.
    No(Option<String>),
}

impl Batches {
    /// What an earlier answer says of this operation; none where a person must be asked.
    pub(super) fn answer(
        &mut self,
        session: &SessionId,
        (operation, terms): (&Operation, &Terms),
        now: SystemTime,
    ) -> Option<Covered> {
        let Operation::Sign(sign) = operation else { return None };
        self.0.retain(|batch| batch.until > now && !matches!(batch.answer, Answer::Yes { left: 0, .. }));
        let common = Common::of(session, sign);
        let batch = self.0.iter_mut().find(|batch| batch.common == common)?;
        match &mut batch.answer {
            Answer::No { reason } => Some(Covered::No(reason.clone())),
            Answer::Yes { .. } if terms.once_only => None,
            Answer::Yes { from, left } => {
                *left -= 1;
                Some(Covered::Yes(from.clone()))
            }
        }
    }

    /// Whether there is such an answer. It is not used up.
    pub(super) fn has_answer(
        &self,
        session: &SessionId,
        (sign, terms): (&SignOperation, &Terms),
        now: SystemTime,
    ) -> bool {
        let common = Common::of(session, sign);
        self.0.iter().any(|batch| {
            let counts = match batch.answer {
                Answer::Yes { left, .. } => left > 0 && !terms.once_only,
                Answer::No { .. } => true,
            };
            batch.until > now && batch.common == common && counts
        })
    }

    /// Opens a batch, or closes one: a person answered.
    pub(super) fn answered(
        &mut self,
        session: &SessionId,
        operation: &Operation,
        answer: Result<RequestId, Option<String>>,
        now: SystemTime,
    ) {
        let Operation::Sign(sign) = operation else { return };
        let common = Common::of(session, sign);
        self.0.retain(|batch| batch.common != common);
        let (until, answer) = match answer {
            Ok(from) => (now + BATCH_LASTS, Answer::Yes { from, left: BATCH_HOLDS }),
            Err(reason) => (now + NO_LASTS, Answer::No { reason }),
        };
        self.0.push(Batch { common, until, answer });
    }

    /// Forgets everything of a session that has ended.
    pub(super) fn forget(&mut self, session: &SessionId) {
        self.0.retain(|batch| &batch.common.session != session);
    }
}

#[cfg(test)]
mod tests {
    use keyhatch_policies::CredentialChoice;
    use keyhatch_protocol::{SignFacts, SignatureFormat};

    use super::*;

    fn operation(key: &str, email: &str, covered: &str) -> Operation {
        let who = Identity { name: "Ada".into(), email: email.into() };
        let facts = SignFacts {
            kind: SignableKind::Commit,
            format: SignatureFormat::Ssh,
            key: key.into(),
            speaker: Some(who),
            author: None,
            subject: covered.into(),
            parents: Vec::new(),
            tree: None,
            covered: covered.into(),
        };
        Operation::Sign(SignOperation::of(facts))
    }

    fn terms(once_only: bool) -> Terms {
        Terms { rule: "r".into(), reason: "r".into(), credential: CredentialChoice::Host, once_only }
    }

    #[test]
    fn a_yes_covers_what_follows_of_the_same_kind_key_and_person_for_a_while() {
        let (mut batches, now) = (Batches::default(), SystemTime::now());
        let (session, id) = (SessionId::from_random([1; 4]), RequestId::from_random([1; 3]));
        let ask = |batches: &mut Batches, operation: &Operation, once: bool, at| {
            batches.answer(&session, (operation, &terms(once)), at)
        };
        let first = operation("k", "ada@x", "1");
        assert_eq!(ask(&mut batches, &first, false, now), None);
        batches.answered(&session, &first, Ok(id.clone()), now);
        let second = operation("k", "ada@x", "2");
        assert_eq!(ask(&mut batches, &second, false, now), Some(Covered::Yes(id)));
        assert_eq!(ask(&mut batches, &second, true, now), None, "once is once");
        assert_eq!(ask(&mut batches, &operation("k", "bob@x", "3"), false, now), None);
        assert_eq!(ask(&mut batches, &operation("other", "ada@x", "4"), false, now), None);
        assert_eq!(ask(&mut batches, &second, false, now + BATCH_LASTS), None, "it ends");
    }

    #[test]
    fn a_yes_covers_so_many_and_a_no_answers_the_ones_that_follow() {
        let (mut batches, now) = (Batches::default(), SystemTime::now());
        let session = SessionId::from_random([1; 4]);
        let one = operation("k", "ada@x", "1");
        batches.answered(&session, &one, Ok(RequestId::from_random([1; 3])), now);
        let covered = (0..BATCH_HOLDS + 5)
            .filter(|_| batches.answer(&session, (&one, &terms(false)), now).is_some())
            .count();
        assert_eq!(covered, BATCH_HOLDS as usize);
        batches.answered(&session, &one, Err(Some("no".into())), now);
        let answer = batches.answer(&session, (&one, &terms(false)), now);
        assert_eq!(answer, Some(Covered::No(Some("no".into()))));
        batches.forget(&session);
        assert_eq!(batches.answer(&session, (&one, &terms(false)), now), None);
    }
}
