//! The commits that some tips reach and others do not: each commit once, and counted.
//!
//! Both sides are painted from their newest commit on, as git's own walk does it. A commit that lies about its time can
//! only make more of the history appear new than is: what is listed is never too little.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use git2::Oid;

use super::budget::Work;
use super::look::Look;

/// How many commits of the other side are still looked at after everything seems to be known: clocks are wrong.
const SLOP: usize = 50;

/// A commit that is reached from the tips alone.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub(super) oid: Oid,
    pub(super) parents: Vec<Oid>,
    time: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Newest first, and no parent before its child.
    pub(super) commits: Vec<Reached>,
    /// The bases that the tips reach.
    pub(super) met: BTreeSet<Oid>,
    /// Whether all of the tips' side could be walked.
    pub(super) whole: bool,
}

/// Walks from tips until what bases reach. Bases that are not at hand hide nothing.
pub(super) fn difference(look: &mut Look<'_>, tips: &[Oid], bases: &[Oid]) -> Difference {
    let mut walk = Walk { bases: bases.iter().copied().collect(), whole: true, ..Walk::default() };
    bases.iter().for_each(|base| walk.paint(look, *base, Side::Theirs));
    tips.iter().for_each(|tip| walk.paint(look, *tip, Side::Ours));
    walk.run(look);
    let Walk { seen, met, whole, .. } = walk;
    let ours = |(oid, seen): (Oid, Seen)| {
        (seen.ours && !seen.theirs).then_some(Reached { oid, parents: seen.parents, time: seen.time })
    };
    Difference { commits: in_order(seen.into_iter().filter_map(ours).collect()), met, whole }
}

/// Sorts commits: newest first, and no parent before its child.
pub(super) fn in_order(commits: Vec<Reached>) -> Vec<Reached> {
    let mut waiting: BTreeMap<Oid, Reached> = commits.into_iter().map(|one| (one.oid, one)).collect();
    let mut children: BTreeMap<Oid, usize> = BTreeMap::new();
    for parent in waiting.values().flat_map(|commit| &commit.parents) {
        *children.entry(*parent).or_default() += 1;
    }
    let free = waiting.values().filter(|commit| !children.contains_key(&commit.oid));
    let mut free: BinaryHeap<(i64, Oid)> = free.map(|commit| (commit.time, commit.oid)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while let Some((_, oid)) = free.pop() {
        let Some(commit) = waiting.remove(&oid) else { continue };
        for parent in &commit.parents {
            let Some(count) = children.get_mut(parent) else { continue };
            *count -= 1;
            if *count == 0
                && let Some(parent) = waiting.get(parent)
            {
                free.push((parent.time, parent.oid));
            }
        }
        ordered.push(commit);
    }
    ordered
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The tips'.
    Ours,
    /// The bases'.
    Theirs,
}

#[derive(Debug)]
struct Seen {
    time: i64,
    parents: Vec<Oid>,
    ours: bool,
    theirs: bool,
    queued: bool,
}

#[derive(Default)]
struct Walk {
    bases: BTreeSet<Oid>,
    seen: BTreeMap<Oid, Seen>,
    queue: BinaryHeap<(i64, Oid)>,
    /// Commits in the queue that are the tips' alone, as far as is known.
    open: usize,
    met: BTreeSet<Oid>,
    whole: bool,
}

impl Walk {
    fn run(&mut self, look: &mut Look<'_>) {
        let (mut oldest, mut slop) = (i64::MAX, SLOP);
        while let Some((time, oid)) = self.queue.pop() {
            let Some(seen) = self.seen.get_mut(&oid) else { continue };
            seen.queued = false;
            let side = if seen.theirs { Side::Theirs } else { Side::Ours };
            let parents = seen.parents.clone();
            if side == Side::Ours {
                self.open -= 1;
                oldest = oldest.min(time);
            }
            parents.into_iter().for_each(|parent| self.paint(look, parent, side));
            if self.open > 0 || self.queue.peek().is_some_and(|(next, _)| *next >= oldest) {
                slop = SLOP;
            } else if slop == 0 {
                return;
            } else {
                slop -= 1;
            }
        }
    }

    fn paint(&mut self, look: &mut Look<'_>, oid: Oid, side: Side) {
        if !self.seen.contains_key(&oid) && !self.read(look, oid, side) {
            return;
        }
        let Some(seen) = self.seen.get_mut(&oid) else { return };
        match side {
            Side::Ours => {
                if self.bases.contains(&oid) {
                    self.met.insert(oid);
                }
                if seen.ours || seen.theirs {
                    seen.ours = true;
                    return;
                }
                seen.ours = true;
            }
            Side::Theirs => {
                if seen.theirs {
                    return;
                }
                if seen.queued {
                    self.open -= 1;
                }
                seen.theirs = true;
            }
        }
        if !seen.queued {
            seen.queued = true;
            self.open += usize::from(!seen.theirs);
            self.queue.push((seen.time, oid));
        }
    }

    /// Reads a commit that is new to the walk; false where it cannot be had.
    fn read(&mut self, look: &mut Look<'_>, oid: Oid, side: Side) -> bool {
        if look.budget.take(Work::Commits, 1).is_err() {
            self.whole = false;
            return false;
        }
        let Ok(commit) = look.quarantine.repository.find_commit(oid) else {
            if side == Side::Ours {
                look.lacks_history(oid);
                self.whole = false;
            }
            return false;
        };
        let time = commit.time().seconds();
        let parents = commit.parent_ids().collect();
        self.seen.insert(oid, Seen { time, parents, ours: false, theirs: false, queued: false });
        true
    }
}
