//! Objects into the host's store: copied from the quarantine, verified as copies, on disk before they have names.
//!
//! Comes in: names of files that a confined child wrote, as its claim. The copies are ours: whatever the child or what it
//! started does afterwards reaches none of them. Goes out: objects that are what their names say, none of which the
//! host has already, in the store and on disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::{ObjectFormat, ObjectId};
use thiserror::Error;

use super::beneath::Beneath;
use super::facts::Clean;
use super::flush::{flush_files, flush_paths};
use super::harvest::check::target_of;
use super::verify::{Candidate, VerifyError, VerifyRequest};
use crate::inspect::Limits;

/// How our files in a store are called until they are whole; `git prune` removes such names.
const TEMPORARY: &str = "tmp_obj_keyhatch";
/// More than the policy's limit of a pack may the files of one round be together: an index beside it, loose objects
/// that do not compress.
const OVERHEAD: u64 = 64 * 1024 * 1024;
/// What comes before the names in an index, in bytes: a head of 8 and 256 counts of 4, gitformat-pack(5).
const NAMES_AT: usize = 8 + 256 * 4;

/// Objects that were not taken. The next round gathers anew.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A name, a kind of file or a size that our child does not make.
    #[error("the session's new objects are not in files as they should be")]
    Malformed,
    /// A pack brings an object that the host has.
    #[error("the session's new objects are on the host already: {id}")]
    Present {
        /// One of them.
        id: ObjectId,
    },
    /// One is not what its name says, or nobody can say.
    #[error(transparent)]
    Unsound(#[from] VerifyError),
    /// A file could not be copied or flushed.
    #[error("the session's new objects cannot be written")]
    Io(#[from] io::Error),
}

/// What is brought, and where to.
pub(super) struct Import<'i> {
    /// Where the child wrote: hostile.
    pub(super) quarantine: &'i Path,
    /// The files' names in it, in the order in which they get their names on the host.
    pub(super) files: &'i [String],
    /// The host's object store.
    pub(super) store: &'i Path,
    /// The repository's hash.
    pub(super) format: ObjectFormat,
    /// What is too much.
    pub(super) limits: Limits,
    /// A git of ours over the host's objects.
    pub(super) clean: &'i Clean,
    /// Who reads them once more.
    pub(super) verify: &'i dyn Fn(&VerifyRequest) -> Result<(), VerifyError>,
}

/// A copy that waits for its name.
struct Copied {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    size: u64,
}

/// Copies that are removed unless they got their names.
struct Waiting(Vec<Copied>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for copied in &self.0 {
            // One that got its name is not there any more. What is left of the others git prunes later; now is better.
            drop(fs::remove_file(&copied.temporary));
        }
    }
}

