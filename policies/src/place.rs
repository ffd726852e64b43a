//! Where a policy is wrong: file, line, column, the line itself, a caret.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// A policy that cannot be used, with the place and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    rendered: String,
    line: usize,
    column: usize,
    what: String,
}

impl PolicyError {
    pub(crate) fn at(text: &str, origin: &str, span: Range<usize>, what: &str, help: Option<&str>) -> Self {
        let span = clamp(text, span);
        let line = text[..span.start].matches('\n').count() + 1;
        let column = text[..span.start].rfind('\n').map_or(span.start, |at| span.start - at - 1) + 1;
        let snippet = Snippet::source(text).path(origin).annotation(AnnotationKind::Primary.span(span));
        let mut report: Vec<Group<'_>> = vec![Level::ERROR.primary_title(what).element(snippet)];
        if let Some(help) = help {
            report[0] =
                std::mem::replace(&mut report[0], Group::with_title(Level::ERROR.primary_title(what)))
                    .element(Level::HELP.message(help));
        }
        Self { rendered: Renderer::plain().render(&report), line, column, what: what.to_owned() }
    }

    /// Counted from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Counted in bytes from 1.
    #[must_use]
    pub const fn column(&self) -> usize {
        self.column
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

/// Keeps a span inside the text and on character boundaries.
fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl std::error::Error for PolicyError {}
