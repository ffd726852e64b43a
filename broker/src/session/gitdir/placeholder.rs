//! Empty files and directories on the host that something is mounted over inside: what is missing must not be made by
//! a session, so there must be a place to mount on.
//!
//! Each is recorded, and removed when the last session that mounts over it ends, if it is still empty and ours. Where
//! two sessions share one, the first to end must not take it away: that would take the mount away with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::SessionId;
use serde::{Deserialize, Serialize};

use crate::paths::make_private;

/// Longest list of kept ones that is read back.
const MAX_KEPT: u64 = 1024 * 1024;

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

/// Makes sure that something is at `path`; returns it where it is a placeholder, new or another session's. Nothing
/// where the user has something there.
///
/// # Errors
/// When it cannot be made.
pub fn place(path: &Path, directory: bool, session: &SessionId) -> io::Result<Option<Placeholder>> {
    // Held across making and noting: a session that ends meanwhile must not remove it.
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let made = if directory {
        fs::create_dir(path)
    } else {
        fs::OpenOptions::new().write(true).create_new(true).open(path).map(drop)
    };
    let made = match made {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let metadata = fs::symlink_metadata(path)?;
    let inode = (metadata.dev(), metadata.ino());
    if !made && !held.contains_key(&inode) {
        return Ok(None);
    }
    held.entry(inode).or_default().insert(session.to_string());
    Ok(Some(Placeholder { path: path.to_owned(), inode, directory: metadata.is_dir() }))
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
    remove(&placeholders, session);
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

/// Removes a session's placeholders where no other session needs them, deepest first.
pub fn remove(placeholders: &[Placeholder], session: &SessionId) {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for placeholder in placeholders.iter().rev() {
        if let Some(sessions) = held.get_mut(&placeholder.inode) {
            sessions.remove(session.as_str());
            if !sessions.is_empty() {
                continue;
            }
        }
        held.remove(&placeholder.inode);
        if let Err(error) = take_away(placeholder) {
            tracing::debug!(%error, "a placeholder stays: it is not empty, or not ours any more");
        }
    }
}

fn take_away(placeholder: &Placeholder) -> io::Result<()> {
    let metadata = fs::symlink_metadata(&placeholder.path)?;
    if (metadata.dev(), metadata.ino()) != placeholder.inode {
        return Ok(());
    }
    if placeholder.directory {
        // Fails where it is not empty, which is the user's doing.
        fs::remove_dir(&placeholder.path)
    } else if metadata.is_file() && metadata.len() == 0 {
        fs::remove_file(&placeholder.path)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_goes_with_its_last_session_and_only_if_it_is_empty_and_ours() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (one, two) = (SessionId::from_random([1, 9, 9, 1]), SessionId::from_random([2, 9, 9, 1]));
        let path = |name: &str| temp.path().join(name);
        let first = place(&path("a"), false, &one).expect("made").expect("ours");
        let second = place(&path("a"), false, &two).expect("there").expect("shared");
        remove(&[first], &one);
        assert!(path("a").exists(), "the other session mounts over it");
        remove(&[second], &two);
        assert!(!path("a").exists());

        fs::write(path("mine"), "").expect("writes");
        assert_eq!(place(&path("mine"), false, &one).expect("there"), None);
        let filled = place(&path("filled"), false, &one).expect("made").expect("ours");
        fs::write(path("filled"), "words").expect("writes");
        let directory = place(&path("d"), true, &one).expect("made").expect("ours");
        let within = place(&path("d/f"), false, &one).expect("made").expect("ours");
        let swapped = place(&path("swapped"), false, &one).expect("made").expect("ours");
        fs::write(path("new"), "").expect("writes");
        fs::rename(path("new"), path("swapped")).expect("renames");
        remove(&[filled, directory, within, swapped], &one);
        assert!(path("mine").exists() && path("filled").exists() && path("swapped").exists());
        assert!(!path("d").exists());
    }
}
