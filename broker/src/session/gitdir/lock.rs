//! A file of the host's git directory, replaced as git does it: by way of its lock.
//!
//! The lock appears with its whole content and under a second name that says whose it is, so at no moment does a death
//! of ours leave one behind that the next start could not tell from a living git's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files that are replaced here.
const NAMES: &[&str] = &["index", "HEAD"];

/// Which file.
pub(super) struct Place<'p> {
    /// The git directory.
    pub(super) directory: &'p Path,
    /// The file that its lock is named for.
    pub(super) name: &'p str,
    /// Whose doing it is.
    pub(super) session: &'p str,
}

impl Place<'_> {
    /// Replaces it, where it is not locked and is still what it was; says whether it did.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn replace(&self, bytes: &[u8], still: impl FnOnce() -> bool) -> io::Result<bool> {
        let target = self.directory.join(self.name);
        self.locked(bytes, |lock| {
            if !still() {
                return Ok(false);
            }
            if let Ok(metadata) = fs::metadata(&target) {
                fs::set_permissions(lock, metadata.permissions())?;
            }
            fs::rename(lock, &target).map(|()| true)
        })
    }

    /// Does something while the lock is held, where nobody else holds it.
    ///
    /// # Errors
    /// When the lock cannot be made or taken away, or what was to be done failed.
    pub(super) fn locked(
        &self,
        bytes: &[u8],
        act: impl FnOnce(&Path) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let lock = self.directory.join(format!("{}.lock", self.name));
        let ready = self.directory.join(second_name(self.session, self.name));
        fs::write(&ready, bytes)?;
        let acted = match fs::hard_link(&ready, &lock) {
            Ok(()) => act(&lock).and_then(|done| {
                // Gone already where it became the file itself.
                match fs::remove_file(&lock) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(done),
                }
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
        fs::remove_file(&ready)?;
        acted
    }
}

fn second_name(session: &str, name: &str) -> String {
    format!("keyhatch-{session}.{name}")
}

/// Removes the locks that a broker that died left in a git directory.
///
/// # Errors
/// What the kernel says.
pub(super) fn remove_stale(directory: &Path, session: &str) -> io::Result<()> {
    for name in NAMES {
        let ready = directory.join(second_name(session, name));
        let Ok(ours) = fs::symlink_metadata(&ready) else { continue };
        let lock = directory.join(format!("{name}.lock"));
        if fs::symlink_metadata(&lock).is_ok_and(|lock| lock.ino() == ours.ino() && lock.dev() == ours.dev())
        {
            fs::remove_file(lock)?;
        }
        fs::remove_file(ready)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_a_dead_broker_goes_and_another_ones_stays() {
        let temp = tempfile::tempdir().expect("tempdir");
        let at = temp.path();
        let place = Place { directory: at, name: "index", session: "s1" };
        fs::write(at.join("index"), "old").expect("writes");
        // As if killed with the lock held.
        fs::write(at.join("keyhatch-s1.index"), "new").expect("writes");
        fs::hard_link(at.join("keyhatch-s1.index"), at.join("index.lock")).expect("links");
        remove_stale(at, "s1").expect("removes");
        assert!(!at.join("index.lock").exists() && !at.join("keyhatch-s1.index").exists());
        fs::write(at.join("index.lock"), "").expect("writes");
        assert!(!place.replace(b"new", || true).expect("no error"), "somebody holds it");
        fs::write(at.join("keyhatch-s1.index"), "new").expect("writes");
        remove_stale(at, "s1").expect("removes");
        assert!(at.join("index.lock").exists(), "it is not ours");
        fs::remove_file(at.join("index.lock")).expect("removes");
        assert!(!place.replace(b"new", || false).expect("no error"), "it changed meanwhile");
        assert!(place.replace(b"new", || true).expect("no error"));
        assert_eq!(fs::read_to_string(at.join("index")).expect("reads"), "new");
        assert_eq!(fs::read_dir(at).expect("lists").count(), 1);
    }
}
