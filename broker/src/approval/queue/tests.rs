//! The queue by its rules: once, expired, withdrawn, retried, granted, refused.

use std::sync::atomic::{AtomicU64, Ordering};

use keyhatch_policies::CredentialChoice;
use keyhatch_protocol::Remote;

use super::super::{Fetch, Judged, Proposal, admit};
use super::*;

const PATIENCE: Patience = Patience { held: Duration::from_secs(600), withdrawn: Duration::from_secs(900) };

/// A clock that a test sets.
#[derive(Debug, Clone, Default)]
pub(super) struct SetClock(Arc<AtomicU64>);

impl SetClock {
    pub(super) fn pass(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_millis()).expect("a short time"), Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> BootTime {
        BootTime::since_boot(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

pub(super) fn session(n: u8) -> SessionId {
    SessionId::from_random([n; 4])
}

fn fetch(path: &str) -> Question<Fetch> {
    let remote = Remote::parse(&format!("https://git.example.org/{path}")).expect("a remote");
    let judgement = keyhatch_policies::Judgement::Ask(Terms {
        rule: "r".into(),
        reason: "why".into(),
        credential: CredentialChoice::Host,
        once_only: false,
    });
    match admit(&session(1), Proposal::fetch(remote), judgement) {
        Judged::Ask(question) => *question,
        Judged::Approved(_) | Judged::Denied(_) => panic!("it is asked"),
    }
}

fn submit<'q>(queue: &'q Queue, n: u8, path: &str, id: u8) -> Submission<'q, Fetch> {
    queue.submit(&session(n), fetch(path), PATIENCE, || RequestId::from_random([id; 3]))
}

fn held(submission: Submission<'_, Fetch>) -> Held<'_, Fetch> {
    match submission {
        Submission::Held(held) => held,
        other => panic!("not held: {other:?}"),
    }
}

/// Looks at a request and decides.
fn decide(queue: &Queue, id: &RequestId, decision: Decision) -> Result<Asked, DecideError> {
    queue.show(id, |_| Some(()))?;
    queue.decide(id, None, decision)
}

#[tokio::test]
async fn an_approval_is_delivered_once_and_deciding_twice_is_refused() {
    let queue = Queue::default();
    let held = held(submit(&queue, 1, "a", 1));
    let id = held.id().clone();
    decide(&queue, &id, Decision::Approved(Scope::Once)).expect("decides");
    let again = decide(&queue, &id, Decision::Refused(None));
    assert!(matches!(again, Err(DecideError::Over { outcome: Outcome::Approved, .. })), "{again:?}");
    let approved = held.decided().await.expect("approved");
    assert_eq!(approved.authority(), &Authority::Person(id));
    assert!(matches!(submit(&queue, 1, "a", 2), Submission::Held(_)), "once is once");
}

#[tokio::test]
async fn a_withdrawn_request_that_was_approved_lets_one_retry_through() {
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let id = first.id().clone();
    drop(first);
    assert!(queue.pending()[0].withdrawn);
    decide(&queue, &id, Decision::Approved(Scope::Once)).expect("decides");
    assert!(queue.pending().is_empty());
    assert!(matches!(submit(&queue, 2, "a", 2), Submission::Held(_)), "another session asks anew");
    assert!(matches!(submit(&queue, 1, "b", 3), Submission::Held(_)), "another operation asks anew");
    assert!(matches!(submit(&queue, 1, "a", 4), Submission::Approved(_)));
    assert!(matches!(submit(&queue, 1, "a", 5), Submission::Held(_)), "only one retry");
}

#[tokio::test]
async fn an_approval_that_came_as_the_client_left_is_kept_for_the_retry() {
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let id = first.id().clone();
    decide(&queue, &id, Decision::Approved(Scope::Once)).expect("decides");
    drop(first);
    assert!(matches!(submit(&queue, 1, "a", 2), Submission::Approved(_)));
}

#[tokio::test]
async fn a_retry_before_the_decision_keeps_its_id() {
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let id = first.id().clone();
    drop(first);
    let second = held(submit(&queue, 1, "a", 2));
    assert_eq!((second.id(), second.attached()), (&id, Attached::Again));
}

#[tokio::test]
async fn a_refusal_sticks_and_expiry_is_a_no() {
    let clock = SetClock::default();
    let queue = Queue::with_clock(Box::new(clock.clone()));
    let first = held(submit(&queue, 1, "a", 1));
    let no = Decision::Refused(Some("not today".into()));
    queue.decide(first.id(), None, no.clone()).expect("decides");
    assert_eq!(first.decided().await.expect_err("refused"), no);
    let repeat = submit(&queue, 1, "a", 2);
    assert!(matches!(repeat, Submission::Refused(Some(ref why)) if why == "not today"), "{repeat:?}");
    let late = held(submit(&queue, 1, "b", 3));
    clock.pass(Duration::from_secs(600));
    let answer = decide(&queue, late.id(), Decision::Approved(Scope::Once));
    assert!(matches!(answer, Err(DecideError::Over { outcome: Outcome::Expired, .. })), "{answer:?}");
    assert_eq!(late.decided().await.expect_err("a no"), Decision::Unanswered);
}

#[tokio::test]
async fn an_approval_that_is_not_used_in_time_is_worth_nothing() {
    let clock = SetClock::default();
    let queue = Queue::with_clock(Box::new(clock.clone()));
    let first = held(submit(&queue, 1, "a", 1));
    decide(&queue, first.id(), Decision::Approved(Scope::Once)).expect("decides");
    // The machine slept between the answer and the client that waits for it.
    clock.pass(Duration::from_secs(601));
    assert_eq!(first.decided().await.expect_err("a no"), Decision::Unanswered);
    let second = held(submit(&queue, 1, "b", 2));
    let id = second.id().clone();
    drop(second);
    decide(&queue, &id, Decision::Approved(Scope::Once)).expect("decides");
    clock.pass(Duration::from_secs(900));
    assert!(matches!(submit(&queue, 1, "b", 3), Submission::Held(_)), "it is asked again");
}

#[tokio::test]
async fn a_second_no_counts_for_longer_than_the_first() {
    let clock = SetClock::default();
    let queue = Queue::with_clock(Box::new(clock.clone()));
    let mut id = 0;
    let mut refuse = |wait: u64| {
        clock.pass(Duration::from_secs(wait));
        id += 1;
        let asked = held(submit(&queue, 1, "a", id));
        queue.decide(asked.id(), None, Decision::Refused(None)).expect("decides");
    };
    refuse(0);
    refuse(30);
    refuse(60);
    clock.pass(Duration::from_secs(119));
    assert!(matches!(submit(&queue, 1, "a", 40), Submission::Refused(_)), "120 s after the third no");
    clock.pass(Duration::from_secs(239));
    assert!(matches!(submit(&queue, 1, "a", 41), Submission::Refused(_)), "a repeat lengthens it");
}

#[tokio::test]
async fn a_wrong_digest_an_unknown_id_and_a_blind_yes_decide_nothing() {
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let yes = || Decision::Approved(Scope::Once);
    let digest = queue.pending()[0].digest.as_str().to_owned();
    for wrong in ["00", &digest[..11], &"0".repeat(64), &format!("{digest}0"), ""] {
        let answer = queue.decide(first.id(), Some(wrong), yes());
        assert!(matches!(answer, Err(DecideError::DigestDiffers(_))), "{wrong}: {answer:?}");
    }
    let unknown = queue.decide(&RequestId::from_random([9; 3]), None, yes());
    assert!(matches!(unknown, Err(DecideError::Unknown(_))));
    assert!(matches!(queue.decide(first.id(), None, yes()), Err(DecideError::NotShown(_))));
    // What could not be rendered was not shown.
    assert_eq!(queue.show(first.id(), |_| None::<()>), Ok(None));
    assert!(matches!(queue.decide(first.id(), None, yes()), Err(DecideError::NotShown(_))));
    assert_eq!(queue.pending().len(), 1);
    queue.decide(first.id(), Some(&digest[..12]), yes()).expect("the first digits name it");
}

#[tokio::test]
async fn an_id_never_stands_for_two_requests() {
    let queue = Queue::default();
    let mut ids = [7, 7, 8].into_iter();
    let mut next = || RequestId::from_random([ids.next().expect("an id"); 3]);
    let first = held(queue.submit(&session(1), fetch("a"), PATIENCE, &mut next));
    let second = held(queue.submit(&session(1), fetch("b"), PATIENCE, &mut next));
    assert_eq!((first.id(), second.id()), (&RequestId::from_random([7; 3]), &RequestId::from_random([8; 3])));
}

#[tokio::test]
async fn a_flood_of_one_session_leaves_room_for_another() {
    let queue = Queue::default();
    let flood: Vec<_> = (0..16).map(|n| submit(&queue, 1, &format!("r{n}"), n)).collect();
    assert!(flood.iter().all(|s| matches!(s, Submission::Held(_))));
    assert!(matches!(submit(&queue, 1, "more", 40), Submission::TooMany));
    assert!(matches!(submit(&queue, 2, "a", 41), Submission::Held(_)));
}
