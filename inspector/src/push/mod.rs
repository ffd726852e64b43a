//! A push, and a commit that waits for a signature: what they would really do, found out in confinement.

mod budget;
mod changes;
mod child;
mod content;
mod history;
mod look;
mod names;
mod quarantine;
mod reach;
mod renames;
mod risks;
mod search;
mod secrets;
mod signatures;
mod streamed;
#[cfg(test)]
mod tests;
mod tree_diff;
mod unified;
mod walk;

use keyhatch_inspection::push::{
    Answer, CommitErrand, Errand, Inspected, Limits, Missing, Order, Refusal, base_packs,
};

pub use child::main;
pub(crate) use quarantine::git;
