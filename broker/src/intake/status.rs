//! What a session may do, in a few lines for the agent to read.

use crate::broker::Broker;
use crate::session::Session;

/// Most lines of an answer: an agent reads it into its context.
const MAX_LINES: usize = 10;

/// The answer to `status`. Each part adds lines of its own; the first ones are kept.
pub(super) fn lines(_broker: &Broker, session: &Session) -> Vec<String> {
    let policy = &session.policy;
    let mut lines = vec![
        format!("session {} of {}", session.id, session.directory.display()),
        format!("policy {}: {}", policy.name(), policy.description()),
    ];
    lines.truncate(MAX_LINES);
    lines
}
