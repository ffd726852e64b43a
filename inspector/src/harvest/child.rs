//! The confined child's own path: confine, read the order, read the session's directory, check objects, answer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::ExitCode;

use keyhatch_cage::{Cage, Limits, Work, WorkError};
use keyhatch_git_files::beneath::Beneath;
use keyhatch_git_files::index::{self, MAX_INDEX};
use keyhatch_git_files::reflog::LogEntry;
use keyhatch_git_files::refs::{Changes, Head, Refs};
use keyhatch_inspection::harvest::check::{is_entry, is_followed, is_log_entry, is_taken};
use keyhatch_inspection::harvest::{BUSY, MAX_LOG};
use keyhatch_protocol::{ObjectId, RefName};

use super::objects::{Store, Wanted};
use super::{EntryChange, Harvest, LOG_TAIL, MAX_REFS, Order, RefChange, Refused, TreeOrder, TreeState};

/// Most bytes of an order.
const MAX_ORDER: u64 = 64 * 1024 * 1024;

/// Runs `keyhatch-inspect harvest`: a confined child.
pub fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyhatch-harvest: {}", keyhatch_host::cause::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), WorkError> {
    let (order, _, work) = Work::<Order>::receive(MAX_ORDER)?.split();
    // The session's directory by its own name, which is ours: what is renamed or linked in it grants nothing more.
    let mut readable = vec![order.session.clone(), order.agreed.clone()];
    readable.extend(order.objects.iter().cloned());
    let limits = Limits::for_pack(order.limits.pack_bytes);
    let confined = Cage { readable: &readable, writable: &order.quarantine, limits }.enforce();
    confined.map_err(|error| WorkError::Step { step: "confine itself", source: io::Error::other(error) })?;
    let harvest = gather(&order).map_err(|source| WorkError::Step { step: "gather", source })?;
    work.answer(&harvest)
}

/// Gathers, in whatever confinement this process has.
///
/// # Errors
/// When a directory cannot be read, or git cannot be started.
pub fn gather(order: &Order) -> io::Result<Harvest> {
    let side = Beneath::hostile(&order.session)?;
    let start = fs::read(order.agreed.join("packed-refs"))?;
    let mut harvest = Harvest::default();
    let changed = order.base.changes(&start, &side)?;
    let before = order.base.values(&start, changed.keys());
    let changed = unsettled(order, changed, &before, &mut harvest);
    harvest.stash = stash(order, &side);
    let trees = order.trees.iter().enumerate().map(|(at, tree)| tree_state(order, &side, (at, tree)));
    harvest.trees = trees.collect::<io::Result<_>>()?;
    let mut store = Store::make(order)?;
    store.knows(before.values().chain(order.floors.values().flatten()));
    let wanted = wanted(order, (&mut store, &side), &changed, &harvest);
    let missing = store.bring(&wanted, &mut harvest)?;
    let whole = changed.into_iter().filter(|(name, _)| !missing.contains(name.as_str()));
    harvest.refs =
        whole.map(|(name, new)| RefChange { log: log_of(order, &side, &name), name, new }).collect();
    if missing.contains("stash") {
        harvest.stash = None;
    }
    for (at, tree) in harvest.trees.iter_mut().enumerate() {
        if missing.contains(&format!("index {at}")) {
            tree.index.clear();
            tree.index_refused = Some("its files cannot be taken".into());
        }
        if missing.contains(&format!("HEAD {at}")) {
            tree.head = None;
        }
        // The host's fsck would miss what its log names and its store has not.
        tree.log.retain(|entry| store.has(&entry.new));
    }
    Ok(harvest)
}

/// Leaves out what was dealt with, what is never taken, and what is too much: refs that the host has, or that came
/// before, may change; how many new ones a session may make is counted over all its rounds.
fn unsettled(order: &Order, changed: Changes, before: &Refs, harvest: &mut Harvest) -> Changes {
    let open = |name: &RefName, new: &Option<ObjectId>| order.settled.get(name) != Some(new);
    let named =
        |new: &Option<ObjectId>| new.as_ref().is_none_or(|id| id.format() == order.format && !id.is_zero());
    let open = changed.into_iter().filter(|(name, new)| is_taken(name) && named(new) && open(name, new));
    let (mut taken, new): (Changes, Changes) =
        open.partition(|(name, _)| before.contains_key(name) || order.floors.contains_key(name));
    let room = MAX_REFS.saturating_sub(order.made);
    if new.len() > room {
        harvest.too_many = new.len() - room;
        harvest.refused.push(Refused {
            what: "refs".into(),
            why: format!("a session may make {MAX_REFS} refs: the others stay inside"),
        });
    }
    taken.extend(new.into_iter().take(room));
    taken
}