impl Import<'_> {
    /// Brings them. Returns how many bytes.
    ///
    /// # Errors
    /// When something is not as it should be; then nothing has a name in the store, or (where only a flush failed) all
    /// of it is verified.
    pub(super) fn run(&self) -> Result<u64, ImportError> {
        if self.files.is_empty() {
            return Ok(0);
        }
        let mut made = BTreeSet::new();
        let waiting = self.copy_all(&mut made)?;
        if waiting.0.is_empty() {
            return Ok(0);
        }
        (self.verify)(&self.request(&waiting.0)?)?;
        self.refuse_present(&waiting.0)?;
        flush_files(waiting.0.iter().map(|copied| &copied.file))?;
        // All are there before the first gets its name, and they get their names in the harvest's order: a death between
        // two leaves no object without those that it needs, which would look complete to whoever stops at what is there.
        waiting.0.iter().try_for_each(|copied| fs::rename(&copied.temporary, &copied.target))?;
        // Their names too are on disk before a ref names one of them.
        let mut directories: BTreeSet<&Path> =
            waiting.0.iter().filter_map(|copied| copied.target.parent()).collect();
        if !made.is_empty() {
            directories.insert(self.store);
        }
        flush_paths(directories.into_iter())?;
        Ok(waiting.0.iter().map(|copied| copied.size).sum())
    }

    fn copy_all(&self, made: &mut BTreeSet<PathBuf>) -> Result<Waiting, ImportError> {
        let source = Beneath::hostile(self.quarantine)?;
        let mut waiting = Waiting(Vec::new());
        let mut left = self.limits.pack_bytes.saturating_mul(2).saturating_add(OVERHEAD);
        for name in self.files {
            let target = target_of(name, self.format).ok_or(ImportError::Malformed)?;
            let target = self.store.join(target);
            // What the host has stays what it is.
            if target.exists() {
                continue;
            }
            let directory = target.parent().unwrap_or(self.store).to_owned();
            match fs::create_dir(&directory) {
                Ok(()) => drop(made.insert(directory.clone())),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                Err(_) => {}
            }
            let random = u64::from_ne_bytes(keyhatch_host::random::random());
            let temporary = directory.join(format!("{TEMPORARY}_{random:016x}"));
            let from = source.file(name).map_err(|_| ImportError::Malformed)?;
            let mut options = fs::OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o444).open(&temporary)?;
            waiting.0.push(Copied { file, temporary, target, size: 0 });
            let Some(copied) = waiting.0.last_mut() else { continue };
            copied.size = copy(from, &mut copied.file, left)?;
            left -= copied.size;
        }
        Ok(waiting)
    }

    fn request(&self, copied: &[Copied]) -> Result<VerifyRequest, ImportError> {
        let mut candidates = Vec::new();
        let named = |extension: &str, target: &Path| {
            let of = target.with_extension(extension);
            copied.iter().find(|copied| copied.target == of).map(|copied| copied.temporary.clone())
        };
        for one in copied {
            match one.target.extension().and_then(|extension| extension.to_str()) {
                Some("pack") => {
                    let index = named("idx", &one.target).ok_or(ImportError::Malformed)?;
                    candidates.push(Candidate::Pack { pack: one.temporary.clone(), index });
                }
                // An index alone would say something of a pack of the host's.
                Some(_) => drop(named("pack", &one.target).ok_or(ImportError::Malformed)?),
                None => {
                    let id = loose_id(&one.target).ok_or(ImportError::Malformed)?;
                    candidates.push(Candidate::Loose { path: one.temporary.clone(), id });
                }
            }
        }
        let directories: BTreeSet<PathBuf> =
            copied.iter().filter_map(|copied| copied.temporary.parent().map(Path::to_owned)).collect();
        Ok(VerifyRequest {
            format: self.format,
            readable: directories.into_iter().collect(),
            candidates,
            limits: self.limits,
        })
    }

    /// Refuses a pack with an object that the host has: git would take whichever of the two it finds first. The child
    /// leaves them out; one that came to be there meanwhile is left out by the next round.
    fn refuse_present(&self, copied: &[Copied]) -> Result<(), ImportError> {
        let mut ids = Vec::new();
        for index in copied.iter().filter(|copied| copied.target.extension().is_some_and(|e| e == "idx")) {
            ids.extend(names_in(&fs::read(&index.temporary)?, self.format).ok_or(ImportError::Malformed)?);
            if ids.len() as u64 > self.limits.objects {
                return Err(ImportError::Malformed);
            }
        }
        match self.clean.first_present(&ids)? {
            Some(id) => Err(ImportError::Present { id }),
            None => Ok(()),
        }
    }
}

/// Copies a file, as much as may still come.
fn copy(from: File, to: &mut File, left: u64) -> Result<u64, ImportError> {
    let size = from.metadata()?.len();
    if size > left {
        return Err(ImportError::Malformed);
    }
    let copied = io::copy(&mut from.take(size), to)?;
    to.flush()?;
    if copied == size { Ok(size) } else { Err(ImportError::Malformed) }
}

/// The names in a pack's index of version 2, which must ascend; none where it is not one.
fn names_in(index: &[u8], format: ObjectFormat) -> Option<Vec<ObjectId>> {
    let length = format.digits() / 2;
    let count = u32::from_be_bytes(index.get(NAMES_AT - 4..NAMES_AT)?.try_into().ok()?) as usize;
    let table = index.get(NAMES_AT..NAMES_AT.checked_add(count.checked_mul(length)?)?)?;
    let names: Vec<&[u8]> = table.chunks_exact(length).collect();
    if !names.is_sorted_by(|one, next| one < next) {
        return None;
    }
    let hex = |name: &&[u8]| name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    names.iter().map(|name| ObjectId::parse(&hex(name)).ok()).collect()
}

fn loose_id(target: &Path) -> Option<ObjectId> {
    let rest = target.file_name()?.to_str()?;
    let directory = target.parent()?.file_name()?.to_str()?;
    ObjectId::parse(&format!("{directory}{rest}")).ok()
}

