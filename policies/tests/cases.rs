//! The shipped policies, case by case: `policies/cases/NAME.toml` says how each judges an operation, and by which rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use keyhatch_policies::network::{Reach, judge_destination};
use keyhatch_policies::{
    FetchOperation, Judgement, Operation, Policy, Project, PushOperation, judge, settings, shipped_names,
};
use keyhatch_protocol::{
    Destination, Facts, ObjectFormat, ObjectId, RefName, Remote, Risk, RiskKind, UpdateFact, UpdateKind,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    policy: String,
    /// The remotes of the project that the session works on.
    #[serde(default)]
    remotes: Vec<String>,
    /// What it says of the sandbox, as far as it matters.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(rename = "case")]
    cases: Vec<Case>,
}

/// One operation and what becomes of it. `rule` is absent where no rule speaks of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    fetch: Option<String>,
    push: Option<String>,
    /// A destination, as the proxy is asked for it. No tool of the user's names a registry in a case.
    connect: Option<String>,
    #[serde(rename = "ref")]
    ref_name: Option<String>,
    update: Option<UpdateKind>,
    #[serde(default)]
    risks: Vec<RiskKind>,
    judgement: String,
    rule: Option<String>,
    #[serde(default)]
    once: bool,
}

#[test]
fn every_shipped_policy_judges_as_its_cases_say() {
    for name in shipped_names() {
        let cases = read(name);
        assert_eq!(cases.policy, name);
        assert!(!cases.cases.is_empty(), "{name} has no case");
        let policy = Policy::shipped(name).expect("it parses");
        let remotes = cases.remotes.iter().map(|url| remote(url)).collect();
        let project = Project { remotes, ..Project::default() };
        let said: BTreeMap<&str, String> = settings(&policy).into_iter().collect();
        for (word, value) in &cases.settings {
            assert_eq!(said.get(word.as_str()), Some(value), "{name}: {word}");
        }
        for case in &cases.cases {
            let said = match &case.connect {
                Some(destination) => reached(&policy, destination),
                None => judged(&policy, &project, case),
            };
            let expected = (case.judgement.as_str(), case.rule.clone(), case.once);
            assert_eq!(said, expected, "{name}: {}", case.about);
        }
    }
}

type Said = (&'static str, Option<String>, bool);

fn judged(policy: &Policy, project: &Project, case: &Case) -> Said {
    match judge(policy, project, &operation(case)) {
        Judgement::Allow(terms) => ("allow", Some(terms.rule), terms.once_only),
        Judgement::Ask(terms) => ("ask", Some(terms.rule), terms.once_only),
        Judgement::Deny(reason) => ("deny", reason.rule, false),
    }
}

fn reached(policy: &Policy, destination: &str) -> Said {
    let destination = Destination::parse(destination).expect("a destination");
    match judge_destination(policy.network(), &[], &destination) {
        Reach::Allowed { by, .. } => ("allow", Some(by), false),
        Reach::Refused { .. } => ("deny", None, false),
    }
}

#[test]
fn every_file_of_cases_belongs_to_a_shipped_policy() {
    for entry in fs::read_dir(directory()).expect("the cases are there") {
        let file = entry.expect("an entry").file_name().into_string().expect("a plain name");
        let name = file.strip_suffix(".toml").expect("cases are TOML");
        assert!(shipped_names().contains(&name), "{file}");
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases")
}

fn read(name: &str) -> Cases {
    let text = fs::read_to_string(directory().join(format!("{name}.toml")));
    let text = text.unwrap_or_else(|error| panic!("the shipped policy {name} has no cases: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("the cases of {name}: {error}"))
}

fn remote(url: &str) -> Remote {
    Remote::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn operation(case: &Case) -> Operation {
    match (&case.fetch, &case.push) {
        (Some(url), None) => Operation::Fetch(FetchOperation { remote: remote(url) }),
        (None, Some(url)) => {
            let (Some(ref_name), Some(kind)) = (&case.ref_name, case.update) else {
                panic!("{}: a push has a ref and an update", case.about)
            };
            let facts = facts(ref_name, kind, &case.risks);
            Operation::Push(PushOperation { remote: remote(url), facts, push_options: Vec::new() })
        }
        _ => panic!("{}: a case has one of `fetch`, `push`, `connect`", case.about),
    }
}

/// The facts of a push of one commit; object names play no part in a judgement.
fn facts(ref_name: &str, kind: UpdateKind, risks: &[RiskKind]) -> Facts {
    let zero = ObjectId::zero(ObjectFormat::Sha1);
    let ref_name = RefName::parse(ref_name.as_bytes()).expect("a ref name");
    Facts {
        object_format: ObjectFormat::Sha1,
        updates: vec![UpdateFact { ref_name, kind, old: zero.clone(), new: zero, commit_count: None }],
        commit_count: 1,
        new_commit_count: 1,
        tag_count: 0,
        commits: Vec::new(),
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
    }
}
