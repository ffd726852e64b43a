//! What may depend on what: the crates' boundaries, licences and sources, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Each crate of ours, and the ones of ours that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("keyhatch-protocol", &[]),
    ("keyhatch-sandbox-rules", &["keyhatch-protocol"]),
    ("keyhatch-policies", &["keyhatch-protocol", "keyhatch-sandbox-rules"]),
    ("keyhatch-helper", &["keyhatch-protocol"]),
    ("keyhatch-seccomp", &[]),
    ("keyhatch-run", &["keyhatch-protocol", "keyhatch-sandbox-rules", "keyhatch-seccomp"]),
    ("keyhatch-host", &[]),
    ("keyhatch-cage", &["keyhatch-host", "keyhatch-seccomp"]),
    ("keyhatch-terminal", &["keyhatch-protocol"]),
    ("keyhatch-git-files", &["keyhatch-protocol"]),
    (
        "keyhatch-inspection",
        &["keyhatch-cage", "keyhatch-git-files", "keyhatch-host", "keyhatch-protocol", "keyhatch-seccomp"],
    ),
    (
        "keyhatch-inspect",
        &[
            "keyhatch-cage",
            "keyhatch-git-files",
            "keyhatch-host",
            "keyhatch-inspection",
            "keyhatch-protocol",
            "keyhatch-seccomp",
        ],
    ),
    (
        "keyhatch-broker",
        &[
            "keyhatch-cage",
            "keyhatch-git-files",
            "keyhatch-host",
            "keyhatch-inspection",
            "keyhatch-policies",
            "keyhatch-protocol",
            "keyhatch-sandbox-rules",
            "keyhatch-seccomp",
            "keyhatch-terminal",
        ],
    ),
    ("keyhatch-tests", &["keyhatch-cage", "keyhatch-host", "keyhatch-protocol", "keyhatch-seccomp"]),
];
/// Crates that no user gets.
const TESTS: &[&str] = &["keyhatch-tests", FUZZ];
/// Its targets call the parsers of any of them.
const FUZZ: &str = "keyhatch-fuzz";
/// Crates that touch secrets or the network: in the broker's tree alone.
const BROKER_ONLY: &[&str] =
    &["axum", "hyper", "keyring", "keyring-core", "reqwest", "russh", "rustls", "tokio", "zbus"];
/// Crates that walk hostile objects: in the inspector's tree alone.
const INSPECTOR_ONLY: &[&str] = &["git2", "libgit2-sys", "gix-hash", "gix-pack"];

struct Tree {
    root: &'static Path,
    names: BTreeMap<String, String>,
    /// What each package is built from, development dependencies left out.
    needs: BTreeMap<String, Vec<String>>,
    packages: Vec<Value>,
}

fn tree() -> Tree {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    // For what is built here: the crates of other systems are nowhere on a fresh machine.
    cargo.current_dir(root).args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = |value: &Value| value.as_array().expect("an array").clone();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let packages = list(&metadata["packages"]);
    let names = packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let is_built = |dependency: &&Value| {
        list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].as_str() != Some("dev"))
    };
    let needs = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let needed = list(&node["deps"]);
            (
                text(&node["id"]),
                needed.iter().filter(is_built).map(|dependency| text(&dependency["pkg"])).collect(),
            )
        })
        .collect();
    Tree { root, names, needs, packages }
}

impl Tree {
    fn id(&self, name: &str) -> &str {
        let found = self.names.iter().find(|(_, of)| of.as_str() == name);
        found.map(|(id, _)| id.as_str()).unwrap_or_else(|| panic!("{name} is not in the tree"))
    }

    /// Everything that a package is built from, by name.
    fn reaches(&self, name: &str) -> BTreeSet<&str> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![self.id(name)]);
        while let Some(id) = waiting.pop() {
            for needed in &self.needs[id] {
                if found.insert(self.names[needed].as_str()) {
                    waiting.push(needed);
                }
            }
        }
        found
    }
}

#[test]
fn crates_of_ours_use_only_those_that_they_may() {
    let tree = tree();
    let ours: BTreeSet<&str> = tree
        .names
        .values()
        .map(String::as_str)
        .filter(|n| n.starts_with("keyhatch-") && *n != FUZZ)
        .collect();
    assert_eq!(ours, MAY_USE.iter().map(|(name, _)| *name).collect());
    for (name, may) in MAY_USE {
        let reached = tree.reaches(name);
        let of_ours: Vec<&&str> =
            reached.iter().filter(|n| n.starts_with("keyhatch-") && !may.contains(n)).collect();
        assert!(of_ours.is_empty(), "{name} uses {of_ours:?}");
    }
}

