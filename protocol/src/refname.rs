//! Reference names, by the rules of `git-check-ref-format(1)`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A ref name longer than this is refused: file systems stop at 255 bytes a component, servers at about this.
const MAX_BYTES: usize = 1024;

/// Why a ref name was refused. The name itself is not repeated: it may be hostile.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RefNameError {
    /// Empty, or longer than the limit.
    #[error("a ref name has 1 to {MAX_BYTES} bytes")]
    Length,
    /// Not UTF-8, or a byte that git forbids in a ref name.
    #[error("the ref name has a character that git forbids (git check-ref-format)")]
    Character,
    /// A component that git forbids: empty, starting with a dot, or ending in `.lock`.
    #[error("the ref name has a component that git forbids (git check-ref-format)")]
    Component,
    /// Only names below `refs/` can be pushed.
    #[error("a pushed ref lies below refs/")]
    OutsideRefs,
}

/// A full ref name below `refs/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

impl RefName {
    /// Parses the bytes of a ref name.
    ///
    /// # Errors
    /// When `git check-ref-format` would refuse it, when it is not UTF-8, or when it lies outside `refs/`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RefNameError> {
        if bytes.is_empty() || bytes.len() > MAX_BYTES {
            return Err(RefNameError::Length);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| RefNameError::Character)?;
        let forbidden =
            |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        if text.chars().any(forbidden) || text.contains("..") || text.contains("@{") {
            return Err(RefNameError::Character);
        }
        let component_is_legal = |c: &str| !c.is_empty() && !c.starts_with('.') && !c.ends_with(".lock");
        if !text.split('/').all(component_is_legal) || text.ends_with('.') {
            return Err(RefNameError::Component);
        }
        if !text.starts_with("refs/") {
            return Err(RefNameError::OutsideRefs);
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without `refs/heads/` or `refs/tags/`, as git prints it.
    #[must_use]
    pub fn short(&self) -> &str {
        ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| self.0.strip_prefix(prefix)).unwrap_or(&self.0)
    }
}

impl TryFrom<String> for RefName {
    type Error = RefNameError;

    fn try_from(text: String) -> Result<Self, RefNameError> {
        Self::parse(text.as_bytes())
    }
}

impl From<RefName> for String {
    fn from(name: RefName) -> Self {
        name.0
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_git_refuses_are_refused() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b", "refs/heads/--force"] {
            assert!(RefName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "main",
            "HEAD",
            "refs/heads/",
            "refs//x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/a\x1b[0m",
            "refs/heads/a@{1}",
            "refs/heads/x.",
            "refs/heads/a\u{85}b",
            "refs/heads/a\\b",
        ] {
            assert!(RefName::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RefName::parse(b"refs/heads/\xff").is_err());
    }
}
