//! What is asked of `keyhatch-inspect`, what it may answer, and the asking: both sides of the wall between the process that
//! holds secrets and those that read hostile bytes.
//!
//! ```text
//! broker ── Order, CommitErrand, harvest::Order, VerifyRequest ──► keyhatch-inspect inspect | harvest | verify-objects
//!        ◄── Untrusted<Answer>, checked here before it is handed on ──
//! ```
#![forbid(unsafe_code)]

pub mod harvest;
mod missing;
mod program;
pub mod push;
pub mod verify;

use program::program;
pub use program::{INSPECTOR, open_inspector};
