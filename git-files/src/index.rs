//! The index, `gitformat-index(5)`, versions 2 to 4: read, compared, and written with a few entries changed.
//!
//! Comes in: bytes of either side. Goes out: changes by path, and a whole index for the other side. A crate would bring
//! a second git; what is needed is the list of entries, and that a path of the session never names a `.git`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use keyhatch_protocol::{ObjectFormat, ObjectId};
use serde::{Deserialize, Serialize};
use sha1::Digest;
use thiserror::Error;

/// Largest index that is read: some five million files.
pub const MAX_INDEX: u64 = 512 * 1024 * 1024;
/// Stat data of an entry: ten numbers of four bytes, the mode among them.
const STAT: usize = 40;
const MODE_AT: usize = 24;
const EXTENDED: u16 = 0x4000;
const ASSUME_VALID: u16 = 0x8000;
const STAGE: u16 = 0x3000;
const NAME_LENGTH: u16 = 0x0fff;
const SKIP_WORKTREE: u16 = 0x4000;
const INTENT_TO_ADD: u16 = 0x2000;
/// The mode of a submodule's commit.
pub const GITLINK: u32 = 0o160_000;
/// The mode of a directory in a sparse index.
const SPARSE_DIRECTORY: u32 = 0o040_000;

/// Bytes that are no index we can work with.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IndexError {
    /// Not an index, or cut off.
    #[error("the index is malformed")]
    Malformed,
    /// An index in two files.
    #[error("the index is split over two files")]
    Split,
}

/// What an entry says, without what the file system said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracked {
    /// Its mode.
    pub mode: u32,
    /// Its object.
    pub id: ObjectId,
    /// assume-unchanged.
    pub assume_valid: bool,
    /// Skipped by a sparse checkout.
    pub skip_worktree: bool,
    /// `git add --intent-to-add`.
    pub intent_to_add: bool,
}

/// Where an entry stands: path, then stage.
pub type Place = (Vec<u8>, u8);
/// How one index differs from another; none for an entry that is gone.
pub type Changes = BTreeMap<Place, Option<Tracked>>;

/// One entry, as it lies in the file.
#[derive(Debug, Clone)]
struct Entry<'a> {
    stat: [u8; STAT],
    id: &'a [u8],
    flags: u16,
    extended: u16,
    path: Cow<'a, [u8]>,
}

impl Entry<'_> {
    fn stage(&self) -> u8 {
        u8::try_from((self.flags & STAGE) >> 12).unwrap_or(0)
    }

    fn mode(&self) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| self.stat[MODE_AT + at]);
        u32::from_be_bytes([a, b, c, d])
    }

    fn order(&self, other: &Entry<'_>) -> Ordering {
        self.path.cmp(&other.path).then(self.stage().cmp(&other.stage()))
    }

    fn same(&self, other: &Entry<'_>) -> bool {
        let kept = ASSUME_VALID | STAGE;
        self.mode() == other.mode()
            && self.id == other.id
            && self.flags & kept == other.flags & kept
            && self.extended == other.extended
    }

    fn place(&self) -> Place {
        (self.path.to_vec(), self.stage())
    }

    fn tracked(&self) -> Option<Tracked> {
        let hex: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Tracked {
            mode: self.mode(),
            id: ObjectId::parse(&hex).ok()?,
            assume_valid: self.flags & ASSUME_VALID != 0,
            skip_worktree: self.extended & SKIP_WORKTREE != 0,
            intent_to_add: self.extended & INTENT_TO_ADD != 0,
        })
    }
}

/// The entries of an index, in its order.
struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
    version: u32,
    hash: usize,
    previous: Vec<u8>,
}

impl<'a> Entries<'a> {
    /// An index that is not there is an empty one.
    fn of(bytes: &'a [u8], format: ObjectFormat) -> Result<Self, IndexError> {
        let hash = format.digits() / 2;
        if bytes.is_empty() {
            return Ok(Self { bytes, at: 0, left: 0, version: 2, hash, previous: Vec::new() });
        }
        let version = number(bytes, 4)?;
        if bytes.get(..4) != Some(b"DIRC") || !matches!(version, 2..=4) {
            return Err(IndexError::Malformed);
        }
        Ok(Self { bytes, at: 12, left: number(bytes, 8)?, version, hash, previous: Vec::new() })
    }

