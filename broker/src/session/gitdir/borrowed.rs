//! What both sides agree on at the start, without a copy of it: a second name, in a directory of ours, for the host's own
//! file.
//!
//! git writes neither an index nor `packed-refs` in place: it puts a new file under the name. The second name goes on
//! naming what was there, also where a broker dies. As soon as the command is on its way the keeper makes a copy in its
//! place: whoever does write in place must not change what was agreed on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::beneath::Beneath;
use rustix::fs::{AtFlags, CWD, FallocateFlags, fallocate, linkat};

/// How much is copied at once. A multiple of what entries of an index are aligned to.
const PIECE: usize = 256 * 1024;

/// Gives a file of the host's a second name, and opens it; none where it is not there. What cannot have one, on another
/// file system or of another owner, is copied.
///
/// # Errors
/// When it cannot be read, or nothing be written.
pub(super) fn borrow(from: &Beneath, name: &str, to: &Path) -> io::Result<Option<File>> {
    let file = match from.file(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // By descriptor: what is read from here on is what has the second name, whatever git puts under the first.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    if linkat(CWD, opened, CWD, to, AtFlags::SYMLINK_FOLLOW).is_err() {
        copy(&file, to, |_| {})?;
        return File::open(to).map(Some);
    }
    Ok(Some(file))
}

/// Puts a copy of ours in the place of a second name.
///
/// # Errors
/// When it cannot be written; then the second name stays.
pub(super) fn own(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // The host's git may have put a new file under the first name: then it is ours alone.
    if file.metadata()?.nlink() < 2 {
        return Ok(());
    }
    let next = path.with_extension("next");
    copy(&file, &next, |_| {})?;
    fs::rename(next, path)
}

/// Copies a file from where it is read, with a mode of ours, and shows each piece, all but the last of [`PIECE`] bytes.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn copy(mut from: &File, to: &Path, mut look: impl FnMut(&[u8])) -> io::Result<()> {
    let mut to = File::create(to)?;
    let length = from.metadata()?.len();
    // Room for all of it at once is found faster; where the file system cannot, it finds room as it is written.
    if length > PIECE as u64 {
        fallocate(&to, FallocateFlags::KEEP_SIZE, 0, length).ok();
    }
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        Read::by_ref(&mut from).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        look(&piece);
        to.write_all(&piece)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beneath(temp: &tempfile::TempDir) -> Beneath {
        Beneath::own(temp.path()).expect("it is there")
    }

    #[test]
    fn what_was_agreed_on_stays_when_the_host_puts_a_new_file_there() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (host, agreed) = (temp.path().join("index"), temp.path().join("agreed"));
        let names = |path: &Path| fs::metadata(path).expect("it is there").nlink();
        fs::write(&host, "first").expect("writes");
        let mut file = borrow(&beneath(&temp), "index", &agreed).expect("borrows").expect("it is there");
        assert_eq!(names(&host), 2, "nothing was copied");
        fs::write(temp.path().join("lock"), "second").expect("writes");
        fs::rename(temp.path().join("lock"), &host).expect("renames");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("reads");
        assert_eq!((&*text, &*fs::read_to_string(&agreed).expect("reads")), ("first", "first"));
        own(&agreed).expect("it is ours alone");
        assert_eq!(fs::read_to_string(&agreed).expect("reads"), "first");

        assert!(borrow(&beneath(&temp), "absent", &agreed).expect("asks").is_none());
        own(&temp.path().join("absent")).expect("nothing to own");
    }

    #[test]
    fn a_copy_of_ours_is_not_changed_with_the_hosts_file() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (host, agreed) = (temp.path().join("index"), temp.path().join("agreed"));
        fs::write(&host, "first").expect("writes");
        borrow(&beneath(&temp), "index", &agreed).expect("borrows");
        own(&agreed).expect("copies");
        assert_eq!(fs::metadata(&host).expect("it is there").nlink(), 1);
        fs::write(&host, "in place").expect("writes");
        assert_eq!(fs::read_to_string(&agreed).expect("reads"), "first");
    }

    #[test]
    fn every_piece_is_shown_and_copied() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let bytes: Vec<u8> = (0..PIECE * 2 + 5).map(|n| u8::try_from(n % 251).expect("small")).collect();
        fs::write(&from, &bytes).expect("writes");
        let (mut seen, mut pieces) = (Vec::new(), Vec::new());
        copy(&File::open(&from).expect("opens"), &to, |piece| {
            seen.extend_from_slice(piece);
            pieces.push(piece.len());
        })
        .expect("copies");
        assert!(fs::read(&to).expect("reads") == bytes && seen == bytes);
        assert_eq!(pieces, [PIECE, PIECE, 5]);
    }
}
