//! Objects that came out of a session, read again before they get their names in the host's store: each must be what its
//! name says. git itself does not hash what it finds in a pack, it believes the index beside it.
//!
//! Comes in: files of ours, copied from where the first child wrote them, so that it cannot change them any more. Goes
//! out: yes or no. The bytes are hostile, so a fresh confined child reads them, which has seen nothing else of the session,
//! with another implementation (gix, in safe Rust): what took over the first child's git finds another reader here.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keyhatch_cage::{Child, ChildError};
use keyhatch_protocol::{ObjectFormat, ObjectId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::push::Limits;

/// Longest look: a pack at the default limit takes well under one.
const VERIFIES: Duration = Duration::from_secs(5 * 60);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// What is to be looked at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The repository's hash.
    pub format: ObjectFormat,
    /// The directories that the files lie in, which are all that is read.
    pub readable: Vec<PathBuf>,
    /// The files.
    pub candidates: Vec<Candidate>,
    /// What is too much.
    pub limits: Limits,
}

/// One file, or two that belong together. Made by the import, under temporary names of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Candidate {
    /// A loose object.
    Loose {
        /// Where it lies.
        path: PathBuf,
        /// The name that it shall have.
        id: ObjectId,
    },
    /// A pack.
    Pack {
        /// Where it lies.
        pack: PathBuf,
        /// Where its index lies.
        index: PathBuf,
    },
}

/// What the child answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every object is what its name says.
    Sound,
    /// One is not.
    Unsound,
}

/// The objects cannot be taken.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// An object is not what its name says.
    #[error("an object of the session is not what its name says")]
    Unsound,
    /// The child gave no answer, most likely at one of its limits.
    #[error("the session's objects cannot be verified")]
    Silent(#[from] ChildError),
    /// A file of ours cannot be read.
    #[error("the session's objects cannot be read")]
    Unreadable(#[from] io::Error),
}

/// Has a confined child look, and waits for it.
///
/// # Errors
/// When an object is not what its name says, or the child did not answer.
pub fn verify(request: &VerifyRequest) -> Result<(), VerifyError> {
    let program = crate::program("verify-objects", MAX_ANSWER)?;
    Child::run(&program, request, &[], VERIFIES)?.check(|verdict| match verdict {
        Verdict::Sound => Ok(()),
        Verdict::Unsound => Err(VerifyError::Unsound),
    })
}
