//! What the push changes against what upstream has: files, lines, the diff, and what to look at in them.
//!
//! The diff that is shown goes from what upstream has to each new tip; risks are looked for in every new commit, since
//! a secret that one commit adds and the next removes is pushed all the same.

use std::collections::BTreeSet;

use git2::{
    Delta, Diff, DiffDelta, DiffFindOptions, DiffOptions, FileMode, ObjectType, Oid, Repository, Tree,
};
use keyhatch_protocol::{ChangedFile, ObjectId, Risk, RiskKind, SignedChanges, UpdateKind, text};

use super::child::failed;
use super::history::{History, unknown};
use super::quarantine::Quarantine;
use super::{Missing, Order, Refusal, names, secrets};

/// Most bytes of the diff that is kept.
const MAX_DIFF: usize = 1024 * 1024;
/// Files that the facts list.
const MAX_FILES: usize = 2000;
/// Blobs beyond this are not compared line by line; nobody reads them, and they fill memory.
const MAX_COMPARED: i64 = 2 * 1024 * 1024;
/// A file larger than this is a risk of its own.
const BIG: usize = 5 * 1024 * 1024;
/// Most bytes that are searched for risks, over all commits.
const MAX_SEARCHED: usize = 128 * 1024 * 1024;
/// Risks of one kind that are listed.
const MAX_RISKS: usize = 20;

/// What was found.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) file_count: u64,
    pub(super) files: Vec<ChangedFile>,
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) risks: Vec<Risk>,
    pub(super) diff: String,
    pub(super) diff_cut: bool,
}

/// Compares every new tip with what upstream has.
pub(super) fn of(
    order: &Order,
    quarantine: &Quarantine,
    history: &History,
    missing: &mut Missing,
) -> Result<Changes, Refusal> {
    let repository = &quarantine.repository;
    let mut changes = Changes::default();
    let new: BTreeSet<Oid> = history.new.iter().copied().collect();
    let mut shown = BTreeSet::new();
    for (update, fact) in order.updates.iter().zip(&history.updates) {
        if fact.kind == UpdateKind::Delete {
            continue;
        }
        let tip = quarantine.oid(&update.new)?;
        let old = quarantine.oid(&update.old)?;
        let base = base(repository, (fact.kind, old, tip), &new);
        // Two refs at one commit, or a tag beside its branch, are one change.
        if shown.insert((base, peeled_tree(repository, tip))) {
            let compared =
                compare(quarantine, (base, tip), missing).and_then(|diff| show(&diff, &mut changes));
            if compared.is_err() {
                changes.risks.push(unknown("the files could not all be compared"));
            }
        }
    }
    let mut search = Search { quarantine, missing, found: BTreeSet::new(), searched: 0, cut: false };
    for oid in &history.new {
        if search.commit(*oid).is_err() {
            search.cut = true;
        }
    }
    changes.risks.extend(search.risks());
    Ok(changes)
}

/// Compares a commit's tree with its first parent's, for a signature. Objects that are not at hand are a failure here:
/// nothing is fetched for it.
pub(super) fn of_commit(
    quarantine: &Quarantine,
    (parent, tree): (Option<&ObjectId>, &ObjectId),
) -> Result<SignedChanges, Refusal> {
    let absent = |_| failed("a commit's changes", "its objects are not at hand");
    let repository = &quarantine.repository;
    let base = match parent {
        None => None,
        Some(parent) => {
            let tree = peeled_tree(repository, quarantine.oid(parent)?);
            Some(tree.ok_or_else(|| failed("a commit's parent", "it is not at hand"))?)
        }
    };
    let mut missing = Missing::default();
    let diff = compare(quarantine, (base, quarantine.oid(tree)?), &mut missing).map_err(absent)?;
    let mut changes = Changes::default();
    show(&diff, &mut changes).map_err(absent)?;
    let Changes { file_count, files, added, removed, risks: _, diff, diff_cut } = changes;
    Ok(SignedChanges { file_count, files, added, removed, diff, diff_cut })
}

fn peeled_tree(repository: &Repository, oid: Oid) -> Option<Oid> {
    Some(repository.find_object(oid, None).ok()?.peel(ObjectType::Tree).ok()?.id())
}

/// The tree that upstream has and the change starts from: the old tip, or for a new ref the first known ancestor.
fn base(
    repository: &Repository,
    (kind, old, tip): (UpdateKind, Oid, Oid),
    new: &BTreeSet<Oid>,
) -> Option<Oid> {
    if kind != UpdateKind::Create
        && let Some(tree) = peeled_tree(repository, old)
    {
        return Some(tree);
    }
    let mut commit = repository.find_object(tip, None).ok()?.peel_to_commit().ok()?;
    while new.contains(&commit.id()) {
        commit = commit.parent(0).ok()?;
    }
    Some(commit.tree_id())
}

