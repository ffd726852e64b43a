//! A client that git is not: bytes of a test's own choice, on a session's `http.sock`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::World;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The socket of the one session that is open.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn http_socket(world: &World) -> PathBuf {
    let sessions = std::fs::read_dir(world.path("run/keyhatch/sessions")).expect("a broker runs");
    let session = sessions.filter_map(Result::ok).next().expect("a session is open");
    session.path().join("http.sock")
}

/// Sends bytes and reads until the other end closes, or says no more for a while.
///
/// # Panics
/// When the socket cannot be reached.
#[must_use]
pub fn exchange(socket: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("the session's socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A broker that refuses early may close before it has read everything.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A POST of a push's bytes to the front end's path of a remote.
#[must_use]
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /{path}/git-receive-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A GET of a remote's advertisement, by its path as the bytes should be.
#[must_use]
pub fn get(path: &str, service: &str) -> Vec<u8> {
    format!("GET /{path}/info/refs?service={service} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// One pkt-line.
#[must_use]
pub fn pkt(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}
