//! `keyhatch run --explain`: what the command wanted and did not get, and the policy line that would allow it.
//!
//! Comes in: system calls that wait for an answer, from a filter that the runner loaded. Those that name a path or an
//! address are looked at and go on in the kernel as they would have; every other one is refused, as it would have been.
//! What is read of the command's memory is for words at the end only: it can lie, and nothing is decided by it.

mod explain;
mod request;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use keyhatch_protocol::text::shown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::Value;

use crate::session::report::Section;
use crate::sys::{self, Answer, Notification};

pub use explain::View;
use request::Request;

/// The section's name, for scripts and for `keyhatch session show --denials`.
pub const SECTION: &str = "denials";
/// Most denials that are kept: a search path is tried a thousand times.
const MOST: usize = 200;
/// Lines at the end of a session.
const LINES: usize = 12;

/// One thing that the command did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The program that wanted it, as the kernel names it.
    pub program: String,
    /// A path, an address or a system call.
    pub object: String,
    /// Why it did not get it.
    pub why: String,
    /// The policy line that would allow it; none where no policy can.
    pub line: Option<String>,
}

/// An observer at work, in a thread of its own.
#[derive(Debug)]
pub struct Observation {
    thread: JoinHandle<Vec<Denial>>,
    stop: Arc<AtomicBool>,
}

impl Observation {
    /// Starts to observe.
    #[must_use]
    pub fn start(listener: OwnedFd, view: View) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || observe(&listener, &view, &stopping));
        Self { thread, stop }
    }

    /// What was seen. Called when the command has ended.
    #[must_use]
    pub fn finish(self) -> Vec<Denial> {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has printed why; the session's end matters more.
        self.thread.join().unwrap_or_default()
    }
}

fn observe(listener: &OwnedFd, view: &View, stop: &AtomicBool) -> Vec<Denial> {
    let mut denials: Vec<Denial> = Vec::new();
    // Until the command itself is executed, the runner tries what must fail.
    let mut started = false;
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) if ready[0].revents().contains(PollFlags::IN) => {}
            // Everything that had the filter is gone.
            _ => break,
        }
        let Ok(call) = sys::next_notification(listener.as_fd()) else { continue };
        let (answer, denial) = look(&call, view, &mut started);
        if let Err(error) = sys::answer_notification(listener.as_fd(), call.id, answer) {
            tracing::debug!(%error, "a call was gone before its answer");
        }
        if let Some(denial) = denial.filter(|_| denials.len() < MOST)
            && !denials.iter().any(|seen| seen.object == denial.object && seen.why == denial.why)
        {
            denials.push(denial);
        }
    }
    denials
}

/// The answer depends on the call's number alone.
fn look(call: &Notification, view: &View, started: &mut bool) -> (Answer, Option<Denial>) {
    let Some(kind) = request::kind(call.call) else {
        let denial = started.then(|| explain::refused_call(call)).map(|denial| named(denial, call.pid));
        return (Answer::Refuse, denial);
    };
    *started |= kind == request::Kind::Execute;
    let request = started.then(|| Request::read(call, kind)).flatten();
    let denial = request.and_then(|request| explain::missing(&request, view));
    (Answer::GoOn, denial.map(|denial| named(denial, call.pid)))
}

fn named(mut denial: Denial, pid: u32) -> Denial {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    denial.program = shown(name.trim());
    denial
}

/// The report's section; none where nothing was missing.
#[must_use]
pub fn section(denials: &[Denial]) -> Option<Section> {
    if denials.is_empty() {
        return None;
    }
    // What a policy can allow comes first: it is what a reader can do something about.
    let mut sorted: Vec<&Denial> = denials.iter().collect();
    sorted.sort_by_key(|denial| denial.line.is_none());
    let mut lines: Vec<String> = sorted.iter().take(LINES).map(|denial| line(denial)).collect();
    if sorted.len() > LINES {
        lines.push(format!("and {} more: keyhatch session show ID --denials --json", sorted.len() - LINES));
    }
    // Plain data of ours: it always encodes.
    Some(Section { name: SECTION.into(), lines, data: serde_json::to_value(denials).unwrap_or(Value::Null) })
}

fn line(denial: &Denial) -> String {
    let remedy = match &denial.line {
        Some(line) => format!("; policy: {line}"),
        None => "; no policy allows it".to_owned(),
    };
    format!("{} (by {}): {}{remedy}", denial.object, denial.program, denial.why)
}
