//! One round between a session's git directory and the host's: what is new on either side reaches the other.
//!
//! A ref of the host moves only from exactly the value that was seen, and never back behind what the host itself made:
//! what a session may rewrite is its own. Everything else waits under `refs/keyhatch/SESSION/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyhatch_protocol::{ObjectId, RefName, SessionId};
use thiserror::Error;

use super::admit::{Import, ImportError};
use super::beneath::Beneath;
use super::facts::{Clean, Facts, Question};
use super::flush::{flush_file_system, flush_paths};
use super::guard::Panicked;
use super::harvest::{Agreed, Harvest, HarvestError, Order, RefChange, Refused, TreeOrder, check, harvest};
use super::host::{self, Git, HostError, tree_directory};
use super::index;
use super::reflog::{LogEntry, path};
use super::refs::{Changes, Head, Refs};
use super::state::{Moved, Parked, State};
use super::verify::{VerifyError, VerifyRequest, verify};
use super::{added, coming, headlog, large, mirror, stash, worktree};
use crate::inspect::Limits;
use crate::session::told::Told;

/// Rounds in which a ref is tried again that another command was faster with; then it waits for the user.
const PATIENCE: u8 = 5;
/// More refs than these move in calls of many, without a log entry of their own.
const BATCH: usize = 16;
/// More refs than these are flushed with all else that their file system has: one by one they take longer.
const MAX_FLUSHED: usize = 64;
/// Most worktrees of a repository.
const MAX_WORKTREES: usize = 10_000;
/// Where what is known of upstreams is kept.
const REMOTES: &str = "refs/remotes/";

/// A round could not be completed. The next one tries again.
#[derive(Debug, Error)]
pub enum SyncError {
    /// The session's directory could not be read.
    #[error(transparent)]
    Harvest(#[from] HarvestError),
    /// A directory of the host's, or ours.
    #[error("the repository's git directory cannot be read or written")]
    Io(#[from] io::Error),
    /// The session's new objects were not taken.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Neither: a panic.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// What a round works with.
pub struct Round<'r> {
    /// The repository.
    pub state: &'r mut State,
    /// The project's directory.
    pub project: &'r Path,
    /// The session.
    pub session: &'r SessionId,
    /// What it may bring.
    pub limits: Limits,
    /// Whether the session has ended: nothing will be tried again.
    pub last: bool,
    /// How often a ref was not to be had, by name.
    pub attempts: &'r mut BTreeMap<RefName, u8>,
    /// What upstreams said.
    pub told: &'r Told,
    /// Who reads hostile bytes.
    pub children: Children<'r>,
}

/// Holds an answer against what was asked, and returns what both sides agreed that the refs are which it names.
pub type Check<'c> = &'c dyn Fn(&Harvest) -> Result<Refs, HarvestError>;

/// What was gathered, and the refs that both sides agreed on which it names.
pub type Harvested = Result<(Harvest, Refs), HarvestError>;

/// The confined children that a round asks.
#[derive(Clone, Copy)]
pub struct Children<'c> {
    /// Gathers what the session changed.
    pub harvest: &'c dyn Fn(&Order, Check<'_>) -> Harvested,
    /// Reads new objects once more.
    pub verify: &'c dyn Fn(&VerifyRequest) -> Result<(), VerifyError>,
}

impl Children<'static> {
    /// Those that are confined.
    pub const CONFINED: Self = Self { harvest: &harvested, verify: &verify };
}

fn harvested(order: &Order, check: Check<'_>) -> Harvested {
    harvest(order)?.check(|harvest| {
        let before = check(&harvest)?;
        Ok((harvest, before))
    })
}

/// Both sides, as a round sees them.
pub(super) struct View {
    /// The packed refs of the start.
    pub(super) start: Vec<u8>,
    /// The host's git directory.
    pub(super) host: Beneath,
    /// The session's.
    pub(super) inside: Beneath,
    /// How the host's refs differ from what was agreed.
    pub(super) host_changes: Changes,
    /// Branches that worktrees outside of this session are on.
    pub(super) elsewhere: BTreeSet<RefName>,
    /// The `HEAD` of each of the session's worktrees on the host.
    pub(super) host_heads: Vec<Option<Head>>,
    /// What the session's changes would do, as far as it is known by now.
    pub(super) facts: Facts,
}

