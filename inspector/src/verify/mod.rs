//! Objects that came out of a session, read once more by another implementation.

mod child;

use keyhatch_inspection::verify::{Candidate, Verdict, VerifyRequest};

pub use child::{judge, main};
