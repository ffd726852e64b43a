//! A directory that is reached by descriptor alone. For a session's own git directory nothing in it is believed: no
//! link is followed, nothing above it is reached, only regular files are read, and never more than was asked for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, openat2, renameat, unlinkat,
};

/// What a path leads through.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Seconds after which a change is one that a later one cannot hide behind; file systems count in steps of up to two.
const SETTLED: i64 = 3;

/// One directory and what lies beneath it.
#[derive(Debug)]
pub struct Beneath {
    directory: OwnedFd,
    resolve: ResolveFlags,
}

/// What says that a file is the same as before, as far as the file system knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// One name in a directory.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is, not followed.
    pub kind: FileType,
}

impl Beneath {
    /// Opens a session's directory: hostile from here on down, itself a directory of ours.
    ///
    /// # Errors
    /// When it is not there, or is a link.
    pub fn hostile(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(path, flags, Mode::empty())?, resolve: RESOLVE })
    }

    /// Opens a directory that the project brought, by a path that has no links on the host.
    ///
    /// # Errors
    /// When it is not there, or the way there leads through a link.
    pub fn of_project(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(Self { directory: openat2(CWD, path, flags, Mode::empty(), resolve)?, resolve: RESOLVE })
    }

    /// Opens a directory of the user's own, whose links are meant.
    ///
    /// # Errors
    /// When it is not there.
    pub fn own(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(path, flags, Mode::empty())?, resolve: ResolveFlags::empty() })
    }

    /// Whether nothing in it is believed.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        !self.resolve.is_empty()
    }

    /// A directory beneath this one.
    ///
    /// # Errors
    /// When it is not there, or not beneath.
    pub fn sub(&self, path: &str) -> io::Result<Self> {
        Ok(Self { directory: self.open(path, OFlags::PATH | OFlags::DIRECTORY)?, resolve: self.resolve })
    }

    /// Reads a regular file of at most `max` bytes; none where nothing is there.
    ///
    /// # Errors
    /// When it is something else, is larger, or cannot be read.
    pub fn read(&self, path: impl AsRef<Path>, max: u64) -> io::Result<Option<Vec<u8>>> {
        // Not blocking: a pipe in its place must not hold the broker.
        let file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > max {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max { Err(io::ErrorKind::InvalidData.into()) } else { Ok(Some(bytes)) }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When it is not there, or is something else.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let file = File::from(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// What a file or directory looks like now; the default where nothing is there.
    #[must_use]
    pub fn stamp(&self, path: &str) -> Stamp {
        let Ok(file) = self.open(path, OFlags::PATH) else { return Stamp::default() };
        File::from(file).metadata().map_or_else(|_| Stamp::default(), |m| Stamp::of(&m))
    }

    /// Whether anything is there.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
    }

    /// What is there, not followed; none where nothing is.
    ///
    /// # Errors
    /// When the way there leads through something else than directories.
    pub fn kind(&self, path: &Path) -> io::Result<Option<FileType>> {
        match self.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => Ok(Some(FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode))),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The permissions of what is there.
    ///
    /// # Errors
    /// When nothing is.
    pub fn mode(&self, path: &Path) -> io::Result<u32> {
        Ok(rustix::fs::fstat(&self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?)?.st_mode)
    }

    /// What a symbolic link names; none where none is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        if self.kind(path)? != Some(FileType::Symlink) {
            return Ok(None);
        }
        let link = self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        // The descriptor is the link itself: readlinkat(2), with an empty path.
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))))
    }

    /// The names in a directory, at most `max`; empty where it is not there.
    ///
    /// # Errors
    /// When it cannot be read, or holds more.
    pub fn list(&self, path: impl AsRef<Path>, max: usize) -> io::Result<Vec<Entry>> {
        let directory = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(error) if absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == max {
                return Err(io::ErrorKind::InvalidData.into());
            }
            entries.push(Entry { name: OsString::from_vec(name.to_vec()), kind: entry.file_type() });
        }
        Ok(entries)
    }

    /// Makes a directory and those above it, where they are missing.
    ///
    /// # Errors
    /// When something else is in the way.
    pub fn make_directories(&self, path: &str) -> io::Result<()> {
        let mut so_far = String::new();
        for part in path.split('/') {
            so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}/{part}") };
            let (parent, leaf) = self.parent(&so_far)?;
            match mkdirat(&parent, leaf, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Replaces a file as git does: by way of `path.lock`, which nobody else may hold.
    ///
    /// # Errors
    /// `AlreadyExists` where a git command holds the lock; else what the kernel says.
    pub fn replace(&self, path: &str, bytes: &[u8], still: impl FnOnce() -> bool) -> io::Result<()> {
        let lock = format!("{path}.lock");
        self.write_new(&lock, bytes)?;
        if !still() {
            self.remove(&lock)?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (parent, leaf) = self.parent(path)?;
        renameat(&parent, format!("{leaf}.lock"), &parent, leaf).map_err(|error| {
            drop(self.remove(&lock));
            error.into()
        })
    }

    /// Writes a file that must not be there yet.
    ///
    /// # Errors
    /// When it is there, or cannot be written.
    pub fn write_new(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let (parent, leaf) = self.parent(path)?;
        let file = rustix::fs::openat(&parent, leaf, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))?;
        File::from(file).write_all(bytes)
    }

    /// Appends to a regular file, making it where it is missing.
    ///
    /// # Errors
    /// When it is something else, or cannot be written.
    pub fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        match self.open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK) {
            Ok(file) => {
                let mut file = File::from(file);
                if !file.metadata()?.is_file() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                file.write_all(bytes)
            }
            Err(error) if absent(&error) => self.write_new(path, bytes),
            Err(error) => Err(error),
        }
    }

    /// Removes a file, where it is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (parent, leaf) = self.parent(path)?;
        match unlinkat(&parent, leaf, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn parent<'p>(&self, path: &'p str) -> io::Result<(OwnedFd, &'p str)> {
        let (parent, leaf) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?, leaf))
    }

    fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(openat2(&self.directory, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), self.resolve)?)
    }
}

