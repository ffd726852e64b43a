//! Files that only moved: the same content, or most of its lines, under another path.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use git2::Oid;

use super::budget::Work;
use super::changes::Listed;
use super::content;
use super::look::Look;
use super::tree_diff::Entry;

/// Files that came and files that went, beyond which only equal content is found: every pair is compared.
const MAX_COMPARED: usize = 60;
/// Files beyond this are only found by equal content.
const MAX_BYTES: usize = 128 * 1024;

/// What finding them took from the counts.
#[derive(Debug, Default)]
pub(super) struct Renamed {
    pub(super) files: usize,
    pub(super) added: u64,
    pub(super) removed: u64,
}

/// Makes one file of each pair that is a rename.
pub(super) fn find(look: &mut Look<'_>, listed: &mut Vec<Listed>) -> Renamed {
    let mut renamed = Renamed::default();
    let is_file = |entry: &Entry| !entry.is_link() && !entry.is_submodule();
    let went: Vec<usize> = (0..listed.len())
        .filter(|at| listed[*at].new.is_none() && listed[*at].old.as_ref().is_some_and(is_file))
        .collect();
    let came: Vec<usize> = (0..listed.len())
        .filter(|at| listed[*at].old.is_none() && listed[*at].new.as_ref().is_some_and(is_file))
        .collect();
    let mut origin: HashMap<usize, usize> = HashMap::new();
    let mut by_content: HashMap<String, Vec<usize>> = HashMap::new();
    for at in went.iter().rev() {
        if let Some(old) = listed[*at].old {
            by_content.entry(old.oid.to_string()).or_default().push(*at);
        }
    }
    for at in &came {
        let equal = listed[*at].new.and_then(|new| by_content.get_mut(&new.oid.to_string())?.pop());
        origin.extend(equal.map(|from| (*at, from)));
    }
    let went: Vec<usize> = went.into_iter().filter(|at| !origin.values().any(|from| from == at)).collect();
    let came: Vec<usize> = came.into_iter().filter(|at| !origin.contains_key(at)).collect();
    if went.len() <= MAX_COMPARED && came.len() <= MAX_COMPARED {
        similar(look, listed, &Candidates { went, came }, &mut origin);
    }
    for (at, from) in &origin {
        let (old, from_path) = (listed[*from].old, listed[*from].path.clone());
        let moved = content::compare(look, old.map(|old| old.oid), listed[*at].new.map(|new| new.oid));
        let equal = old.map(|old| old.oid) == listed[*at].new.map(|new| new.oid);
        let lines = |count: Option<u64>| if equal { Some(0) } else { count };
        let (added, removed) = (lines(moved.added), lines(moved.removed));
        renamed.files += 1;
        renamed.added += listed[*at].added.unwrap_or(0).saturating_sub(added.unwrap_or(0));
        renamed.removed += listed[*from].removed.unwrap_or(0).saturating_sub(removed.unwrap_or(0));
        let file = &mut listed[*at];
        (file.old, file.from, file.added, file.removed) = (old, Some(from_path), added, removed);
    }
    let gone: Vec<usize> = origin.into_values().collect();
    let mut at = 0;
    listed.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
    renamed
}

/// Places in the list.
struct Candidates {
    went: Vec<usize>,
    came: Vec<usize>,
}

/// Finds for each file that came the one that went with which it shares most, at least half.
fn similar(
    look: &mut Look<'_>,
    listed: &[Listed],
    candidates: &Candidates,
    origin: &mut HashMap<usize, usize>,
) {
    let hasher = RandomState::new();
    let mut lines = |oid: Option<Oid>| lines(look, oid, &hasher);
    let went: Vec<(usize, Lines)> =
        candidates.went.iter().filter_map(|at| Some((*at, lines(listed[*at].old.map(|e| e.oid))?))).collect();
    let mut taken: Vec<usize> = Vec::new();
    for at in &candidates.came {
        let Some(new) = lines(listed[*at].new.map(|entry| entry.oid)) else { continue };
        let shares = went.iter().filter(|(from, _)| !taken.contains(from)).map(|(from, old)| {
            let shared: usize = new.by_line.iter().map(|(line, bytes)| shared(old, *line, *bytes)).sum();
            (shared * 100 / old.bytes.max(new.bytes).max(1), *from)
        });
        if let Some((share, from)) = shares.max_by_key(|(share, from)| (*share, usize::MAX - from))
            && share >= 50
        {
            taken.push(from);
            origin.insert(*at, from);
        }
    }
}

fn shared(old: &Lines, line: u64, bytes: usize) -> usize {
    old.by_line.get(&line).map_or(0, |of_old| bytes.min(*of_old))
}

/// The bytes of a file by line.
struct Lines {
    bytes: usize,
    by_line: HashMap<u64, usize>,
}

fn lines(look: &mut Look<'_>, oid: Option<Oid>, hasher: &RandomState) -> Option<Lines> {
    let oid = oid?;
    let (bytes, _) = look.header(oid).filter(|(bytes, _)| *bytes <= MAX_BYTES && *bytes > 0)?;
    look.budget.take(Work::Bytes, bytes as u64).ok()?;
    let blob = look.quarantine.repository.find_blob(oid).ok()?;
    let mut by_line: HashMap<u64, usize> = HashMap::new();
    for line in blob.content().split_inclusive(|byte| *byte == b'\n') {
        *by_line.entry(hasher.hash_one(line)).or_default() += line.len();
    }
    Some(Lines { bytes, by_line })
}
