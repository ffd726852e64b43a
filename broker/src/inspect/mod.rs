//! Inspections: how many at once, and whose turn it is. What is asked and answered is [`keyhatch_inspection::push`]'s, and
//! the bytes are read by `keyhatch-inspect`.

mod schedule;

pub use keyhatch_inspection::push::{
    CommitErrand, InspectError, Inspected, Inspection, Limits, Missing, Order, base_packs, changes_of,
    inspect,
};
pub use schedule::{Schedule, Turn};

/// Inspections at once: each may take a share of the machine's memory for minutes.
pub const AT_ONCE: usize = 2;
/// Looks at once: somebody waits for each.
pub const LOOKS_AT_ONCE: usize = 4;