/// Which of some crates a crate that is not one of ours to keep them is built from, by its name.
fn strays<'t>(tree: &'t Tree, kept_by: &str, kept: &[&str]) -> Vec<(&'t str, String)> {
    let others = MAY_USE.iter().filter(|(name, _)| *name != kept_by && !TESTS.contains(name));
    others
        .flat_map(|(name, _)| {
            let reached = tree.reaches(name);
            let of_these = kept.iter().filter(|kept| reached.contains(**kept));
            of_these.map(|kept| (*name, (*kept).to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn secrets_and_the_network_are_the_brokers_alone() {
    let tree = tree();
    assert_eq!(strays(&tree, "keyhatch-broker", BROKER_ONLY), []);
    assert!(tree.reaches("keyhatch-broker").contains("russh"), "the walk finds what is there");
}

#[test]
fn what_walks_hostile_objects_is_the_inspectors_alone() {
    let tree = tree();
    assert_eq!(strays(&tree, "keyhatch-inspect", INSPECTOR_ONLY), []);
    let reached = tree.reaches("keyhatch-inspect");
    assert!(INSPECTOR_ONLY.iter().all(|kept| reached.contains(kept)), "the walk finds what is there");
}

#[test]
fn the_runner_contains_no_parser_of_policies() {
    let tree = tree();
    let reached = tree.reaches("keyhatch-run");
    let parsers: Vec<&&str> =
        reached.iter().filter(|n| ["toml", "globset", "annotate-snippets", "regex"].contains(n)).collect();
    assert!(parsers.is_empty(), "the runner is built from {parsers:?}");
    assert!(tree.reaches("keyhatch-policies").contains("toml"), "the walk finds what is there");
}

#[test]
fn licences_and_sources_are_those_that_deny_toml_names() {
    let tree = tree();
    let text = std::fs::read_to_string(tree.root.join("deny.toml")).expect("deny.toml");
    let deny: toml::Table = text.parse().expect("TOML");
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let banned: Vec<&str> = deny["bans"]["deny"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|ban| ban["crate"].as_str())
        .collect();
    for package in &tree.packages {
        let name = package["name"].as_str().expect("a name");
        assert!(!banned.contains(&name), "{name} is banned");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        let parsed = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).expect(licence);
        let fits = parsed.evaluate(|wanted| {
            wanted.license.id().is_some_and(|id| allowed.contains(&id.name)) && wanted.exception.is_none()
        });
        assert!(fits, "{name} is under {licence}");
        let source = &package["source"];
        let is_registry = source.as_str().is_some_and(|source| source.starts_with("registry+"));
        assert!(source.is_null() || is_registry, "{name} comes from {source}");
    }
}

#[test]
fn no_file_is_longer_than_a_story_and_unsafe_code_is_in_sys_alone() {
    let tree = tree();
    let listed =
        Command::new("git").current_dir(tree.root).args(["ls-files", "*.rs"]).output().expect("git runs");
    let listed = String::from_utf8(listed.stdout).expect("names are text");
    assert!(listed.lines().count() > 50, "{listed}");
    for file in listed.lines() {
        let text = std::fs::read_to_string(tree.root.join(file)).unwrap_or_default();
        assert!(text.lines().count() <= 620, "{file} has {} lines", text.lines().count());
        let is_sys = file.ends_with("/src/sys.rs") || file.starts_with("tests/");
        assert!(is_sys || !text.contains("unsafe {"), "{file} has unsafe code");
    }
}

/// Words of the documents that name a test: sentences with underscores, perhaps cut at `…`.
fn named_tests(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.matches('_').count() >= 3 && *word == word.to_lowercase())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_test_that_the_documents_name_is_there() {
    let tree = tree();
    let listed =
        Command::new("git").current_dir(tree.root).args(["ls-files", "*.rs"]).output().expect("git runs");
    let listed = String::from_utf8(listed.stdout).expect("names are text");
    let sources: String = listed
        .lines()
        .map(|file| std::fs::read_to_string(tree.root.join(file)).unwrap_or_default())
        .collect();
    let functions: Vec<&str> =
        sources.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()).collect();
    for document in ["SECURITY.md", "README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(tree.root.join(document)).expect(document);
        for name in named_tests(&text) {
            let found = functions.iter().any(|function| function.contains(name.trim_matches('_')));
            assert!(found, "{document} names {name}, and no such function exists");
        }
    }
    let lines = std::fs::read_to_string(tree.root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(lines.lines().count() <= 200, "ARCHITECTURE.md is for one sitting");
}
