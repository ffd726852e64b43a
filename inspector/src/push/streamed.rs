//! Files that are too large for memory: read through git, a piece at a time, as far as is needed to know what they hold.

use std::io::{self, Read};
use std::process::{Child, Stdio};

use git2::Oid;

use super::budget::Work;
use super::content::{Compared, SNIFFED, is_binary};
use super::look::Look;
use super::quarantine::git;

/// One piece.
const PIECE: usize = 1024 * 1024;
/// How much of a piece without a line's end is looked at again with the next one: no secret that is known is longer.
const OVERLAP: usize = 512;

/// Looks through a new file of so many bytes. Its lines are not counted.
pub(super) fn look_through(look: &mut Look<'_>, oid: Oid, bytes: u64) -> Compared {
    let unread = |why| Compared { unread: Some(why), ..Compared::default() };
    if look.budget.take(Work::Streams, 1).is_err() {
        return unread("too many large files were read before");
    }
    match stream(look, oid, bytes) {
        Ok(compared) => compared,
        Err(_) => unread("it cannot be read"),
    }
}

fn stream(look: &mut Look<'_>, oid: Oid, bytes: u64) -> io::Result<Compared> {
    let mut reading = Reading::start(look, oid)?;
    let mut piece = Vec::with_capacity(PIECE + OVERLAP);
    reading.fill(&mut piece, SNIFFED)?;
    if is_binary(&piece) {
        return Ok(Compared { is_binary: true, ..Compared::default() });
    }
    // Text is read to its end.
    if look.budget.take(Work::Bytes, bytes).is_err() {
        return Ok(Compared { unread: Some("it is too large"), ..Compared::default() });
    }
    let (mut compared, mut line) = (Compared::default(), 1u32);
    loop {
        let is_last = !reading.fill(&mut piece, PIECE)?;
        let end = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // A line that does not fit is looked at in parts that overlap.
        let (end, keep) = match end {
            _ if is_last => (piece.len(), piece.len()),
            0 => (piece.len(), piece.len().saturating_sub(OVERLAP)),
            end => (end, end),
        };
        for content in piece[..end].split_inclusive(|byte| *byte == b'\n') {
            compared.see(line, content);
            line = line.saturating_add(u32::from(content.ends_with(b"\n")));
        }
        piece.drain(..keep);
        if is_last {
            return reading.finish().map(|()| compared);
        }
    }
}

/// git as it prints a file. It ends when this is dropped.
struct Reading {
    child: Child,
}

impl Reading {
    fn start(look: &Look<'_>, oid: Oid) -> io::Result<Self> {
        let child = git()
            .args(["-c", "core.bigFileThreshold=1m", "-c", "core.deltaBaseCacheLimit=8m", "-C"])
            .arg(look.quarantine.repository.path())
            .args(["cat-file", "blob", &oid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    /// Reads until there are so many bytes; false where there are no more.
    fn fill(&mut self, piece: &mut Vec<u8>, to: usize) -> io::Result<bool> {
        let Some(stdout) = self.child.stdout.as_mut() else { return Ok(false) };
        let wanted = to.saturating_sub(piece.len()).max(1) as u64;
        let read = stdout.take(wanted).read_to_end(piece)?;
        Ok(read as u64 == wanted)
    }

    /// Waits for its end; what was cut off was not read.
    fn finish(mut self) -> io::Result<()> {
        if self.child.wait()?.success() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // It ended, or ends as nobody reads what it prints: this process may signal no other. Either way it is reaped.
        drop(self.child.stdout.take());
        drop(self.child.wait());
    }
}
