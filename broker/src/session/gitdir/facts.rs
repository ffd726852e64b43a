//! What the session's changes would do, found out on the host's own objects, once they are verified and there: whether a
//! ref goes on from where it may not go back, whether a commit brings a repository of its own, whether all of it is there.
//!
//! Comes in: names that a child claimed. Goes out: facts. The host's git says them, in a repository of ours that borrows the
//! host's objects and has no other configuration, hook or replaced object. Trees can be made so that nobody comes to
//! their end: git has bounds here, and what it does not finish is not allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use keyhatch_host::git::git;
use keyhatch_protocol::text::shown_name;
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::harvest::{self, Harvest, Misreport, Order, PROMISED};
use super::refs::{Head, Refs};
use super::state::State;

/// What git may use for one question: processor seconds, and bytes of memory, mapped packs not among them.
const SECONDS: u64 = 10;
const MEMORY: u64 = 1024 * 1024 * 1024;
/// Most bytes of an answer: the differences of two trees of some 300,000 files.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// Most submodules that are named.
const MAX_NAMED: usize = 20;
/// The mode of a submodule's commit, as git writes it: so it reads every mode that is no file's, link's or directory's.
const GITLINK: &[u8] = b"160000";
/// What is said in the place of submodules where nobody can say.
const UNKNOWN: &str = "(the trees cannot be compared)";

/// A bare repository of ours that borrows the host's objects.
#[derive(Debug)]
pub(super) struct Clean {
    directory: PathBuf,
}

/// What a round may know of the session's changes. What is not in it may not be done.
#[derive(Debug, Default)]
pub(super) struct Facts {
    descends: BTreeSet<RefName>,
    /// Commits that were compared, and the submodules that each adds.
    added: BTreeMap<ObjectId, BTreeMap<Option<ObjectId>, Vec<String>>>,
    present: BTreeSet<ObjectId>,
    anchor: Option<ObjectId>,
}

/// What is to be found out.
pub(super) struct Question<'q> {
    /// What was asked of the child.
    pub(super) order: &'q Order,
    /// What it answered, checked.
    pub(super) harvest: &'q Harvest,
    /// What both sides agreed that the changed refs are.
    pub(super) before: &'q Refs,
}

impl Facts {
    /// Whether a ref's new value goes on from where it may not go back; for a deleted ref whether it may go at all.
    pub(super) fn descends(&self, name: &RefName) -> bool {
        self.descends.contains(name)
    }

    /// The first submodule that a commit has and an earlier one has not.
    pub(super) fn added_submodule(&self, id: &ObjectId, from: Option<&ObjectId>) -> Option<&str> {
        let Some(added) = self.added.get(id).and_then(|added| added.get(&from.cloned())) else {
            return Some(UNKNOWN);
        };
        added.first().map(String::as_str)
    }

    /// The same, beside what the host's `HEAD` has.
    pub(super) fn added_beside_head(&self, id: &ObjectId) -> Option<&str> {
        self.added_submodule(id, self.anchor.as_ref())
    }

    /// Whether the host has an object.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.present.contains(id)
    }
}

