//! Generated histories against a model: what is found is what the sets say, for any refs of upstream and any commands.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectFormat as GitFormat, Oid, Repository, RepositoryInitOptions, Signature, Time};
use keyhatch_protocol::{ObjectFormat, ObjectId, RefUpdate, RiskKind, UpdateKind};
use tempfile::TempDir;

use super::look::Look;
use super::quarantine::Quarantine;
use super::{Limits, Order, changes, history, search};

/// Histories that are tried.
const HISTORIES: u64 = 150;
/// Commits of one history.
const COMMITS: usize = 24;

/// A generator of numbers that is the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }

    fn often(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A history by numbers, and the same as objects.
struct Model {
    quarantine: Quarantine,
    parents: Vec<Vec<usize>>,
    /// Whether a commit adds a line that looks like a secret, of its own.
    leaks: Vec<bool>,
    oids: Vec<Oid>,
    _directory: TempDir,
}

impl Model {
    fn new(numbers: &mut Numbers, honest: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false).object_format(GitFormat::Sha1);
        let repository = Repository::init_opts(directory.path(), &options).expect("a repository");
        let (mut parents, mut leaks, mut oids): (Vec<Vec<usize>>, Vec<bool>, Vec<Oid>) = Default::default();
        for number in 0..COMMITS {
            let mut of: BTreeSet<usize> = BTreeSet::new();
            if number > 0 && !numbers.often(8) {
                of.insert(number - 1 - numbers.below(number.min(4)));
                while numbers.often(25) {
                    of.insert(numbers.below(number));
                }
            }
            let of: Vec<usize> = of.into_iter().rev().collect();
            let leak = numbers.often(20);
            let time = if honest { 1_700_000_000 + number as i64 } else { numbers.below(1000) as i64 };
            oids.push(commit(&repository, number, &of, leak, &oids, time));
            parents.push(of);
            leaks.push(leak);
        }
        let quarantine = Quarantine::of(repository, ObjectFormat::Sha1);
        Self { quarantine, parents, leaks, oids, _directory: directory }
    }

    fn reach(&self, tips: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let (mut reached, mut waiting) = (BTreeSet::new(), tips.into_iter().collect::<Vec<_>>());
        while let Some(one) = waiting.pop() {
            if reached.insert(one) {
                waiting.extend(&self.parents[one]);
            }
        }
        reached
    }

    fn id(&self, number: Option<usize>) -> ObjectId {
        let zero = || ObjectId::zero(ObjectFormat::Sha1);
        number.map_or_else(zero, |number| Quarantine::id(self.oids[number]).expect("a name"))
    }
}

/// A commit whose tree is its first parent's with a file of its own, and no more.
fn commit(
    repository: &Repository,
    number: usize,
    parents: &[usize],
    leaks: bool,
    oids: &[Oid],
    time: i64,
) -> Oid {
    let parents: Vec<git2::Commit<'_>> =
        parents.iter().map(|parent| repository.find_commit(oids[*parent]).expect("a parent")).collect();
    let base = parents.first().map(|parent| parent.tree().expect("a tree"));
    let mut tree = repository.treebuilder(base.as_ref()).expect("a tree");
    let content = if leaks { format!("ghp_{number:036}\n") } else { format!("{number}\n") };
    let blob = repository.blob(content.as_bytes()).expect("a blob");
    tree.insert(format!("file-{number:03}"), blob, 0o100_644).expect("an entry");
    let tree = repository.find_tree(tree.write().expect("a tree")).expect("a tree");
    let who = Signature::new("A", "a@x", &Time::new(time, 0)).expect("a person");
    let parents: Vec<&git2::Commit<'_>> = parents.iter().collect();
    repository.commit(None, &who, &who, &format!("{number}"), &tree, &parents).expect("a commit")
}

/// One push: where upstream is, and what is asked of it.
#[derive(Debug)]
struct Case {
    upstream: BTreeMap<usize, usize>,
    default: Option<usize>,
    /// By ref: from where to where.
    commands: Vec<Command>,
}

#[derive(Debug)]
struct Command {
    old: Option<usize>,
    new: usize,
}

