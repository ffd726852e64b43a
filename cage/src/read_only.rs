//! A descriptor that cannot be written, whoever holds it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// A regular file, open for reading alone. A child gets no other kind: whoever took it over could write through any
/// descriptor that the parent can write through, also through one that both only read from.
#[derive(Debug)]
pub struct ReadOnlyFd(OwnedFd);

impl ReadOnlyFd {
    /// Opens a file anew, for reading: an open file of its own in the kernel, with its own position, whatever the other may do.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for what is no regular file.
    pub fn reopen(file: &File) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened = openat(CWD, path, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&opened)?.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(opened))
    }
}

impl AsFd for ReadOnlyFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_was_reopened_can_be_read_and_not_written_and_has_a_place_of_its_own() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"content").expect("writes");
        let reopened = ReadOnlyFd::reopen(&file).expect("reopens");
        let mut reader = File::from(reopened.as_fd().try_clone_to_owned().expect("a copy"));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "content");
        let refused = reader.write_all(b"x").expect_err("it cannot be written");
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn only_a_regular_file_goes_to_a_child() {
        assert!(ReadOnlyFd::reopen(&File::open("/dev/null").expect("opens")).is_err());
        assert!(ReadOnlyFd::reopen(&File::open("/").expect("opens")).is_err());
    }
}