    fn next(&mut self) -> Result<Option<Entry<'a>>, IndexError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let start = self.at;
        let body = self.bytes.get(start..).ok_or(IndexError::Malformed)?;
        let stat = body.get(..STAT).and_then(|s| s.try_into().ok()).ok_or(IndexError::Malformed)?;
        let id = body.get(STAT..STAT + self.hash).ok_or(IndexError::Malformed)?;
        let flags = short(body, STAT + self.hash)?;
        let mut head = STAT + self.hash + 2;
        let mut extended = 0;
        if flags & EXTENDED != 0 {
            extended = short(body, head)? & (SKIP_WORKTREE | INTENT_TO_ADD);
            head += 2;
        }
        let rest = body.get(head..).ok_or(IndexError::Malformed)?;
        let path = if self.version == 4 {
            self.compressed(rest, start + head)?
        } else {
            self.padded(rest, head, start)?
        };
        Ok(Some(Entry { stat, id, flags: flags & !EXTENDED, extended, path }))
    }

    fn padded(&mut self, rest: &'a [u8], head: usize, start: usize) -> Result<Cow<'a, [u8]>, IndexError> {
        let length = rest.iter().position(|byte| *byte == 0).ok_or(IndexError::Malformed)?;
        // One to eight NUL bytes, so that the entry's length is a multiple of eight.
        self.at = start + (head + length + 8) / 8 * 8;
        Ok(Cow::Borrowed(&rest[..length]))
    }

    fn compressed(&mut self, rest: &'a [u8], at: usize) -> Result<Cow<'a, [u8]>, IndexError> {
        let (strip, used) = varint(rest)?;
        let suffix = &rest[used..];
        let length = suffix.iter().position(|byte| *byte == 0).ok_or(IndexError::Malformed)?;
        let keep = self.previous.len().checked_sub(strip).ok_or(IndexError::Malformed)?;
        self.previous.truncate(keep);
        self.previous.extend_from_slice(&suffix[..length]);
        self.at = at + used + length + 1;
        Ok(Cow::Owned(self.previous.clone()))
    }

    /// The extensions, after the last entry: names and content.
    fn extensions(&self) -> Vec<(&'a [u8], &'a [u8])> {
        let end = self.bytes.len().saturating_sub(self.hash);
        let mut found = Vec::new();
        let mut at = self.at;
        while let (Some(name), Ok(size)) = (self.bytes.get(at..at + 4), number(self.bytes, at + 4)) {
            let from = at + 8;
            let to = from.saturating_add(size as usize);
            let Some(content) = self.bytes.get(from..to).filter(|_| to <= end) else { break };
            found.push((name, content));
            at = to;
        }
        found
    }
}

/// Reads an index of ours, or packed refs. One that is not there is empty; one that cannot be read is not: taken for that, it
/// would say that the session or the user added every file.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// How `new` differs from `old`.
///
/// # Errors
/// When either is no index, or `new` is in two files.
pub fn compare(old: &[u8], new: &[u8], format: ObjectFormat) -> Result<Changes, IndexError> {
    let mut changes = Changes::new();
    if old == new {
        return Ok(changes);
    }
    let (mut olds, mut news) = (Entries::of(old, format)?, Entries::of(new, format)?);
    let (mut was, mut is) = (olds.next()?, news.next()?);
    loop {
        let order = match (&was, &is) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.order(is),
        };
        if order == Ordering::Less {
            changes.extend(was.as_ref().map(|entry| (entry.place(), None)));
        } else if let Some(entry) = &is
            && !was.as_ref().is_some_and(|was| order == Ordering::Equal && was.same(entry))
        {
            changes.insert(entry.place(), Some(entry.tracked().ok_or(IndexError::Malformed)?));
        }
        if order != Ordering::Greater {
            was = olds.next()?;
        }
        if order != Ordering::Less {
            is = news.next()?;
        }
    }
    if news.extensions().iter().any(|(name, _)| *name == b"link") {
        return Err(IndexError::Split);
    }
    Ok(changes)
}

