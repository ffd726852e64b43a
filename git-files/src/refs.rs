//! References in the files format, as `gitrepository-layout(5)` has them: loose files over `packed-refs`.
//!
//! Comes in: a directory, hostile or the user's own. Goes out: what differs from what both sides had when they last
//! agreed. A name or value that git would refuse is not there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use keyhatch_protocol::{ObjectId, RefName};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::beneath::{Beneath, Stamp};

/// Largest `packed-refs` that is read: a million refs.
pub const MAX_PACKED: u64 = 128 * 1024 * 1024;
/// Most loose refs of one side: git packs them long before.
const MAX_LOOSE: usize = 200_000;
/// Deepest nesting of ref directories.
const MAX_DEPTH: usize = 24;
/// Fewer names than these are looked for one by one in a sorted file.
const FEW: usize = 100;
/// A loose ref holds one name.
const MAX_VALUE: u64 = 2048;

/// Names and what they point to.
pub type Refs = BTreeMap<RefName, ObjectId>;

/// What `HEAD` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// On a branch, which may not exist yet.
    Branch(RefName),
    /// At a commit.
    Detached(ObjectId),
}

/// What both sides had when they last agreed: the packed file of the start, and what changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Refs that are not, or not any more, as the packed file of the start says; none for a deleted one.
    pub since: BTreeMap<RefName, Option<ObjectId>>,
}

/// How one side differs from the base; none for a ref that is gone.
pub type Changes = BTreeMap<RefName, Option<ObjectId>>;

impl Head {
    /// Parses the content of a `HEAD` file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end();
        match text.strip_prefix("ref:") {
            Some(name) => RefName::parse(name.trim_start().as_bytes()).ok().map(Self::Branch),
            None => ObjectId::parse(text).ok().map(Self::Detached),
        }
    }

    /// Reads a `HEAD`; none where it is not one.
    #[must_use]
    pub fn read(directory: &Beneath, path: &str) -> Option<Self> {
        directory.read(path, MAX_VALUE).ok().flatten().and_then(|bytes| Self::parse(&bytes))
    }

    /// The content of its file.
    #[must_use]
    pub fn render(&self) -> String {
        match self {
            Self::Branch(name) => format!("ref: {name}\n"),
            Self::Detached(id) => format!("{id}\n"),
        }
    }
}

/// Reads the lines of a `packed-refs` file.
pub fn packed(bytes: &[u8]) -> impl Iterator<Item = (RefName, ObjectId)> + '_ {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let text = std::str::from_utf8(line).ok()?;
        let (id, name) = text.split_once(' ')?;
        Some((RefName::parse(name.as_bytes()).ok()?, ObjectId::parse(id).ok()?))
    })
}

/// Writes a `packed-refs` file.
#[must_use]
pub fn render_packed(refs: &Refs) -> Vec<u8> {
    let mut text = String::from("# pack-refs with: sorted \n");
    for (name, id) in refs {
        text.extend([id.as_str(), " ", name.as_str(), "\n"]);
    }
    text.into_bytes()
}

