//! Risks as they are found: each detail bounded, each kind listed up to a number, each count whole.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use keyhatch_protocol::{RefName, Risk, RiskKind};

/// Risks of one kind that are listed.
const LISTED: usize = 20;
/// Most bytes of a detail: one line that a person reads.
const MAX_DETAIL: usize = 240;
/// Details of one kind that are told apart; what comes after is counted each time that it is found.
const TOLD_APART: usize = 50_000;

/// The risks of one inspection.
#[derive(Default)]
pub(super) struct Risks {
    kinds: BTreeMap<RiskKind, Found>,
    /// Keyed by chance: a session that made two details alike in it could count one instead of two, and no more.
    hasher: RandomState,
}

#[derive(Default)]
struct Found {
    listed: Vec<String>,
    count: u64,
    known: HashSet<u64>,
}

impl Risks {
    /// Notes one.
    pub(super) fn add(&mut self, kind: RiskKind, detail: impl AsRef<[u8]>) {
        let detail = detail.as_ref();
        let hash = self.hasher.hash_one(detail);
        let found = self.kinds.entry(kind).or_default();
        if found.known.contains(&hash) {
            return;
        }
        if found.known.len() < TOLD_APART {
            found.known.insert(hash);
        }
        found.count += 1;
        if found.listed.len() < LISTED {
            found.listed.push(excerpt(detail, MAX_DETAIL));
        }
    }

    /// Notes some that are not listed one by one.
    pub(super) fn add_more(&mut self, kind: RiskKind, count: u64) {
        if count > 0 {
            self.kinds.entry(kind).or_default().count += count;
        }
    }

    /// Notes what was not looked at.
    pub(super) fn not_looked_at(&mut self, what: impl AsRef<[u8]>) {
        self.add(RiskKind::NotLookedAt, what);
    }

    /// All of them, by kind.
    pub(super) fn into_list(self) -> Vec<Risk> {
        let mut list = Vec::new();
        for (kind, Found { listed, count, .. }) in self.kinds {
            let left = count - listed.len() as u64;
            list.extend(listed.into_iter().map(|detail| Risk { kind, detail }));
            if left > 0 {
                list.push(Risk { kind, detail: format!("and {left} more") });
            }
        }
        list
    }
}

