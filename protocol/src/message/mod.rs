//! Messages on a session's `broker.sock`: one request, one reply, then frames where the reply says so.

pub mod git_directories;
pub mod hatch;

use serde::{Deserialize, Serialize};

use crate::SignatureFormat;

/// Where a session's sockets are, in a sandbox that keyhatch made.
pub const SOCKETS_INSIDE: &str = "/run/keyhatch";

/// Where the helper is in such a sandbox.
pub const HELPER_INSIDE: &str = "/run/keyhatch-helper";

/// The variable that names that directory where it has another name.
pub const SOCKETS_VARIABLE: &str = "KEYHATCH_SOCKETS";

/// The name of the socket that these messages go through, in the directory of the session's sockets.
pub const SOCKET_NAME: &str = "broker.sock";

/// The name of the socket of the front end for git, in the same directory.
pub const HTTP_SOCKET_NAME: &str = "http.sock";

/// The host that a container's git configuration rewrites brokered remotes to: nothing but the helper's ssh goes there.
pub const BRIDGE_HOST: &str = "keyhatch";

/// What stands before `/SCHEME/AUTHORITY/PATH` in such a remote.
pub const BRIDGE_BASE: &str = "ssh://keyhatch";

/// The version that both ends must speak.
pub const VERSION: u32 = 1;

impl SessionRequest {
    /// The version that the sender speaks.
    #[must_use]
    pub const fn version(&self) -> u32 {
        match self {
            Self::Status { version } | Self::Sign { version, .. } | Self::Verify { version, .. } => *version,
        }
    }
}

/// What a session asks for. Unknown fields and unknown kinds are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SessionRequest {
    /// What this session may do, for `keyhatch-helper status`.
    Status {
        /// Must be [`VERSION`].
        version: u32,
    },
    /// A signature of what follows as a stream of data: all of it, never a digest.
    Sign {
        /// Must be [`VERSION`].
        version: u32,
        /// Which kind of signature.
        format: SignatureFormat,
        /// The key, as git names it: a public key's line, or what gpg calls it. The session signs with its own alone.
        key: String,
        /// The namespace of an ssh signature; only git's own is signed.
        namespace: Option<String>,
    },
    /// Whether an ssh signature fits what follows as a stream of data. It needs no secret.
    Verify {
        /// Must be [`VERSION`].
        version: u32,
        /// What it must be good for.
        namespace: String,
        /// Armoured.
        signature: String,
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
    /// The signature fits.
    Verified {
        /// The key's kind as OpenSSH writes it: `ED25519`.
        kind: String,
        /// `SHA256:…`.
        fingerprint: String,
    },
    /// It does not fit.
    Unverified {
        /// Why, in OpenSSH's words.
        reason: String,
    },
    /// A stream follows: messages, then data where it succeeded, then how a program would have exited.
    Answer {},
    /// A refusal.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let decode = |text: &str| serde_json::from_str::<SessionRequest>(text);
        assert_eq!(
            decode(r#"{"request":"status","version":1}"#).expect("a request"),
            SessionRequest::Status { version: 1 }
        );
        for bad in [
            r#"{"request":"status","version":1,"more":1}"#,
            r#"{"request":"teleport","version":1}"#,
            r#"{"request":"status"}"#,
            r#"{"version":1}"#,
            "[]",
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
