//! What the command wanted and did not get: calls that are refused, connections past the proxy and, with `keyhatch run
//! --explain`, paths; with the policy line that would allow it.
//!
//! Comes in: system calls that wait for an answer, from a filter that the runner loaded. Those that name an address or a
//! path are looked at and go on in the kernel as they would have; every other one is refused, as it would have been. What
//! is read of the command's memory is for words at the end only: it can lie, and nothing is decided by it.

mod attempt;
mod explain;
mod landlocked;
mod refused;
mod request;

use std::io::PipeWriter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use keyhatch_protocol::text::shown;
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::report::Section;
use crate::sys::{self, Answer, Notification};

pub use attempt::{Attempt, Attempts, Carrier};
pub use explain::View;
use request::{Kind, Request};

/// The section's name, for scripts and for `keyhatch session show --denials`.
pub const SECTION: &str = "denials";
/// Most denials that are kept: a search path is tried a thousand times.
const MOST: usize = 200;
/// Lines at the end of a session.
const LINES: usize = 12;
/// What a process of the runner's is called until it becomes the command: it tries what must fail.
const RUNNER: &str = "keyhatch-run";

/// One thing that the command did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// The program that wanted it, as the kernel names it.
    pub program: String,
    /// A path or a system call.
    pub object: String,
    /// Why it did not get it.
    pub why: String,
    /// The policy line that would allow it; none where no policy can.
    pub line: Option<String>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whether there was anything to look with.
    pub looked: bool,
    /// What was not to be had.
    pub denials: Vec<Denial>,
    /// Connections past the proxy.
    pub attempts: Attempts,
}

/// An observer at work, in a thread of its own.
#[derive(Debug)]
pub struct Observation {
    thread: JoinHandle<Seen>,
    /// Closed, it ends the thread.
    stop: PipeWriter,
}

impl Observation {
    /// Starts to wait for the filter's end that the runner hands over, and then to observe.
    ///
    /// # Errors
    /// When there is no pipe or thread to be had.
    pub fn start(line: UnixStream, view: View) -> std::io::Result<Self> {
        let (stopped, stop) = std::io::pipe()?;
        let thread = std::thread::Builder::new().name("observer".into()).spawn(move || {
            let received = sys::receive_descriptors(line.as_fd()).ok().and_then(|mut all| all.pop());
            drop(line);
            // None where the kernel gave no observer, or the start failed.
            received
                .map(|listener| Observer::new(view).observe(&listener, &stopped.into()))
                .unwrap_or_default()
        })?;
        Ok(Self { thread, stop })
    }

    /// What was seen. Called when the runner has ended.
    #[must_use]
    pub fn finish(self) -> Seen {
        drop(self.stop);
        // A thread that panicked has printed why; the session's end matters more.
        self.thread.join().unwrap_or_default()
    }
}

struct Observer {
    view: View,
    seen: Seen,
    /// Whether the command itself was executed.
    started: bool,
    /// Whether it sees the host's names; none until it was looked at.
    without_mounts: Option<bool>,
}

impl Observer {
    fn new(view: View) -> Self {
        Self { view, seen: Seen { looked: true, ..Seen::default() }, started: false, without_mounts: None }
    }

    fn observe(mut self, listener: &OwnedFd, stopped: &OwnedFd) -> Seen {
        sys::wake_in_turns(listener.as_fd());
        loop {
            let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(_) if ready[0].revents().contains(PollFlags::IN) => {}
                // Everything that had the filter is gone, or nobody wants to know any more.
                _ => return self.seen,
            }
            let Ok(call) = sys::next_notification(listener.as_fd()) else { continue };
            let answer = self.look(&call);
            if let Err(error) = sys::answer_notification(listener.as_fd(), call.id, answer) {
                tracing::debug!(%error, "a call was gone before its answer");
            }
        }
    }

    /// The answer depends on the call's number alone.
    fn look(&mut self, call: &Notification) -> Answer {
        let kind = request::kind(call.call);
        self.started = self.started || program(call.pid) != RUNNER;
        if self.started {
            match kind {
                None => self.deny(refused::denial(call), call.pid),
                Some(kind) => self.look_at(call, kind),
            }
        }
        if kind.is_some() { Answer::GoOn } else { Answer::Refuse }
    }

    fn look_at(&mut self, call: &Notification, kind: Kind) {
        match Request::read(call, kind) {
            Some(Request::Address(address)) if self.view.own_network => {
                self.seen.attempts.add(address, call);
            }
            Some(Request::Path { pid, path, writes }) => {
                let denial = if *self.without_mounts.get_or_insert_with(|| landlocked::is_without_mounts(pid))
                {
                    landlocked::missing(&path, writes, &self.view)
                } else {
                    explain::missing((pid, &path, writes), &self.view)
                };
                if let Some(denial) = denial {
                    self.deny(denial, call.pid);
                }
            }
            Some(Request::Address(_)) | None => {}
        }
    }

    fn deny(&mut self, mut denial: Denial, pid: u32) {
        let denials = &mut self.seen.denials;
        if denials.len() < MOST
            && !denials.iter().any(|seen| seen.object == denial.object && seen.why == denial.why)
        {
            denial.program = program(pid);
            denials.push(denial);
        }
    }
}

/// What the kernel calls a process.
fn program(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    shown(name.trim())
}

/// The report's section; none where nothing was missing. Its lines are for a command that failed: many a program tries
/// what it can do without.
#[must_use]
pub fn section(denials: &[Denial], failed: bool) -> Option<Section> {
    if denials.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = if failed { sorted(denials) } else { Vec::new() };
    if lines.len() > LINES {
        let more = lines.len() - LINES;
        lines.truncate(LINES);
        lines.push(format!("and {more} more: keyhatch session show ID --denials"));
    }
    // Plain data of ours: it always encodes.
    Some(Section { name: SECTION.into(), lines, data: serde_json::to_value(denials).unwrap_or(Value::Null) })
}

/// Every line of a section, from the data that a report keeps.
#[must_use]
pub fn whole(section: &Section) -> Vec<String> {
    let denials = serde_json::from_value::<Vec<Denial>>(section.data.clone());
    denials.map_or_else(|_| section.lines.clone(), |denials| sorted(&denials))
}

/// What a policy can allow comes first: it is what a reader can do something about.
fn sorted(denials: &[Denial]) -> Vec<String> {
    let mut sorted: Vec<&Denial> = denials.iter().collect();
    sorted.sort_by_key(|denial| denial.line.is_none());
    sorted.into_iter().map(line).collect()
}

fn line(denial: &Denial) -> String {
    let remedy = match &denial.line {
        Some(line) => format!("; policy: {line}"),
        None => "; no policy allows it".to_owned(),
    };
    format!("{} (by {}): {}{remedy}", denial.object, denial.program, denial.why)
}
