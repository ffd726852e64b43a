//! What differs between two files: lines that are counted, and what the added ones seem to hold.

use git2::{DiffOptions, ObjectType, Oid, Patch};
use keyhatch_protocol::{RiskKind, text};

use super::budget::Work;
use super::look::Look;
use super::{secrets, streamed};

/// Files beyond this are not compared line by line: every line of the new one counts as added.
const MAX_COMPARED: usize = 2 * 1024 * 1024;
/// Files beyond this are not read whole, but in pieces.
const MAX_READ: usize = 16 * 1024 * 1024;
/// How far git looks for a NUL before it takes a file for text.
pub(super) const SNIFFED: usize = 8000;
/// Lines of one file that are listed for what they hold; the rest is counted.
const MAX_FINDINGS: usize = 100;
/// Pairs of files that are remembered.
const MAX_REMEMBERED: usize = 50_000;

/// A line that is worth a look.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) line: u32,
    pub(super) kind: RiskKind,
    /// What it seems to be; empty where the kind says it.
    pub(super) what: &'static str,
}

/// What comparing two files gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Compared {
    /// Added lines; none where they are not counted.
    pub(super) added: Option<u64>,
    /// Removed lines; none where they are not counted.
    pub(super) removed: Option<u64>,
    pub(super) is_binary: bool,
    /// Why the new file was not read.
    pub(super) unread: Option<&'static str>,
    pub(super) findings: Vec<Finding>,
    /// Lines that would be findings too.
    pub(super) more: u64,
}

/// Compares two files; none stands for a file that is not there.
pub(super) fn compare(look: &mut Look<'_>, old: Option<Oid>, new: Option<Oid>) -> Compared {
    if let Some(known) = look.compared.get(&(old, new)) {
        return known.clone();
    }
    let compared = read_both(look, old, new);
    if look.compared.len() < MAX_REMEMBERED {
        look.compared.insert((old, new), compared.clone());
    }
    compared
}

fn read_both(look: &mut Look<'_>, old: Option<Oid>, new: Option<Oid>) -> Compared {
    let unread = |why| Compared { unread: Some(why), ..Compared::default() };
    let (mut before, mut after) = (None, None);
    if let Some(new) = new {
        match size(look, new) {
            Size::Absent => {
                look.lacks_content(new);
                return unread("its content is not at hand");
            }
            Size::NoFile => return unread("it is no file"),
            Size::Bytes(bytes) if bytes > MAX_READ => {
                return streamed::look_through(look, new, bytes as u64);
            }
            Size::Bytes(bytes) if look.budget.take(Work::Bytes, bytes as u64).is_err() => {
                return unread("too much was read before");
            }
            Size::Bytes(_) => after = Some(new),
        }
    }
    if let Some(old) = old {
        match size(look, old) {
            Size::Bytes(bytes)
                if bytes <= MAX_COMPARED && look.budget.take(Work::Bytes, bytes as u64).is_ok() =>
            {
                before = Some(old);
            }
            Size::Absent => look.wants_content(old),
            Size::Bytes(_) | Size::NoFile => {}
        }
    }
    let is_comparable = old.is_none() || before.is_some();
    let Ok(odb) = look.quarantine.repository.odb() else { return unread("it cannot be read") };
    let content = |oid: Option<Oid>| oid.map(|oid| odb.read(oid)).transpose();
    let (Ok(before), Ok(after)) = (content(before), content(after)) else {
        return unread("it cannot be read");
    };
    let data = |object: &Option<git2::OdbObject<'_>>| -> Vec<u8> {
        object.as_ref().map_or_else(Vec::new, |object| object.data().to_vec())
    };
    // A copy of each: the objects are let go before the comparison, which holds both sides again.
    let (old, new) = (data(&before), data(&after));
    drop((before, after));
    if is_binary(&old) || is_binary(&new) {
        return Compared { is_binary: true, ..Compared::default() };
    }
    let mut compared = Compared::default();
    if !is_comparable || new.len() > MAX_COMPARED || lines(&old, &new, &mut compared).is_err() {
        compared = Compared::default();
        for (number, line) in (1u32..).zip(new.split(|byte| *byte == b'\n')) {
            compared.see(number, line);
        }
    }
    compared
}

enum Size {
    Bytes(usize),
    /// A name of something else, which no git writes.
    NoFile,
    Absent,
}

fn size(look: &Look<'_>, oid: Oid) -> Size {
    match look.header(oid) {
        Some((bytes, ObjectType::Blob)) => Size::Bytes(bytes),
        Some(_) => Size::NoFile,
        None => Size::Absent,
    }
}

pub(super) fn is_binary(content: &[u8]) -> bool {
    content[..content.len().min(SNIFFED)].contains(&0)
}

/// How lines are compared. No attributes: the session wrote them, and they could hide a change as "binary".
pub(super) fn options(context: u32) -> DiffOptions {
    let mut options = DiffOptions::new();
    options.force_text(true).context_lines(context);
    options
}

fn lines(old: &[u8], new: &[u8], compared: &mut Compared) -> Result<(), git2::Error> {
    let mut patch = Patch::from_buffers(old, None, new, None, Some(&mut options(0)))?;
    let (_, added, removed) = patch.line_stats()?;
    compared.added = Some(added as u64);
    compared.removed = Some(removed as u64);
    patch.print(&mut |_, _, line| {
        if line.origin() == '+' {
            compared.see(line.new_lineno().unwrap_or(0), line.content());
        }
        true
    })
}

impl Compared {
    /// Looks at one added line.
    pub(super) fn see(&mut self, line: u32, content: &[u8]) {
        if let Some(what) = secrets::in_line(content) {
            self.find(Finding { line, kind: RiskKind::Secret, what });
        }
        let invisible = |c: char| text::is_invisible(c);
        if !content.is_ascii() && String::from_utf8_lossy(content).chars().any(invisible) {
            self.find(Finding { line, kind: RiskKind::InvisibleText, what: "" });
        }
    }

    fn find(&mut self, finding: Finding) {
        // The first of each kind is always there.
        let is_first = !self.findings.iter().any(|known| known.kind == finding.kind);
        if is_first || self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
