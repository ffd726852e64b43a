//! The queue against a small model of it, over every order of events that proptest finds.
//!
//! The model knows what a person said to each request, when, and what was used. It does not know how the queue does it.

use std::collections::{HashMap, HashSet};

use keyhatch_policies::{CredentialChoice, Judgement};
use keyhatch_protocol::{
    Facts, Identity, ObjectFormat, ObjectId, RefName, Remote, SignFacts, SignableKind, SignatureFormat,
    UpdateFact,
};
use proptest::prelude::*;

use super::super::proposal::Proposal;
use super::super::{Judged, admit};
use super::tests::{SetClock, session};
use super::*;

const HELD: Duration = Duration::from_secs(600);
const WITHDRAWN: Duration = Duration::from_secs(900);

/// What one push would do: few of each, so that the same comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Want {
    session: u8,
    commit: u8,
    name: u8,
    facts: u8,
    rule: u8,
}

#[derive(Debug, Clone)]
enum Event {
    Submit(Want),
    /// The client of one that is held goes away.
    Leave(usize),
    /// The client of one that was decided looks.
    Look(usize),
    Show(usize),
    Approve {
        at: usize,
        blind: bool,
    },
    Refuse(usize),
    Forget(u8),
    Pass(u64),
}

fn wants() -> impl Strategy<Value = Want> {
    (0..2u8, 0..2u8, 0..2u8, 0..2u8, 0..2u8).prop_map(|(session, commit, name, facts, rule)| Want {
        session,
        commit,
        name,
        facts,
        rule,
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => wants().prop_map(Event::Submit),
        3 => (0..8usize).prop_map(Event::Leave),
        4 => (0..8usize).prop_map(Event::Look),
        2 => (0..8usize).prop_map(Event::Show),
        4 => (0..8usize, any::<bool>()).prop_map(|(at, blind)| Event::Approve { at, blind }),
        2 => (0..8usize).prop_map(Event::Refuse),
        1 => (0..2u8).prop_map(Event::Forget),
        3 => prop_oneof![0..20u64, 20..200u64, 590..910u64].prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..60)
}

fn oid(n: u8) -> ObjectId {
    ObjectId::parse(&format!("{n:040x}")).expect("an oid")
}

fn operation(want: Want) -> Operation {
    let update = UpdateFact {
        ref_name: RefName::parse(format!("refs/heads/{}", want.name).as_bytes()).expect("legal"),
        kind: UpdateKind::Create,
        old: oid(0),
        new: oid(want.commit + 1),
        commit_count: None,
    };
    let facts = Facts {
        object_format: ObjectFormat::Sha1,
        updates: vec![update],
        commit_count: 1,
        new_commit_count: 1,
        tag_count: 0,
        commits: Vec::new(),
        tags: Vec::new(),
        file_count: 0,
        files: Vec::new(),
        added: u64::from(want.facts),
        removed: 0,
        object_count: 1,
        pack_bytes: 1,
        risks: Vec::new(),
        diff: String::new(),
        diff_cut: false,
    };
    let remote = Remote::parse("https://git.example.org/r").expect("a remote");
    Operation::Push(PushOperation { remote, facts, push_options: Vec::new() })
}

fn question(want: Want) -> Question<Want> {
    let terms = Terms {
        rule: format!("rule {}", want.rule),
        reason: "why".into(),
        credential: CredentialChoice::Host,
        once_only: true,
    };
    let proposal = Proposal { content: want, operation: operation(want) };
    match admit(&session(want.session), proposal, Judgement::Ask(terms)) {
        Judged::Ask(question) => *question,
        Judged::Approved(_) | Judged::Denied(_) => panic!("it is asked"),
    }
}

/// What the model knows of one request.
#[derive(Debug, Clone)]
struct Known {
    want: Want,
    shown: bool,
    /// When a person said yes, and the last moment that this can count.
    approved: Option<Duration>,
    refused: bool,
    used: bool,
    over: bool,
}

struct Model<'q> {
    queue: &'q Queue,
    clock: SetClock,
    runtime: tokio::runtime::Runtime,
    known: HashMap<RequestId, Known>,
    /// In the order in which they were asked.
    order: Vec<RequestId>,
    held: Vec<Held<'q, Want>>,
    /// What a person refused, and until when at least a repeat is refused by itself.
    no: HashMap<(u8, u8, u8), Duration>,
    used: HashSet<RequestId>,
    next: u32,
}

