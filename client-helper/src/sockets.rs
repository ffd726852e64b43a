//! The session's sockets, as this side finds them, and why one cannot be reached.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use keyhatch_protocol::message::hatch::{Called, HATCH_VARIABLE};
use keyhatch_protocol::message::{HTTP_SOCKET_NAME, SOCKETS_INSIDE, SOCKETS_VARIABLE};
use rustix::io::Errno;
use thiserror::Error;

use crate::hatch::{self, Pipes};

/// The socket of the front end for git.
pub(crate) const HTTP: &str = HTTP_SOCKET_NAME;

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
            Some(Errno::TIMEDOUT) => {
                "end what holds them, or wait for it: pushes and signatures that a person is asked for"
            }
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
        Some(Errno::TIMEDOUT) => "all of the session's connections are in use",
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

/// The hatch's directory, in a sandbox that has no sockets.
pub(crate) fn hatch() -> Option<PathBuf> {
    std::env::var_os(HATCH_VARIABLE).map(PathBuf::from)
}

/// Connects to one of them: through the hatch, where there is one.
pub(crate) fn connect(name: &str) -> Result<Connection, Unreachable> {
    match (hatch(), Called::of_socket(name)) {
        (Some(hatch), Some(called)) => {
            let pipes = hatch::call(&hatch, called).map_err(|source| Unreachable { place: hatch, source })?;
            Ok(Connection::Pipes(Arc::new(pipes)))
        }
        _ => connect_to_socket(name).map(|socket| Connection::Socket(Arc::new(socket))),
    }
}

/// Connects to one of them as a socket, for whoever has sockets.
pub(crate) fn connect_to_socket(name: &str) -> Result<UnixStream, Unreachable> {
    let place = directory().join(name);
    UnixStream::connect(&place).map_err(|source| Unreachable { place, source })
}

/// A connection to one of them. Its clones are the same connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) enum Connection {
    Socket(Arc<UnixStream>),
    Pipes(Arc<Pipes>),
}

impl Connection {
    /// Says that nothing more will be written.
    pub(crate) fn end_writing(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.shutdown(Shutdown::Write),
            Self::Pipes(pipes) => {
                pipes.end_writing();
                Ok(())
            }
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.as_ref().read(buffer),
            Self::Pipes(pipes) => pipes.as_ref().read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.as_ref().write(bytes),
            Self::Pipes(pipes) => pipes.as_ref().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
