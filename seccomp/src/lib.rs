//! The one compiler of system call filters: allow lists as data, a reason on each entry, made into programs at build time.
//!
//! Comes in: layers of [`table::Entry`], each user's own. Goes out: a [`program::Program`] that checks the architecture first,
//! and the call that loads it. Used by the runner for sandboxes and by the cage for children that read hostile bytes.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` takes filters apart: it is for test builds only");

pub mod program;
pub mod sys;
pub mod table;
