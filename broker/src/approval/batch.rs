//! Batches: one answer for the signatures of one rebase.
//!
//! git asks for one signature after the other, and fifty questions are no question. So an approved signature opens a
//! batch of commits: further ones of the same session, rule, key, committer, author and encoding go through for a while. A
//! refused one closes it. A tag and a push certificate are asked one at a time: each names something of its own.

use std::time::Duration;

use keyhatch_policies::{Operation, SignOperation, Terms};
use keyhatch_protocol::{Identity, RequestId, Risk, SessionId, SignFacts, SignableKind, SignatureFormat};

use super::BootTime;

/// How long an answer covers what follows: a long rebase with tests in between.
pub const BATCH_LASTS: Duration = Duration::from_secs(10 * 60);
/// How many signatures one answer covers.
pub const BATCH_HOLDS: u32 = 500;
/// How long a no answers the signatures that follow it.
const NO_LASTS: Duration = Duration::from_secs(30);

/// What the commits of a batch have in common: everything that a person saw of the first one but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Common {
    session: SessionId,
    /// Rule, reason and credential.
    terms: Terms,
    format: SignatureFormat,
    key: String,
    committer: Option<Identity>,
    author: Option<Identity>,
    encoding: Option<String>,
    risks: Vec<Risk>,
}

impl Common {
    /// None where one answer covers nothing else.
    fn of(session: &SessionId, question: &SignQuestion<'_>) -> Option<Self> {
        let SignQuestion { sign, terms } = question;
        // Every field is named: a new one is part of what has to agree, or is content and says so here.
        let SignFacts {
            kind,
            format,
            key,
            speaker,
            author,
            encoding,
            risks,
            subject: _,
            body: _,
            tag: _,
            certificate: _,
            parents: _,
            tree: _,
            covered: _,
        } = &sign.facts;
        match kind {
            SignableKind::Tag | SignableKind::PushCertificate => None,
            SignableKind::Commit => Some(Self {
                session: session.clone(),
                terms: (*terms).clone(),
                format: *format,
                key: key.clone(),
                committer: speaker.clone(),
                author: author.clone(),
                encoding: encoding.clone(),
                risks: risks.clone(),
            }),
        }
    }
}

/// A signature that somebody is asked for, and on which terms.
#[derive(Debug, Clone, Copy)]
pub struct SignQuestion<'q> {
    /// What would be signed.
    pub sign: &'q SignOperation,
    /// By which rule.
    pub terms: &'q Terms,
}

