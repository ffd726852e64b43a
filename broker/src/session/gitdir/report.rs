//! What a session brought, what waits and how to take it, as lines and as data.

use keyhatch_protocol::text::{shown, shown_name};
use keyhatch_protocol::{ObjectId, RefName};
use serde_json::{Value, json};
use std::path::Path;

use super::guard::Panicked;
use super::state::{Moved, Record, State};
use crate::session::report::Section;

/// Most lines of one kind.
const MAX_LINES: usize = 12;

/// One section for each repository of which there is something to say.
#[must_use]
pub fn sections(record: &Record) -> Vec<Section> {
    record.repositories.iter().filter_map(|state| section(record, state)).collect()
}

fn section(record: &Record, state: &State) -> Option<Section> {
    let outcome = &state.outcome;
    let moved: Vec<(&RefName, &Moved)> = outcome.moved.iter().filter(|(_, m)| m.from != m.to).collect();
    if moved.is_empty() && outcome.parked.is_empty() && outcome.stashed == 0 && outcome.refused.is_empty() {
        return None;
    }
    let place = state.common.strip_prefix(&record.project).ok().filter(|p| p.as_os_str() != ".git");
    let prefix =
        place.map(|place| format!("{}: ", shown_name(&place.display().to_string()))).unwrap_or_default();
    let mut lines: Vec<String> =
        moved.iter().take(MAX_LINES).map(|(name, m)| format!("{prefix}{}", moved_line(name, m))).collect();
    if moved.len() > MAX_LINES {
        lines.push(format!("{prefix}and {} more refs", moved.len() - MAX_LINES));
    }
    if outcome.stashed > 0 {
        lines.push(format!("{prefix}stash entries added: {}", outcome.stashed));
    }
    for (name, parked) in outcome.parked.iter().take(MAX_LINES) {
        lines.push(format!("{prefix}waits as {}: {}", shown_name(name.as_str()), shown(&parked.why)));
        lines.push(format!(
            "  look: git log -p {0} --not --branches   take: git merge {0}",
            shown_name(name.as_str())
        ));
    }
    for refused in outcome.refused.iter().take(MAX_LINES) {
        lines.push(format!("{prefix}not taken: {}: {}", shown_name(&refused.what), shown(&refused.why)));
    }
    Some(Section { name: "repository".into(), lines, data: data(state, &moved) })
}

fn moved_line(name: &RefName, moved: &Moved) -> String {
    let name = shown_name(name.short());
    match (&moved.from, &moved.to) {
        (None, Some(to)) => format!("new {name} at {}", to.short()),
        (Some(from), Some(to)) => format!("{name} went from {} to {}", from.short(), to.short()),
        (_, None) => format!("{name} was made and deleted again"),
    }
}

fn data(state: &State, moved: &[(&RefName, &Moved)]) -> Value {
    let id = |id: &Option<ObjectId>| id.as_ref().map(|id| id.as_str().to_owned());
    json!({
        "directory": state.common.to_string_lossy(),
        "moved": moved.iter().map(|(name, m)| json!({"ref": name.as_str(), "from": id(&m.from), "to": id(&m.to)})).collect::<Vec<_>>(),
        "waiting": state.outcome.parked.iter().map(|(name, p)| {
            json!({"ref": name.as_str(), "wanted": p.wanted.as_str(), "id": p.id.as_str(), "reason": p.why})
        }).collect::<Vec<_>>(),
        "stashed": state.outcome.stashed,
        "refused": state.outcome.refused.iter().map(|r| json!({"what": r.what, "reason": r.why})).collect::<Vec<_>>(),
    })
}

/// What could not be looked at: nobody must take silence for "nothing changed".
#[must_use]
pub fn unseen(panicked: &Panicked) -> Section {
    Section {
        name: "project".into(),
        lines: vec![
            format!("not all of it is said here: {panicked}"),
            "  keyhatch's log has more; look at the project yourself: git status, git diff".into(),
        ],
        data: json!({"unseen": panicked.to_string()}),
    }
}

/// What could not be brought is not thrown away.
#[must_use]
pub fn left(directory: &Path) -> Section {
    Section {
        name: "repository".into(),
        lines: vec![
            format!(
                "what the session committed could not all be taken; it is kept in {}",
                directory.display()
            ),
            "  the next start of the broker tries again".into(),
        ],
        data: json!({"left": directory.to_string_lossy()}),
    }
}

/// What stays in the project, because a container may run on that would make it otherwise.
#[must_use]
pub fn covered(record: &Record) -> Section {
    let (count, session) = (record.placeholders.len(), &record.session);
    Section {
        name: "project".into(),
        lines: vec![
            format!(
                "{count} empty files and directories stay in it, so that what still runs in the container cannot make them"
            ),
            format!("  when the container has ended: keyhatch session close {session} --container-ended"),
        ],
        data: json!({"kept": record.placeholders.iter().map(|placeholder| placeholder.path.to_string_lossy()).collect::<Vec<_>>()}),
    }
}
