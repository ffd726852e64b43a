//! What the broker and the runner say to each other: plain types, nothing to decide. Policies are parsed elsewhere, so that the
//! process that builds a sandbox contains no parser of policies.
#![forbid(unsafe_code)]

pub mod mechanism;
pub mod rules;