/// Writes `bytes` with changes: what did not change keeps its stat data, what did has none, so that git looks at the
/// file itself. Caches (tree, untracked, file system monitor) are left out: git makes them again.
///
/// # Errors
/// When it is no index, or is in two files.
pub fn apply(bytes: &[u8], changes: &Changes, format: ObjectFormat) -> Result<Vec<u8>, IndexError> {
    let mut entries = Entries::of(bytes, format)?;
    let mut whole: BTreeMap<Place, Written> = BTreeMap::new();
    while let Some(entry) = entries.next()? {
        let written =
            Written { stat: entry.stat, id: entry.id.to_vec(), flags: entry.flags, extended: entry.extended };
        whole.insert(entry.place(), written);
    }
    if entries.extensions().iter().any(|(name, _)| *name == b"link") {
        return Err(IndexError::Split);
    }
    for (place, change) in changes {
        match change {
            None => drop(whole.remove(place)),
            Some(tracked) => drop(whole.insert(place.clone(), Written::of(place.1, tracked))),
        }
    }
    Ok(render(entries.version, &whole, format))
}

/// The paths of submodules in an index.
///
/// # Errors
/// When it is no index.
pub fn gitlinks(bytes: &[u8], format: ObjectFormat) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut entries = Entries::of(bytes, format)?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next()? {
        if entry.mode() == GITLINK {
            found.push(entry.path.to_vec());
        }
    }
    Ok(found)
}

/// Looks for submodules in an index that goes by in pieces: for the mode of one where an entry of versions 2 and 3 may
/// have its mode. Those begin at multiples of eight after the header. Most large indexes have none, and need no reading.
#[derive(Debug, Default)]
pub struct GitlinkSearch {
    begun: bool,
    possible: bool,
}

impl GitlinkSearch {
    /// Looks at the next piece. All but the last are a multiple of eight long.
    pub fn look(&mut self, piece: &[u8]) {
        let compressed = !self.begun && number(piece, 4) == Ok(4);
        self.begun = true;
        let mode = |eight: &[u8]| eight[4..] == GITLINK.to_be_bytes();
        self.possible = self.possible || compressed || piece.chunks_exact(8).any(mode);
    }

    /// Whether there may be one.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.possible
    }
}

/// Whether a path of the session may stand in the host's index, by the rules of git's own `verify_path`: whoever checks
/// it out must not write into a git directory, or out of the tree.
#[must_use]
pub fn is_harmless_path(path: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(path) else {
        return !path.to_ascii_lowercase().windows(4).any(|w| w == b".git");
    };
    let seen: String = text.chars().filter(|c| !keyhatch_protocol::text::is_invisible(*c)).collect();
    let legal = |part: &str| {
        let part = part.to_ascii_lowercase();
        let bare = part.trim_end_matches(['.', ' ']);
        !matches!(part.as_str(), "" | "." | "..")
            && bare != ".git"
            && bare != "git~1"
            && !part.starts_with(".git:")
    };
    !text.contains('\0') && seen.split(['/', '\\']).all(legal) && text.split('/').all(legal)
}

struct Written {
    stat: [u8; STAT],
    id: Vec<u8>,
    flags: u16,
    extended: u16,
}

impl Written {
    fn of(stage: u8, tracked: &Tracked) -> Self {
        let mut stat = [0; STAT];
        stat[MODE_AT..MODE_AT + 4].copy_from_slice(&tracked.mode.to_be_bytes());
        let hex = tracked.id.as_str().as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
        let id = hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
        let mut flags = u16::from(stage & 3) << 12;
        let mut extended = 0;
        for (set, flag) in [(tracked.skip_worktree, SKIP_WORKTREE), (tracked.intent_to_add, INTENT_TO_ADD)] {
            extended |= if set { flag } else { 0 };
        }
        flags |= if tracked.assume_valid { ASSUME_VALID } else { 0 };
        Self { stat, id, flags, extended }
    }
}