fn options() -> DiffOptions {
    let mut options = DiffOptions::new();
    // No attributes: the session wrote them, and they could hide a change as "binary".
    options.max_size(MAX_COMPARED).include_typechange(true).ignore_submodules(false).context_lines(3);
    options
}

fn compare<'q>(
    quarantine: &'q Quarantine,
    (base, tip): (Option<Oid>, Oid),
    missing: &mut Missing,
) -> Result<Diff<'q>, git2::Error> {
    let repository = &quarantine.repository;
    let base = base.map(|oid| repository.find_tree(oid)).transpose()?;
    let tip = repository.find_object(tip, None)?.peel_to_tree()?;
    let mut diff = repository.diff_tree_to_tree(base.as_ref(), Some(&tip), Some(&mut options()))?;
    if all_there(quarantine, &diff, missing) && diff.deltas().len() <= MAX_FILES {
        diff.find_similar(Some(DiffFindOptions::new().renames(true)))?;
    }
    Ok(diff)
}

/// Whether both sides of every file that differs are at hand; notes what is not.
fn all_there(quarantine: &Quarantine, diff: &Diff<'_>, missing: &mut Missing) -> bool {
    let mut all = true;
    for delta in diff.deltas().take(MAX_FILES) {
        for side in [delta.old_file(), delta.new_file()] {
            let is_content = !matches!(side.mode(), FileMode::Commit | FileMode::Unreadable);
            if is_content && !side.id().is_zero() && !quarantine.has(side.id()) {
                all = false;
                if let Ok(id) = Quarantine::id(side.id()) {
                    missing.blob(id);
                }
            }
        }
    }
    all
}

fn show(diff: &Diff<'_>, changes: &mut Changes) -> Result<(), git2::Error> {
    changes.file_count += diff.deltas().len() as u64;
    for (index, delta) in diff.deltas().enumerate() {
        if changes.files.len() == MAX_FILES {
            break;
        }
        // One at a time, and let go: a patch holds both versions in memory.
        let lines = git2::Patch::from_diff(diff, index)?
            .filter(|patch| !patch.delta().flags().is_binary())
            .map(|patch| patch.line_stats())
            .transpose()?;
        let count = |number: usize| number as u64;
        let (added, removed) = lines.map_or((None, None), |(_, a, r)| (Some(count(a)), Some(count(r))));
        changes.added += added.unwrap_or(0);
        changes.removed += removed.unwrap_or(0);
        changes.files.push(ChangedFile {
            path: path_of(&delta),
            status: status(delta.status()),
            added,
            removed,
        });
    }
    let (text, cut) = (&mut changes.diff, &mut changes.diff_cut);
    let printed = diff.print(git2::DiffFormat::Patch, |_, _, line| {
        let origin = line.origin();
        let part = String::from_utf8_lossy(line.content());
        if text.len() + part.len() + 1 > MAX_DIFF {
            *cut = true;
            return false;
        }
        if matches!(origin, '+' | '-' | ' ') {
            text.push(origin);
        }
        text.push_str(&part);
        true
    });
    if *cut { Ok(()) } else { printed }
}

fn path_of(delta: &DiffDelta<'_>) -> String {
    let bytes = delta.new_file().path_bytes().or_else(|| delta.old_file().path_bytes());
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

const fn status(delta: Delta) -> char {
    match delta {
        Delta::Added => 'A',
        Delta::Deleted => 'D',
        Delta::Renamed => 'R',
        Delta::Copied => 'C',
        Delta::Typechange => 'T',
        _ => 'M',
    }
}

/// Looks for risks, commit by commit.
struct Search<'q> {
    quarantine: &'q Quarantine,
    missing: &'q mut Missing,
    found: BTreeSet<(RiskKind, String)>,
    searched: usize,
    cut: bool,
}

