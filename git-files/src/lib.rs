//! git's own files, read and written without git and without a library that walks objects: refs, their logs, an index, and
//! the directory that they lie in, by descriptor.
//!
//! The broker and the child that reads a session's directory use the same: what both sides agreed on is compared by one code.
#![forbid(unsafe_code)]

pub mod beneath;
pub mod index;
pub mod reflog;
pub mod refs;
