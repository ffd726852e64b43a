//! The session's sockets, as this side finds them, and why one cannot be reached.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use keyhatch_protocol::message::{SOCKETS_INSIDE, SOCKETS_VARIABLE};
use rustix::io::Errno;
use thiserror::Error;

/// The socket of the front end for git.
pub(crate) const HTTP: &str = "http.sock";

/// A socket of the session cannot be reached.
#[derive(Debug, Error)]
#[error("no keyhatch session can be reached at {}: {}", place.display(), why(source))]
pub(crate) struct Unreachable {
    /// The socket's path.
    pub(crate) place: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl Unreachable {
    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match Errno::from_io_error(&self.source) {
            Some(Errno::NOENT) => {
                "run this inside keyhatch run, or mount what keyhatch session open prints; sockets go when their session ends"
            }
            Some(Errno::CONNREFUSED) => "the session has ended: the user can open another",
            Some(Errno::PERM) => {
                "this sandbox's own settings must open exactly this socket: keyhatch session open --format srt, or codex"
            }
            _ => "the socket is for everybody: what denies it is this sandbox's own rules",
        }
    }
}

/// What the kernel's answer means, where somebody else built the walls.
fn why(error: &io::Error) -> String {
    let means = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "it is not there",
        Some(Errno::CONNREFUSED) => "nobody listens",
        Some(Errno::PERM) => "a seccomp filter around this process forbids Unix sockets (EPERM)",
        Some(Errno::ACCESS) => {
            "permission denied (EACCES): a directory on the way, a security module, or Landlock, which from ABI 9 on has a \
             right of its own for connecting by path (LANDLOCK_ACCESS_FS_RESOLVE_UNIX)"
        }
        _ => return error.to_string(),
    };
    means.to_owned()
}

/// The directory of the session's sockets.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os(SOCKETS_VARIABLE).map_or_else(|| SOCKETS_INSIDE.into(), PathBuf::from)
}

/// Connects to one of them.
pub(crate) fn connect(name: &str) -> Result<UnixStream, Unreachable> {
    let place = directory().join(name);
    UnixStream::connect(&place).map_err(|source| Unreachable { place, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_kernel_is_told_apart_and_the_wall_that_gave_it_is_named() {
        let said = |errno: Errno| {
            let error = Unreachable { place: "/run/keyhatch/x.sock".into(), source: errno.into() };
            format!("{error}; {}", error.hint())
        };
        assert!(said(Errno::NOENT).contains("/run/keyhatch/x.sock: it is not there"));
        assert!(said(Errno::CONNREFUSED).contains("has ended"));
        assert!(said(Errno::PERM).contains("seccomp") && said(Errno::PERM).contains("--format srt"));
        assert!(said(Errno::ACCESS).contains("LANDLOCK_ACCESS_FS_RESOLVE_UNIX"));
    }
}
