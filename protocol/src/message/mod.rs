//! Messages on a session's `broker.sock`: one request, one reply, then frames where the reply says so.

use serde::{Deserialize, Serialize};

/// The version that both ends must speak.
pub const VERSION: u32 = 1;

/// What a session asks for. Unknown fields and unknown kinds are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionRequest {
    /// What this session may do, for `keyhatch-helper status`.
    Status {
        /// Must be [`VERSION`].
        version: u32,
    },
}

/// The broker's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionReply {
    /// Lines for the agent to read.
    Status {
        /// At most ten lines.
        lines: Vec<String>,
    },
    /// A refusal.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}
