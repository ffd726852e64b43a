//! The quarantine: a fresh bare repository that holds the pushed pack and borrows the host's objects.
//!
//! git2 indexes the pack for our own walks, and git's `index-pack` with fsck judges it beside that, in the same
//! confinement. Both stop at the policy's limits.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use git2::{Indexer, ObjectFormat as GitFormat, Oid, Repository, RepositoryInitOptions};
use keyhatch_protocol::{ObjectFormat, ObjectId, Risk, RiskKind};

use super::child::failed;
use super::{Order, Refusal, base_packs};

/// One read of the spool.
const CHUNK: usize = 256 * 1024;
/// Most of git's words that are read.
const MAX_SAID: u64 = 64 * 1024;
/// git's warnings that are shown as risks.
const MAX_WARNINGS: usize = 20;

/// The pack, indexed.
pub(super) struct Quarantine {
    /// The repository with the pack and the host's objects.
    pub(super) repository: Repository,
    /// The objects of the pack itself. Ordered sets of names everywhere here: git2's `Hash` for a name reads all 32
    /// bytes, of which libgit2 leaves 12 undefined where the name is a SHA-1 that it read from a tree.
    pub(super) pack: BTreeSet<Oid>,
    /// How many the pack says it has.
    pub(super) objects: u64,
    /// The pack's size.
    pub(super) bytes: u64,
    /// What git's own checks warn about.
    pub(super) risks: Vec<Risk>,
    format: ObjectFormat,
}

impl Quarantine {
    /// One around a repository that a test made.
    #[cfg(test)]
    pub(super) fn of(repository: Repository, format: ObjectFormat) -> Self {
        Self { repository, pack: BTreeSet::new(), objects: 0, bytes: 0, risks: Vec::new(), format }
    }

    /// One that holds nothing and borrows everything.
    pub(super) fn borrowing(order: &Order) -> Result<Self, Refusal> {
        let repository = init(order).map_err(|error| failed("the quarantine", error))?;
        Ok(Self {
            repository,
            pack: BTreeSet::new(),
            objects: 0,
            bytes: 0,
            risks: Vec::new(),
            format: order.object_format,
        })
    }

    /// Indexes the pack, if there is one.
    pub(super) fn index(order: &Order, spool: &File) -> Result<Self, Refusal> {
        let mut quarantine = Self::borrowing(order)?;
        quarantine.take_bases(order)?;
        let Some(offset) = order.pack_offset else { return Ok(quarantine) };
        quarantine.objects = objects_claimed(spool, offset)?;
        if quarantine.objects > order.limits.objects {
            return Err(Refusal::TooManyObjects { objects: quarantine.objects, limit: order.limits.objects });
        }
        let fsck = Fsck::start(order, spool, offset)?;
        let packs = quarantine.repository.path().join("objects/pack");
        quarantine.bytes = index(spool, offset, &packs, order.object_format)?;
        quarantine.pack = listed(&packs, order.object_format)?;
        quarantine.risks = fsck.finish()?;
        Ok(quarantine)
    }

    /// Indexes what upstream sent into a store of its own: what it holds was not pushed.
    fn take_bases(&self, order: &Order) -> Result<(), Refusal> {
        let packs = base_packs(&order.quarantine);
        for base in &order.bases {
            let lost = |error: io::Error| failed("upstream's objects", error);
            index(&File::open(base).map_err(lost)?, 0, &packs, order.object_format)?;
        }
        Ok(())
    }

    /// An object's name as libgit2 has it.
    pub(super) fn oid(&self, id: &ObjectId) -> Result<Oid, Refusal> {
        Oid::from_str_ext(id.as_str(), format(self.format)).map_err(|error| failed("an object's name", error))
    }

    /// An object's name as ours.
    pub(super) fn id(oid: Oid) -> Result<ObjectId, Refusal> {
        ObjectId::parse(&oid.to_string()).map_err(|error| failed("an object's name", error))
    }

    /// Whether the pack or the host has it.
    pub(super) fn has(&self, oid: Oid) -> bool {
        self.pack.contains(&oid) || self.repository.odb().is_ok_and(|odb| odb.exists(oid))
    }
}

const fn format(format: ObjectFormat) -> GitFormat {
    match format {
        ObjectFormat::Sha1 => GitFormat::Sha1,
        ObjectFormat::Sha256 => GitFormat::Sha256,
    }
}

fn init(order: &Order) -> Result<Repository, git2::Error> {
    // Nothing of the user's configuration is read: the search paths lead nowhere.
    for level in [git2::ConfigLevel::System, git2::ConfigLevel::Global, git2::ConfigLevel::XDG] {
        git2_search_path(level)?;
    }
    let path = order.quarantine.join("repository.git");
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).object_format(format(order.object_format));
    let repository = Repository::init_opts(&path, &options)?;
    let bases = base_packs(&order.quarantine);
    let alternates = alternates(order);
    fs::create_dir_all(&bases)
        .and_then(|()| fs::write(path.join("objects/info/alternates"), alternates))
        .map_err(|error| git2::Error::from_str(&error.to_string()))?;
    drop(repository);
    Repository::open_bare(&path)
}

/// The object stores that may hold what the pack builds on, as gitrepository-layout(5) lists alternates.
fn alternates(order: &Order) -> String {
    let bases = order.quarantine.join("bases");
    order.objects.iter().chain([&bases]).map(|store| format!("{}\n", store.display())).collect()
}

/// Points libgit2's search for configuration at nothing.
fn git2_search_path(level: git2::ConfigLevel) -> Result<(), git2::Error> {
    crate::sys::forget_search_path(level)
}

