//! Which layers make which filter of a sandbox.

use keyhatch_seccomp::table::Entry;

use super::allowed::{ALLOWED, CHECKED};
use super::refused::{ABSENT, REFUSED, WITHOUT_NAMESPACES, WITHOUT_SOCKETS};

/// In namespaces of its own.
pub const NAMESPACED: &[&[Entry]] = &[ALLOWED, CHECKED, REFUSED, ABSENT];
/// Without namespaces: what they would have hidden is refused, and every socket but local ones.
pub const LANDLOCKED: &[&[Entry]] = &[ALLOWED, CHECKED, REFUSED, ABSENT, WITHOUT_NAMESPACES];
/// Without namespaces, on a kernel that cannot say which local socket may be reached: none.
pub const SOCKETLESS: &[&[Entry]] = &[ALLOWED, CHECKED, REFUSED, ABSENT, WITHOUT_NAMESPACES, WITHOUT_SOCKETS];
