//! The user's terminal, which an agent writes to and keyhatch asks on.
//!
//! Comes in: bytes of the sandbox and keys of a person, both hostile (a terminal answers in the person's place). Goes out:
//! what a table lets through, a terminal that is reset for a question and given back as it was, keys that are no part of a
//! sequence, and rows of a width that nothing in them can leave. Pure: no descriptor, no clock, no thread.

#![forbid(unsafe_code)]

mod alternate;
mod filter;
mod keys;
mod pen;
mod question;
mod row;
mod state;
mod table;

pub use filter::{EscapeFilter, Passes};
pub use keys::{Key, KeyParser};
pub use question::{draw, give_back, put_aside};
pub use row::{GUTTER, Row, Size, Voice, cut, presentable, width};
pub use state::AgentState;