/// The object count of a pack's header, gitformat-pack(5): `PACK`, version, count, each four bytes.
fn objects_claimed(spool: &File, offset: u64) -> Result<u64, Refusal> {
    let mut header = [0; 12];
    spool.read_exact_at(&mut header, offset).map_err(|_| Refusal::Malformed)?;
    match header {
        [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, a, b, c, d] => Ok(u32::from_be_bytes([a, b, c, d]).into()),
        _ => Err(Refusal::Malformed),
    }
}

/// Indexes with git2. Without an object database: the pack is whole, and with one libgit2's time grows badly.
fn index(spool: &File, offset: u64, packs: &Path, object_format: ObjectFormat) -> Result<u64, Refusal> {
    let mut indexer = Indexer::new_ext(None, packs, 0o400, false, format(object_format))
        .map_err(|error| failed("the indexer", error))?;
    let mut buffer = vec![0; CHUNK];
    let mut at = offset;
    loop {
        let read = spool.read_at(&mut buffer, at).map_err(|error| failed("the spool", error))?;
        if read == 0 {
            break;
        }
        indexer.write_all(&buffer[..read]).map_err(|_| Refusal::Malformed)?;
        at += read as u64;
    }
    indexer.commit().map_err(|_| Refusal::Malformed)?;
    Ok(at - offset)
}

/// The names in the index that was written, gitformat-pack(5) version 2: 8 bytes of header, 256 counts, then names.
/// Read here because libgit2 lists a packed SHA-256 store wrongly, and would list the host's objects too.
fn listed(packs: &Path, object_format: ObjectFormat) -> Result<BTreeSet<Oid>, Refusal> {
    let lost = |error: io::Error| failed("the pack's index", error);
    let entries = fs::read_dir(packs).map_err(lost)?;
    let is_index = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "idx");
    let file = entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_index);
    let Some(file) = file else { return Ok(BTreeSet::new()) };
    let mut reader = io::BufReader::new(File::open(file).map_err(lost)?);
    let mut head = [0; 8 + 256 * 4];
    reader.read_exact(&mut head).map_err(lost)?;
    let count = u32::from_be_bytes([head[1028], head[1029], head[1030], head[1031]]);
    let mut name = vec![0; object_format.digits() / 2];
    (0..count)
        .map(|_| {
            reader.read_exact(&mut name).map_err(lost)?;
            Oid::from_bytes(&name).map_err(|error| failed("an object's name", error))
        })
        .collect()
}

/// git's own judgement of the pack, running beside ours; where ours ends first, it ends with this process.
struct Fsck {
    child: Child,
}

impl Fsck {
    fn start(order: &Order, spool: &File, offset: u64) -> Result<Self, Refusal> {
        let lost = |error: io::Error| failed("git index-pack", error);
        let directory = order.quarantine.join("fsck.git");
        bare(&directory, order.object_format)
            .and_then(|()| fs::write(directory.join("objects/info/alternates"), alternates(order)))
            .map_err(lost)?;
        let mut pack = spool.try_clone().map_err(lost)?;
        // The offset is shared with the other descriptors of the spool; they all read at positions of their own.
        pack.seek(SeekFrom::Start(offset)).map_err(lost)?;
        let child = git()
            // Blobs beyond this are streamed, and deltas are resolved within little memory.
            .args([
                "-c",
                "core.bigFileThreshold=1m",
                "-c",
                "core.deltaBaseCacheLimit=8m",
                "-c",
                "pack.threads=1",
            ])
            .arg("-C")
            .arg(&directory)
            // Not --strict: its check of links refuses what builds on objects that only upstream has; our own walk
            // looks at links.
            .args(["index-pack", "--stdin", "--fsck-objects", "--threads=1"])
            .arg(format!("--max-input-size={}", order.limits.pack_bytes))
            .stdin(Stdio::from(pack))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(lost)?;
        Ok(Self { child })
    }

    fn finish(mut self) -> Result<Vec<Risk>, Refusal> {
        let lost = |error: io::Error| failed("git index-pack", error);
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let mut bytes = Vec::new();
            let mut stderr = stderr.take(MAX_SAID);
            stderr.read_to_end(&mut bytes).map_err(lost)?;
            said = String::from_utf8_lossy(&bytes).into_owned();
        }
        let status = self.child.wait().map_err(lost)?;
        if status.success() {
            let warnings = said.lines().filter_map(|line| line.strip_prefix("warning: "));
            let risk = |line: &str| Risk { kind: RiskKind::Fsck, detail: line.chars().take(200).collect() };
            return Ok(warnings.take(MAX_WARNINGS).map(risk).collect());
        }
        // "error: object ID: checkName: words": the check's name alone is ours to repeat.
        let check = said.lines().find_map(|line| {
            let (_, rest) = line.strip_prefix("error: object ")?.split_once(": ")?;
            let (check, _) = rest.split_once(':')?;
            check.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| check.to_owned())
        });
        match check {
            Some(check) => Err(Refusal::Fsck { check }),
            None => Err(Refusal::Malformed),
        }
    }
}

/// The least that git takes for a bare repository, gitrepository-layout(5): a `git init` would cost a process.
fn bare(directory: &Path, object_format: ObjectFormat) -> io::Result<()> {
    for part in ["objects/info", "objects/pack", "refs"] {
        fs::create_dir_all(directory.join(part))?;
    }
    fs::write(directory.join("HEAD"), "ref: refs/heads/main\n")?;
    let config = match object_format {
        ObjectFormat::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        ObjectFormat::Sha256 => {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
        }
    };
    fs::write(directory.join("config"), config)
}

/// git with nothing of the user's or the system's configuration, killed with this process.
pub(crate) fn git() -> Command {
    let mut git = keyhatch_host::git::git();
    keyhatch_cage::sys::end_with_this_process(&mut git);
    git
}