/// At most so many bytes as text, decoded lossily; what is cut off ends in `…`.
pub(super) fn excerpt(bytes: &[u8], most: usize) -> String {
    // A byte that is no text becomes a character of three.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(most + 4)]).into_owned();
    if text.len() <= most && bytes.len() <= most {
        return text;
    }
    let end = (0..=most.saturating_sub(3)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Why a ref is not only a name for commits: whoever serves or fetches it obeys it.
pub(super) fn of_ref(name: &RefName) -> Option<String> {
    let name = name.as_str();
    let among = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let why = if among(&["refs/heads/", "refs/tags/", "refs/notes/"]) {
        return None;
    } else if among(&["refs/for/", "refs/drafts/", "refs/publish/"]) {
        if !name.contains('%') {
            return None;
        }
        "the server obeys the words behind %"
    } else if among(&["refs/replace/"]) {
        "git reads another object in the place of the one that it names"
    } else if among(&["refs/meta/"]) {
        "servers read their own configuration there, access rights among it"
    } else {
        "it is neither a branch nor a tag, and servers act on some of these"
    };
    Some(format!("{}: {why}", excerpt(name.as_bytes(), MAX_DETAIL / 2)))
}

/// Files that other programs act on.
pub(super) fn of_path(path: &[u8]) -> Option<RiskKind> {
    let lower = String::from_utf8_lossy(path).to_ascii_lowercase();
    let name = lower.rsplit('/').next().unwrap_or_default();
    let ci_directory = [
        ".github/workflows/",
        ".github/actions/",
        ".circleci/",
        ".gitea/workflows/",
        ".forgejo/workflows/",
        ".woodpecker/",
        ".buildkite/",
    ];
    let ci_file = [
        ".gitlab-ci.yml",
        "jenkinsfile",
        "azure-pipelines.yml",
        ".drone.yml",
        ".travis.yml",
        "bitbucket-pipelines.yml",
        "appveyor.yml",
    ];
    let hook_directory = [".husky/", ".githooks/", "hooks/"];
    let hook_file = [".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml"];
    if ci_directory.iter().any(|directory| lower.starts_with(directory)) || ci_file.contains(&name) {
        Some(RiskKind::CiWorkflow)
    } else if name == ".gitmodules" {
        Some(RiskKind::Submodule)
    } else if lower == ".mailmap" {
        Some(RiskKind::Mailmap)
    } else if name == ".gitattributes" {
        Some(RiskKind::Gitattributes)
    } else if hook_directory.iter().any(|directory| lower.starts_with(directory)) || hook_file.contains(&name)
    {
        Some(RiskKind::Hook)
    } else {
        None
    }
}

/// Whether a link, followed from where it is, ends outside of the tree.
pub(super) fn leaves_tree(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = path.split(|byte| *byte == b'/').count() as i64 - 1;
    target.split(|byte| *byte == b'/').any(|part| {
        match part {
            b".." => depth -= 1,
            b"" | b"." => {}
            _ => depth += 1,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_tree_are_told_from_those_that_stay() {
        assert!(leaves_tree(b"a/b", b"../../etc/passwd"));
        assert!(leaves_tree(b"a", b"/etc/passwd"));
        assert!(leaves_tree(b"a/b", b"../x/../../../y"));
        assert!(!leaves_tree(b"a/b", b"../c"));
        assert!(!leaves_tree(b"a", b"b/../c"));
    }

    #[test]
    fn files_that_programs_act_on_are_named_whatever_their_case() {
        assert_eq!(of_path(b".GitHub/Workflows/x.yml"), Some(RiskKind::CiWorkflow));
        assert_eq!(of_path(b"sub/.gitmodules"), Some(RiskKind::Submodule));
        assert_eq!(of_path(b".mailmap"), Some(RiskKind::Mailmap));
        assert_eq!(of_path(b"sub/.mailmap"), None, "git reads the one at the top");
        assert_eq!(of_path(b"src/main.rs"), None);
    }

    #[test]
    fn refs_that_are_obeyed_are_named_and_branches_tags_and_notes_are_not() {
        let why = |name: &str| of_ref(&RefName::parse(name.as_bytes()).expect(name));
        for ordinary in ["refs/heads/main", "refs/tags/v1", "refs/notes/commits", "refs/for/main"] {
            assert_eq!(why(ordinary), None, "{ordinary}");
        }
        for obeyed in
            ["refs/replace/aa", "refs/meta/config", "refs/for/main%submit", "refs/pull/1/head", "refs/stash"]
        {
            assert!(why(obeyed).is_some_and(|why| why.starts_with(obeyed)), "{obeyed}");
        }
    }

    #[test]
    fn every_detail_is_bounded_and_every_count_is_whole() {
        let mut risks = Risks::default();
        for number in 0..100_000 {
            risks.add(RiskKind::Binary, format!("{number}{}", "x".repeat(300)));
        }
        risks.add(RiskKind::Binary, format!("5{}", "x".repeat(300)));
        risks.add_more(RiskKind::Binary, 7);
        let list = risks.into_list();
        assert_eq!(list.len(), LISTED + 1);
        assert!(list.iter().all(|risk| risk.detail.len() <= MAX_DETAIL));
        assert_eq!(list[LISTED].detail, format!("and {} more", 100_000 + 7 - LISTED));
        assert_eq!(excerpt("ä".repeat(10).as_bytes(), 9), "äää…");
        assert_eq!(excerpt(b"\xff\xff\xff\xff", 9), "\u{fffd}\u{fffd}…");
        assert_eq!(excerpt(b"as it is", 9), "as it is");
    }
}
