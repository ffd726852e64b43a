//! Reads a file that a session may have put there, or a link to it.
//!
//! Comes in: a path that the user's configuration or a hook of theirs names, and the directories that sessions can write.
//! Outside of these, links are the user's own and are followed. From the first step into one of them on, no link is
//! followed, nothing leads out again (`openat2(2)`, `RESOLVE_BENEATH`), and only a regular file is read, bounded, and
//! without waiting: a FIFO there would hold the broker for ever.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use thiserror::Error;

/// Most links in one path: the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum UntrustedFileError {
    /// Something of a session's leads elsewhere: a link, or a step out of the directory.
    #[error("{path} is, or lies behind, a link that a session could have made")]
    Link {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A FIFO, a socket, a device or a directory.
    #[error("{path} is no regular file")]
    Kind {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// More bytes than are read.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The path that was asked for.
        path: PathBuf,
        /// The limit in force.
        limit: u64,
    },
    /// The kernel's answer.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The path that was asked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads at most `limit` bytes of a file; none where there is nothing. `writable` are the directories that sessions can
/// write, absolute and without links.
///
/// # Errors
/// When something else than a file of at most `limit` bytes is there, or the path leads through a link of a session's.
pub fn read(path: &Path, writable: &[&Path], limit: u64) -> Result<Option<Vec<u8>>, UntrustedFileError> {
    let unreadable = |source| UntrustedFileError::Unreadable { path: path.to_owned(), source };
    let Some(file) = open(path, writable)? else { return Ok(None) };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(UntrustedFileError::Kind { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(UntrustedFileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(bytes))
}

/// Opens it as [`read`] does, whatever kind it is.
fn open(path: &Path, writable: &[&Path]) -> Result<Option<File>, UntrustedFileError> {
    let unreadable = |source| UntrustedFileError::Unreadable { path: path.to_owned(), source };
    let link = || UntrustedFileError::Link { path: path.to_owned() };
    let mut left: VecDeque<OsString> = parts(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            // What is resolved has no links left: its parent is the one by name.
            here.pop();
            continue;
        }
        if writable.iter().any(|root| here.starts_with(root)) {
            let rest: PathBuf = std::iter::once(part).chain(left).collect();
            return beneath(&here, &rest).map_err(|error| match error.kind() {
                _ if is_link(&error) => link(),
                _ => unreadable(error),
            });
        }
        let next = here.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(link());
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            // EINVAL: it is there, and no link.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                here = next
            }
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        }
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(&here, flags, Mode::empty()).map_err(io::Error::from) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(error) if absent(&error) => Ok(None),
        Err(error) if is_link(&error) => Err(link()),
        Err(error) => Err(unreadable(error)),
    }
}

fn beneath(root: &Path, rest: &Path) -> io::Result<Option<File>> {
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, path, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, rest, flags, Mode::empty(), resolve).map_err(io::Error::from) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(named).collect()
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// ELOOP: a link; EXDEV: a step out.
fn is_link(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::LOOP, rustix::io::Errno::XDEV].iter().any(|errno| code == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_users_links_are_followed_and_a_sessions_are_not() {
        let temp = tempfile::tempdir().expect("a directory");
        let top = temp.path().canonicalize().expect("it is there");
        let (home, project) = (top.join("home"), top.join("home/p"));
        fs::create_dir_all(project.join("dir")).expect("mkdir");
        fs::create_dir_all(home.join("config")).expect("mkdir");
        fs::write(home.join("secret"), "SECRET").expect("writes");
        fs::write(project.join("dir/ignore"), "*.o").expect("writes");
        symlink(project.join("dir/ignore"), home.join("config/ignore")).expect("links");
        symlink("../secret", home.join("config/other")).expect("links");
        symlink("/does/not/exist", home.join("config/dangling")).expect("links");
        let read = |path: &str| read(&home.join(path), &[&project], 100).map_err(|error| error.to_string());
        assert_eq!(read("config/ignore"), Ok(Some(b"*.o".to_vec())));
        assert_eq!(read("config/other"), Ok(Some(b"SECRET".to_vec())), "the user's own link");
        assert_eq!(read("config/dangling"), Ok(None));
        assert_eq!(read("nothing"), Ok(None));

        // What a session makes of it, seven ways.
        fs::remove_file(project.join("dir/ignore")).expect("removes");
        symlink("../../secret", project.join("dir/ignore")).expect("links");
        assert!(read("config/ignore").expect_err("a link").contains("a link that a session"));
        symlink("..", project.join("up")).expect("links");
        assert!(read("p/up/secret").is_err(), "a directory that is a link");
        symlink("/", project.join("root")).expect("links");
        assert!(read("p/root/etc/passwd").is_err());
        symlink("/proc/self/root", project.join("magic")).expect("links");
        assert!(read("p/magic/etc/passwd").is_err());
        assert!(read("p/dir/../../secret").is_err(), "a step out");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            project.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        assert!(read("p/pipe").expect_err("a pipe").contains("no regular file"));
        fs::write(project.join("large"), [0; 101]).expect("writes");
        assert!(read("p/large").expect_err("too large").contains("larger than 100 bytes"));
        assert!(read("p/dir").is_err(), "a directory");
    }
}