fn render(version: u32, entries: &BTreeMap<Place, Written>, format: ObjectFormat) -> Vec<u8> {
    let any_extended = entries.values().any(|entry| entry.extended != 0);
    let version = if version == 4 { 4 } else { 2 + u32::from(any_extended) };
    let mut out = b"DIRC".to_vec();
    out.extend(version.to_be_bytes());
    out.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    let mut previous: &[u8] = b"";
    let mut sparse = false;
    for ((path, _), entry) in entries {
        let start = out.len();
        out.extend(entry.stat);
        out.extend(&entry.id);
        let length = u16::try_from(path.len()).unwrap_or(NAME_LENGTH).min(NAME_LENGTH);
        let extended = if entry.extended == 0 { 0 } else { EXTENDED };
        out.extend((entry.flags & !NAME_LENGTH | length | extended).to_be_bytes());
        if entry.extended != 0 {
            out.extend(entry.extended.to_be_bytes());
        }
        if version == 4 {
            let common = path.iter().zip(previous).take_while(|(a, b)| a == b).count();
            write_varint(&mut out, previous.len() - common);
            out.extend(&path[common..]);
            out.push(0);
            previous = path;
        } else {
            out.extend(path);
            let length = out.len() - start;
            out.resize(start + (length + 8) / 8 * 8, 0);
        }
        sparse |= entry.stat[MODE_AT..MODE_AT + 4] == SPARSE_DIRECTORY.to_be_bytes();
    }
    if sparse {
        out.extend(b"sdir\0\0\0\0");
    }
    match format {
        ObjectFormat::Sha1 => out.extend(sha1::Sha1::digest(&out).to_vec()),
        ObjectFormat::Sha256 => out.extend(sha2::Sha256::digest(&out).to_vec()),
    }
    out
}

/// The offset encoding of `gitformat-pack(5)`, which version 4 uses for the length that is cut.
fn varint(bytes: &[u8]) -> Result<(usize, usize), IndexError> {
    let mut value = 0usize;
    for (at, byte) in bytes.iter().enumerate().take(8) {
        value = (value << 7) | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
        value += 1;
    }
    Err(IndexError::Malformed)
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    let mut bytes = vec![u8::try_from(value & 0x7f).unwrap_or(0)];
    while value >> 7 != 0 {
        value = (value >> 7) - 1;
        bytes.push(0x80 | u8::try_from(value & 0x7f).unwrap_or(0));
    }
    bytes.reverse();
    out.extend(bytes);
}

fn number(bytes: &[u8], at: usize) -> Result<u32, IndexError> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(IndexError::Malformed)?;
    Ok(u32::from_be_bytes(four))
}

