//! The runner's process: started while the session opens, given its rules, and the sockets that it hands out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use keyhatch_policies::rules::{Foundation, SandboxRules};
use keyhatch_protocol::SessionId;
use keyhatch_protocol::frame::{self, MAX_CONTROL_FRAME};
use rustix::io::FdFlags;
use tokio::io::Interest;
use tokio::process::Child;

use super::Failure;
use crate::control::Request;
use crate::control::client::Client;
use crate::paths::Paths;
use crate::sys;

/// The runner's code for a sandbox that could not be built.
pub(super) const NOT_STARTED: i32 = 125;

/// What to do where a program of ours is missing.
pub(super) const BUILT: &str =
    "cargo build --release builds all programs into one directory: keep them together";

/// Finds a program of ours beside this one.
pub(super) fn beside(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::internal("this program's place", &e))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::unavailable(
        format!("{name} is not beside keyhatch, in {}", own.parent().unwrap_or(Path::new("/")).display()),
        BUILT,
    ))
}

/// A runner that was started and waits for its rules, with sockets for those, for the listeners and for the observer.
pub(super) struct Waiting {
    runner: Child,
    rules: UnixStream,
    handoff: UnixStream,
    observer: UnixStream,
}

impl Waiting {
    /// Starts it on its foundation. Dropped, it is killed; should this process die, its rules never come, and it ends.
    pub(super) fn start(runtime: &tokio::runtime::Runtime, foundation: &Foundation) -> Result<Self, Failure> {
        let internal = |what: &'static str| move |error: io::Error| Failure::internal(what, &error);
        let program = beside("keyhatch-run")?;
        let mut command = tokio::process::Command::new(program);
        let mut line = |option: &str| -> Result<_, Failure> {
            let (ours, theirs) = UnixStream::pair().map_err(internal("a socket pair"))?;
            let theirs = OwnedFd::from(theirs);
            rustix::io::fcntl_setfd(&theirs, FdFlags::empty())
                .map_err(|e| Failure::internal("a descriptor", &io::Error::from(e)))?;
            command.arg(option).arg(theirs.as_raw_fd().to_string());
            Ok((ours, theirs))
        };
        let (mut rules, rules_fd) = line("--rules-fd")?;
        let (handoff, handoff_fd) = line("--handoff-fd")?;
        let (observer, observer_fd) = line("--observer-fd")?;
        // Its own come with the rules: a terminal is not raw before all notes are printed.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command.env_clear().kill_on_drop(true);
        if rustix::process::getuid().is_root() {
            command.arg("--as-root");
        }
        let _inside = runtime.enter();
        let runner = command.spawn().map_err(internal("cannot start keyhatch-run"))?;
        drop((rules_fd, handoff_fd, observer_fd));
        if let Err(error) = frame::write(&mut rules, foundation, MAX_CONTROL_FRAME) {
            // As for the rest of the rules.
            tracing::debug!(%error, "the runner takes no foundation");
        }
        Ok(Self { runner, rules, handoff, observer })
    }

    /// Its process, and the line on which it waits for the door of its cgroup, where there is to be one.
    pub(super) fn at_the_door(&self) -> (u32, &UnixStream) {
        (self.runner.id().unwrap_or(0), &self.handoff)
    }

    /// Passes the sandbox's sockets to the broker, as soon as they are there.
    pub(super) async fn attach(&mut self, paths: &Paths, session: &SessionId) -> Result<Attaching, Failure> {
        let internal = |error: io::Error| Failure::internal("the hand-off socket", &error);
        let line = self.handoff.try_clone().map_err(internal)?;
        line.set_nonblocking(true).map_err(internal)?;
        let line = tokio::net::UnixStream::from_std(line).map_err(internal)?;
        let received = line.async_io(Interest::READABLE, || sys::receive_descriptors(line.as_fd())).await;
        let sockets = match received {
            Ok(sockets) if sockets.is_empty() => return Ok(Attaching(None)),
            Ok(sockets) => sockets,
            Err(_) => {
                // The runner said why on standard error; its exit status is the answer.
                let status = self.runner.wait().await.map_err(|e| Failure::internal("the runner", &e))?;
                std::process::exit(status.code().unwrap_or(NOT_STARTED));
            }
        };
        let mut client = Client::connect(paths)?;
        let runner = self.runner.id().unwrap_or(0);
        client.send(Request::AttachSockets { session: session.clone(), runner })?;
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        client.send_descriptors(&sockets)?;
        Ok(Attaching(Some(client)))
    }

    /// Gives it what it waits for: standard descriptors, then the rules to their end.
    pub(super) fn give(
        self,
        rules: &SandboxRules,
        stdio: &[OwnedFd; 3],
    ) -> Result<(Child, UnixStream), Failure> {
        let text =
            serde_json::to_vec(rules).map_err(|error| Failure::internal("the sandbox's rules", &error))?;
        let mut line = self.rules;
        let given = sys::send_descriptors(line.as_fd(), &stdio.each_ref().map(AsFd::as_fd))
            .and_then(|()| io::Write::write_all(&mut line, &text));
        if let Err(error) = given {
            // It is gone, and has said why; whoever waits for it sees its status.
            tracing::debug!(%error, "the runner takes no rules");
        }
        Ok((self.runner, self.observer))
    }
}

/// The sandbox's sockets on their way to the broker; none where the sandbox has no namespaces of its own, or the host's
/// network.
pub(super) struct Attaching(Option<Client>);

impl Attaching {
    /// Waits until the broker serves them. Returns whether there are any.
    pub(super) fn finish(self) -> Result<bool, Failure> {
        let Some(mut client) = self.0 else { return Ok(false) };
        client.reply()?;
        Ok(true)
    }
}