/// Reads the loose refs below `refs/`. Symbolic ones are left out: they are names, not commits.
///
/// # Errors
/// When there are too many, or a directory cannot be read.
pub fn loose(side: &Beneath) -> io::Result<Refs> {
    let mut refs = Refs::new();
    let mut waiting = vec![("refs".to_owned(), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        for entry in side.list(&directory, MAX_LOOSE)? {
            let Some(name) = entry.name.to_str() else { continue };
            let path = format!("{directory}/{name}");
            match entry.kind {
                FileType::Directory if depth < MAX_DEPTH => waiting.push((path, depth + 1)),
                FileType::RegularFile => {
                    let Ok(name) = RefName::parse(path.as_bytes()) else { continue };
                    // A file that git is replacing at this moment is read the next time.
                    let Ok(Some(bytes)) = side.read(&path, MAX_VALUE) else { continue };
                    if let Some(Head::Detached(id)) = Head::parse(&bytes) {
                        refs.insert(name, id);
                    }
                }
                _ => {}
            }
        }
        if refs.len() > MAX_LOOSE || waiting.len() > MAX_LOOSE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(refs)
}

/// What a side's refs look like to the file system: cheap to ask for, different after every change.
#[must_use]
pub fn stamps(side: &Beneath) -> Vec<Stamp> {
    let mut stamps = vec![side.stamp("packed-refs"), side.stamp("reftable/tables.list")];
    let mut waiting = vec![("refs".to_owned(), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        stamps.push(side.stamp(&directory));
        if stamps.len() > MAX_LOOSE {
            break;
        }
        let Ok(entries) = side.list(&directory, MAX_LOOSE) else { continue };
        for entry in entries.iter().filter(|e| e.kind == FileType::Directory && depth < MAX_DEPTH) {
            if let Some(name) = entry.name.to_str() {
                waiting.push((format!("{directory}/{name}"), depth + 1));
            }
        }
    }
    stamps
}

impl Base {
    /// How a side in the files format differs from this base.
    ///
    /// # Errors
    /// When the side cannot be read.
    pub fn changes(&self, start: &[u8], side: &Beneath) -> io::Result<Changes> {
        let theirs = side.read("packed-refs", MAX_PACKED)?.unwrap_or_default();
        let loose = loose(side)?;
        if theirs != start {
            let mut now: Refs = packed(&theirs).collect();
            now.extend(loose);
            return Ok(self.compare(start, &now));
        }
        // The packed file is the one of the start: only names that are loose, or changed since, can differ.
        let names: BTreeSet<&RefName> = loose.keys().chain(self.since.keys()).collect();
        let packed = among(start, &names);
        let mut changes = Changes::new();
        for name in names {
            let before = self.since.get(name).cloned().unwrap_or_else(|| packed.get(name).cloned());
            let now = loose.get(name).or_else(|| packed.get(name)).cloned();
            if before != now {
                changes.insert(name.clone(), now);
            }
        }
        Ok(changes)
    }

    /// How a whole list of refs differs from this base.
    #[must_use]
    pub fn compare(&self, start: &[u8], now: &Refs) -> Changes {
        let before = self.whole(start);
        let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
        let new = now.iter().filter(|(name, id)| before.get(*name) != Some(id));
        gone.chain(new.map(|(name, id)| (name.clone(), Some(id.clone())))).collect()
    }

    /// Every ref of this base.
    #[must_use]
    pub fn whole(&self, start: &[u8]) -> Refs {
        let mut refs: Refs = packed(start).collect();
        for (name, id) in &self.since {
            match id {
                Some(id) => drop(refs.insert(name.clone(), id.clone())),
                None => drop(refs.remove(name)),
            }
        }
        refs
    }

    /// What some refs were; one that is not in the answer was not there.
    #[must_use]
    pub fn values<'n>(&self, start: &[u8], names: impl Iterator<Item = &'n RefName>) -> Refs {
        let names: BTreeSet<&RefName> = names.collect();
        let packed = among(start, &names);
        let value =
            |name: &RefName| self.since.get(name).cloned().unwrap_or_else(|| packed.get(name).cloned());
        names.into_iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
    }
}

/// The few names that are asked for, out of a packed file of many.
fn among(start: &[u8], names: &BTreeSet<&RefName>) -> Refs {
    if names.len() <= FEW && start.starts_with(b"#") && first_line(start).ends_with(b" sorted ") {
        let found = names.iter().filter_map(|name| find(start, name.as_str().as_bytes()));
        return found.flat_map(packed).collect();
    }
    let wanted: BTreeSet<&[u8]> = names.iter().map(|name| name.as_str().as_bytes()).collect();
    let lines = start.split(|byte| *byte == b'\n');
    let named = lines.filter(|line| {
        let space = line.iter().position(|byte| *byte == b' ');
        space.is_some_and(|space| wanted.contains(&line[space + 1..]))
    });
    named.flat_map(packed).collect()
}

/// The line of a name in a packed file that says that it is sorted, as git looks for it.
fn find<'s>(start: &'s [u8], name: &[u8]) -> Option<&'s [u8]> {
    let (mut low, mut high) = (first_line(start).len() + 1, start.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let mut from = line_start(start, low, middle);
        // What a tag leads to has a line of its own, after the tag's.
        while from > low && start[from] == b'^' {
            from = line_start(start, low, from - 1);
        }
        let line = first_line(&start[from..]);
        match line.splitn(2, |byte| *byte == b' ').nth(1).map(|found| found.cmp(name)) {
            Some(Ordering::Equal) => return Some(line),
            Some(Ordering::Greater) => high = from,
            Some(Ordering::Less) | None => low = from + line.len() + 1,
        }
    }
    None
}

