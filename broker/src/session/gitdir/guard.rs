//! Panics of what looks at hostile names and bytes: caught, named, and the rest goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use thiserror::Error;

/// A piece of work met what nobody had thought of. What it was on is in the log, where the panic was printed.
#[derive(Debug, Error)]
#[error("an error in keyhatch itself ended {what}")]
pub struct Panicked {
    /// The piece of work, as a noun.
    what: &'static str,
}

/// Does a piece of work that may panic. Whoever passes state that it changes looks at it afterwards as after a failure.
///
/// # Errors
/// When it panicked.
pub(super) fn guarded<T>(what: &'static str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!(what, "a panic was caught");
        Panicked { what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_named_and_what_comes_after_it_is_done() {
        let mut done = Vec::new();
        let failed = guarded("the look at x", || -> u8 {
            done.push(1);
            panic!("a test");
        });
        assert_eq!(
            failed.expect_err("it panicked").to_string(),
            "an error in keyhatch itself ended the look at x"
        );
        assert_eq!(guarded("y", || done.push(2)).ok(), Some(()));
        assert_eq!(done, [1, 2]);
    }
}