impl Question<'_> {
    /// Finds it out.
    ///
    /// # Errors
    /// When git cannot be run, or an object is missing that the child said is there.
    pub(super) fn answer(&self, clean: &Clean) -> Result<Facts, super::sync::SyncError> {
        let mut facts = Facts { anchor: self.order.anchor.clone(), ..Facts::default() };
        let (must, may) = self.ids();
        if must.is_empty() && may.is_empty() && self.harvest.refs.is_empty() {
            return Ok(facts);
        }
        let comparisons = self.comparisons();
        let floors = self.harvest.refs.iter().filter_map(|change| self.floor(&change.name));
        let mut asked: BTreeSet<ObjectId> = must.union(&may).cloned().collect();
        asked.extend(self.order.known.iter().cloned().chain(floors));
        facts.present = clean.present(&asked)?;
        if !must.is_subset(&facts.present) {
            return Err(harvest::HarvestError::from(Misreport { what: "an object that did not come" }).into());
        }
        let (complete, added, descends) = thread::scope(|scope| {
            let complete = scope.spawn(|| self.is_complete(clean, &facts.present, &must));
            let descends = scope.spawn(|| self.descending(clean));
            let added = clean.added_submodules(&comparisons, self.order.format);
            let died = || io::Error::from(io::ErrorKind::Other);
            let complete = complete.join().unwrap_or_else(|_| Err(died()));
            (complete, added, descends.join().unwrap_or_else(|_| Err(died())))
        });
        if !complete? {
            return Err(harvest::HarvestError::from(Misreport { what: "a history with holes in it" }).into());
        }
        facts.descends = descends?;
        for (comparison, paths) in comparisons.into_iter().zip(added?) {
            facts.added.entry(comparison.to).or_default().insert(comparison.from, paths);
        }
        Ok(facts)
    }

    /// Objects that must be there, and those that are left out where they are not.
    fn ids(&self) -> (BTreeSet<ObjectId>, BTreeSet<ObjectId>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for change in &self.harvest.refs {
            must.extend(change.new.clone());
            may.extend(change.log.iter().map(|entry| entry.new.clone()));
        }
        must.extend(self.harvest.stash.iter().flatten().map(|entry| entry.new.clone()));
        for tree in &self.harvest.trees {
            if let Some(Head::Detached(id)) = &tree.head {
                must.insert(id.clone());
            }
            let tracked = tree.index.iter().filter_map(|change| change.tracked.as_ref());
            let files = tracked.filter(|tracked| tracked.mode != super::index::GITLINK);
            must.extend(files.map(|tracked| tracked.id.clone()));
            may.extend(tree.log.iter().map(|entry| entry.new.clone()));
        }
        may.retain(|id| !id.is_zero());
        (must, may)
    }

    fn floor(&self, name: &RefName) -> Option<ObjectId> {
        self.order.floors.get(name).cloned().unwrap_or_else(|| self.before.get(name).cloned())
    }

    /// What can be checked out is compared with where it comes from: what a session adds there is a repository that it
    /// configured, and the host's git would go into it.
    fn comparisons(&self) -> Vec<Comparison> {
        let mut comparisons = BTreeSet::new();
        for change in &self.harvest.refs {
            let Some(to) = &change.new else { continue };
            let from = self.floor(&change.name).or_else(|| self.order.anchor.clone());
            comparisons.insert(Comparison { from, to: to.clone() });
        }
        let stash = self.harvest.stash.iter().flatten().map(|entry| &entry.new);
        let heads = self.harvest.trees.iter().filter_map(|tree| match &tree.head {
            Some(Head::Detached(id)) => Some(id),
            _ => None,
        });
        let anchored = stash.chain(heads);
        comparisons.extend(anchored.map(|to| Comparison { from: self.order.anchor.clone(), to: to.clone() }));
        comparisons.into_iter().collect()
    }

    /// Refs that go on from where they may not go back.
    fn descending(&self, clean: &Clean) -> io::Result<BTreeSet<RefName>> {
        let mut descending = BTreeSet::new();
        for change in &self.harvest.refs {
            let goes_on = match (self.floor(&change.name), &change.new) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(floor), Some(new)) => floor == *new || clean.is_ancestor(&floor, new)?,
            };
            if goes_on {
                descending.insert(change.name.clone());
            }
        }
        Ok(descending)
    }

    /// Whether everything that leads from what came to what the host had is there.
    fn is_complete(
        &self,
        clean: &Clean,
        present: &BTreeSet<ObjectId>,
        must: &BTreeSet<ObjectId>,
    ) -> io::Result<bool> {
        let floors = self.harvest.refs.iter().filter_map(|change| self.floor(&change.name));
        let known: BTreeSet<ObjectId> = self.order.known.iter().cloned().chain(floors).collect();
        let mut list: String = must.iter().map(|id| format!("{id}\n")).collect();
        list.extend(known.intersection(present).map(|id| format!("^{id}\n")));
        let mut git = clean.git();
        git.args(["rev-list", "--objects", "--quiet", "--stdin"]);
        if self.order.partial {
            git.arg(PROMISED);
        }
        Ok(ask(git, list.as_bytes())?.is_some())
    }
}

/// Two objects whose trees are compared; with nothing where the first is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Comparison {
    from: Option<ObjectId>,
    to: ObjectId,
}

