//! Objects on their way out: packed from the session's store, indexed and checked by git as if they came from a
//! stranger, and complete with what the host has. Everything is named by its content from here on.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use git2::{ObjectFormat as GitFormat, Oid, Repository};
use keyhatch_inspection::harvest::{PROMISED, bare};
use keyhatch_protocol::{ObjectFormat, ObjectId};

use super::{Harvest, Order, Refused, order};
use crate::push::git;

/// Below this, objects become loose ones, as in `git fetch`: a pack for every commit would slow the host's git.
const UNPACK_LIMIT: u64 = 100;
/// Most commits that a walk is told to stop at: more would cost more than they save.
const MAX_KNOWN: usize = 256;
/// Refs that are tried one by one when all together are refused.
const MAX_SINGLE: usize = 64;

/// One thing that is taken whole or not at all.
pub(super) struct Wanted {
    /// What it is, for the report.
    pub(super) what: String,
    /// Objects without which it is refused.
    pub(super) must: Vec<ObjectId>,
    /// Objects that come along where they are there.
    pub(super) may: Vec<ObjectId>,
}

/// The quarantine's repositories.
pub(super) struct Store {
    /// Borrows from the session and the host: what is packed is read through this.
    source: PathBuf,
    /// The session's own object store, and the host's.
    session: PathBuf,
    host: Vec<PathBuf>,
    /// Borrows from the host alone, and has what was found whole.
    admitted: PathBuf,
    /// Borrows from both: a pack waits here until it was checked.
    candidate: PathBuf,
    /// The names of what was admitted, each complete with the host and those before it.
    packs: Vec<String>,
    repository: Repository,
    offered: Repository,
    format: ObjectFormat,
    known: Vec<ObjectId>,
    partial: bool,
    max_bytes: u64,
    max_objects: u64,
    quarantine: PathBuf,
}

impl Store {
    pub(super) fn make(order: &Order) -> io::Result<Self> {
        for level in [git2::ConfigLevel::System, git2::ConfigLevel::Global, git2::ConfigLevel::XDG] {
            crate::sys::forget_search_path(level).map_err(io::Error::other)?;
        }
        let shallow = order.agreed.join("shallow");
        let make = |name: &str, stores: &[PathBuf]| -> io::Result<PathBuf> {
            let path = order.quarantine.join(name);
            bare(&path, (order.format, order.partial), stores)?;
            if shallow.exists() {
                // By its content: a copy would set the mode too, which a confined child may not.
                fs::write(path.join("shallow"), fs::read(&shallow)?)?;
            }
            Ok(path)
        };
        let mut both = vec![order.session.join("objects")];
        both.extend(order.objects.iter().cloned());
        let (source, admitted) = (make("source", &both)?, make("admitted", &order.objects)?);
        let mut sound = vec![admitted.join("objects")];
        sound.extend(order.objects.iter().cloned());
        let candidate = make("candidate", &sound)?;
        let repository = Repository::open_bare(&admitted).map_err(io::Error::other)?;
        let offered = Repository::open_bare(&source).map_err(io::Error::other)?;
        Ok(Self {
            offered,
            source,
            session: order.session.join("objects"),
            host: order.objects.clone(),
            repository,
            admitted,
            candidate,
            packs: Vec::new(),
            format: order.format,
            known: order.known.clone(),
            partial: order.partial,
            max_bytes: order.limits.pack_bytes,
            max_objects: order.limits.objects,
            quarantine: order.quarantine.clone(),
        })
    }

