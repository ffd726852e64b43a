//! Raw objects and packs, gitformat-pack(5): as git writes them, or as it never would.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use keyhatch_protocol::ObjectFormat;
use sha1::Digest as _;

/// A file's mode in a tree.
pub const FILE: &str = "100644";
/// A directory's mode.
pub const DIRECTORY: &str = "40000";
/// A symbolic link's mode.
pub const LINK: &str = "120000";
/// A submodule's mode.
pub const SUBMODULE: &str = "160000";

/// The four kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A commit.
    Commit,
    /// A directory.
    Tree,
    /// A file's content.
    Blob,
    /// An annotated tag.
    Tag,
}

impl Kind {
    /// Its word in an object's header.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tree => "tree",
            Self::Blob => "blob",
            Self::Tag => "tag",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Commit => 1,
            Self::Tree => 2,
            Self::Blob => 3,
            Self::Tag => 4,
        }
    }
}

/// One line of a tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its mode, as it is written.
    pub mode: String,
    /// Its name: any bytes.
    pub name: Vec<u8>,
    /// What it names.
    pub oid: String,
}

impl Entry {
    /// An ordinary file.
    #[must_use]
    pub fn file(name: &str, oid: &str) -> Self {
        Self::of(FILE, name, oid)
    }

    /// A directory.
    #[must_use]
    pub fn directory(name: &str, oid: &str) -> Self {
        Self::of(DIRECTORY, name, oid)
    }

    /// A symbolic link; its object holds the target.
    #[must_use]
    pub fn link(name: &str, oid: &str) -> Self {
        Self::of(LINK, name, oid)
    }

    /// A submodule at a commit of another repository.
    #[must_use]
    pub fn submodule(name: &str, oid: &str) -> Self {
        Self::of(SUBMODULE, name, oid)
    }

    /// Any entry.
    #[must_use]
    pub fn of(mode: &str, name: &str, oid: &str) -> Self {
        Self { mode: mode.to_owned(), name: name.as_bytes().to_vec(), oid: oid.to_owned() }
    }
}

/// What a commit says.
#[derive(Debug, Clone)]
pub struct CommitText {
    /// Its tree.
    pub tree: String,
    /// Its parents, first one first.
    pub parents: Vec<String>,
    /// `NAME <EMAIL>` of author and committer.
    pub person: String,
    /// Seconds since the epoch, of author and committer.
    pub time: i64,
    /// Header lines after the committer, each with its newline.
    pub more: String,
    /// The message.
    pub message: String,
}