impl<'q> Model<'q> {
    fn now(&self) -> Duration {
        self.clock.now().since(BootTime::since_boot(Duration::ZERO))
    }

    fn pick(&self, at: usize) -> Option<RequestId> {
        let last = self.order.len().checked_sub(1)?;
        self.order.get(last.checked_sub(at)?).cloned()
    }

    /// Something was done by the word of a person: once, in time, and exactly that.
    fn consumed(&mut self, approved: &Approved<Want>) {
        let Authority::Person(id) = approved.authority() else { panic!("nobody else can agree here") };
        let now = self.now();
        let known = self.known.get_mut(id).expect("it was asked");
        assert!(self.used.insert(id.clone()), "used twice");
        assert_eq!(known.want, approved.content, "another operation, session, or other facts");
        assert!(!known.refused && !known.over, "a no became a yes: {known:?}");
        let until = known.approved.expect("a person said yes");
        assert!(now < until, "too late: {now:?} of {until:?}");
        known.used = true;
    }

    fn submit(&mut self, want: Want) {
        self.next += 1;
        let bytes = self.next.to_be_bytes();
        let id = || RequestId::from_random([bytes[1], bytes[2], bytes[3]]);
        let patience = Patience { held: HELD, withdrawn: WITHDRAWN };
        let key = (want.session, want.commit, want.name);
        let refused = self.no.get(&key).is_some_and(|until| self.now() < *until);
        match self.queue.submit(&session(want.session), question(want), patience, id) {
            Submission::Approved(approved) => {
                assert_eq!(approved.content, want, "the thing itself is given back");
                self.consumed(&approved);
            }
            Submission::Refused(_) => assert!(self.no.contains_key(&key), "nobody said no"),
            Submission::TooMany => {}
            Submission::Held(held) => {
                assert!(!refused, "a no that sticks was asked again");
                if held.attached() == Attached::New {
                    let known = Known {
                        want,
                        shown: false,
                        approved: None,
                        refused: false,
                        used: false,
                        over: false,
                    };
                    assert!(self.known.insert(held.id().clone(), known).is_none(), "an id twice");
                    self.order.push(held.id().clone());
                } else {
                    assert_eq!(self.known[held.id()].want, want, "attached to another request");
                }
                self.held.push(held);
            }
        }
    }

    fn approve(&mut self, id: &RequestId, blind: bool) {
        let now = self.now();
        let digest = self.queue.pending().into_iter().find(|asked| &asked.id == id).map(|asked| asked.digest);
        let named = digest.as_ref().filter(|_| !blind).map(|digest| digest.as_str());
        let answer = self.queue.decide(id, named, Decision::Approved(Scope::Once));
        let known = self.known.get_mut(id).expect("it was asked");
        if answer.is_ok() {
            assert!(!known.refused && !known.used && !known.over && known.approved.is_none(), "{known:?}");
            assert!(named.is_some() || known.shown, "a blind yes counted");
            // While a client is there the approval lasts as long as the question, and then for its retry.
            known.approved = Some(now + HELD + WITHDRAWN);
        }
    }

    fn refuse(&mut self, id: &RequestId) {
        if self.queue.decide(id, None, Decision::Refused(None)).is_ok() {
            let now = self.now();
            let known = self.known.get_mut(id).expect("it was asked");
            assert!(!known.used && known.approved.is_none(), "a yes was taken back behind its client");
            known.refused = true;
            let want = known.want;
            self.no.insert((want.session, want.commit, want.name), now + BACK_OFF);
        }
    }

