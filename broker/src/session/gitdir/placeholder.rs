//! Empty files and directories on the host that something is mounted over inside: what is missing must not be made by
//! a session, so there must be a place to mount on.
//!
//! Each is recorded, and removed when the last session that mounts over it ends, if it is still empty and ours. Where
//! two sessions share one, the first to end must not take it away: that would take the mount away with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::SessionId;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::paths::make_private;

/// Longest list of kept ones that is read back.
const MAX_KEPT: u64 = 1024 * 1024;
/// Most directories that are tidied up together.
const MAX_GONE: usize = 64;

/// One placeholder of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placeholder {
    /// Where.
    pub path: PathBuf,
    /// Which file it is: another one under the same name is somebody else's.
    pub inode: (u64, u64),
    /// Whether it is a directory.
    pub directory: bool,
}

/// Who mounts over which placeholder: sessions of this process, and those that an earlier one left.
static HELD: Mutex<BTreeMap<(u64, u64), BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// A placeholder, new or another session's.
    Ours(Placeholder),
    /// Something of the user's.
    Theirs,
    /// A link of the user's, not followed.
    Link,
}

impl Placed {
    /// The placeholder, where it is one.
    #[must_use]
    pub fn ours(self) -> Option<Placeholder> {
        match self {
            Self::Ours(placeholder) => Some(placeholder),
            Self::Theirs | Self::Link => None,
        }
    }
}

/// Makes sure that something is at `path`, and says what.
///
/// # Errors
/// When it cannot be made.
pub fn place(path: &Path, directory: bool, session: &SessionId) -> io::Result<Placed> {
    // Held across making and noting: a session that ends meanwhile must not remove it.
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let made = if directory {
        fs::create_dir(path).map(|()| None)
    } else {
        fs::OpenOptions::new().write(true).create_new(true).open(path).map(Some)
    };
    let (made, metadata) = match made {
        Ok(Some(file)) => (true, file.metadata()?),
        Ok(None) => (true, fs::symlink_metadata(path)?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (false, fs::symlink_metadata(path)?),
        Err(error) => return Err(error),
    };
    let inode = (metadata.dev(), metadata.ino());
    if !made && !held.contains_key(&inode) {
        return Ok(if metadata.is_symlink() { Placed::Link } else { Placed::Theirs });
    }
    held.entry(inode).or_default().insert(session.to_string());
    Ok(Placed::Ours(Placeholder { path: path.to_owned(), inode, directory: metadata.is_dir() }))
}

/// Takes note of placeholders that an earlier broker's session left: done for all before any is removed.
pub fn adopt(placeholders: &[Placeholder], session: &SessionId) {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for placeholder in placeholders {
        held.entry(placeholder.inode).or_default().insert(session.to_string());
    }
}

/// Keeps the placeholders of a session that has ended while its container may run on: without them there would be no
/// place to mount on, the kernel would take the mounts away, and what still runs could make the files.
///
/// # Errors
/// When they cannot be written down.
pub fn keep(directory: &Path, placeholders: &[Placeholder], session: &SessionId) -> io::Result<()> {
    make_private(directory).map_err(io::Error::other)?;
    let text = serde_json::to_vec(placeholders).map_err(io::Error::other)?;
    fs::write(directory.join(session.as_str()), text)
}

/// Removes those that were kept for a session, whose container has ended. Returns whether there were any.
pub fn forget(directory: &Path, session: &SessionId) -> bool {
    let file = directory.join(session.as_str());
    let Some(placeholders) = kept(&file) else { return false };
    drop(remove(&placeholders, session));
    if let Err(error) = fs::remove_file(file) {
        tracing::warn!(%error, "what was kept for a container is not forgotten");
    }
    true
}

/// Takes note of all that are kept, before any is removed.
pub fn adopt_kept(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let session = entry.file_name().to_str().and_then(|name| name.parse::<SessionId>().ok());
        if let (Some(session), Some(placeholders)) = (session, kept(&entry.path())) {
            adopt(&placeholders, &session);
        }
    }
}

