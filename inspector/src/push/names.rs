//! What the names of refs and paths say of themselves: whether they could be taken for other names.

use keyhatch_protocol::{RiskKind, UpdateFact, lookalike, text};

use super::risks::Risks;

/// Notes the refs of a push that look like others.
pub(super) fn note(risks: &mut Risks, updates: &[UpdateFact]) {
    let names = updates.iter().map(|update| update.ref_name.as_str());
    for name in names.filter(|name| lookalike::is_lookalike(name)) {
        risks.add(RiskKind::LookAlike, text::shown_name(name));
    }
}

/// A path that looks like another, with what it looks like marked.
pub(super) fn alike(path: &str) -> Option<String> {
    lookalike::is_lookalike(path).then(|| text::shown_name(path))
}
