//! A push, and a commit that waits for a signature: what they would really do, found out in confinement.

mod changes;
mod child;
mod history;
mod names;
mod quarantine;
mod reach;
mod secrets;
mod signatures;

use keyhatch_inspection::push::{
    Answer, CommitErrand, Errand, Inspected, Limits, Missing, Order, Refusal, base_packs,
};

pub use child::main;
pub(crate) use quarantine::git;
