//! What git would not send: objects and packs of a test's own making, and a client that sends them to a session.
//!
//! [`Objects`] makes raw commits, trees, tags and blobs, whole or wrong, and packs any of them. [`PushBytes`] is the body of a
//! push with any commands. [`HostileClient`] speaks a session's smart HTTP over its `http.sock`.

mod client;
mod objects;
mod push;

pub use client::{Answer, HostileClient};
pub use objects::{CommitText, Entry, Kind, Objects, oid_of};
pub use push::{CAPABILITIES, PushBytes, zero};