fn first_line(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())]
}

/// Where the line begins that a place is in, not before `low`, where one begins.
fn line_start(bytes: &[u8], low: usize, at: usize) -> usize {
    bytes[low..at].iter().rposition(|byte| *byte == b'\n').map_or(low, |found| low + found + 1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn what_changed_is_found_with_and_without_packing() {
        let temp = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(temp.path().join("refs/heads")).expect("mkdir");
        let start =
            format!("# pack-refs with: sorted \n{} refs/heads/a\n{} refs/heads/b\n", id('1'), id('2'));
        fs::write(temp.path().join("packed-refs"), &start).expect("writes");
        let side = Beneath::hostile(temp.path()).expect("opens");
        let base = Base::default();
        let changes = |base: &Base| base.changes(start.as_bytes(), &side).expect("reads");
        assert!(changes(&base).is_empty());
        fs::write(temp.path().join("refs/heads/a"), id('3')).expect("writes");
        fs::write(temp.path().join("refs/heads/new"), id('4')).expect("writes");
        fs::write(temp.path().join("refs/heads/half.lock"), id('4')).expect("writes");
        let found = changes(&base);
        let shown: Vec<&str> = found.keys().map(RefName::as_str).collect();
        assert_eq!(shown, ["refs/heads/a", "refs/heads/new"]);
        // Agreed on, then packed inside: nothing changed.
        let agreed = Base { since: found.clone() };
        assert!(changes(&agreed).is_empty());
        let packed =
            format!("{} refs/heads/a\n{} refs/heads/b\n{} refs/heads/new\n", id('3'), id('2'), id('4'));
        fs::write(temp.path().join("packed-refs"), packed).expect("writes");
        for name in ["a", "new"] {
            fs::remove_file(temp.path().join("refs/heads").join(name)).expect("removes");
        }
        assert!(changes(&agreed).is_empty());
        fs::write(temp.path().join("packed-refs"), format!("{} refs/heads/a\n", id('3'))).expect("writes");
        let gone = changes(&agreed);
        assert!(gone.len() == 2 && gone.values().all(Option::is_none), "{gone:?}");
    }

    #[test]
    fn a_name_is_found_in_a_sorted_file_of_any_length_among_tags() {
        let name = |n: usize| RefName::parse(format!("refs/tags/t{n:03}").as_bytes()).expect("a name");
        let absent = ["refs/heads/a", "refs/tags/t0005", "refs/z"];
        let absent = absent.map(|name| RefName::parse(name.as_bytes()).expect("a name"));
        for count in 0..40 {
            let lines: String = (0..count)
                .map(|n| {
                    let peeled = if n % 3 == 0 { format!("^{}\n", id('9')) } else { String::new() };
                    format!("{} {}\n{peeled}", id(char::from(b'0' + (n % 8) as u8)), name(n))
                })
                .collect();
            let sorted = format!("# pack-refs with: peeled fully-peeled sorted \n{lines}");
            let all: Refs = packed(sorted.as_bytes()).collect();
            assert_eq!(all.len(), count);
            for name in (0..count + 1).map(name).chain(absent.clone()) {
                let found = among(sorted.as_bytes(), &BTreeSet::from([&name]));
                assert_eq!(found.get(&name), all.get(&name), "{name} of {count}");
            }
            // One that does not say that it is sorted may have its lines in any order.
            let reversed: String = lines.lines().rev().map(|line| format!("{line}\n")).collect();
            let whole = |names: &BTreeSet<&RefName>| among(reversed.as_bytes(), names).len();
            assert_eq!(whole(&all.keys().collect()), count);
        }
    }

    #[test]
    fn a_head_is_a_branch_or_a_commit_and_nothing_else() {
        assert!(matches!(Head::parse(b"ref: refs/heads/x\n"), Some(Head::Branch(_))));
        assert!(matches!(Head::parse(id('a').as_bytes()), Some(Head::Detached(_))));
        for bad in ["ref: ../../x", "ref: HEAD", "x", "", "ref: refs/heads/../x"] {
            assert_eq!(Head::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