fn short(bytes: &[u8], at: usize) -> Result<u16, IndexError> {
    let two = bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).ok_or(IndexError::Malformed)?;
    Ok(u16::from_be_bytes(two))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn git(directory: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(directory)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", "user.name=a", "-c", "user.email=a@b"])
            .args(arguments)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Every version that git writes is read, and what is written git reads the same.
    #[test]
    fn an_index_with_changes_applied_is_the_one_that_git_would_have_made() {
        for (version, format) in
            [("2", ObjectFormat::Sha1), ("3", ObjectFormat::Sha256), ("4", ObjectFormat::Sha1)]
        {
            let temp = tempfile::tempdir().expect("tempdir");
            let at = temp.path();
            git(at, &["init", "-q", "--object-format", format.name()]);
            for name in ["a", "dir", "dir/b", "dir/c", "dir.x", "z".repeat(300).get(..200).expect("long")] {
                if name == "dir" {
                    fs::create_dir(at.join(name)).expect("mkdir");
                } else {
                    fs::write(at.join(name), name).expect("writes");
                }
            }
            git(at, &["add", "."]);
            git(at, &["update-index", "--index-version", version]);
            let before = fs::read(at.join(".git/index")).expect("reads");
            fs::write(at.join("a"), "changed").expect("writes");
            fs::write(at.join("new"), "new").expect("writes");
            git(at, &["add", "a", "new"]);
            git(at, &["rm", "-q", "--cached", "dir/b"]);
            git(at, &["update-index", "--skip-worktree", "dir/c"]);
            git(at, &["update-index", "--assume-unchanged", "dir.x"]);
            let after = fs::read(at.join(".git/index")).expect("reads");
            let changes = compare(&before, &after, format).expect("compares");
            assert_eq!(changes.len(), 5, "{changes:?}");
            let listed = git(at, &["ls-files", "--stage", "-v", "-t"]);
            let made = apply(&before, &changes, format).expect("applies");
            assert!(compare(&made, &after, format).expect("compares").is_empty());
            fs::write(at.join(".git/index"), made).expect("writes");
            assert_eq!(git(at, &["ls-files", "--stage", "-v", "-t"]), listed, "version {version}");
            git(at, &["fsck"]);
            assert_eq!(git(at, &["diff", "--name-only"]), "", "the files are looked at again");
        }
    }

    #[test]
    fn submodules_are_found_and_cut_bytes_are_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        git(temp.path(), &["init", "-q"]);
        let link = format!("160000,{},sub/m", "1".repeat(40));
        git(temp.path(), &["update-index", "--add", "--cacheinfo", &link]);
        let bytes = fs::read(temp.path().join(".git/index")).expect("reads");
        assert_eq!(gitlinks(&bytes, ObjectFormat::Sha1).expect("reads"), [b"sub/m".to_vec()]);
        for cut in [5, 11, 30, 70] {
            assert!(gitlinks(&bytes[..cut], ObjectFormat::Sha1).is_err(), "{cut}");
        }
        assert!(compare(b"", b"nonsense", ObjectFormat::Sha1).is_err());
    }

    #[test]
    fn the_quick_look_misses_no_submodule_behind_names_of_any_length() {
        for (format, digits) in [("sha1", 40), ("sha256", 64)] {
            let temp = tempfile::tempdir().expect("tempdir");
            git(temp.path(), &["init", "-q", "--object-format", format]);
            let may_have = || {
                let mut search = GitlinkSearch::default();
                let index = fs::read(temp.path().join(".git/index")).unwrap_or_default();
                index.chunks(64).for_each(|piece| search.look(piece));
                search.is_possible()
            };
            for length in 1..=17 {
                fs::write(temp.path().join("a".repeat(length)), "x").expect("writes");
                git(temp.path(), &["add", "."]);
                assert!(!may_have(), "{length}");
                let link = format!("160000,{},z/m", "1".repeat(digits));
                git(temp.path(), &["update-index", "--add", "--cacheinfo", &link]);
                for version in ["2", "3", "4"] {
                    git(temp.path(), &["update-index", "--index-version", version]);
                    assert!(may_have(), "{length} {version}");
                }
                git(temp.path(), &["update-index", "--index-version", "2"]);
                git(temp.path(), &["update-index", "--force-remove", "z/m"]);
            }
        }
    }

    #[test]
    fn a_path_into_a_git_directory_is_never_harmless() {
        for good in ["a", "a/b", ".gitignore", ".github/x", "a.git/b", ".gitmodules"] {
            assert!(is_harmless_path(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a//b",
            "../a",
            "a/./b",
            ".git",
            ".git/hooks/x",
            "a/.GIT/config",
            "a\\.git\\x",
            "git~1/x",
            ".g\u{200c}it/x",
            ".git./x",
            ".git /x",
            ".git::$INDEX_ALLOCATION/x",
        ] {
            assert!(!is_harmless_path(bad.as_bytes()), "{bad}");
        }
        assert!(!is_harmless_path(b"\xff/.git/x"));
    }
}