impl SignQuestion<'_> {
    /// Whether a yes covers what follows, for a while.
    #[must_use]
    pub fn opens_batch(&self) -> bool {
        self.sign.facts.kind == SignableKind::Commit && !self.terms.once_only
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
    until: BootTime,
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
        operation: &Operation,
        terms: &Terms,
        now: BootTime,
    ) -> Option<Covered> {
        let Operation::Sign(sign) = operation else { return None };
        self.0.retain(|batch| batch.until > now && !matches!(batch.answer, Answer::Yes { left: 0, .. }));
        let common = Common::of(session, &SignQuestion { sign, terms })?;
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
    pub(super) fn has_answer(&self, session: &SessionId, question: &SignQuestion<'_>, now: BootTime) -> bool {
        let Some(common) = Common::of(session, question) else { return false };
        let terms = question.terms;
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
        terms: &Terms,
        answer: Result<RequestId, Option<String>>,
        now: BootTime,
    ) {
        let Operation::Sign(sign) = operation else { return };
        let Some(common) = Common::of(session, &SignQuestion { sign, terms }) else { return };
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
    use keyhatch_protocol::{ObjectFormat, ObjectId, PushPromise, Remote, RiskKind, TagPromise};

    use super::*;

    fn facts(kind: SignableKind) -> SignFacts {
        let who = |name: &str| Identity { name: name.into(), email: format!("{name}@x") };
        SignFacts {
            kind,
            format: SignatureFormat::Ssh,
            key: "k".into(),
            speaker: Some(who("ada")),
            author: Some(who("bob")),
            subject: "s".into(),
            body: String::new(),
            encoding: None,
            risks: Vec::new(),
            tag: None,
            certificate: None,
            parents: Vec::new(),
            tree: None,
            covered: "1".into(),
        }
    }

    const fn nobody() -> Identity {
        Identity { name: String::new(), email: String::new() }
    }

    fn terms(rule: &str) -> Terms {
        Terms { rule: rule.into(), reason: "r".into(), credential: CredentialChoice::Host, once_only: false }
    }

    /// One session's question.
    #[derive(Clone)]
    struct Case {
        session: SessionId,
        facts: SignFacts,
        terms: Terms,
    }

    impl Case {
        fn new(kind: SignableKind) -> Self {
            Self { session: SessionId::from_random([1; 4]), facts: facts(kind), terms: terms("first") }
        }

        fn operation(&self) -> Operation {
            Operation::Sign(SignOperation::of(self.facts.clone()))
        }

        fn ask(&self, batches: &mut Batches, now: BootTime) -> Option<Covered> {
            let sign = SignOperation::of(self.facts.clone());
            let has =
                batches.has_answer(&self.session, &SignQuestion { sign: &sign, terms: &self.terms }, now);
            let answer = batches.answer(&self.session, &self.operation(), &self.terms, now);
            assert_eq!(has, answer.is_some(), "both say the same");
            answer
        }

        fn answered(&self, batches: &mut Batches, answer: Result<RequestId, Option<String>>, now: BootTime) {
            batches.answered(&self.session, &self.operation(), &self.terms, answer, now);
        }
    }

    fn id() -> RequestId {
        RequestId::from_random([1; 3])
    }

    /// A change of a question, and whether it is one of content alone.
    struct Change {
        of_content: bool,
        make: fn(&mut Case),
    }

    /// Every way in which two questions can differ.
    const CHANGES: &[Change] = &[
        Change { of_content: true, make: |case| case.facts.subject = "t".into() },
        Change { of_content: true, make: |case| case.facts.covered = "2".into() },
        Change { of_content: true, make: |case| case.facts.tree = Some(ObjectId::zero(ObjectFormat::Sha1)) },
        Change {
            of_content: true,
            make: |case| case.facts.parents = vec![ObjectId::zero(ObjectFormat::Sha1)],
        },
        Change { of_content: false, make: |case| case.session = SessionId::from_random([2; 4]) },
        Change { of_content: false, make: |case| case.terms.rule = "second".into() },
        Change { of_content: false, make: |case| case.terms.reason = "other".into() },
        Change {
            of_content: false,
            make: |case| case.terms.credential = CredentialChoice::Named("k".into()),
        },
        Change { of_content: false, make: |case| case.terms.once_only = true },
        Change { of_content: false, make: |case| case.facts.format = SignatureFormat::OpenPgp },
        Change { of_content: false, make: |case| case.facts.key = "other".into() },
        Change { of_content: false, make: |case| case.facts.speaker = None },
        Change {
            of_content: false,
            make: |case| case.facts.speaker.get_or_insert_with(nobody).name = "eve".into(),
        },
        Change {
            of_content: false,
            make: |case| case.facts.speaker.get_or_insert_with(nobody).email = "e@x".into(),
        },
        Change { of_content: false, make: |case| case.facts.author = None },
        Change {
            of_content: false,
            make: |case| case.facts.author.get_or_insert_with(nobody).name = "eve".into(),
        },
        Change {
            of_content: false,
            make: |case| case.facts.author.get_or_insert_with(nobody).email = "e@x".into(),
        },
        Change { of_content: false, make: |case| case.facts.encoding = Some("ISO-8859-1".into()) },
        Change { of_content: true, make: |case| case.facts.body = "b".into() },
        Change {
            of_content: false,
            make: |case| case.facts.risks = vec![Risk { kind: RiskKind::OtherTree, detail: "d".into() }],
        },
        Change { of_content: false, make: |case| case.facts.kind = SignableKind::Tag },
        Change { of_content: false, make: |case| case.facts.kind = SignableKind::PushCertificate },
    ];

    #[test]
    fn a_yes_never_covers_what_differs_in_more_than_its_content() {
        let now = BootTime::now();
        for answer in [Ok(id()), Err(Some("no".to_owned()))] {
            // Every set of up to three changes: one answer was given to the unchanged question.
            for set in (0_u32..1 << CHANGES.len()).filter(|set| set.count_ones() <= 3) {
                let mut batches = Batches::default();
                let first = Case::new(SignableKind::Commit);
                first.answered(&mut batches, answer.clone(), now);
                let mut other = first.clone();
                let chosen: Vec<&Change> = CHANGES
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| set >> at & 1 == 1)
                    .map(|(_, one)| one)
                    .collect();
                chosen.iter().for_each(|change| (change.make)(&mut other));
                let covered = other.ask(&mut batches, now).is_some();
                assert_eq!(covered, chosen.iter().all(|change| change.of_content), "{set:b}");
            }
        }
    }

    #[test]
    fn tags_and_certificates_are_asked_one_at_a_time() {
        let now = BootTime::now();
        for kind in [SignableKind::Tag, SignableKind::PushCertificate] {
            let mut batches = Batches::default();
            let mut case = Case::new(kind);
            case.facts.tag = (kind == SignableKind::Tag).then(|| {
                Box::new(TagPromise {
                    name: "v1".into(),
                    object: ObjectId::zero(ObjectFormat::Sha1),
                    object_type: "commit".into(),
                })
            });
            case.facts.certificate = (kind == SignableKind::PushCertificate).then(|| {
                Box::new(PushPromise {
                    remote: Remote::parse("https://h/r").expect("a remote"),
                    nonce: Some("1-x".into()),
                    updates: Vec::new(),
                    update_count: 0,
                    push_options: Vec::new(),
                })
            });
            for answer in [Ok(id()), Err(None)] {
                case.answered(&mut batches, answer, now);
                assert_eq!(case.ask(&mut batches, now), None, "{kind:?}");
            }
            let sign = SignOperation::of(case.facts.clone());
            assert!(!SignQuestion { sign: &sign, terms: &case.terms }.opens_batch());
        }
    }

    #[test]
    fn a_yes_covers_so_many_for_a_while_and_a_no_answers_the_ones_that_follow() {
        let (mut batches, now) = (Batches::default(), BootTime::now());
        let one = Case::new(SignableKind::Commit);
        assert_eq!(one.ask(&mut batches, now), None);
        one.answered(&mut batches, Ok(id()), now);
        assert_eq!(one.ask(&mut batches, now), Some(Covered::Yes(id())));
        let covered = (0..BATCH_HOLDS + 5).filter(|_| one.ask(&mut batches, now).is_some()).count();
        assert_eq!(covered, BATCH_HOLDS as usize - 1);
        one.answered(&mut batches, Ok(id()), now);
        assert_eq!(one.ask(&mut batches, now + BATCH_LASTS), None, "it ends");
        one.answered(&mut batches, Err(Some("no".into())), now);
        assert_eq!(one.ask(&mut batches, now), Some(Covered::No(Some("no".into()))));
        batches.forget(&one.session);
        assert_eq!(one.ask(&mut batches, now), None);
        let mut once = one.clone();
        once.terms.once_only = true;
        once.answered(&mut batches, Ok(id()), now);
        assert_eq!(once.ask(&mut batches, now), None, "once is once");
    }
}