impl Round<'_> {
    /// Plays it. Returns whether anything changed.
    ///
    /// # Errors
    /// When a side cannot be read or written; what was done until then is noted in the state.
    pub fn play(&mut self) -> Result<bool, SyncError> {
        let first = self.state.clone();
        added::adopt(self.state, self.project)?;
        let mut view = self.look()?;
        let found = self.state.clone();
        coming::settle(self.state, &view.host_changes)?;
        if *self.state != found {
            view = self.look()?;
        }
        let stamps = worktree::stamps(self.state);
        let order = self.order(&view)?;
        let before = |harvest: &Harvest| {
            self.state.base.values(&view.start, harvest.refs.iter().map(|change| &change.name))
        };
        let check =
            |harvest: &Harvest| self.check(&order, harvest, &before(harvest)).map(|()| before(harvest));
        let (mut harvested, before) = (self.children.harvest)(&order, &check)?;
        coming::note(self.state, &harvested)?;
        // Before the commits that name them.
        let (refused, large) = large::bring(self.state, self.limits.pack_bytes)?;
        if refused > 0 {
            let why = "its content has another name, or is larger than the policy allows".to_owned();
            self.refuse(Refused { what: "a large file of git-lfs".into(), why });
        }
        let clean = Clean::make(self.state)?;
        let bytes = self.import(&order, &harvested, &clean)?;
        self.state.brought = self.state.brought.saturating_add(bytes + large);
        view.facts = Question { order: &order, harvest: &harvested, before: &before }.answer(&clean)?;
        for tree in &mut harvested.trees {
            // The host's fsck would miss what its log names and its store has not.
            tree.log.retain(|entry| view.facts.has(&entry.new));
        }
        self.note_refused(&harvested.refused);
        self.take_refs(&view, &harvested);
        mirror::refs(self.state, &view, &harvested)?;
        self.trees(&view, &harvested, &stamps)?;
        for at in 0..self.state.trees.len() {
            headlog::tell(self.state, at, &harvested, self.session)?;
        }
        stash::sync(self.state, &harvested, &view)?;
        self.flush(&first)?;
        Ok(*self.state != first)
    }

    /// Holds what the child answered against what it was asked.
    fn check(&self, order: &Order, harvest: &Harvest, before: &Refs) -> Result<(), HarvestError> {
        let submodules = |at: usize| {
            let agreed = index::read_or_empty(&self.state.agreed_index(at))?;
            let links = index::gitlinks(&agreed, self.state.format).map_err(io::Error::other)?;
            Ok(links.into_iter().collect())
        };
        check(order, harvest, &Agreed { refs: before, submodules: &submodules })
    }

    fn import(&self, order: &Order, harvest: &Harvest, clean: &Clean) -> Result<u64, SyncError> {
        let store = self.state.stores.first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let import = Import {
            quarantine: &order.quarantine,
            files: &harvest.objects,
            store,
            format: self.state.format,
            limits: self.limits,
            clean,
            verify: self.children.verify,
        };
        Ok(import.run()?)
    }

    /// Has the disk take the names of the refs that moved since: git flushes their files, and a file without its name is
    /// lost with the power.
    fn flush(&self, before: &State) -> io::Result<()> {
        let (common, now, then) = (&self.state.common, &self.state.outcome, &before.outcome);
        let moved = now.moved.iter().filter(|(name, moved)| then.moved.get(*name) != Some(moved));
        let parked = now.parked.iter().filter(|(name, parked)| then.parked.get(*name) != Some(parked));
        let names = moved.map(|(name, _)| name).chain(parked.map(|(name, _)| name));
        let (mut directories, mut files) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            // git before 2.36 leaves it to the file system.
            files.insert(common.join(name.as_str()));
            let mut parents = Path::new(name.as_str()).ancestors().skip(1);
            // A directory that was made for it has a name too.
            directories.extend(parents.by_ref().map(|parent| common.join(parent)));
        }
        if before.stash != self.state.stash {
            directories.extend(["refs", "logs/refs"].map(|directory| common.join(directory)));
            files.extend(["refs/stash", "logs/refs/stash"].map(|file| common.join(file)));
        }
        for (tree, then) in self.state.trees.iter().zip(&before.trees) {
            if tree.head != then.head {
                directories.insert(tree_directory(self.state, &tree.within));
                files.insert(tree_directory(self.state, &tree.within).join("HEAD"));
            }
        }
        if self.state.reftable && !directories.is_empty() {
            directories.insert(common.join("reftable"));
        }
        if files.len() > MAX_FLUSHED {
            return flush_file_system(common);
        }
        flush_paths(files.iter().map(PathBuf::as_path))?;
        flush_paths(directories.iter().map(PathBuf::as_path))
    }

    fn look(&self) -> Result<View, SyncError> {
        let start = self.state.start()?;
        let host = Beneath::own(&self.state.common)?;
        let mut host_changes = if self.state.reftable {
            let now: Refs = Git::of(self.state).refs()?;
            self.state.base.compare(&start, &now)
        } else {
            self.state.base.changes(&start, &host)?
        };
        host_changes
            .retain(|name, _| !name.as_str().starts_with("refs/keyhatch/") && name.as_str() != "refs/stash");
        let host_heads = self.state.trees.iter().map(|tree| worktree::host_head(self.state, tree)).collect();
        let elsewhere = elsewhere(self.state, &host)?;
        let inside = Beneath::hostile(&self.state.session())?;
        let facts = Facts::default();
        Ok(View { start, host, inside, host_changes, elsewhere, host_heads, facts })
    }

    fn order(&self, view: &View) -> io::Result<Order> {
        let quarantine = self.state.directory.join("quarantine");
        match fs::remove_dir_all(&quarantine) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&quarantine)?;
        let mut floors = self.state.floors.clone();
        floors.extend(view.host_changes.iter().map(|(name, id)| (name.clone(), id.clone())));
        let heads: Vec<ObjectId> =
            view.host_heads.iter().filter_map(|head| self.commit(view, head.as_ref()?)).collect();
        Ok(Order {
            format: self.state.format,
            session: self.state.session(),
            quarantine,
            agreed: self.state.agreed(),
            objects: self.state.stores.clone(),
            base: self.state.base.clone(),
            floors,
            settled: self.state.settled.clone(),
            made: self.state.floors.len().max(self.state.outcome.moved.len()),
            anchor: heads.first().cloned(),
            known: heads,
            stash: self.state.stash.clone(),
            trees: self
                .state
                .trees
                .iter()
                .map(|tree| TreeOrder { within: tree.within.clone(), logged: tree.logged })
                .collect(),
            partial: self.state.partial,
            limits: self.limits,
        })
    }

    /// The commit that a `HEAD` of the host is at.
    fn commit(&self, view: &View, head: &Head) -> Option<ObjectId> {
        match head {
            Head::Detached(id) => Some(id.clone()),
            Head::Branch(name) => self.host_value(view, name),
        }
    }

    /// What both sides agreed that a ref is.
    fn agreed(&self, view: &View, name: &RefName) -> Option<ObjectId> {
        self.state.base.values(&view.start, std::iter::once(name)).remove(name)
    }

    /// What a ref of the host was when the round began.
    fn host_value(&self, view: &View, name: &RefName) -> Option<ObjectId> {
        match view.host_changes.get(name) {
            Some(id) => id.clone(),
            None => self.agreed(view, name),
        }
    }

    /// Moves the host's refs as the session moved its own, as far as that is allowed.
    fn take_refs(&mut self, view: &View, harvest: &Harvest) {
        let heads: BTreeSet<&RefName> =
            harvest.trees.iter().filter_map(|tree| branch(tree.head.as_ref())).collect();
        let before = self.state.base.values(&view.start, harvest.refs.iter().map(|change| &change.name));
        let host = |name: &RefName| {
            view.host_changes.get(name).cloned().unwrap_or_else(|| before.get(name).cloned())
        };
        let mut plain = Vec::new();
        for change in &harvest.refs {
            let old = host(&change.name);
            if old == change.new {
                self.agree(&change.name, change.new.clone());
                continue;
            }
            let Some(new) = &change.new else {
                self.take_deletion(view, change, old.as_ref());
                continue;
            };
            if self.is_of_no_remote(&change.name) {
                self.keep_inside(change);
            } else if let Some(why) = self.objection(view, change, old.as_ref()) {
                self.park(change, new, why);
            } else if !heads.contains(&change.name) && change.log.len() < 2 {
                plain.push((change, old, new));
            } else if !heads.contains(&change.name) {
                // A branch that a worktree inside is on moves when its HEAD is looked at.
                let git = self.git_for(view, &change.name);
                self.advance(&git, change, old.as_ref(), new);
            }
        }
        // A few keep the word that the session's log has for each.
        let size = if plain.len() <= BATCH { 1 } else { BATCH.max(plain.len() / BATCH) };
        for batch in plain.chunks(size) {
            self.take_batch(view, batch);
        }
    }

    fn take_batch(&mut self, view: &View, batch: &[(&RefChange, Option<ObjectId>, &ObjectId)]) {
        if batch.len() > 1 {
            let updates: Vec<_> = batch.iter().map(|(c, old, new)| (&c.name, old.as_ref(), *new)).collect();
            if Git::of(self.state).update_all(&updates).is_ok() {
                for (change, old, new) in batch {
                    self.moved(&change.name, old.as_ref(), Some((*new).clone()));
                }
                return;
            }
        }
        for (change, old, new) in batch {
            let git = self.git_for(view, &change.name);
            self.advance(&git, change, old.as_ref(), new);
        }
    }

    /// Why a ref of the host must not be moved like this; none where it may.
    fn objection(&self, view: &View, change: &RefChange, old: Option<&ObjectId>) -> Option<String> {
        let name = &change.name;
        let new = change.new.as_ref()?;
        let checked_out =
            ["refs/heads/", "refs/tags/"].iter().any(|prefix| name.as_str().starts_with(prefix));
        let floor = self.state.floors.get(name).cloned();
        let floor = view.host_changes.get(name).cloned().or(floor).unwrap_or_else(|| self.agreed(view, name));
        let added = match &floor {
            Some(floor) => view.facts.added_submodule(new, Some(floor)),
            None => view.facts.added_beside_head(new),
        };
        if let Some(path) = added.filter(|_| checked_out) {
            return Some(format!("it adds a repository of its own inside this one: {path}"));
        }
        if view.elsewhere.contains(name) {
            return Some("another worktree has this branch checked out".into());
        }
        if name.as_str().starts_with("refs/tags/") && old.is_some() {
            return Some("the host has this tag already".into());
        }
        if name.as_str().starts_with(REMOTES) {
            return (!self.is_told(name, new)).then(|| "upstream did not say that it has this".into());
        }
        (!view.facts.descends(name)).then(|| "it does not go on from what is on the host".into())
    }

    /// Whether an upstream said what this remote-tracking branch says: a session's word for it would move what the user
    /// compares with, and pushes with `--force-with-lease` against.
    fn is_told(&self, name: &RefName, id: &ObjectId) -> bool {
        self.state.tracking.iter().any(|tracking| {
            let there = tracking.there(name).zip(tracking.remote.as_ref());
            there.is_some_and(|(there, remote)| self.told.said(remote, &there, id))
        })
    }

    /// Whether it would be a remote-tracking branch of a remote that the host does not have.
    fn is_of_no_remote(&self, name: &RefName) -> bool {
        name.as_str().starts_with(REMOTES)
            && !self.state.tracking.iter().any(|tracking| tracking.there(name).is_some())
    }

    /// Leaves a ref where it is; whole remotes are said once.
    fn keep_inside(&mut self, change: &RefChange) {
        self.state.settled.insert(change.name.clone(), change.new.clone());
        let remote = change.name.as_str().trim_start_matches(REMOTES).split('/').next().unwrap_or_default();
        let why = "the host has no such remote: its branches stay inside".to_owned();
        self.refuse(Refused { what: format!("{REMOTES}{remote}"), why });
    }

    /// Moves one ref, step by step as the session's log says, so that the host's log reads the same.
    pub(super) fn advance(&mut self, git: &Git, change: &RefChange, old: Option<&ObjectId>, new: &ObjectId) {
        let steps = path(&change.log, old, new).unwrap_or_default();
        let mut at = old.cloned();
        for step in steps.iter().take(steps.len().saturating_sub(1)) {
            // A step whose objects did not come is left out of the log.
            if git.update(&change.name, (at.as_ref(), &step.new), step).is_ok() {
                at = Some(step.new.clone());
            }
        }
        let last = steps.last().or(change.log.last()).cloned().unwrap_or_else(|| unsigned(new));
        match git.update(&change.name, (at.as_ref(), new), &last) {
            Ok(()) => self.moved(&change.name, old, Some(new.clone())),
            Err(error) => {
                if at.as_ref() != old {
                    self.moved(&change.name, old, at);
                }
                self.missed(change, new, &error);
            }
        }
    }

    /// The git directory whose `HEAD` is on this branch on the host, so that its log is written too.
    pub(super) fn git_for(&self, view: &View, name: &RefName) -> Git {
        let on = view.host_heads.iter().position(|head| branch(head.as_ref()) == Some(name));
        let tree = on.and_then(|at| self.state.trees.get(at)).or(self.state.trees.first());
        tree.map_or_else(|| Git::of(self.state), |tree| Git::of_tree(self.state, &tree.within))
    }

    fn missed(&mut self, change: &RefChange, new: &ObjectId, error: &HostError) {
        tracing::debug!(name = %change.name, ?error, "a ref could not be moved");
        let tried = self.attempts.entry(change.name.clone()).or_default();
        *tried += 1;
        if self.last || *tried >= PATIENCE {
            self.park(
                change,
                new,
                "the host's git refused it: another ref is in the way, or moved meanwhile".into(),
            );
        }
    }

    fn take_deletion(&mut self, view: &View, change: &RefChange, old: Option<&ObjectId>) {
        let Some(old) = old else { return self.agree(&change.name, None) };
        if view.facts.descends(&change.name) && Git::of(self.state).delete(&change.name, old).is_ok() {
            self.moved(&change.name, Some(old), None);
        } else {
            self.state.settled.insert(change.name.clone(), None);
            self.refuse(Refused {
                what: change.name.to_string(),
                why: "deleted inside, kept on the host".into(),
            });
        }
    }

    fn agree(&mut self, name: &RefName, id: Option<ObjectId>) {
        self.state.base.since.insert(name.clone(), id);
        self.state.settled.remove(name);
        self.attempts.remove(name);
    }

    fn moved(&mut self, name: &RefName, from: Option<&ObjectId>, to: Option<ObjectId>) {
        // What the host had of its own stays the limit; what the session added after it the session may take back.
        self.state.floors.entry(name.clone()).or_insert_with(|| from.cloned());
        let moved = self.state.outcome.moved.entry(name.clone());
        moved.or_insert_with(|| Moved { from: from.cloned(), to: None }).to.clone_from(&to);
        self.agree(name, to);
    }

    /// Keeps what may not move a ref of the host's where the user can look at it.
    fn park(&mut self, change: &RefChange, new: &ObjectId, why: String) {
        let below = change.name.as_str().trim_start_matches("refs/");
        self.park_as(below, &change.name, new, why);
        self.state.settled.insert(change.name.clone(), Some(new.clone()));
    }

    pub(super) fn park_as(&mut self, below: &str, wanted: &RefName, new: &ObjectId, why: String) {
        let Ok(name) = RefName::parse(format!("refs/keyhatch/{}/{below}", self.session).as_bytes()) else {
            return;
        };
        let old = self.state.outcome.parked.get(&name).map(|parked| parked.id.clone());
        if old.as_ref() == Some(new) {
            return;
        }
        match Git::of(self.state).update(&name, (old.as_ref(), new), &unsigned(new)) {
            Ok(()) => {
                let parked = Parked { wanted: wanted.clone(), id: new.clone(), why };
                self.state.outcome.parked.insert(name, parked);
            }
            Err(error) => {
                tracing::warn!(%name, ?error, "a ref could not be parked");
                self.refuse(Refused {
                    what: wanted.to_string(),
                    why: "it could not be kept on the host".into(),
                });
            }
        }
    }

    /// `HEAD` and index of each worktree.
    fn trees(
        &mut self,
        view: &View,
        harvest: &Harvest,
        stamps: &[worktree::Stamps],
    ) -> Result<(), SyncError> {
        for at in 0..self.state.trees.len() {
            if let (Some(found), Some(stamps)) = (harvest.trees.get(at), stamps.get(at)) {
                worktree::sync(self, view, harvest, worktree::Side { at, found, stamps })?;
            }
        }
        Ok(())
    }

    fn note_refused(&mut self, refused: &[Refused]) {
        for one in refused {
            if let Ok(name) = RefName::parse(one.what.as_bytes()) {
                tracing::warn!(ref_name = %name, why = %one.why, "a ref of the session was refused");
            }
            self.refuse(one.clone());
        }
    }

    pub(super) fn refuse(&mut self, refused: Refused) {
        self.state.outcome.refuse(refused);
    }
}