impl Clean {
    /// The one that lies in a directory of ours.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes it anew for a repository: what it borrows may have changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn make(state: &State) -> io::Result<Self> {
        let clean = Self::at(state.directory.join("clean"));
        match fs::remove_dir_all(&clean.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        harvest::bare(&clean.directory, (state.format, state.partial), &state.stores)?;
        let shallow = state.agreed().join("shallow");
        if shallow.exists() {
            fs::copy(shallow, clean.directory.join("shallow"))?;
        }
        Ok(clean)
    }

    fn git(&self) -> Command {
        let mut git = git();
        git.arg("--git-dir").arg(&self.directory);
        git
    }

    /// Which of these objects are there.
    ///
    /// # Errors
    /// When git cannot be run, or does not answer.
    pub(super) fn present(&self, ids: &BTreeSet<ObjectId>) -> io::Result<BTreeSet<ObjectId>> {
        let list: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let said = self.checked(&list, "%(objectname)")?;
        let lines = said.split(|byte| *byte == b'\n');
        let there = lines.filter_map(|line| ObjectId::parse(std::str::from_utf8(line).ok()?).ok());
        Ok(there.collect())
    }

    /// The first of these objects that is there.
    ///
    /// # Errors
    /// As for [`Clean::present`].
    pub(super) fn first_present(&self, ids: &[ObjectId]) -> io::Result<Option<ObjectId>> {
        if ids.is_empty() {
            return Ok(None);
        }
        Ok(self.present(&ids.iter().cloned().collect())?.pop_first())
    }

    fn checked(&self, list: &str, format: &str) -> io::Result<Vec<u8>> {
        let mut git = self.git();
        git.args(["cat-file", &format!("--batch-check={format}")]);
        ask(git, list.as_bytes())?.ok_or_else(|| io::Error::other("git cat-file failed"))
    }

    fn is_ancestor(&self, floor: &ObjectId, new: &ObjectId) -> io::Result<bool> {
        let mut git = self.git();
        git.args(["merge-base", "--is-ancestor", floor.as_str(), new.as_str()]);
        Ok(ask(git, b"")?.is_some())
    }

    /// The submodules that each second object has and the first has not; of an object that leads to no tree there are
    /// none. All at once, and where that cannot be done one by one.
    fn added_submodules(
        &self,
        comparisons: &[Comparison],
        format: ObjectFormat,
    ) -> io::Result<Vec<Vec<String>>> {
        let ids: BTreeSet<&ObjectId> =
            comparisons.iter().flat_map(|one| one.from.iter().chain([&one.to])).collect();
        let list: String = ids.iter().map(|id| format!("{id}^{{tree}}\n")).collect();
        let said = self.checked(&list, "%(objectname)")?;
        let lines = said.split(|byte| *byte == b'\n');
        let trees = lines.map(|line| ObjectId::parse(std::str::from_utf8(line).unwrap_or_default()).ok());
        let trees: BTreeMap<&ObjectId, Option<ObjectId>> = ids.into_iter().zip(trees).collect();
        let tree = |id: &ObjectId| trees.get(id).cloned().flatten();
        let nothing = empty_tree(format)?;
        let pairs: Vec<Option<(ObjectId, ObjectId)>> = comparisons
            .iter()
            .map(|one| Some((one.from.as_ref().and_then(tree).unwrap_or(nothing.clone()), tree(&one.to)?)))
            .collect();
        let distinct: BTreeSet<&(ObjectId, ObjectId)> = pairs.iter().flatten().collect();
        let mut found = BTreeMap::new();
        if let Some(all) = self.compared(distinct.iter().copied())? {
            found = all;
        } else {
            // Something is wrong with one of them. What is told of the others still holds.
            for pair in distinct {
                let alone = self.compared(std::iter::once(pair))?;
                found.extend(
                    alone.unwrap_or_else(|| BTreeMap::from([(pair.clone(), vec![UNKNOWN.to_owned()])])),
                );
            }
        }
        let added = |pair: &Option<(ObjectId, ObjectId)>| match pair {
            None => Vec::new(),
            Some(pair) => found.get(pair).cloned().unwrap_or_else(|| vec![UNKNOWN.to_owned()]),
        };
        Ok(pairs.iter().map(added).collect())
    }