impl Stamp {
    /// Of a path, not followed; none where nothing is there.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Without the time of the last change, which also another name or mode is: of a file that its writers replace.
    #[must_use]
    pub fn of_content(self) -> Self {
        Self { changed: (0, 0), ..self }
    }

    /// Whether it was changed so lately that another change might not show: a file system counts time in steps. Only of
    /// a stamp that is older than that may be said later that nothing happened since.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.changed.0.saturating_add(SETTLED) > i64::try_from(now).unwrap_or(0)
    }

    /// As numbers, for a file of ours.
    #[must_use]
    pub fn numbers(&self) -> [i128; 6] {
        let Self { inode, size, modified, changed } = *self;
        let [a, b, c, d] = [modified.0, modified.1, changed.0, changed.1].map(i128::from);
        [inode.into(), size.into(), a, b, c, d]
    }

    /// From its numbers.
    #[must_use]
    pub fn of_numbers([inode, size, a, b, c, d]: [i128; 6]) -> Option<Self> {
        let second = |number: i128| i64::try_from(number).ok();
        Some(Self {
            inode: inode.try_into().ok()?,
            size: size.try_into().ok()?,
            modified: (second(a)?, second(b)?),
            changed: (second(c)?, second(d)?),
        })
    }

    /// Of what the kernel says of a file.
    #[must_use]
    pub fn of_stat(stat: &Stat) -> Self {
        // Their widths differ between architectures.
        let second = |number| i64::try_from(number).unwrap_or(0);
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, second(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, second(stat.st_ctime_nsec)),
        }
    }

    /// Of a file's metadata.
    #[must_use]
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// Opens a path of ours for reading without following a link at its end.
///
/// # Errors
/// What the kernel says.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_pipes_and_ways_up_are_not_read() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (inside, outside) = (temp.path().join("s"), temp.path().join("secret"));
        fs::create_dir_all(inside.join("refs/heads")).expect("mkdir");
        fs::write(&outside, "secret").expect("writes");
        fs::write(inside.join("refs/heads/real"), "x").expect("writes");
        symlink(&outside, inside.join("refs/heads/link")).expect("links");
        symlink(temp.path(), inside.join("refs/up")).expect("links");
        rustix::fs::mknodat(CWD, inside.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("pipe");
        let s = Beneath::hostile(&inside).expect("opens");
        assert_eq!(s.read("refs/heads/real", 9).expect("reads").as_deref(), Some(&b"x"[..]));
        assert!(s.read("refs/heads/real", 0).is_err(), "too large");
        for path in ["refs/heads/link", "refs/up/secret", "../secret", "pipe"] {
            assert!(s.read(path, 99).is_err(), "{path}");
        }
        for path in ["refs/up/new", "../new"] {
            assert!(s.write_new(path, b"x").is_err() && s.replace(path, b"x", || true).is_err(), "{path}");
        }
        assert!(s.append("refs/heads/link", b"x").is_err());
        assert!(Beneath::hostile(&inside.join("refs/up")).is_err());
        assert_eq!(fs::read_to_string(&outside).expect("reads"), "secret");
    }

    #[test]
    fn another_name_is_no_change_of_content_and_another_file_is() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        fs::write(&one, "x").expect("writes");
        let stamp = || Stamp::at(&one).expect("it is there");
        let before = stamp();
        while stamp() == before {
            fs::remove_file(&two).ok();
            fs::hard_link(&one, &two).expect("links");
        }
        assert_eq!(stamp().of_content(), before.of_content());
        fs::write(&two, "more").expect("writes");
        assert_ne!(stamp().of_content(), before.of_content());
    }

    #[test]
    fn a_lock_that_somebody_holds_is_respected_and_ours_never_stays() {
        let temp = tempfile::tempdir().expect("tempdir");
        let s = Beneath::hostile(temp.path()).expect("opens");
        s.write_new("HEAD", b"a").expect("writes");
        s.write_new("HEAD.lock", b"").expect("writes");
        assert_eq!(s.replace("HEAD", b"b", || true).expect_err("held").kind(), io::ErrorKind::AlreadyExists);
        s.remove("HEAD.lock").expect("removes");
        assert!(s.replace("HEAD", b"b", || false).is_err());
        assert!(!s.has("HEAD.lock"));
        s.replace("HEAD", b"b", || true).expect("replaces");
        assert_eq!(s.read("HEAD", 9).expect("reads").as_deref(), Some(&b"b"[..]));
    }
}
