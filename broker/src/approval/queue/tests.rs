//! The queue by its rules: once, expired, withdrawn, retried, granted, refused.

use keyhatch_policies::{CredentialChoice, FetchOperation};

use keyhatch_protocol::Remote;

use super::*;

const PATIENCE: Patience = Patience { held: Duration::from_secs(600), withdrawn: Duration::from_secs(900) };

fn session(n: u8) -> SessionId {
    SessionId::from_random([n; 4])
}

fn fetch(path: &str) -> (Operation, Terms) {
    let remote = Remote::parse(&format!("https://git.example.org/{path}")).expect("a remote");
    let terms = Terms {
        rule: "r".into(),
        reason: "why".into(),
        credential: CredentialChoice::Host,
        once_only: false,
    };
    (Operation::Fetch(FetchOperation { remote }), terms)
}

fn submit<'q>(queue: &'q Queue, n: u8, path: &str, id: u8) -> Submission<'q> {
    let at = (SystemTime::now(), RequestId::from_random([id; 3]));
    queue.submit(&session(n), fetch(path), PATIENCE, at)
}

fn held(submission: Submission<'_>) -> Held<'_> {
    match submission {
        Submission::Held(held) => held,
        other => panic!("not held: {other:?}"),
    }
}

#[tokio::test]
async fn an_approval_is_delivered_once_and_deciding_twice_is_refused() {
    let queue = Queue::default();
    let held = held(submit(&queue, 1, "a", 1));
    let id = held.id().clone();
    queue.decide(&id, None, Decision::Approved(Scope::Once), SystemTime::now()).expect("decides");
    let again = queue.decide(&id, None, Decision::Refused(None), SystemTime::now());
    assert!(matches!(again, Err(DecideError::AlreadyDecided { how: "approved", .. })), "{again:?}");
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
    assert!(queue.pending(SystemTime::now())[0].withdrawn);
    queue.decide(&id, None, Decision::Approved(Scope::Once), SystemTime::now()).expect("decides");
    assert!(queue.pending(SystemTime::now()).is_empty());
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
    queue.decide(&id, None, Decision::Approved(Scope::Once), SystemTime::now()).expect("decides");
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
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let no = Decision::Refused(Some("not today".into()));
    queue.decide(first.id(), None, no.clone(), SystemTime::now()).expect("decides");
    assert_eq!(first.decided().await.expect_err("refused"), no);
    let repeat = submit(&queue, 1, "a", 2);
    assert!(matches!(repeat, Submission::Refused(Some(ref why)) if why == "not today"), "{repeat:?}");
    let late = held(submit(&queue, 1, "b", 3));
    let after = SystemTime::now() + Duration::from_secs(601);
    let answer = queue.decide(late.id(), None, Decision::Approved(Scope::Once), after);
    assert!(matches!(answer, Err(DecideError::AlreadyDecided { how: "expired", .. })), "{answer:?}");
    assert_eq!(late.decided().await.expect_err("a no"), Decision::Unanswered);
}

#[tokio::test]
async fn a_wrong_digest_and_an_unknown_id_decide_nothing() {
    let queue = Queue::default();
    let first = held(submit(&queue, 1, "a", 1));
    let yes = Decision::Approved(Scope::Once);
    let wrong = queue.decide(first.id(), Some("00"), yes.clone(), SystemTime::now());
    assert!(matches!(wrong, Err(DecideError::DigestDiffers(_))));
    let unknown = queue.decide(&RequestId::from_random([9; 3]), None, yes, SystemTime::now());
    assert!(matches!(unknown, Err(DecideError::Unknown(_))));
    assert_eq!(queue.pending(SystemTime::now()).len(), 1);
}

#[tokio::test]
async fn a_flood_of_one_session_leaves_room_for_another() {
    let queue = Queue::default();
    let flood: Vec<_> = (0..16).map(|n| submit(&queue, 1, &format!("r{n}"), n)).collect();
    assert!(flood.iter().all(|s| matches!(s, Submission::Held(_))));
    assert!(matches!(submit(&queue, 1, "more", 40), Submission::TooMany));
    assert!(matches!(submit(&queue, 2, "a", 41), Submission::Held(_)));
}
