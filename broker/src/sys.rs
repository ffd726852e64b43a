//! The broker's own calls that no safe crate offers whole, with the host's.

pub use keyhatch_host::sys::*;
