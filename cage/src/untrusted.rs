//! What a process said that read hostile bytes.

/// A value that nobody checked yet. [`Untrusted::check`] is the only way to it.
#[must_use = "what is not checked is not looked at"]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Made by the cage alone, from an answer.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives the value to a check, which returns what of it holds, or why nothing does.
    ///
    /// # Errors
    /// The check's own.
    pub fn check<U, E>(self, check: impl FnOnce(T) -> Result<U, E>) -> Result<U, E> {
        check(self.0)
    }
}

impl<T> std::fmt::Debug for Untrusted<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Untrusted(..)")
    }
}
