//! The one rendering that every surface shows: what would happen, from facts, and what the session wrote.
//!
//! The two never share a row: whatever a session chose (remote, refs, subjects, paths, details of risks) stands in rows of
//! its own behind a gutter that nothing else has, escaped and bounded. Remote and refs come first.

mod details;
pub mod question;
mod sign;

use std::fmt::Write as _;

use keyhatch_protocol::text::{shown, shown_line};
use keyhatch_terminal::{GUTTER, Row};

use crate::control::{RequestView, ShownRequest};
use crate::session::report::{SessionReport, shown_project};
use crate::signer::LockedKey;
use details::{Details, LISTED, counted, word};

/// What tells a reader of a text whose words are whose.
const LEGEND: &str = "  --- rows after │ are text that the session wrote ---";

/// A request in few rows, for lists.
#[must_use]
pub fn lines(request: &RequestView) -> String {
    let mut rows = Details::new(usize::MAX);
    if let Some(problem) = &request.problem {
        rows.say(format!("{}  cannot be shown; run: keyhatch deny {0}", request.id));
        rows.quote(problem);
        return text_of(&rows.into_rows());
    }
    let mut first = format!("{}  {}", request.id, request.operation);
    if let Some(facts) = &request.signature {
        first.push_str(&format!(" {} with {}", facts.kind.word(), facts.key));
    }
    if let Some(update) = request.updates.first() {
        let is_one_kind = request.updates.iter().all(|other| other.kind == update.kind);
        first.push_str(&if is_one_kind && request.updates.len() as u64 == request.update_count {
            format!("  {} {}", word(update.kind), counted(request.update_count, "ref"))
        } else {
            format!("  {}", kinds(request))
        });
    }
    if request.risk_count > 0 {
        first.push_str(&format!("  {}", counted(request.risk_count, "risk")));
    }
    if request.withdrawn {
        first.push_str("  (client went away; an approval waits for its retry)");
    }
    rows.say(first);
    if !request.remote.is_empty() {
        rows.quote_name(&request.remote);
    }
    if let Some(facts) = &request.signature {
        rows.quote(&facts.subject);
    }
    if let Some(update) = request.updates.first() {
        rows.quote_name(update.ref_name.as_str());
    }
    text_of(&rows.into_rows())
}

/// How many refs each kind has.
fn kinds(request: &RequestView) -> String {
    let mut counts: Vec<(keyhatch_protocol::UpdateKind, u64)> = Vec::new();
    for update in &request.updates {
        match counts.iter_mut().find(|(kind, _)| *kind == update.kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((update.kind, 1)),
        }
    }
    // What takes something away first.
    counts.sort_by_key(|(kind, _)| !details::is_dangerous(*kind));
    let words: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{} {}", word(*kind), counted(*count, "ref"))).collect();
    let left = request.update_count.saturating_sub(request.updates.len() as u64);
    let more = if left > 0 { format!(" and {left} more") } else { String::new() };
    format!("{}{more}", words.join(", "))
}

fn text_of(rows: &[Row]) -> String {
    rows.iter().map(|row| row.line() + "\n").collect()
}

/// A key that signatures wait for, in one line.
#[must_use]
pub fn locked_line(key: &LockedKey) -> String {
    format!("locked  {}  run: keyhatch credential unlock", shown(&key.path.display().to_string()))
}

/// A key that signatures wait for, and what to do: never here, where the agent could have drawn the same.
#[must_use]
pub fn locked(key: &LockedKey) -> String {
    format!(
        "a signature waits for a key that has a passphrase\n  key         {}\n  file        {}\n\n\
         in another terminal, run: keyhatch credential unlock\n\
         never type the passphrase in here: what looks like this can be the agent's own\n",
        shown(&key.fingerprint),
        shown(&key.path.display().to_string())
    )
}

/// A request in full, without its diff.
#[must_use]
pub fn request(request: &RequestView) -> String {
    let mut rows = Details::new(usize::MAX);
    rows.say(format!("{} {}", request.operation, request.id));
    if let Some(problem) = &request.problem {
        rows.warn("! problem     it cannot be shown, so it cannot be approved");
        rows.quote(problem);
    }
    if let Some(facts) = &request.signature {
        rows.say(LEGEND);
        sign::details(request, facts, &mut rows);
        return text_of(&rows.into_rows());
    }
    rows.say("  remote");
    rows.quote_name(&request.remote);
    rows.refs(request, LISTED);
    rows.say(LEGEND);
    details::rest(request, &mut rows);
    text_of(&rows.into_rows())
}

/// A session's report: who it was, then a line or more a section.
#[must_use]
pub fn report(report: &SessionReport) -> String {
    let state = if report.closed.is_some() { "ended" } else { "open" };
    let mut text = format!(
        "session {} ({state}), policy {}, {}\n",
        report.session,
        shown(&report.policy),
        shown_project(&report.session, &report.project)
    );
    for section in &report.sections {
        for line in &section.lines {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "  {}: {line}", section.name);
        }
    }
    text
}

/// The diff, every line escaped and behind the gutter.
#[must_use]
pub fn diff(request: &ShownRequest) -> String {
    let mut text = String::with_capacity(request.diff.len());
    for line in request.diff.lines() {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{GUTTER}{}", shown_line(line));
    }
    if request.diff_cut {
        text.push_str(DIFF_CUT);
        text.push('\n');
    }
    text
}

/// The diff in rows of a width.
#[must_use]
pub fn diff_rows(request: &ShownRequest, columns: usize) -> Vec<Row> {
    let mut rows: Vec<Row> =
        request.diff.lines().flat_map(|line| Row::session_whole(line, columns)).collect();
    if request.diff_cut {
        rows.push(Row::warning(DIFF_CUT));
    }
    if rows.is_empty() {
        rows.push(Row::keyhatch("nothing to show"));
    }
    rows
}

const DIFF_CUT: &str =
    "… the diff is longer than what is kept; the whole of it is in the commits named above";