    /// Takes note of commits that the host has, so that nothing behind them is walked again.
    pub(super) fn knows<'i>(&mut self, ids: impl Iterator<Item = &'i ObjectId>) {
        let new: Vec<ObjectId> = ids.filter(|id| !id.is_zero() && self.has(id)).cloned().collect();
        for id in new.into_iter().rev() {
            if self.known.len() < MAX_KNOWN && !self.known.contains(&id) {
                self.known.push(id);
            }
        }
    }

    /// Brings what is wanted, and returns what of it stays inside.
    pub(super) fn bring(&mut self, wanted: &[Wanted], harvest: &mut Harvest) -> io::Result<BTreeSet<String>> {
        let mut refused = BTreeSet::new();
        let whole = |one: &Wanted| -> BTreeSet<ObjectId> {
            one.must.iter().chain(one.may.iter().filter(|id| self.offers(id))).cloned().collect()
        };
        let wholes: Vec<BTreeSet<ObjectId>> = wanted.iter().map(whole).collect();
        if self.pack(&wholes.iter().flatten().cloned().collect()).is_err() {
            // Something is wrong with some of it. What is sound alone still comes.
            for (at, (one, whole)) in wanted.iter().zip(&wholes).enumerate() {
                let tried = if at < MAX_SINGLE {
                    self.pack(whole).or_else(|_| self.pack(&one.must.iter().cloned().collect()))
                } else {
                    Err("too much beside it was refused".to_owned())
                };
                if let Err(why) = tried
                    && !one.must.is_empty()
                {
                    refused.insert(one.what.clone());
                    harvest.refused.push(Refused { what: one.what.clone(), why });
                }
            }
        }
        harvest.objects = self.listed()?;
        Ok(refused)
    }

    /// Packs, indexes, checks. What the host has already needs no coming.
    fn pack(&mut self, ids: &BTreeSet<ObjectId>) -> Result<(), String> {
        let new: Vec<&ObjectId> = ids.iter().filter(|id| !self.has(id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut list: String = new.iter().map(|id| format!("{id}\n")).collect();
        list.extend(self.known.iter().map(|id| format!("^{id}\n")));
        let mut packer = git();
        // The session's commit graphs, bitmaps and multi-pack indexes are claims; only objects are looked at.
        packer.args([
            "-c",
            "core.commitGraph=false",
            "-c",
            "core.multiPackIndex=false",
            "-c",
            "pack.threads=1",
        ]);
        packer.arg("-C").arg(&self.source).args([
            "pack-objects",
            "--revs",
            "--stdout",
            "--quiet",
            "--delta-base-offset",
        ]);
        // Nothing that the host has: a second copy of it would be one that git might find first.
        packer.args(["--no-use-bitmap-index", "--local"]);
        packer.env("GIT_OBJECT_DIRECTORY", &self.session);
        packer.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", alternates(&self.host));
        if self.partial {
            packer.arg(PROMISED);
        }
        let mut packer = spawn(packer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let packed = packer.stdout.take().ok_or("git gave no pack")?;
        let mut command = git();
        command.args(["-c", "core.bigFileThreshold=1m", "-C"]).arg(&self.candidate);
        command.args(["index-pack", "--stdin", "--fsck-objects", "--threads=1"]);
        command.arg(format!("--max-input-size={}", self.max_bytes));
        let indexer = spawn(command.stdin(packed).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        // It holds the reading end too: with that open, an indexer that gives up would leave the packer writing for ever.
        drop(command);
        feed(&mut packer, &list)?;
        let said = indexer.wait_with_output().map_err(|error| error.to_string())?;
        let packed = packer.wait().map_err(|error| error.to_string())?;
        if !said.status.success() {
            return Err(check_of(&String::from_utf8_lossy(&said.stderr)));
        }
        if !packed.success() {
            return Err("the session's objects are incomplete or damaged".into());
        }
        let name = name_of(&said.stdout).ok_or("git gave the pack no name")?;
        let judged = self.complete(&list).and_then(|()| self.take(&name).map_err(|error| error.to_string()));
        if judged.is_err() {
            // What is not whole must not seem to be there for what is asked for next.
            fs::remove_file(self.candidate.join(format!("objects/pack/{name}.idx")))
                .map_err(|error| error.to_string())?;
        }
        judged
    }

    /// Puts a pack that was found whole beside those before it.
    fn take(&mut self, name: &str) -> io::Result<()> {
        let pack = |store: &Path, extension: &str| store.join(format!("objects/pack/{name}.{extension}"));
        for extension in ["pack", "idx"] {
            fs::rename(pack(&self.candidate, extension), pack(&self.admitted, extension))?;
        }
        if !self.packs.iter().any(|taken| taken == name) {
            self.packs.push(name.to_owned());
        }
        Ok(())
    }

    /// Refuses what leads to an object that is neither in the pack nor on the host.
    fn complete(&self, list: &str) -> Result<(), String> {
        let mut walker = git();
        walker.arg("-C").arg(&self.candidate).args(["rev-list", "--objects", "--quiet", "--stdin"]);
        if self.partial {
            walker.arg(PROMISED);
        }
        let mut walker = spawn(walker.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()))?;
        feed(&mut walker, list)?;
        let status = walker.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err("an object that it needs is missing".into()) }
    }

    /// The files to move, in the order in which they get their names on the host: nothing before what it needs, since
    /// whoever finds a name there takes all behind it for there too, also after a broker that died in between. A few
    /// objects become loose ones; more stay packs, whose objects appear all at once with their index.
    fn listed(&self) -> io::Result<Vec<String>> {
        let packs = self.admitted.join("objects/pack");
        let mut counts = Vec::new();
        for name in &self.packs {
            counts.push((name, count_of(&packs.join(format!("{name}.idx")))?));
        }
        counts.retain(|(_, count)| *count > 0);
        let count: u64 = counts.iter().map(|(_, count)| count).sum();
        if count > self.max_objects {
            return Err(io::Error::other("the session has more new objects than its policy allows"));
        }
        if count < UNPACK_LIMIT
            && let Some(loose) = self.unpacked()?
        {
            return Ok(loose);
        }
        let both = |name: &String| {
            ["pack", "idx"].map(|extension| format!("admitted/objects/pack/{name}.{extension}"))
        };
        Ok(counts.into_iter().flat_map(|(name, _)| both(name)).collect())
    }

    /// Every pack as loose objects, what is needed first; none where git cannot unpack one.
    fn unpacked(&self) -> io::Result<Option<Vec<String>>> {
        let loose = self.quarantine.join("loose");
        bare(&loose, (self.format, false), &[])?;
        for name in &self.packs {
            let pack = self.admitted.join(format!("objects/pack/{name}.pack"));
            let mut unpack = git();
            unpack.arg("-C").arg(&loose).args(["unpack-objects", "-q"]).stdin(fs::File::open(pack)?);
            if !unpack.stdout(Stdio::null()).status()?.success() {
                return Ok(None);
            }
        }
        // libgit2 reads less than git does: what it cannot read comes as a pack.
        let Ok(ordered) = order::needed_first(&loose) else { return Ok(None) };
        let file = |id: &str| format!("loose/objects/{}/{}", &id[..2], &id[2..]);
        Ok(Some(ordered.iter().map(|oid| file(&oid.to_string())).collect()))
    }

    fn oid(&self, id: &ObjectId) -> Option<Oid> {
        let format = match self.format {
            ObjectFormat::Sha1 => GitFormat::Sha1,
            ObjectFormat::Sha256 => GitFormat::Sha256,
        };
        Oid::from_str_ext(id.as_str(), format).ok()
    }

    /// Whether the session has it, by its own word.
    fn offers(&self, id: &ObjectId) -> bool {
        let odb = self.offered.odb();
        self.oid(id).zip(odb.ok()).is_some_and(|(oid, odb)| odb.exists(oid))
    }

    /// Whether the host has it, or it came.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        let odb = self.repository.odb();
        self.oid(id).zip(odb.ok()).is_some_and(|(oid, odb)| odb.exists(oid))
    }
}

