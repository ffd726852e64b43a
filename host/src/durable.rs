//! Files that are there whole after a power cut, or as they were before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::random::random;

/// Replaces a file by another content: written beside it under a name that nobody knows, flushed, renamed over it, and its
/// directory flushed. When this returns, no power cut takes it back; until then the old content stands.
///
/// # Errors
/// What the kernel says; the file is then as it was, or, where only the last flush failed, perhaps the new one.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{:016x}", u64::from_ne_bytes(random())));
    let beside = directory.join(beside);
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&beside)?;
    let replaced = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| sync_directory(directory));
    if replaced.is_err() {
        // Its name is random and it was never renamed, or is gone already: losing this removal leaves a stray file.
        drop(fs::remove_file(&beside));
    }
    replaced
}

/// Flushes the names in a directory: what was made, renamed or removed in it stays so.
///
/// # Errors
/// What the kernel says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_the_right_mode_and_nothing_stays_beside_it() {
        let temp = tempfile::tempdir().expect("tempdir");
        let file = temp.path().join("kept");
        fs::write(&file, "old").expect("writes");
        write_atomic(&file, b"new", 0o600).expect("replaced");
        assert_eq!(fs::read(&file).expect("reads"), b"new");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(temp.path()).expect("lists").count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_was() {
        let temp = tempfile::tempdir().expect("tempdir");
        let directory = temp.path().join("taken");
        fs::create_dir(&directory).expect("mkdir");
        assert!(write_atomic(&directory, b"new", 0o600).is_err(), "a directory stands there");
        assert_eq!(fs::read_dir(temp.path()).expect("lists").count(), 1);
        assert!(write_atomic(&temp.path().join("none/file"), b"new", 0o600).is_err());
    }
}
