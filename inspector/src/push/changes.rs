//! What changes in files: from what each ref holds to what it would hold, for a person to read.
//!
//! Every path is compared and looked through (`search`), and counted; a number of them is listed, with a diff of bounded
//! length.

use git2::Oid;
use keyhatch_protocol::{ChangedFile, ObjectId, SignedChanges};

use super::Refusal;
use super::child::failed;
use super::history::Target;
use super::look::Look;
use super::renames;
use super::risks::excerpt;
use super::search;
use super::tree_diff::{self, Entry};
use super::unified::Unified;

/// Files that the facts list.
const MAX_FILES: usize = 2000;
/// Bytes of a path in the list: a control frame has room for all of them.
const MAX_PATH: usize = 300;

/// What was found.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) file_count: u64,
    pub(super) files: Vec<ChangedFile>,
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) diff: String,
    pub(super) diff_cut: bool,
}

/// A file that differs, as it is listed.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: Vec<u8>,
    /// Where it was before, for one that was renamed.
    pub(super) from: Option<Vec<u8>>,
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
    pub(super) added: Option<u64>,
    pub(super) removed: Option<u64>,
    pub(super) is_binary: bool,
}

impl Listed {
    fn status(&self) -> char {
        let format = |entry: Entry| entry.mode & 0o170_000;
        match (self.old, self.new) {
            _ if self.from.is_some() => 'R',
            (None, _) => 'A',
            (_, None) => 'D',
            (Some(old), Some(new)) if format(old) != format(new) => 'T',
            _ => 'M',
        }
    }
}

/// Compares what each ref would hold with what it starts from. Two refs at one commit, or a tag beside its branch, are
/// one change.
pub(super) fn of(look: &mut Look<'_>, targets: &[Target]) -> Changes {
    let mut changes = Changes::default();
    let mut unified = Unified::default();
    for target in targets {
        match target {
            Target::Tree { base, tip } => {
                if look.trees.insert((*base, *tip)) {
                    compare(look, *base, *tip, &mut Shown { changes: &mut changes, unified: &mut unified });
                }
            }
            Target::Blob { under, oid } => {
                search::blob(look, *oid, under);
                changes.file_count += 1;
                changes.files.push(ChangedFile {
                    path: under.clone(),
                    status: 'A',
                    added: None,
                    removed: None,
                });
            }
        }
    }
    (changes.diff, changes.diff_cut) = unified.finish();
    changes
}

/// Compares a commit's tree with its first parent's, for a signature. Objects that are not at hand are a failure here:
/// nothing is fetched for it.
pub(super) fn of_commit(
    look: &mut Look<'_>,
    parent: Option<&ObjectId>,
    tree: &ObjectId,
) -> Result<SignedChanges, Refusal> {
    let absent = || failed("a commit's changes", "its objects are not at hand");
    let base = match parent {
        None => None,
        Some(parent) => {
            let parent = look.quarantine.repository.find_commit(look.quarantine.oid(parent)?);
            Some(parent.map_err(|_| failed("a commit's parent", "it is not at hand"))?.tree_id())
        }
    };
    let tip = look.quarantine.oid(tree)?;
    let found = of(look, &[Target::Tree { base, tip }]);
    if !look.missing.is_empty() || look.budget.spent().next().is_some() {
        return Err(absent());
    }
    let Changes { file_count, files, added, removed, diff, diff_cut } = found;
    Ok(SignedChanges { file_count, files, added, removed, diff, diff_cut })
}

/// Where a comparison is shown.
struct Shown<'s> {
    changes: &'s mut Changes,
    unified: &'s mut Unified,
}

fn compare(look: &mut Look<'_>, base: Option<Oid>, tip: Oid, shown: &mut Shown<'_>) {
    let Shown { changes, unified } = shown;
    let room = MAX_FILES.saturating_sub(changes.files.len());
    let (mut listed, mut count): (Vec<Listed>, usize) = (Vec::new(), 0);
    tree_diff::compare(look, base, Some(tip), &mut |look, delta| {
        let compared = search::file(look, delta);
        count += 1;
        changes.added += compared.added.unwrap_or(0);
        changes.removed += compared.removed.unwrap_or(0);
        if listed.len() < room {
            listed.push(Listed {
                path: delta.path.to_vec(),
                from: None,
                old: delta.old,
                new: delta.new,
                added: compared.added,
                removed: compared.removed,
                is_binary: compared.is_binary,
            });
        }
    });
    // Where not all of them are known, a file's origin is not either.
    if count == listed.len() {
        let renamed = renames::find(look, &mut listed);
        count -= renamed.files;
        changes.added -= renamed.added;
        changes.removed -= renamed.removed;
    }
    changes.file_count += count as u64;
    for file in listed {
        unified.file(look, &file);
        changes.files.push(ChangedFile {
            path: excerpt(&file.path, MAX_PATH),
            status: file.status(),
            added: file.added,
            removed: file.removed,
        });
    }
}