impl Case {
    fn new(numbers: &mut Numbers) -> Self {
        let upstream: BTreeMap<usize, usize> =
            (0..numbers.below(5)).map(|name| (name, numbers.below(COMMITS))).collect();
        let default = upstream.get(&0).copied();
        let commands = (0..1 + numbers.below(4))
            .map(|at| {
                let name = if numbers.often(50) { at } else { 10 + at };
                Command { old: upstream.get(&name).copied(), new: numbers.below(COMMITS) }
            })
            .collect();
        Self { upstream, default, commands }
    }

    fn order(&self, model: &Model) -> Order {
        let update = |(at, command): (usize, &Command)| {
            let line = format!("{} {} refs/heads/r{at}", model.id(command.old), model.id(Some(command.new)));
            RefUpdate::parse(line.as_bytes()).expect("a command")
        };
        Order {
            object_format: ObjectFormat::Sha1,
            updates: self.commands.iter().enumerate().map(update).collect(),
            pack_offset: None,
            quarantine: "/nonexistent".into(),
            objects: Vec::new(),
            bases: Vec::new(),
            advertised: self.upstream.values().map(|at| model.id(Some(*at))).collect(),
            default_branch: self.default.map(|at| model.id(Some(at))),
            may_fetch: false,
            limits: Limits { pack_bytes: 1 << 30, objects: 1 << 20 },
        }
    }
}

fn try_all(honest: bool) {
    for seed in 1..=HISTORIES {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let model = Model::new(&mut numbers, honest);
        for _ in 0..4 {
            let case = Case::new(&mut numbers);
            try_one(&model, &case, honest, seed);
        }
    }
}

fn try_one(model: &Model, case: &Case, honest: bool, seed: u64) {
    let mut look = Look::new(&model.quarantine);
    let found = history::of(&case.order(model), &mut look).expect("facts");
    changes::of(&mut look, &found.targets);
    search::commits(&mut look, &found.reached);
    let context = format!("history {seed}: {case:?}, {:?}", model.parents);
    let mut union = BTreeSet::new();
    for (command, fact) in case.commands.iter().zip(&found.updates) {
        let base = if command.old.is_some() { command.old } else { case.default };
        let mut new = model.reach([command.new]);
        let is_ancestor = command.old.is_some_and(|old| new.contains(&old));
        model.reach(base).iter().for_each(|known| {
            new.remove(known);
        });
        let kind = match command.old {
            None => UpdateKind::Create,
            Some(_) if is_ancestor => UpdateKind::FastForward,
            Some(_) => UpdateKind::Force,
        };
        assert_eq!(fact.kind, kind, "{context}");
        let count = fact.commit_count.expect("they are counted one by one");
        assert!(count >= new.len() as u64, "{context}");
        assert!(!honest || count == new.len() as u64, "{count} of {}: {context}", new.len());
        union.extend(new);
    }
    let reached: BTreeSet<Oid> = found.reached.iter().map(|commit| commit.oid).collect();
    let wanted: BTreeSet<Oid> = union.iter().map(|number| model.oids[*number]).collect();
    assert!(reached.is_superset(&wanted), "{context}");
    assert!(!honest || reached == wanted, "{context}");
    let upstream = model.reach(case.upstream.values().copied());
    let new = union.iter().filter(|number| !upstream.contains(number)).count() as u64;
    assert!(found.new_count >= new && (!honest || found.new_count == new), "{context}");
    // Newest first, and no parent before its child.
    for (at, commit) in found.reached.iter().enumerate() {
        assert!(
            !found.reached[..at].iter().any(|earlier| commit.parents.contains(&earlier.oid)),
            "{context}"
        );
    }
    let risks = look.risks.into_list();
    let named = |number: usize| {
        let file = format!("file-{number:03}:");
        risks.iter().any(|risk| risk.kind == RiskKind::Secret && risk.detail.starts_with(&file))
    };
    for number in union.iter().filter(|number| model.leaks[**number]) {
        assert!(named(*number), "the secret of {number} is not named: {context}");
    }
}

#[test]
fn what_refs_newly_reach_is_the_difference_of_the_sets() {
    try_all(true);
}

#[test]
fn commits_that_lie_about_their_time_hide_nothing() {
    try_all(false);
}
