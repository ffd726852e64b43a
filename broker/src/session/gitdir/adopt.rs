//! A repository that a session made of a project that had none: `git init` inside, on an empty directory of ours.
//!
//! The host gets a repository of its own making, with nothing of the session's but commits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use keyhatch_protocol::ObjectFormat;

use super::beneath::Beneath;
use super::host::Git;
use super::refs::{Base, Head, MAX_PACKED, loose, packed};
use super::state::{Blank, Outcome, State, Tree};

/// Makes the host's repository as soon as the session's has a commit; none until then.
///
/// # Errors
/// When the session's directory cannot be read, or the host's not be made.
pub(super) fn adopt(blank: &Blank) -> io::Result<Option<State>> {
    let inside = Beneath::hostile(&blank.directory.join("git"))?;
    if !inside.has("HEAD") {
        return Ok(None);
    }
    let packed_refs = inside.read("packed-refs", MAX_PACKED)?.unwrap_or_default();
    let first =
        loose(&inside)?.into_values().next().or_else(|| packed(&packed_refs).next().map(|(_, id)| id));
    let Some(format) = first.map(|id| id.format()) else { return Ok(None) };
    let common = blank.worktree.join(".git");
    // Only into the empty directory that is mounted over: anything else is a repository of the user's.
    if fs::read_dir(&common)?.next().is_some() {
        return Ok(None);
    }
    make(blank, format)?;
    let agreed = blank.directory.join("agreed");
    fs::create_dir_all(&agreed)?;
    fs::write(agreed.join("packed-refs"), "")?;
    let head = Head::read(&Beneath::own(&common)?, "HEAD");
    Ok(Some(State {
        directory: blank.directory.clone(),
        stores: vec![common.join("objects")],
        common,
        format,
        reftable: false,
        partial: false,
        tracking: Vec::new(),
        trees: vec![Tree { within: ".".into(), has_index: true, head, logged: 0, host_log: 0 }],
        base: Base::default(),
        floors: BTreeMap::new(),
        settled: BTreeMap::new(),
        stash: Vec::new(),
        host_stash: Vec::new(),
        own_stash: BTreeSet::new(),
        left_stash: Vec::new(),
        brought: 0,
        begun: None,
        outcome: Outcome::default(),
    }))
}

fn make(blank: &Blank, format: ObjectFormat) -> io::Result<()> {
    Git::init(&blank.worktree, format).map_err(io::Error::other)
}