/// Removes what a broker that died had copied in part: git would keep it until its next `gc`.
///
/// # Errors
/// When the store cannot be read, or a file not be removed.
pub fn sweep(store: &Path) -> io::Result<()> {
    for directory in fs::read_dir(store)? {
        let directory = directory?;
        if !directory.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(directory.path())? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_in_part_is_removed_and_nothing_else() {
        let temp = tempfile::tempdir().expect("tempdir");
        for name in [
            "ab/tmp_obj_keyhatch_0",
            "ab/cd",
            "pack/tmp_obj_keyhatch_1",
            "pack/pack-1.pack",
            "pack/tmp_obj_git",
        ] {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
            fs::write(path, "x").expect("writes");
        }
        sweep(temp.path()).expect("sweeps");
        let left = |name: &str| temp.path().join(name).exists();
        assert!(!left("ab/tmp_obj_keyhatch_0") && !left("pack/tmp_obj_keyhatch_1"));
        assert!(left("ab/cd") && left("pack/pack-1.pack") && left("pack/tmp_obj_git"));
    }

    #[test]
    fn only_names_of_objects_are_moved() {
        let (rest, whole) = ("a".repeat(38), "a".repeat(40));
        let target_of = |name: &str| super::target_of(name, ObjectFormat::Sha1);
        assert_eq!(target_of(&format!("loose/objects/ab/{rest}")), Some(format!("ab/{rest}")));
        let pack = format!("pack/pack-{whole}.idx");
        assert_eq!(target_of(&format!("admitted/objects/{pack}")), Some(pack));
        for bad in [
            "loose/objects/../x".to_owned(),
            "loose/objects/ab/..".to_owned(),
            format!("loose/objects/ab/{}", "a".repeat(62)),
            "admitted/objects/pack/pack-a/../../x.idx".to_owned(),
            format!("admitted/objects/pack/pack-{whole}.keep"),
            format!("admitted/objects/pack/pack-{whole}.pack.idx"),
            "admitted/objects/info/alternates".to_owned(),
            "loose/objects/zz/aa".to_owned(),
            format!("/loose/objects/ab/{rest}"),
        ] {
            assert_eq!(target_of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn links_pipes_and_files_that_are_too_large_are_not_copied() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (quarantine, store) = (temp.path().join("q"), temp.path().join("objects"));
        let directory = quarantine.join("loose/objects/ab");
        fs::create_dir_all(&directory).expect("mkdir");
        fs::create_dir(&store).expect("mkdir");
        fs::write(temp.path().join("secret"), "canary").expect("writes");
        let rest = |digit: char| digit.to_string().repeat(38);
        std::os::unix::fs::symlink(temp.path().join("secret"), directory.join(rest('a'))).expect("links");
        let pipe = directory.join(rest('b'));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).expect("pipe");
        fs::create_dir(directory.join(rest('c'))).expect("mkdir");
        let large = File::create(directory.join(rest('d'))).expect("a file");
        large.set_len(OVERHEAD + 3).expect("a hole");
        let clean = Clean::at(temp.path().join("clean"));
        for digit in ['a', 'b', 'c', 'd', 'e'] {
            let files = [format!("loose/objects/ab/{}", rest(digit))];
            let import = Import {
                quarantine: &quarantine,
                files: &files,
                store: &store,
                format: ObjectFormat::Sha1,
                limits: Limits { pack_bytes: 1, objects: 10 },
                clean: &clean,
                verify: &|_| panic!("there is nothing to verify"),
            };
            assert!(matches!(import.run(), Err(ImportError::Malformed)), "{digit}");
        }
        let left = fs::read_dir(store.join("ab")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left behind");
    }

    #[test]
    fn names_that_do_not_ascend_or_are_cut_off_are_none() {
        let index = |names: &[u8]| {
            let mut bytes = vec![0; NAMES_AT];
            bytes[NAMES_AT - 1] = u8::try_from(names.len()).expect("few");
            bytes.extend(names.iter().flat_map(|name| [*name; 20]));
            bytes
        };
        let count = |bytes: &[u8]| names_in(bytes, ObjectFormat::Sha1).map(|names| names.len());
        assert_eq!(count(&index(&[1, 2, 9])), Some(3));
        assert_eq!(count(&index(&[])), Some(0));
        for bad in [index(&[2, 1]), index(&[1, 1]), index(&[1, 2])[..NAMES_AT + 39].to_vec(), vec![0; 9]] {
            assert_eq!(count(&bad), None);
        }
    }
}
