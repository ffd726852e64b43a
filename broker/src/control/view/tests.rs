//! Views of requests that are made to be too large.

use std::sync::Arc;
use std::time::Duration;

use keyhatch_policies::{FetchOperation, PushOperation, SignOperation, Terms};
use keyhatch_protocol::{
    ObjectFormat, ObjectId, RefName, Remote, RiskKind, SignableKind, SignatureFormat, UpdateKind, frame,
};
use proptest::prelude::*;

use super::*;
use crate::approval::Digest;
use crate::control::Reply;

/// Texts that a session can choose: long, and of what JSON makes longer.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a"),
        Just("\u{0}"),
        Just("\u{1b}["),
        Just("\u{202e}"),
        Just("\""),
        Just("é"),
        Just("\n")
    ];
    (piece, prop_oneof![3 => 0..300usize, 1 => 0..1_000_000usize])
        .prop_map(|(piece, times)| piece.repeat(times))
}

fn oid() -> ObjectId {
    ObjectId::zero(ObjectFormat::Sha1)
}

fn facts() -> impl Strategy<Value = Facts> {
    let count = prop_oneof![4 => 0..4usize, 1 => 0..10_000usize];
    (text(), text(), count.clone(), count.clone(), count).prop_map(|(text, diff, refs, risks, commits)| {
        let name = RefName::parse(format!("refs/heads/{}", "\"".repeat(900)).as_bytes()).expect("legal");
        let who = Identity { name: text.clone(), email: text.clone() };
        let signature = CarriedSignature {
            covered: text.clone(),
            digest: text.clone(),
            fact: SignatureFact::Bad { why: text.clone() },
        };
        let commit = CommitFact {
            oid: oid(),
            author: who.clone(),
            committer: who.clone(),
            subject: text.clone(),
            signed: true,
            signature: Some(signature.clone()),
            parents: 1,
            is_new: true,
        };
        // Not more than what fits a test's memory: long texts a few times, short ones often.
        let most = |count: usize| count.min(4_000_000 / text.len().max(1));
        Facts {
            object_format: ObjectFormat::Sha1,
            updates: vec![
                UpdateFact {
                    ref_name: name,
                    kind: UpdateKind::Create,
                    old: oid(),
                    new: oid(),
                    commit_count: None,
                };
                refs
            ],
            commit_count: commits as u64,
            new_commit_count: commits as u64,
            tag_count: commits as u64,
            commits: vec![commit; most(commits) / 8],
            tags: vec![
                TagFact {
                    oid: oid(),
                    name: text.clone(),
                    tagger: Some(who),
                    subject: text.clone(),
                    signature: Some(signature)
                };
                most(commits) / 8
            ],
            file_count: 3,
            files: vec![
                ChangedFile { path: text.clone(), status: 'A', added: None, removed: None };
                most(risks)
            ],
            added: 1,
            removed: 2,
            object_count: 3,
            pack_bytes: 4,
            risks: vec![Risk { kind: RiskKind::Symlink, detail: text.clone() }; most(risks)],
            diff,
            diff_cut: false,
        }
    })
}

fn asked(operation: Operation, text: String) -> Asked {
    let terms =
        Terms { rule: text.clone(), reason: text, credential: CredentialChoice::Host, once_only: false };
    let session = SessionId::from_random([1; 4]);
    let digest = Digest::of(&session, &operation, &terms);
    let at = BootTime::since_boot(Duration::from_secs(5));
    Asked {
        id: RequestId::from_random([1; 3]),
        session,
        operation: Arc::new(operation),
        terms,
        digest,
        created: at,
        expires: at + Duration::from_secs(600),
        withdrawn: false,
    }
}