impl Search<'_> {
    fn commit(&mut self, oid: Oid) -> Result<(), git2::Error> {
        let repository = &self.quarantine.repository;
        let commit = repository.find_commit(oid)?;
        // A merge is compared with its first parent: what the others bring was new in commits of their own.
        let parent: Option<Tree<'_>> = commit.parent(0).and_then(|parent| parent.tree()).ok();
        let mut options = options();
        options.context_lines(0);
        let diff =
            repository.diff_tree_to_tree(parent.as_ref(), Some(&commit.tree()?), Some(&mut options))?;
        if !all_there(self.quarantine, &diff, self.missing) {
            self.cut = true;
        }
        for index in 0..diff.deltas().len() {
            if self.searched > MAX_SEARCHED {
                self.cut = true;
                return Ok(());
            }
            let Some(delta) = diff.get_delta(index) else { continue };
            self.file(&delta);
            let Some(patch) = git2::Patch::from_diff(&diff, index)? else { continue };
            self.lines(patch, &path_of(&delta))?;
        }
        Ok(())
    }

    fn add(&mut self, kind: RiskKind, detail: String) {
        self.found.insert((kind, detail));
    }

    /// What a file's name and mode say.
    fn file(&mut self, delta: &DiffDelta<'_>) {
        let path = path_of(delta);
        if let Some(marked) = names::alike(&path) {
            self.add(RiskKind::LookAlike, marked);
        }
        if let Some(kind) = kind_of_path(&path) {
            self.add(kind, path.clone());
        }
        let new = delta.new_file();
        if delta.status() == Delta::Deleted {
            return;
        }
        match new.mode() {
            FileMode::Commit => self.add(RiskKind::Submodule, path),
            FileMode::Link => {
                let target =
                    self.quarantine.repository.find_blob(new.id()).map(|blob| blob.content().to_vec());
                let target = String::from_utf8_lossy(&target.unwrap_or_default()).into_owned();
                if leaves_tree(&path, &target) {
                    self.add(RiskKind::Symlink, format!("{path} -> {target}"));
                }
            }
            _ => {
                let size = self
                    .quarantine
                    .repository
                    .odb()
                    .and_then(|odb| odb.read_header(new.id()))
                    .map_or(0, |(size, _)| size);
                if size > BIG {
                    self.add(RiskKind::Big, format!("{path}, {} MiB", size / (1024 * 1024)));
                }
            }
        }
    }

    /// What the added lines say.
    fn lines(&mut self, mut patch: git2::Patch<'_>, path: &str) -> Result<(), git2::Error> {
        if patch.delta().flags().is_binary() {
            if patch.delta().status() != Delta::Deleted {
                self.add(RiskKind::Binary, path.to_owned());
            }
            return Ok(());
        }
        patch.print(&mut |_, _, line| {
            if line.origin() == '+' {
                let content = line.content();
                self.searched += content.len();
                let number = line.new_lineno().unwrap_or(0);
                if let Some(name) = secrets::in_line(content) {
                    self.add(RiskKind::Secret, format!("{path}:{number}: {name}"));
                }
                let invisible = |c: char| text::is_invisible(c);
                if !content.is_ascii() && String::from_utf8_lossy(content).chars().any(invisible) {
                    self.add(RiskKind::InvisibleText, format!("{path}:{number}"));
                }
            }
            true
        })
    }

    fn risks(self) -> Vec<Risk> {
        let mut risks: Vec<Risk> = Vec::new();
        let mut more: Vec<(RiskKind, usize)> = Vec::new();
        for (kind, detail) in self.found {
            if risks.iter().filter(|risk| risk.kind == kind).count() < MAX_RISKS {
                risks.push(Risk { kind, detail });
            } else if let Some((_, count)) = more.iter_mut().find(|(of, _)| *of == kind) {
                *count += 1;
            } else {
                more.push((kind, 1));
            }
        }
        risks
            .extend(more.into_iter().map(|(kind, count)| Risk { kind, detail: format!("and {count} more") }));
        if self.cut {
            risks.push(unknown("not all added lines were searched for secrets"));
        }
        risks
    }
}

/// Files that other programs act on.
fn kind_of_path(path: &str) -> Option<RiskKind> {
    let lower = path.to_ascii_lowercase();
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
fn leaves_tree(path: &str, target: &str) -> bool {
    if target.starts_with('/') {
        return true;
    }
    let mut depth = path.split('/').count() as i64 - 1;
    target.split('/').any(|part| {
        match part {
            ".." => depth -= 1,
            "" | "." => {}
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
        assert!(leaves_tree("a/b", "../../etc/passwd"));
        assert!(leaves_tree("a", "/etc/passwd"));
        assert!(leaves_tree("a/b", "../x/../../../y"));
        assert!(!leaves_tree("a/b", "../c"));
        assert!(!leaves_tree("a", "b/../c"));
    }

    #[test]
    fn files_that_programs_act_on_are_named_whatever_their_case() {
        assert_eq!(kind_of_path(".GitHub/Workflows/x.yml"), Some(RiskKind::CiWorkflow));
        assert_eq!(kind_of_path("sub/.gitmodules"), Some(RiskKind::Submodule));
        assert_eq!(kind_of_path(".mailmap"), Some(RiskKind::Mailmap));
        assert_eq!(kind_of_path("sub/.mailmap"), None, "git reads the one at the top");
        assert_eq!(kind_of_path("src/main.rs"), None);
    }
}