pub(super) fn branch(head: Option<&Head>) -> Option<&RefName> {
    match head? {
        Head::Branch(name) => Some(name),
        Head::Detached(_) => None,
    }
}

/// A log entry of ours.
fn unsigned(new: &ObjectId) -> LogEntry {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    LogEntry {
        old: ObjectId::zero(new.format()),
        new: new.clone(),
        name: "keyhatch".into(),
        email: "keyhatch@localhost".into(),
        when: format!("{now} +0000"),
        message: String::new(),
    }
}

/// The branches that other worktrees of the repository are on: moved under them, they would look as if undone.
fn elsewhere(state: &State, host: &Beneath) -> io::Result<BTreeSet<RefName>> {
    let ours: BTreeSet<&str> = state.trees.iter().map(|tree| tree.within.as_str()).collect();
    let names = host.list("worktrees", MAX_WORKTREES)?;
    let linked = names.iter().filter_map(|e| Some(format!("worktrees/{}", e.name.to_str()?)));
    let all = linked.chain(std::iter::once(".".to_owned())).filter(|within| !ours.contains(within.as_str()));
    let bare = |within: &str| within == "." && !state.common.join("index").exists();
    let heads = all
        .filter(|within| !bare(within))
        .filter_map(|within| host::head(&tree_directory(state, &within), state.reftable));
    Ok(heads.filter_map(|head| branch(Some(&head)).cloned()).collect())
}