fn kept(file: &Path) -> Option<Vec<Placeholder>> {
    serde_json::from_reader(io::Read::take(fs::File::open(file).ok()?, MAX_KEPT)).ok()
}

/// Removes a session's placeholders where no other session needs them, deepest first. They are gone when this returns; what
/// it returns are their directories, which the file system tidies up when they are dropped: that may wait for the disk.
pub fn remove(placeholders: &[Placeholder], session: &SessionId) -> Vec<OwnedFd> {
    let mut gone = Vec::new();
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for placeholder in placeholders.iter().rev() {
        if let Some(sessions) = held.get_mut(&placeholder.inode) {
            sessions.remove(session.as_str());
            if !sessions.is_empty() {
                continue;
            }
        }
        held.remove(&placeholder.inode);
        match take_away(placeholder) {
            Ok(directory) => gone.extend(directory.filter(|_| gone.len() < MAX_GONE)),
            Err(error) => {
                tracing::debug!(%error, "a placeholder stays: it is not empty, or not ours any more");
            }
        }
    }
    gone
}

/// Removes one; a directory is returned.
fn take_away(placeholder: &Placeholder) -> io::Result<Option<OwnedFd>> {
    let Placeholder { path, inode, directory } = placeholder;
    if *directory {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let metadata = opened.metadata()?;
        if (metadata.dev(), metadata.ino()) != *inode {
            return Ok(None);
        }
        // Fails where it is not empty, which is the user's doing.
        fs::remove_dir(path)?;
        return Ok(Some(opened.into()));
    }
    let metadata = fs::symlink_metadata(path)?;
    let ours = (metadata.dev(), metadata.ino()) == *inode && metadata.is_file() && metadata.len() == 0;
    if ours { fs::remove_file(path).map(|()| None) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_goes_with_its_last_session_and_only_if_it_is_empty_and_ours() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (one, two) = (SessionId::from_random([1, 9, 9, 1]), SessionId::from_random([2, 9, 9, 1]));
        let path = |name: &str| temp.path().join(name);
        let ours = |path: &str, directory| {
            place(&temp.path().join(path), directory, &one).expect("made").ours().expect("ours")
        };
        let first = ours("a", false);
        let second = place(&path("a"), false, &two).expect("there").ours().expect("shared");
        drop(remove(&[first], &one));
        assert!(path("a").exists(), "the other session mounts over it");
        drop(remove(&[second], &two));
        assert!(!path("a").exists());

        fs::write(path("mine"), "").expect("writes");
        assert_eq!(place(&path("mine"), false, &one).expect("there"), Placed::Theirs);
        std::os::unix::fs::symlink("nowhere", path("link")).expect("links");
        assert_eq!(place(&path("link"), true, &one).expect("there"), Placed::Link);
        let filled = ours("filled", false);
        fs::write(path("filled"), "words").expect("writes");
        let (directory, within) = (ours("d", true), ours("d/f", false));
        let used = ours("used", true);
        fs::write(path("used/f"), "words").expect("writes");
        let (swapped, moved) = (ours("swapped", false), ours("moved", true));
        fs::write(path("new"), "").expect("writes");
        fs::rename(path("new"), path("swapped")).expect("renames");
        fs::rename(path("moved"), path("elsewhere")).expect("renames");
        fs::create_dir(path("moved")).expect("mkdir");
        let gone = remove(&[filled, directory, within, used, swapped, moved], &one);
        let stays = ["mine", "link", "filled", "swapped", "used/f", "moved", "elsewhere"];
        assert!(stays.iter().all(|name| fs::symlink_metadata(path(name)).is_ok()));
        assert!(!path("d").exists());
        assert_eq!(gone.len(), 1, "one directory went");
    }
}
