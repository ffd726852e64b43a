//! How a request ended, and why a decision came to nothing.

use std::fmt;

use keyhatch_protocol::RequestId;
use thiserror::Error;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A person agreed.
    Approved,
    /// A person said no.
    Refused,
    /// Nobody answered while the client waited.
    Unanswered,
    /// Its time was up.
    Expired,
    /// Its session ended.
    SessionEnded,
    /// The session pushes something else to the same ref, as this request.
    Replaced(RequestId),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approved => f.write_str("was already approved"),
            Self::Refused => f.write_str("was already refused"),
            Self::Unanswered => f.write_str("was not answered in time"),
            Self::Expired => f.write_str("has expired"),
            Self::SessionEnded => f.write_str("is withdrawn: its session ended"),
            Self::Replaced(by) => {
                write!(f, "is withdrawn: the agent pushes something else now, as request {by}")
            }
        }
    }
}

/// A decision came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecideError {
    /// No request of that id was ever asked of this broker.
    #[error("no approval request {0} is pending")]
    Unknown(RequestId),
    /// It cannot be decided any more.
    #[error("request {id} {outcome}")]
    Over {
        /// Which.
        id: RequestId,
        /// What became of it.
        outcome: Outcome,
    },
    /// What was shown is not what is asked now.
    #[error("request {0} is not the operation that was shown")]
    DigestDiffers(RequestId),
    /// Nobody was shown what it asks for, and the decision does not say what it means.
    #[error("request {0} was not shown yet")]
    NotShown(RequestId),
    /// The terms allow only this one operation.
    #[error("request {id} can only be approved once: {why}")]
    OnceOnly {
        /// Which.
        id: RequestId,
        /// Why a standing permission is out of the question.
        why: &'static str,
    },
}
