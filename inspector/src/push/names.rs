//! What the names of refs and paths say of themselves: whether they could be taken for other names.

use keyhatch_protocol::{Risk, RiskKind, UpdateFact, lookalike, text};

/// Refs that are listed; the rest is a count.
const LISTED: usize = 20;

/// The refs of a push that look like others.
pub(super) fn risks(updates: &[UpdateFact]) -> Vec<Risk> {
    let named = |detail: String| Risk { kind: RiskKind::LookAlike, detail };
    let alike: Vec<&str> = updates
        .iter()
        .map(|update| update.ref_name.as_str())
        .filter(|name| lookalike::is_lookalike(name))
        .collect();
    let mut risks: Vec<Risk> = alike.iter().take(LISTED).map(|name| named(text::shown_name(name))).collect();
    if alike.len() > LISTED {
        risks.push(named(format!("and {} more refs", alike.len() - LISTED)));
    }
    risks
}

/// A path that looks like another, with what it looks like marked.
pub(super) fn alike(path: &str) -> Option<String> {
    lookalike::is_lookalike(path).then(|| text::shown_name(path))
}
