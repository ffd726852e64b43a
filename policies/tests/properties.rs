//! What holds for `judge` whatever the policy: a rule that denies never opens anything, and a risk never does.
//!
//! All combinations of a small world are tried: two rules of each decision, every set of kinds of risk up to three, every
//! update, push options.

use keyhatch_policies::{Judgement, Operation, Policy, Project, PushOperation, judge};
use keyhatch_protocol::{
    Facts, ObjectFormat, ObjectId, RefName, Remote, Risk, RiskKind, UpdateFact, UpdateKind,
};

const KINDS: [RiskKind; 9] = [
    RiskKind::Secret,
    RiskKind::NotLookedAt,
    RiskKind::SpecialRef,
    RiskKind::CiWorkflow,
    RiskKind::Submodule,
    RiskKind::Binary,
    RiskKind::Unreachable,
    RiskKind::Unknown,
    RiskKind::Encoding,
];
const UPDATES: [UpdateKind; 4] =
    [UpdateKind::Create, UpdateKind::FastForward, UpdateKind::Force, UpdateKind::Delete];

/// One rule as a policy has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    decision: &'static str,
    refs: &'static str,
    accepts: bool,
}

impl Written {
    fn text(self, number: usize) -> String {
        let accepts = if self.accepts { "risks = \"accept\"\n" } else { "" };
        let updates = "updates = [\"create\", \"fast-forward\", \"force\", \"delete\"]\n";
        format!(
            "[[push]]\nname = \"rule {number}\"\nremote = \"https://h.example/**\"\nrefs = [\"{}\"]\n{updates}decision = \"{}\"\n\
             {accepts}reason = \"a test\"\n\n",
            self.refs, self.decision
        )
    }
}

fn policy(rules: &[Written]) -> Policy {
    let rules: String = rules.iter().enumerate().map(|(number, rule)| rule.text(number)).collect();
    let text = format!("name = \"p\"\ndescription = \"A test.\"\n\n{rules}");
    Policy::parse(&text, "p.toml").unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

/// Every rule that is written in this small world.
fn written() -> Vec<Written> {
    let mut all = Vec::new();
    for refs in ["refs/heads/*", "refs/heads/agent"] {
        for decision in ["allow", "ask", "deny"] {
            all.push(Written { decision, refs, accepts: false });
        }
        all.push(Written { decision: "allow", refs, accepts: true });
    }
    all
}

fn push(kind: UpdateKind, name: &str, risks: &[RiskKind]) -> Operation {
    let zero = ObjectId::zero(ObjectFormat::Sha1);
    let ref_name = RefName::parse(name.as_bytes()).expect("a ref name");
    let facts = Facts {
        object_format: ObjectFormat::Sha1,
        updates: vec![UpdateFact { ref_name, kind, old: zero.clone(), new: zero, commit_count: None }],
        commit_count: 1,
        new_commit_count: 1,
        commits: Vec::new(),
        tag_count: 0,
        tags: Vec::new(),
        file_count: 1,
        files: Vec::new(),
        added: 1,
        removed: 0,
        object_count: 3,
        pack_bytes: 300,
        risks: risks.iter().map(|kind| Risk { kind: *kind, detail: String::new() }).collect(),
        diff: String::new(),
        diff_cut: false,
    };
    let remote = Remote::parse("https://h.example/r").expect("a remote");
    Operation::Push(PushOperation { remote, facts, push_options: Vec::new() })
}

/// How much is let through: more is more permissive.
fn openness(judgement: &Judgement) -> u8 {
    match judgement {
        Judgement::Deny(_) => 0,
        Judgement::Ask(terms) if terms.once_only => 1,
        Judgement::Ask(_) => 2,
        Judgement::Allow(_) => 3,
    }
}

/// Every set of up to three kinds.
fn sets() -> Vec<Vec<RiskKind>> {
    let of =
        |set: u32| KINDS.iter().enumerate().filter(move |(at, _)| set >> at & 1 == 1).map(|(_, kind)| *kind);
    (0_u32..1 << KINDS.len()).filter(|set| set.count_ones() <= 3).map(|set| of(set).collect()).collect()
}

/// Every policy of up to two rules.
fn policies() -> Vec<Vec<Written>> {
    let rules = written();
    let pairs = rules.iter().flat_map(|one| rules.iter().map(|other| vec![*one, *other]));
    rules.iter().map(|rule| vec![*rule]).chain(pairs).collect()
}

fn said(policy: &Policy, kind: UpdateKind, name: &str, risks: &[RiskKind]) -> u8 {
    openness(&judge(policy, &Project::default(), &push(kind, name, risks)))
}

#[test]
fn a_risk_more_never_opens_anything() {
    for rules in policies() {
        let policy = policy(&rules);
        for kind in UPDATES {
            for set in sets() {
                let with = said(&policy, kind, "refs/heads/agent", &set);
                for left_out in 0..set.len() {
                    let mut fewer = set.clone();
                    fewer.remove(left_out);
                    let without = said(&policy, kind, "refs/heads/agent", &fewer);
                    assert!(with <= without, "{rules:?} {kind:?} {set:?} {fewer:?}");
                }
            }
        }
    }
}

#[test]
fn a_rule_that_denies_never_opens_anything_wherever_it_stands() {
    for rules in policies() {
        let before = policy(&rules);
        for deny in written().into_iter().filter(|rule| rule.decision == "deny") {
            for at in 0..=rules.len() {
                let mut more = rules.clone();
                more.insert(at, deny);
                let after = policy(&more);
                for kind in UPDATES {
                    for name in ["refs/heads/agent", "refs/heads/main", "refs/tags/v1"] {
                        for set in [&[][..], &[RiskKind::Secret], &[RiskKind::NotLookedAt]] {
                            let (was, is) = (said(&before, kind, name, set), said(&after, kind, name, set));
                            assert!(is <= was, "{rules:?} {deny:?} {kind:?} {name}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_is_allowed_with_a_risk_that_its_rule_does_not_accept_or_that_nobody_looked_at() {
    for rules in policies() {
        let policy = policy(&rules);
        for set in sets().into_iter().filter(|set| !set.is_empty()) {
            for kind in UPDATES {
                let is_allowed = said(&policy, kind, "refs/heads/agent", &set) == 3;
                let unlooked = set.iter().any(|kind| kind.is_unlooked());
                let accepted = rules.iter().any(|rule| rule.accepts);
                assert!(!is_allowed || accepted && !unlooked, "{rules:?} {set:?} {kind:?}");
            }
        }
    }
}