/// The stash is a log: its ref alone is the newest entry.
fn stash(order: &Order, side: &Beneath) -> Option<Vec<LogEntry>> {
    let log = side.read("logs/refs/stash", MAX_LOG).ok()?.unwrap_or_default();
    let entries = tail(order, &log, LOG_TAIL);
    let ids: Vec<&ObjectId> = entries.iter().map(|entry| &entry.new).collect();
    (ids != order.stash.iter().collect::<Vec<_>>()).then_some(entries)
}

fn tree_state(order: &Order, side: &Beneath, (at, tree): (usize, &TreeOrder)) -> io::Result<TreeState> {
    let within =
        |name: &str| if tree.within == "." { name.to_owned() } else { format!("{}/{name}", tree.within) };
    let log = side.read(within("logs/HEAD"), MAX_LOG).ok().flatten().unwrap_or_default();
    let logged = LogEntry::lines(&log).count();
    let mut state = TreeState {
        head: Head::read(side, &within("HEAD")).filter(is_followed).filter(|head| match head {
            Head::Detached(id) => id.format() == order.format,
            Head::Branch(_) => true,
        }),
        // A log that became shorter was pruned: nothing in it is new.
        log: tail(order, &log, logged.saturating_sub(tree.logged).min(LOG_TAIL)),
        logged,
        busy: BUSY.iter().any(|name| side.has(&within(name))),
        ..TreeState::default()
    };
    let before = index::read_or_empty(&order.agreed.join(format!("index-{at}")))?;
    let now = match side.read(within("index"), MAX_INDEX) {
        Ok(now) => now.unwrap_or_default(),
        Err(_) => {
            state.index_refused = Some("it cannot be read".into());
            return Ok(state);
        }
    };
    match index::compare(&before, &now, order.format) {
        Err(error) => state.index_refused = Some(error.to_string()),
        Ok(changes) => {
            let submodules = index::gitlinks(&before, order.format).map_err(io::Error::other)?;
            for ((path, stage), tracked) in changes {
                // A submodule that the session made is a repository that it configured: the host's git would go
                // into it and do what that says.
                let link = tracked.as_ref().is_some_and(|tracked| tracked.mode == index::GITLINK);
                let known = !link || submodules.contains(&path);
                let change = EntryChange { path, stage, tracked };
                if known && is_entry(&change) {
                    state.index.push(change);
                }
            }
        }
    }
    Ok(state)
}

/// What must come, in groups that are taken or refused each for itself.
fn wanted(
    order: &Order,
    (store, side): (&mut Store, &Beneath),
    changed: &Changes,
    harvest: &Harvest,
) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (name, new) in changed {
        let Some(new) = new else { continue };
        // What was amended away is in the log, and the host's log will name it too. Where the log names what the host
        // has, the walk can stop.
        let log = log_of(order, side, name);
        store.knows(log.iter().flat_map(|entry| [&entry.old, &entry.new]));
        let may = log.into_iter().rev().map(|entry| entry.new).take_while(|id| !store.has(id)).collect();
        wanted.push(Wanted { what: name.to_string(), must: vec![new.clone()], may });
    }
    for (at, tree) in harvest.trees.iter().enumerate() {
        if let Some(Head::Detached(id)) = &tree.head {
            wanted.push(Wanted { what: format!("HEAD {at}"), must: vec![id.clone()], may: Vec::new() });
        }
        let ids: BTreeSet<ObjectId> = tree.log.iter().map(|entry| entry.new.clone()).collect();
        wanted.push(Wanted { what: format!("log {at}"), must: Vec::new(), may: ids.into_iter().collect() });
        let ids: BTreeSet<ObjectId> = tree
            .index
            .iter()
            .filter_map(|change| change.tracked.as_ref())
            .filter(|t| t.mode != index::GITLINK)
            .map(|t| t.id.clone())
            .collect();
        if !ids.is_empty() {
            wanted.push(Wanted {
                what: format!("index {at}"),
                must: ids.into_iter().collect(),
                may: Vec::new(),
            });
        }
    }
    if let Some(stash) = &harvest.stash {
        let ids: BTreeSet<ObjectId> = stash.iter().map(|entry| entry.new.clone()).collect();
        wanted.push(Wanted { what: "stash".into(), must: ids.into_iter().collect(), may: Vec::new() });
    }
    wanted
}

fn log_of(order: &Order, side: &Beneath, name: &RefName) -> Vec<LogEntry> {
    let log = side.read(format!("logs/{name}"), MAX_LOG).ok().flatten().unwrap_or_default();
    tail(order, &log, LOG_TAIL)
}

/// The end of a log, without lines that say nothing to the host's git.
fn tail(order: &Order, log: &[u8], most: usize) -> Vec<LogEntry> {
    let mut entries = LogEntry::tail(log, most);
    entries.retain(|entry| is_log_entry(entry, order.format));
    entries
}