impl CommitText {
    /// An ordinary commit.
    #[must_use]
    pub fn new(tree: &str, parents: &[&str], message: &str) -> Self {
        Self {
            tree: tree.to_owned(),
            parents: parents.iter().map(|parent| (*parent).to_owned()).collect(),
            person: "Mallory <mallory@example.org>".to_owned(),
            time: 1_700_000_100,
            more: String::new(),
            message: message.to_owned(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { tree, parents, person, time, more, message } = self;
        let parents: String = parents.iter().map(|parent| format!("parent {parent}\n")).collect();
        format!(
            "tree {tree}\n{parents}author {person} {time} +0000\ncommitter {person} {time} +0000\n{more}\n{message}\n"
        )
        .into_bytes()
    }
}

#[derive(Debug, Clone)]
enum Stored {
    Whole(Kind, Vec<u8>),
    /// As a delta of an object that may be in the pack or not.
    Delta {
        base: String,
        instructions: Vec<u8>,
    },
}

/// Objects of one pack, in the order in which they were made.
#[derive(Debug, Clone)]
pub struct Objects {
    format: ObjectFormat,
    order: Vec<String>,
    stored: BTreeMap<String, Stored>,
}

impl Objects {
    /// None yet.
    #[must_use]
    pub const fn new(format: ObjectFormat) -> Self {
        Self { format, order: Vec::new(), stored: BTreeMap::new() }
    }

    /// Adds an object of any bytes, and returns its name.
    pub fn raw(&mut self, kind: Kind, content: &[u8]) -> String {
        let oid = oid_of(self.format, kind, content);
        self.store(oid, Stored::Whole(kind, content.to_vec()))
    }

    fn store(&mut self, oid: String, stored: Stored) -> String {
        if self.stored.insert(oid.clone(), stored).is_none() {
            self.order.push(oid.clone());
        }
        oid
    }

    /// Adds a file's content.
    pub fn blob(&mut self, content: impl AsRef<[u8]>) -> String {
        self.raw(Kind::Blob, content.as_ref())
    }

    /// Adds a tree with its entries in the order that they are given: git wants them sorted.
    pub fn tree(&mut self, entries: &[Entry]) -> String {
        let bytes = tree_bytes(entries);
        self.raw(Kind::Tree, &bytes)
    }

    /// Adds a tree that holds files at paths, with the directories in between, sorted as git wants them.
    pub fn files(&mut self, files: &[(&str, &str)]) -> String {
        let mut directories: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        for (path, content) in files {
            match path.split_once('/') {
                Some((directory, rest)) => directories.entry(directory).or_default().push((rest, content)),
                None => entries.push(Entry::file(path, &self.blob(content))),
            }
        }
        for (name, inside) in directories {
            let tree = self.files(&inside);
            entries.push(Entry::directory(name, &tree));
        }
        entries.sort_by_key(|entry| {
            let slash = if entry.mode == DIRECTORY { "/" } else { "" };
            [&entry.name[..], slash.as_bytes()].concat()
        });
        self.tree(&entries)
    }

    /// Adds a commit.
    pub fn commit(&mut self, text: &CommitText) -> String {
        self.raw(Kind::Commit, &text.bytes())
    }

    /// Adds an annotated tag of any object.
    pub fn tag(&mut self, name: &str, target: (&str, Kind), message: &str) -> String {
        let (oid, kind) = target;
        let text = format!(
            "object {oid}\ntype {}\ntag {name}\ntagger Mallory <mallory@example.org> 1700000100 +0000\n\n{message}\n",
            kind.word()
        );
        self.raw(Kind::Tag, text.as_bytes())
    }

    /// Adds trees of which each holds the next one many times: few bytes that stand for `width` to the power of `levels`
    /// paths. Returns the outermost.
    pub fn tree_bomb(&mut self, levels: usize, width: usize, file: &str) -> String {
        let blob = self.blob(file);
        let mut inner = self.tree(&[Entry::file("x", &blob)]);
        for _ in 0..levels {
            let entry = |n: usize| Entry::directory(&format!("d{n:04}"), &inner);
            let entries: Vec<Entry> = (0..width).map(entry).collect();
            inner = self.tree(&entries);
        }
        inner
    }

    /// Adds an object as a delta (gitformat-pack(5), "Deltified representation") of another of the same kind. The base
    /// need not be in the pack. `instructions` are those of the format, without the sizes before them.
    pub fn delta(&mut self, base: (&str, &[u8], Kind), content: &[u8], instructions: &[u8]) -> String {
        let (base_oid, base_content, kind) = base;
        let oid = oid_of(self.format, kind, content);
        let mut bytes = size(base_content.len());
        bytes.extend(size(content.len()));
        bytes.extend_from_slice(instructions);
        self.store(oid, Stored::Delta { base: base_oid.to_owned(), instructions: bytes })
    }

    /// Leaves an object out of the pack: what names it stays.
    pub fn leave_out(&mut self, oid: &str) {
        self.stored.remove(oid);
        self.order.retain(|known| known != oid);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The pack.
    ///
    /// # Panics
    /// Never: it is written to memory.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let count = u32::try_from(self.order.len()).expect("a count of 32 bits");
        let mut pack = b"PACK\0\0\0\x02".to_vec();
        pack.extend_from_slice(&count.to_be_bytes());
        for oid in &self.order {
            match &self.stored[oid] {
                Stored::Whole(kind, content) => {
                    pack.extend(header(kind.number(), content.len()));
                    pack.extend(deflated(content));
                }
                Stored::Delta { base, instructions } => {
                    // A delta by its base's name.
                    pack.extend(header(7, instructions.len()));
                    pack.extend(bytes_of(base));
                    pack.extend(deflated(instructions));
                }
            }
        }
        let sum = digest(self.format, &[&pack]);
        pack.extend(sum);
        pack
    }
}

/// An object's name.
#[must_use]
pub fn oid_of(format: ObjectFormat, kind: Kind, content: &[u8]) -> String {
    let head = format!("{} {}\0", kind.word(), content.len());
    digest(format, &[head.as_bytes(), content]).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(format: ObjectFormat, parts: &[&[u8]]) -> Vec<u8> {
    match format {
        ObjectFormat::Sha1 => {
            let mut hasher = sha1::Sha1::new();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize().to_vec()
        }
        ObjectFormat::Sha256 => {
            let mut hasher = sha2::Sha256::new();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finalize().to_vec()
        }
    }
}

fn tree_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Entry { mode, name, oid } in entries {
        bytes.extend_from_slice(mode.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend(bytes_of(oid));
    }
    bytes
}

fn bytes_of(oid: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&oid[at..at + 2], 16).expect("an object's name");
    (0..oid.len()).step_by(2).map(digit).collect()
}

/// Type and size of an entry: four bits of the size, then seven a byte.
fn header(kind: u8, length: usize) -> Vec<u8> {
    let mut rest = length >> 4;
    let mut bytes = vec![(kind << 4) | (length & 0x0f) as u8];
    while rest > 0 {
        if let Some(last) = bytes.last_mut() {
            *last |= 0x80;
        }
        bytes.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes
}

/// A delta's sizes: seven bits a byte, the lowest first.
fn size(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_git_gives() {
        let mut objects = Objects::new(ObjectFormat::Sha1);
        assert_eq!(objects.blob("hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(objects.tree(&[]), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        assert_eq!(objects.count(), 2);
        assert!(objects.pack().starts_with(b"PACK\0\0\0\x02\0\0\0\x02"));
    }
}
