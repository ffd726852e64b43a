//! What a session may do, in a few lines for the agent to read.

use keyhatch_policies::brief;

use crate::broker::Broker;
use crate::session::Session;
use crate::session::report::shown_project;

/// Most lines of an answer: an agent reads it into its context, with one that the helper adds.
const MAX_LINES: usize = 9;

/// The answer to `status`: what is allowed, asked and denied, what waits, and how the user can allow more.
pub(super) fn lines(broker: &Broker, session: &Session) -> Vec<String> {
    let policy = &session.policy;
    let mut lines = vec![
        format!("keyhatch session {} of {}", session.id, shown_project(&session.id, &session.directory)),
        format!("policy {}: {}", policy.name(), policy.description()),
    ];
    lines.extend(brief(policy));
    let waiting = broker.queue.pending();
    let own: Vec<String> = waiting
        .iter()
        .filter(|asked| asked.session == session.id)
        .map(|asked| asked.id.to_string())
        .collect();
    if !own.is_empty() {
        lines.push(format!(
            "waiting for the user: {}; run the same command again if it was cut off",
            own.join(", ")
        ));
    }
    lines.push(format!(
        "to allow more, only the user can: keyhatch policy show {}, a file in ~/.config/keyhatch/policies, a new session",
        policy.name()
    ));
    lines.truncate(MAX_LINES);
    lines
}
