//! What differs between two trees: every path, each directory read only where it differs, and all of it counted.

use git2::{Oid, Tree, TreeEntry};

use super::budget::Work;
use super::look::Look;

/// The longest path that is followed: no system can check out a longer one.
const MAX_PATH: usize = 4096;

/// What a name in a tree stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) mode: i32,
    pub(super) oid: Oid,
}

impl Entry {
    fn of(entry: &TreeEntry<'_>) -> Self {
        Self { mode: entry.filemode_raw(), oid: entry.id() }
    }

    const fn is(self, format: i32) -> bool {
        self.mode & 0o170_000 == format
    }

    pub(super) const fn is_directory(self) -> bool {
        self.is(0o040_000)
    }

    pub(super) const fn is_link(self) -> bool {
        self.is(0o120_000)
    }

    pub(super) const fn is_submodule(self) -> bool {
        self.is(0o160_000)
    }
}

/// One path that differs: a file, a link or a submodule.
#[derive(Debug)]
pub(super) struct Delta<'p> {
    pub(super) path: &'p [u8],
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
}

/// Calls for every path that differs. What cannot be read is noted; what is not known to be equal differs.
pub(super) fn compare<'q>(
    look: &mut Look<'q>,
    old: Option<Oid>,
    new: Option<Oid>,
    found: &mut dyn FnMut(&mut Look<'q>, &Delta<'_>),
) {
    directory(look, old, new, &mut Vec::new(), found);
}

fn directory<'q>(
    look: &mut Look<'q>,
    old: Option<Oid>,
    new: Option<Oid>,
    path: &mut Vec<u8>,
    found: &mut dyn FnMut(&mut Look<'q>, &Delta<'_>),
) {
    if old == new {
        return;
    }
    // Without the old side everything is new: nothing stays unseen.
    let before = read(look, old).flatten();
    let Some(after) = read(look, new) else { return };
    let length = path.len();
    for entry in after.iter().flat_map(Tree::iter) {
        let was = before.as_ref().and_then(|tree| tree.get_name_bytes(entry.name_bytes()));
        let (was, is) = (was.map(|was| Entry::of(&was)), Entry::of(&entry));
        if look.budget.take(Work::Entries, 1).is_err() {
            return;
        }
        if was != Some(is) && enter(look, path, entry.name_bytes()) {
            differs(look, was, Some(is), path, found);
        }
        path.truncate(length);
    }
    for entry in before.iter().flat_map(Tree::iter) {
        if after.as_ref().is_some_and(|tree| tree.get_name_bytes(entry.name_bytes()).is_some()) {
            continue;
        }
        if look.budget.take(Work::Entries, 1).is_err() {
            return;
        }
        if enter(look, path, entry.name_bytes()) {
            differs(look, Some(Entry::of(&entry)), None, path, found);
        }
        path.truncate(length);
    }
}

/// The tree of a name, `Some(None)` for no name; `None` where it cannot be read, which is noted.
fn read<'q>(look: &mut Look<'q>, oid: Option<Oid>) -> Option<Option<Tree<'q>>> {
    let Some(oid) = oid else { return Some(None) };
    look.budget.take(Work::Trees, 1).ok()?;
    match look.quarantine.repository.find_tree(oid) {
        Ok(tree) => Some(Some(tree)),
        Err(_) => {
            look.lacks_history(oid);
            None
        }
    }
}

fn enter(look: &mut Look<'_>, path: &mut Vec<u8>, name: &[u8]) -> bool {
    if path.len() + 1 + name.len() > MAX_PATH {
        look.risks.not_looked_at(format!("paths of more than {MAX_PATH} bytes"));
        return false;
    }
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    true
}

fn differs<'q>(
    look: &mut Look<'q>,
    old: Option<Entry>,
    new: Option<Entry>,
    path: &mut Vec<u8>,
    found: &mut dyn FnMut(&mut Look<'q>, &Delta<'_>),
) {
    let directories = |side: Option<Entry>| side.filter(|entry| entry.is_directory()).map(|entry| entry.oid);
    let others = |side: Option<Entry>| side.filter(|entry| !entry.is_directory());
    if directories(old).is_some() || directories(new).is_some() {
        directory(look, directories(old), directories(new), path, found);
    }
    let delta = Delta { path, old: others(old), new: others(new) };
    if delta.old.is_some() || delta.new.is_some() {
        found(look, &delta);
    }
}
