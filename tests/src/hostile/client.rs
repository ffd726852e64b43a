//! A client that git is not, on a session's `http.sock`: one request a connection, bytes as the test wants them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::PushBytes;
use crate::raw::{get, http_socket, post};
use crate::{Running, World};

/// How long an answer may take, a person's decision included.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP's number; 0 where nothing came.
    pub status: u16,
    /// The body, without its chunks.
    pub body: Vec<u8>,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 4..]));
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_vec() };
        Self { status, body }
    }

    /// The body as text, lossily.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the report says of a ref: `ok`, or why not; none where it says nothing of it.
    #[must_use]
    pub fn of_ref(&self, name: &str) -> Option<String> {
        let text = self.text();
        let after = |word: &str| {
            let at = text.find(&format!("{word} {name}"))?;
            let rest = &text[at + word.len() + 1 + name.len()..];
            rest.starts_with(['\n', ' ']).then(|| rest.lines().next().unwrap_or_default().trim().to_owned())
        };
        after("ng").or_else(|| after("ok").map(|_| "ok".to_owned()))
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let digits = String::from_utf8_lossy(&body[..end]);
        let length = usize::from_str_radix(digits.trim(), 16).unwrap_or(0);
        let from = end + 2;
        if length == 0 || from + length > body.len() {
            break;
        }
        whole.extend_from_slice(&body[from..from + length]);
        body = body.get(from + length + 2..).unwrap_or_default();
    }
    whole
}

/// A session that stays open, and a remote that it may speak to. Closed when dropped.
pub struct HostileClient {
    socket: PathBuf,
    path: String,
    _session: Running,
}

impl HostileClient {
    /// Opens a session of a project under a policy, for one remote by its URL.
    ///
    /// # Panics
    /// When the session does not open.
    #[must_use]
    pub fn open(world: &World, project: &Path, policy: &str, url: &str) -> Self {
        let ready = project.join("hostile-ready");
        std::fs::remove_file(&ready).ok();
        let session = world.start(project, policy, "echo > hostile-ready; sleep 600");
        world.wait_until("the session is open", || ready.exists());
        Self { socket: http_socket(world), path: url.replacen("://", "/", 1), _session: session }
    }

    /// Asks for the remote's advertisement, as git does before it pushes.
    #[must_use]
    pub fn advertisement(&self) -> Answer {
        self.exchange(&get(&self.path, "git-receive-pack"))
    }

    /// Sends a push and waits for the answer, as long as a decision takes.
    #[must_use]
    pub fn push(&self, push: &PushBytes) -> Answer {
        self.exchange(&post(&self.path, &push.bytes()))
    }

    /// Starts a push that waits; the answer comes from the thread.
    pub fn start(&self, push: &PushBytes) -> std::thread::JoinHandle<Answer> {
        let (socket, bytes) = (self.socket.clone(), post(&self.path, &push.bytes()));
        std::thread::spawn(move || exchange(&socket, &bytes))
    }

    /// Sends a push that is asked for, and returns what a person is shown. The push is refused then.
    ///
    /// # Panics
    /// When nothing asks.
    pub fn shown(&self, world: &World, push: &PushBytes) -> Value {
        let waiting = self.start(push);
        let id = world.pending_id();
        let shown = world.keyhatch(&["show", &id, "--json"]).ok();
        world.keyhatch(&["deny", &id]).ok();
        waiting.join().expect("an answer");
        serde_json::from_str(&shown.stdout).expect("JSON")
    }

    /// Any bytes, on a connection of their own.
    #[must_use]
    pub fn exchange(&self, bytes: &[u8]) -> Answer {
        exchange(&self.socket, bytes)
    }
}

fn exchange(socket: &Path, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).expect("the session's socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A broker that refuses early may close before it has read everything.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    Answer::of(&answer)
}