fn remote() -> Remote {
    Remote::parse("https://git.example.org/a").expect("a remote")
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (facts(), prop::collection::vec(text(), 0..4)).prop_map(|(facts, push_options)| {
            Operation::Push(PushOperation { remote: remote(), facts, push_options })
        }),
        1 => Just(Operation::Fetch(FetchOperation { remote: remote() })),
        1 => (text(), 0..20_000usize).prop_map(|(text, parents)| {
            let mut sign = SignOperation::of(SignFacts {
                kind: SignableKind::Commit,
                format: SignatureFormat::Ssh,
                key: text.clone(),
                speaker: Some(Identity { name: text.clone(), email: text.clone() }),
                author: None,
                subject: text.clone(),
                body: text.clone(),
                encoding: Some(text.clone()),
                risks: vec![Risk { kind: RiskKind::Encoding, detail: text.clone() }; parents.min(3)],
                tag: None,
                certificate: None,
                parents: vec![oid(); parents],
                tree: None,
                covered: text.clone(),
            });
            sign.changes = Some(SignedChanges {
                file_count: 1,
                files: Vec::new(),
                added: 0,
                removed: 0,
                diff: text,
                diff_cut: false,
            });
            Operation::Sign(sign)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_a_session_asks_every_listing_and_every_request_fits_a_frame(
        operation in operations(),
        terms in text(),
        many in prop_oneof![1..40usize, 400..3_000usize],
    ) {
        let hostile = asked(operation, terms);
        let ordinary = asked(Operation::Fetch(FetchOperation { remote: remote() }), "why".into());
        let now = BootTime::since_boot(Duration::from_secs(6));
        let mut pending = vec![hostile.clone(); many];
        pending.insert(many / 2, ordinary.clone());
        let listing = Listing::of(&pending, now);
        prop_assert_eq!(listing.requests.len() as u64 + listing.left_out, pending.len() as u64);
        prop_assert!(listing.requests.iter().all(|view| view.problem.is_none()));
        if listing.left_out == 0 {
            prop_assert_eq!(&listing.requests[many / 2].reason, "why");
        }
        let view = listing.requests.iter().find(|view| view.reason != "why").expect("the hostile one");
        if let Operation::Push(push) = &*hostile.operation {
            prop_assert_eq!(view.risk_count, push.facts.risks.len() as u64);
            prop_assert_eq!(view.update_count, push.facts.updates.len() as u64);
            let details = push.facts.risks.first().map(|risk| risk.detail.len());
            if let (Some(shown), Some(whole)) = (view.risks.first(), details) {
                prop_assert!(shown.detail.len() == whole || view.cut && shown.detail.ends_with("bytes more)"));
            }
        }
        let sent = frame::encode(&Reply::Pending(listing), MAX_CONTROL_FRAME);
        prop_assert!(sent.is_ok());
        let shown = ShownRequest::of(&hostile, now).expect("it can be shown");
        prop_assert!(frame::encode(&Reply::Shown(Box::new(shown)), MAX_CONTROL_FRAME).is_ok());
        let decided = Reply::Decided { request: Box::new(RequestView::of(&hostile, now)) };
        prop_assert!(frame::encode(&decided, MAX_CONTROL_FRAME).is_ok());
    }
}

#[test]
fn a_request_that_cannot_be_read_is_listed_as_such_and_hides_no_other() {
    let ordinary = asked(Operation::Fetch(FetchOperation { remote: remote() }), "why".into());
    let now = BootTime::since_boot(Duration::from_secs(6));
    let listing = Listing::of(&[ordinary.clone(), ordinary.clone(), ordinary], now);
    let mut json = serde_json::to_value(listing).expect("it serialises");
    json["requests"][1]["updates"] = "not a list".into();
    json["requests"][2]["id"] = "neither".into();
    json["requests"][2]["updates"] = 3.into();
    let read: Listing = serde_json::from_value(json).expect("the rest is read");
    assert_eq!(read.requests.len(), 2);
    assert_eq!((&*read.requests[0].reason, &read.requests[0].problem), ("why", &None));
    let broken = &read.requests[1];
    assert!(broken.problem.is_some() && broken.once_only && broken.digest.is_empty(), "{broken:?}");
    assert!(crate::surface::lines(broken).contains("cannot be shown"), "{broken:?}");
    assert!(crate::surface::request(broken).contains("cannot be approved"), "{broken:?}");
}
