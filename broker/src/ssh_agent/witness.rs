//! What an ssh server proves on a connection that passes through here: its key, and its signature of the session's id.
//!
//! OpenSSH tells its ssh-agent to which server a login goes (`session-bind@openssh.com`); libssh2 and others do not. But
//! the very same proof crosses the wire in clear before a connection is encrypted (RFC 4253, section 8): where a session
//! reaches a named host through the broker, the broker sees it, and a login that is bound to no server can be matched
//! with it. The bytes pass unchanged.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use keyhatch_protocol::kex::Proof;

/// Most proofs that are kept of a session: a login follows its key exchange at once.
const KEPT: usize = 64;

/// The proofs of one session's connections, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<VecDeque<Proof>>);

impl Proofs {
    /// Keeps one.
    pub(crate) fn keep(&self, proof: Proof) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            all.pop_front();
        }
        all.push_back(proof);
    }

    /// Those that there are, newest first.
    pub(crate) fn all(&self) -> Vec<Proof> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
