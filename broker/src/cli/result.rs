//! The result of `keyhatch run --json`: one object, for programs that run what was just written.

use std::os::unix::process::ExitStatusExt;
use std::sync::PoisonError;
use std::time::Duration;

use keyhatch_protocol::SessionId;
use serde::Serialize;

use super::stdio::Kept;
use super::supervise::Ended;
use crate::limits::{Hit, Limit};
use crate::sys::ChildrenUsage;

/// What a run came to. Stable: fields are added, never changed.
#[derive(Debug, Serialize)]
pub(super) struct RunResult {
    /// Whether it exited with 0 and hit nothing.
    ok: bool,
    /// Whose.
    session: SessionId,
    /// The exit code; none where a signal ended it.
    exit_code: Option<i32>,
    /// The signal; none where it exited.
    signal: Option<i32>,
    /// Standard output, what is not UTF-8 replaced.
    stdout: String,
    /// Standard error, what is not UTF-8 replaced.
    stderr: String,
    /// Whether one of them was longer than what is kept.
    output_cut: bool,
    /// Whether it ran into its limit of time, or was idle for too long.
    timed_out: bool,
    /// Which other limit it hit: `memory`, `processes`, `disk`, `growth`, `output`.
    resource_exceeded: Option<&'static str>,
    /// Why it was ended before its end, in words.
    killed: Option<String>,
    /// The most memory that was in use at once, in bytes.
    peak_memory: u64,
    /// From start to end, in milliseconds.
    wall_ms: u64,
    /// Processor time of the command's own, in milliseconds.
    user_ms: u64,
    /// Processor time of the kernel for it, in milliseconds.
    system_ms: u64,
}

/// What a run used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    /// The most memory that was seen.
    pub(super) peak: u64,
    /// From start to end.
    pub(super) wall: Duration,
    /// Of the processes that ended.
    pub(super) children: ChildrenUsage,
}

impl RunResult {
    pub(super) fn new(session: &SessionId, ended: &Ended, hits: &[Hit], kept: &Kept, used: Used) -> Self {
        let text = |bytes: &std::sync::Mutex<Vec<u8>>| {
            let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let cut = bytes.len() as u64 >= kept.most;
            (String::from_utf8_lossy(&bytes).into_owned(), cut)
        };
        let ((stdout, out_cut), (stderr, err_cut)) = (text(&kept.stdout), text(&kept.stderr));
        let timed = |hit: &Hit| matches!(hit.limit, Limit::Time(_) | Limit::Idle(_));
        let exceeded = hits.iter().find(|hit| !timed(hit));
        let code = ended.status.code();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            ok: code == Some(0) && hits.is_empty(),
            session: session.clone(),
            exit_code: code,
            signal: ended.status.signal(),
            stdout,
            stderr,
            output_cut: out_cut || err_cut,
            timed_out: hits.iter().any(timed),
            resource_exceeded: exceeded.map(|hit| hit.limit.word()),
            killed: ended.killed.map(|hit| hit.to_string()),
            peak_memory: used.peak,
            wall_ms: millis(used.wall),
            user_ms: millis(used.children.user),
            system_ms: millis(used.children.system),
        }
    }
}