    fn look(&mut self, at: usize) {
        if at >= self.held.len() {
            return;
        }
        let id = self.held[at].id().clone();
        if self.queue.pending().iter().any(|asked| asked.id == id) {
            return;
        }
        let held = self.held.remove(at);
        match self.runtime.block_on(held.decided()) {
            Ok(approved) => self.consumed(&approved),
            Err(Decision::Refused(_)) => assert!(self.known[&id].refused, "nobody said no"),
            Err(Decision::Unanswered) => {}
            Err(Decision::Approved(_)) => panic!("a yes without its proof"),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Submit(want) => self.submit(want),
            Event::Leave(at) if at < self.held.len() => drop(self.held.remove(at)),
            Event::Leave(_) => {}
            Event::Look(at) => self.look(at),
            Event::Show(at) => {
                let Some(id) = self.pick(at) else { return };
                if self.queue.show(&id, |asked| Some(asked.digest.clone())).is_ok() {
                    self.known.get_mut(&id).expect("it was asked").shown = true;
                }
            }
            Event::Approve { at, blind } => {
                let Some(id) = self.pick(at) else { return };
                self.approve(&id, blind);
            }
            Event::Refuse(at) => {
                let Some(id) = self.pick(at) else { return };
                self.refuse(&id);
            }
            Event::Forget(of) => {
                self.queue.forget(&session(of));
                self.known
                    .values_mut()
                    .filter(|known| known.want.session == of)
                    .for_each(|known| known.over = true);
                self.no.retain(|(session, ..), _| *session != of);
            }
            Event::Pass(seconds) => self.clock.pass(Duration::from_secs(seconds)),
        }
        for asked in self.queue.pending() {
            let known = &self.known[&asked.id];
            assert!(
                known.approved.is_none() && !known.refused && !known.over,
                "decided and still pending: {known:?}"
            );
            assert_eq!(*asked.operation, operation(known.want), "an id stands for something else now");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_approval_is_used_once_in_time_and_for_what_was_shown_whatever_happens(events in events()) {
        let clock = SetClock::default();
        let queue = Queue::with_clock(Box::new(clock.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut model = Model {
            queue: &queue,
            clock,
            runtime,
            known: HashMap::new(),
            order: Vec::new(),
            held: Vec::new(),
            no: HashMap::new(),
            used: HashSet::new(),
            next: 0,
        };
        events.into_iter().for_each(|event| model.step(event));
    }

    /// Every change of what is shown is another digest: equal digests are equal requests.
    #[test]
    fn equal_digests_are_equal_requests(one in wants(), other in wants()) {
        let digest = |want: Want| {
            let question = question(want);
            Digest::of(&session(want.session), question.operation(), question.terms())
        };
        prop_assert_eq!(digest(one) == digest(other), one == other);
    }
}

#[test]
fn the_digest_of_a_signature_names_what_changes_too() {
    let facts = SignFacts {
        kind: SignableKind::Commit,
        format: SignatureFormat::Ssh,
        key: "k".into(),
        speaker: Some(Identity { name: "ada".into(), email: "ada@x".into() }),
        author: None,
        subject: "s".into(),
        body: String::new(),
        encoding: None,
        risks: Vec::new(),
        tag: None,
        certificate: None,
        parents: Vec::new(),
        tree: None,
        covered: "1".into(),
    };
    let judgement = || {
        Judgement::Ask(Terms {
            rule: "r".into(),
            reason: "w".into(),
            credential: CredentialChoice::Host,
            once_only: false,
        })
    };
    let Judged::Ask(question) = admit(&session(1), Proposal::signature(facts), judgement()) else {
        panic!("it is asked")
    };
    let digest =
        |question: &Question<Signature>| Digest::of(&session(1), question.operation(), question.terms());
    let before = digest(&question);
    let changes = keyhatch_protocol::SignedChanges {
        file_count: 1,
        files: Vec::new(),
        added: 1,
        removed: 0,
        diff: "+x".into(),
        diff_cut: false,
    };
    assert_ne!(digest(&question.with_changes(Some(changes))), before);
}