    fn compared<'p>(
        &self,
        pairs: impl Iterator<Item = &'p (ObjectId, ObjectId)>,
    ) -> io::Result<Option<Added>> {
        let list: String = pairs.map(|(from, to)| format!("{from} {to}\n")).collect();
        let mut git = self.git();
        git.args(["diff-tree", "--stdin", "-r", "-z", "--raw", "--no-renames", "--no-abbrev"]);
        git.args(["--ignore-submodules=none", "--no-ext-diff", "--no-textconv"]);
        Ok(ask(git, list.as_bytes())?.and_then(|said| added_in(&said)))
    }
}

/// Submodules that a tree has and another had not, by both trees.
type Added = BTreeMap<(ObjectId, ObjectId), Vec<String>>;

/// Reads what `git diff-tree --stdin -z --raw` says: for each pair a line with both trees, then `:MODE MODE ID ID STATUS`
/// and a path, each ended by NUL. None where it is something else.
fn added_in(said: &[u8]) -> Option<Added> {
    let mut found = Added::new();
    let (mut rest, mut pair) = (said, None);
    while !rest.is_empty() {
        if rest[0] != b':' {
            let (line, after) = split_at(rest, b'\n')?;
            let (from, to) = std::str::from_utf8(line).ok()?.split_once(' ')?;
            let both = (ObjectId::parse(from).ok()?, ObjectId::parse(to).ok()?);
            found.entry(both.clone()).or_default();
            (pair, rest) = (Some(both), after);
            continue;
        }
        let (change, after) = split_at(rest, 0)?;
        let (path, after) = split_at(after, 0)?;
        rest = after;
        let (old, new) = (change.get(1..7)?, change.get(8..14)?);
        let added = found.get_mut(pair.as_ref()?)?;
        if new == GITLINK && old != GITLINK && added.len() < MAX_NAMED {
            added.push(shown_name(&String::from_utf8_lossy(path)));
        }
    }
    Some(found)
}

fn split_at(bytes: &[u8], end: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == end)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The name of the tree with nothing in it, which git knows without having it.
fn empty_tree(format: ObjectFormat) -> io::Result<ObjectId> {
    let name = match format {
        ObjectFormat::Sha1 => "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        ObjectFormat::Sha256 => "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
    };
    ObjectId::parse(name).map_err(io::Error::other)
}

