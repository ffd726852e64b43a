//! The one rendering that every surface shows: what would happen, from facts, then what the session wrote.
//!
//! Everything a session chose is escaped and bounded; remote and refs come first and are never pushed out of view.

mod sign;

use std::fmt::Write as _;

use keyhatch_protocol::UpdateKind;
use keyhatch_protocol::text::{shown, shown_line};

use crate::control::{RequestView, ShownRequest};
use crate::session::report::{SessionReport, shown_project};
use crate::signer::LockedKey;

/// Refs, commits, files and risks that a rendering lists; the counts are always whole.
const LISTED: usize = 20;

/// Says where the session's own text begins, and how it is told from keyhatch's.
const SEPARATOR: &str = "  --- from here on, what stands behind a bar is text that the session wrote ---";

/// A request in one line, for lists.
#[must_use]
pub fn line(request: &RequestView) -> String {
    if let Some(facts) = &request.signature {
        return format!("{}  {}", request.id, sign::words(facts));
    }
    if let Some(problem) = &request.problem {
        return format!("{}  cannot be shown: {}; run: keyhatch deny {0}", request.id, shown(problem));
    }
    let what = match request.updates.first() {
        None => "fetch".to_owned(),
        Some(one) => {
            let more = request.update_count.saturating_sub(1);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("{} {}{more}", one.kind.word(), shown(one.ref_name.short()))
        }
    };
    let risks =
        if request.risk_count == 0 { String::new() } else { format!("  risks: {}", request.risk_count) };
    let withdrawn =
        if request.withdrawn { "  (client went away; an approval waits for its retry)" } else { "" };
    format!("{}  {}  {what}{risks}{withdrawn}", request.id, shown(&request.remote))
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
    if let Some(facts) = &request.signature {
        return sign::request(request, facts);
    }
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say(format!("{} {}", request.operation, request.id));
    if let Some(problem) = &request.problem {
        say(format!("! problem     it cannot be shown, so it cannot be approved: {}", shown(problem)));
    }
    say(format!("  remote      {}", shown(&request.remote)));
    for update in request.updates.iter().take(LISTED) {
        let (old, new) = (update.old.short(), update.new.short());
        let mark = if matches!(update.kind, UpdateKind::Force | UpdateKind::Delete) { "!" } else { " " };
        let from_to = match update.kind {
            UpdateKind::Create => format!("new at {new}"),
            UpdateKind::Delete => format!("was {old}"),
            UpdateKind::FastForward | UpdateKind::Force => format!("{old} -> {new}"),
        };
        say(format!("{mark} {:<12}  {}  {from_to}", update.kind.word(), shown(update.ref_name.as_str())));
    }
    more(&mut say, request.update_count, request.updates.len(), "refs");
    for option in &request.push_options {
        say(format!("! option      {}", shown(option)));
    }
    for risk in request.risks.iter().take(LISTED) {
        say(format!("! risk        {}: {}", risk.kind.word(), shown(&risk.detail)));
    }
    more(&mut say, request.risk_count, request.risks.len(), "risks");
    say(format!("  session     {}", request.session));
    say(format!("  credential  {}", shown(&request.credential)));
    say(format!("  rule        {}: {}", shown(&request.rule), shown(&request.reason)));
    say(format!("  digest      {}", request.digest));
    if request.operation == "push" {
        say(format!(
            "  changes     {} commits, {} files, +{} -{} lines, {} bytes",
            request.commit_count, request.file_count, request.added, request.removed, request.pack_bytes
        ));
    }
    say(SEPARATOR.to_owned());
    for commit in request.commits.iter().take(LISTED) {
        let signed = sign::carried(commit.signature.as_ref());
        say(format!("  commit      {}{signed}", commit.oid.short()));
        say(written("subject", &commit.subject));
        say(written("author", &sign::person(&commit.author)));
    }
    more(&mut say, request.commit_count, request.commits.len(), "commits");
    for tag in request.tags.iter().take(LISTED) {
        let signed = sign::carried(tag.signature.as_ref());
        say(format!("  tag         {}{signed}", tag.oid.short()));
        say(written("name", &tag.name));
        say(written("subject", &tag.subject));
        tag.tagger.iter().for_each(|who| say(written("tagger", &sign::person(who))));
    }
    more(&mut say, request.tag_count, request.tags.len(), "tags");
    files(request, &mut say);
    text
}

/// A line with what the session wrote, and nothing else of it: it starts with a bar, and no line of keyhatch's does.
fn written(label: &str, text: &str) -> String {
    format!("| {label:<12}{}", shown(text))
}

/// What a session wrote of a request that is listed; none where it has no words of its own.
#[must_use]
pub fn written_line(request: &RequestView) -> Option<String> {
    request.signature.as_ref().map(|facts| written("subject", &facts.subject))
}

fn files(request: &RequestView, say: &mut impl FnMut(String)) {
    for file in request.files.iter().take(LISTED) {
        let lines = match (file.added, file.removed) {
            (Some(added), Some(removed)) => format!("+{added} -{removed}"),
            _ => "binary".to_owned(),
        };
        say(format!("| file        {} {}  {lines}", file.status, shown(&file.path)));
    }
    more(say, request.file_count, request.files.len(), "files");
}

fn more(say: &mut impl FnMut(String), count: u64, listed: usize, what: &str) {
    let left = count.saturating_sub(listed.min(LISTED) as u64);
    if left > 0 {
        say(format!("              … and {left} more {what}"));
    }
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

/// The diff, every line escaped.
#[must_use]
pub fn diff(request: &ShownRequest) -> String {
    let mut text = String::with_capacity(request.diff.len());
    for line in request.diff.lines() {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{}", shown_line(line));
    }
    if request.diff_cut {
        text.push_str(
            "… the diff is longer than what is kept; the whole of it is in the commits named above\n",
        );
    }
    text
}
