//! Children that read hostile bytes: git objects of a push, a session's git directory.
//!
//! ```text
//! parent (secrets)                                child (hostile bytes)
//!   Child::start ── request, read-only descriptors ──►  Work::receive
//!                                                       Cage::enforce: before the first hostile byte
//!   Untrusted<Answer> ◄── bounded, within patience ──── Work::answer
//! ```
//!
//! What the parent may rely on: the child has exactly the descriptors that it was given, none of which can be written; it holds
//! no secret in its environment; it ends with the parent's process, when the parent stops waiting, and with its answer; and
//! nothing that it says is believed before it was checked.

mod child;
mod confine;
mod filter;
mod patient;
mod read_only;
pub mod sys;
mod untrusted;
mod work;

pub use child::{Child, ChildError, Program, Running};
pub use confine::{Cage, CageError, Limits};
pub use read_only::ReadOnlyFd;
pub use untrusted::Untrusted;
pub use work::{Work, WorkError};