/// Asks git, within bounds. None where it says no or does not come to an end.
fn ask(mut git: Command, input: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        for (resource, most) in [(Resource::Cpu, SECONDS), (Resource::Data, MEMORY)] {
            // It may have ended already.
            prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) }).ok();
        }
    }
    let (mut to, from) = (child.stdin.take(), child.stdout.take());
    let said = thread::scope(|scope| {
        // It ends before it read everything where it does not like what it reads: its status says so.
        scope.spawn(move || to.take().map(|mut to| drop(to.write_all(input))));
        let mut said = Vec::new();
        let read = from.map(|from| from.take(MAX_ANSWER + 1).read_to_end(&mut said));
        if said.len() as u64 > MAX_ANSWER {
            drop(child.kill());
        }
        read.transpose().map(|_| said)
    });
    let status = child.wait()?;
    let said = said?;
    Ok((status.success() && said.len() as u64 <= MAX_ANSWER).then_some(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository in which `$1` is a mode that a tree's entry has; prints the commits before and after.
    fn commits(script: &str) -> (tempfile::TempDir, Clean, Vec<ObjectId>) {
        let temp = tempfile::tempdir().expect("tempdir");
        let made = Command::new("sh")
            .current_dir(temp.path())
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
            .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
            .args(["-ec", &format!("git init -q -b main .; {script}")])
            .output()
            .expect("sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let clean = Clean::at(temp.path().join("clean"));
        let store = temp.path().join(".git/objects");
        harvest::bare(&clean.directory, (ObjectFormat::Sha1, false), &[store]).expect("makes");
        let ids = String::from_utf8(made.stdout).expect("text");
        let ids = ids.lines().map(|line| ObjectId::parse(line).expect("an id")).collect();
        (temp, clean, ids)
    }

    const TREES: &str = "b=$(echo x | git hash-object -w --stdin); hex=$(echo $b | sed 's/../\\\\x&/g'); \
        tree() { (printf \"$1 a\\0\"; /usr/bin/printf '%b' \"$hex\") | git hash-object -t tree --stdin -w --literally; }; ";

    #[test]
    fn whatever_git_takes_for_a_submodule_is_found_and_nothing_else() {
        let script = format!(
            "{TREES} git mktree < /dev/null; for m in 100644 100600 100755 120000 120777 160000 160001 20000 0; do tree $m; done"
        );
        let (_temp, clean, trees) = commits(&script);
        let pair = |at: usize| Comparison { from: Some(trees[0].clone()), to: trees[at].clone() };
        let comparisons: Vec<Comparison> = (1..trees.len()).map(pair).collect();
        let added = clean.added_submodules(&comparisons, ObjectFormat::Sha1).expect("compares");
        let found: Vec<bool> = added.iter().map(|paths| !paths.is_empty()).collect();
        assert_eq!(found, [false, false, false, false, false, true, true, true, true], "{added:?}");
        // One that was there is not new, and with nothing to compare with all are.
        let from_link = [Comparison { from: Some(trees[6].clone()), to: trees[7].clone() }];
        assert_eq!(clean.added_submodules(&from_link, ObjectFormat::Sha1).expect("compares"), [[""; 0]]);
        let from_nothing = [Comparison { from: None, to: trees[6].clone() }];
        let added = clean.added_submodules(&from_nothing, ObjectFormat::Sha1).expect("compares");
        assert_eq!(added, [["a"]]);
    }

    #[test]
    fn a_replaced_object_or_a_hidden_submodule_changes_nothing() {
        let script = format!(
            "{TREES} git commit -q --allow-empty -m 1; git rev-parse HEAD; git checkout -q --orphan o; git commit -q --allow-empty -m 2; \
             git rev-parse HEAD; git replace --graft HEAD main; git config diff.ignoreSubmodules all; \
             t=$(tree 160000); git commit-tree $t -m 3 -p main"
        );
        let (_temp, clean, ids) = commits(&script);
        assert!(!clean.is_ancestor(&ids[0], &ids[1]).expect("asks"), "it is none but by a replaced object");
        assert!(clean.is_ancestor(&ids[0], &ids[2]).expect("asks"));
        let hidden = [Comparison { from: Some(ids[0].clone()), to: ids[2].clone() }];
        assert_eq!(clean.added_submodules(&hidden, ObjectFormat::Sha1).expect("compares"), [["a"]]);
    }

    /// Ten levels of ten links to the level below: 40 kB, and nobody comes to the end of it.
    #[test]
    fn trees_without_end_are_not_compared_and_keep_no_others_from_it() {
        let script = format!(
            "{TREES} t=$(tree 100644); plain=$t; for level in 1 2 3 4 5 6 7 8 9; do \
             t=$(for n in 0 1 2 3 4 5 6 7 8 9; do printf \"040000 tree $t\\t$n\\n\"; done | git mktree); done; \
             git mktree < /dev/null; echo $t; echo $plain"
        );
        let (_temp, clean, trees) = commits(&script);
        let pair = |at: usize| Comparison { from: Some(trees[0].clone()), to: trees[at].clone() };
        let added = clean.added_submodules(&[pair(1), pair(2)], ObjectFormat::Sha1).expect("ends");
        assert_eq!(added, [vec![UNKNOWN.to_owned()], Vec::new()]);
    }

    #[test]
    fn what_is_no_answer_of_gits_is_none() {
        let id = "1".repeat(40);
        let head = format!("{id} {id}\n");
        let change = |modes: &str, path: &str| format!(":{modes} {id} {id} A\0{path}\0");
        let good = format!("{head}{}{}", change("000000 160000", "a\nb"), change("160000 160000", "c"));
        let found = added_in(good.as_bytes()).expect("it is one");
        assert_eq!(found.into_values().next().expect("a pair").len(), 1);
        for bad in [change("000000 160000", "a"), format!("{head}:000"), "x\n".to_owned()] {
            assert!(added_in(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }
}
