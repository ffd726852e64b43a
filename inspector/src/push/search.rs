//! The search for risks: in every path, file, message and tag that a ref would newly reach.

use git2::{ObjectType, Oid};
use keyhatch_protocol::RiskKind;
use keyhatch_protocol::signable::CommitText;

use super::budget::Work;
use super::content::{self, Compared};
use super::look::Look;
use super::names;
use super::risks;
use super::secrets;
use super::tree_diff::{self, Delta};
use super::walk::Reached;

/// A file larger than this is a risk of its own.
const BIG: usize = 5 * 1024 * 1024;
/// The longest target of a link that any system follows.
const MAX_TARGET: usize = 4096;
/// Commits and tags beyond this are not read: a message of that length is nobody's.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes of a path in a detail, so that what was found there has room behind it.
const MAX_PATH: usize = 160;

/// Looks through commits, newest first: each against its first parent. What a merge's other parents bring was reached in
/// commits of their own, and what a ref's old tree and its new one differ in is looked through beside that.
pub(super) fn commits(look: &mut Look<'_>, commits: &[Reached]) {
    for commit in commits {
        if look.budget.is_spent() {
            return;
        }
        message(look, commit.oid, &format!("commit {}", short(commit.oid)));
        let Ok(tree) = look.quarantine.repository.find_commit(commit.oid).map(|commit| commit.tree_id())
        else {
            continue;
        };
        let parent = commit.parents.first().and_then(|parent| {
            let found = look.quarantine.repository.find_commit(*parent);
            // Without it everything in the tree is new: more is looked at, not less.
            found.map(|parent| parent.tree_id()).map_err(|_| look.lacks_history(*parent)).ok()
        });
        trees(look, parent, tree);
    }
}

/// Looks through what differs between two trees, once for each pair.
pub(super) fn trees(look: &mut Look<'_>, old: Option<Oid>, new: Oid) {
    if look.trees.insert((old, new)) {
        tree_diff::compare(look, old, Some(new), &mut |look, delta| {
            file(look, delta);
        });
    }
}

/// Looks at one path that differs.
pub(super) fn file(look: &mut Look<'_>, delta: &Delta<'_>) -> Compared {
    let path = risks::excerpt(delta.path, MAX_PATH);
    if let Some(kind) = risks::of_path(delta.path) {
        look.risks.add(kind, &path);
    }
    if let Some(marked) = names::alike(&String::from_utf8_lossy(delta.path)) {
        look.risks.add(RiskKind::LookAlike, marked);
    }
    let content = |side: Option<tree_diff::Entry>| {
        side.filter(|entry| !entry.is_submodule() && !entry.is_link()).map(|entry| entry.oid)
    };
    let (old, new) = (content(delta.old), content(delta.new));
    if let Some(entry) = delta.new {
        if entry.is_submodule() {
            look.risks.add(RiskKind::Submodule, &path);
        } else if entry.is_link() {
            link(look, delta.path, entry.oid);
        } else if let Some((size, _)) = look.header(entry.oid)
            && size > BIG
        {
            look.risks.add(RiskKind::Big, format!("{path}, {} MiB", size / (1024 * 1024)));
        }
    }
    if old.is_none() && new.is_none() || old == new {
        return Compared { added: Some(0), removed: Some(0), ..Compared::default() };
    }
    let compared = content::compare(look, old, new);
    if new.is_some() {
        note(look, &path, &compared);
    }
    compared
}

/// Looks at a file that a ref or a tag names by itself.
pub(super) fn blob(look: &mut Look<'_>, oid: Oid, what: &str) {
    let compared = content::compare(look, None, Some(oid));
    note(look, what, &compared);
}

/// Notes what a file was found to hold.
fn note(look: &mut Look<'_>, path: &str, compared: &Compared) {
    if compared.is_binary {
        look.risks.add(RiskKind::Binary, path);
    }
    if let Some(why) = compared.unread {
        look.risks.not_looked_at(format!("{path}: {why}"));
    }
    for finding in &compared.findings {
        let detail = match finding.what {
            "" => format!("{path}:{}", finding.line),
            what => format!("{path}:{}: {what}", finding.line),
        };
        look.risks.add(finding.kind, detail);
    }
    // Of whichever kind they are, they stand beside the first of that kind.
    if let Some(last) = compared.findings.last() {
        look.risks.add_more(last.kind, compared.more);
    }
}

fn link(look: &mut Look<'_>, path: &[u8], oid: Oid) {
    let shown = risks::excerpt(path, MAX_PATH);
    match look.header(oid) {
        Some((size, ObjectType::Blob)) if size <= MAX_TARGET => {
            let target = look.quarantine.repository.find_blob(oid).map(|blob| blob.content().to_vec());
            let Ok(target) = target else { return look.lacks_content(oid) };
            if risks::leaves_tree(path, &target) {
                look.risks.add(RiskKind::Symlink, [shown.as_bytes(), b" -> ", &target].concat());
            }
        }
        Some((size, _)) => {
            let detail = format!("{shown} -> a target of {size} bytes, which nothing follows");
            look.risks.add(RiskKind::Symlink, detail);
        }
        None => look.lacks_content(oid),
    }
}

/// Looks through a commit's or a tag's own text: header and message are published as much as files are.
pub(super) fn message(look: &mut Look<'_>, oid: Oid, what: &str) {
    let size = look.header(oid).map_or(0, |(size, _)| size);
    if size > MAX_MESSAGE {
        look.risks.not_looked_at(format!("the text of {what}: it is too large"));
        return;
    }
    if look.budget.take(Work::Bytes, size as u64).is_err() {
        return;
    }
    let Ok(odb) = look.quarantine.repository.odb() else { return };
    let Ok(object) = odb.read(oid) else { return };
    let data = object.data();
    if let Some(name) = data.split(|byte| *byte == b'\n').find_map(secrets::in_line) {
        look.risks.add(RiskKind::Secret, format!("{what}, in its text: {name}"));
    }
    for (kind, doubt) in doubts(object.kind(), data) {
        look.risks.add(kind, format!("{what}: {doubt}"));
    }
}

/// Why a text is not what it looks like, or not of the tree that it names.
fn doubts(kind: ObjectType, data: &[u8]) -> Vec<(RiskKind, String)> {
    if kind != ObjectType::Commit {
        // git takes a tag's bytes for text, up to a NUL, whatever it says of an encoding.
        let is_odd = data.contains(&0) || std::str::from_utf8(data).is_err();
        let odd = "its text is not UTF-8, or has a NUL: git shows its raw bytes";
        return is_odd.then(|| (RiskKind::Encoding, odd.to_owned())).into_iter().collect();
    }
    let text = CommitText::of(data);
    let tree = text.jj_trees.then(|| (RiskKind::OtherTree, CommitText::JJ_TREES.to_owned()));
    let doubt = text.doubt.map(|doubt| doubt.to_string()).or_else(|| text.encoding.map(CommitText::encoded));
    tree.into_iter().chain(doubt.map(|doubt| (RiskKind::Encoding, doubt))).collect()
}

/// The first digits of an object's name.
pub(super) fn short(oid: Oid) -> String {
    oid.to_string().chars().take(10).collect()
}