/// Object stores as git's environment lists them: quoted, since a path may have a colon.
fn alternates(stores: &[PathBuf]) -> OsString {
    let mut list = Vec::new();
    for store in stores {
        list.extend(if list.is_empty() { &b"\""[..] } else { b":\"" });
        for byte in store.as_os_str().as_bytes() {
            if matches!(byte, b'"' | b'\\') {
                list.push(b'\\');
            }
            list.push(*byte);
        }
        list.push(b'"');
    }
    OsString::from_vec(list)
}

/// The number of objects in a pack's index, gitformat-pack(5): the last of its 256 counts.
fn count_of(idx: &Path) -> io::Result<u64> {
    let mut four = [0; 4];
    fs::File::open(idx)?.read_exact_at(&mut four, 8 + 255 * 4)?;
    Ok(u32::from_be_bytes(four).into())
}

/// The name that `index-pack --stdin` prints: `pack TAB HASH`.
fn name_of(said: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(said).ok()?.trim_end().strip_prefix("pack\t")?;
    name.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("pack-{name}"))
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    command.spawn().map_err(|error| error.to_string())
}

fn feed(child: &mut Child, text: &str) -> Result<(), String> {
    let Some(mut stdin) = child.stdin.take() else { return Ok(()) };
    match stdin.write_all(text.as_bytes()) {
        // It ended before it read everything; how it ended says why.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// git's own word for what is wrong: `error: object ID: checkName: words`, the check's name alone.
fn check_of(said: &str) -> String {
    let check = said.lines().find_map(|line| {
        let (_, rest) = line.strip_prefix("error: object ")?.split_once(": ")?;
        let (check, _) = rest.split_once(':')?;
        check.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| check.to_owned())
    });
    match check {
        Some(check) => format!("git fsck refuses it: {check}"),
        None if said.contains("exceeds maximum allowed size") => "it is larger than the policy allows".into(),
        None => "git cannot read its objects".into(),
    }
}
