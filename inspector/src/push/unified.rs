//! A diff as unified text, as git writes it, up to a number of bytes.

use std::fmt::Write as _;

use git2::{Oid, Patch};

use super::changes::Listed;
use super::content;
use super::look::Look;
use super::risks::excerpt;
use super::search::short;
use super::tree_diff::Entry;

/// Most bytes of the diff that is kept, as JSON carries it: an escape there takes six.
const MAX_DIFF: usize = 1024 * 1024;
/// Files beyond this are named and not printed.
const MAX_FILE: usize = 2 * 1024 * 1024;
/// Bytes of a path that are printed.
const MAX_PATH: usize = 1000;

/// The text so far.
#[derive(Default)]
pub(super) struct Unified {
    text: String,
    escaped: usize,
    is_cut: bool,
}

impl Unified {
    /// The text, and whether it was cut.
    pub(super) fn finish(self) -> (String, bool) {
        (self.text, self.is_cut)
    }

    /// Adds one file.
    pub(super) fn file(&mut self, look: &Look<'_>, file: &Listed) {
        if self.is_cut || !self.push(&head(file)) {
            return;
        }
        if file.is_binary {
            self.push("Binary files differ\n");
            return;
        }
        let (Some(old), Some(new)) = (text(look, file.old), text(look, file.new)) else {
            self.push("The content is not printed\n");
            return;
        };
        if old == new {
            return;
        }
        let named = |sign: &str, side: &str, path: &[u8], entry: Option<Entry>| {
            let path = entry.map_or_else(|| "/dev/null".to_owned(), |_| quoted(side, path));
            format!("{sign} {path}\n")
        };
        let from = file.from.as_deref().unwrap_or(&file.path);
        if !self.push(&named("---", "a/", from, file.old))
            || !self.push(&named("+++", "b/", &file.path, file.new))
        {
            return;
        }
        let Ok(mut patch) = Patch::from_buffers(&old, None, &new, None, Some(&mut content::options(3)))
        else {
            return;
        };
        let printed = patch.print(&mut |_, _, line| {
            let content = String::from_utf8_lossy(line.content());
            match line.origin() {
                origin @ ('+' | '-' | ' ') => self.push(&format!("{origin}{content}")),
                'F' | 'B' => true,
                _ => self.push(&content),
            }
        });
        // It ends early where the text is cut.
        drop(printed);
    }

    /// Adds text; false where there is no room for it.
    fn push(&mut self, text: &str) -> bool {
        let cost: usize = text.bytes().map(escaped).sum();
        if self.escaped + cost > MAX_DIFF {
            self.is_cut = true;
            return false;
        }
        self.escaped += cost;
        self.text.push_str(text);
        true
    }
}

/// Bytes of a byte in JSON.
const fn escaped(byte: u8) -> usize {
    match byte {
        b'\n' | b'\t' | b'\r' | b'"' | b'\\' => 2,
        0..0x20 | 0x7f => 6,
        _ => 1,
    }
}

fn head(file: &Listed) -> String {
    let from = file.from.as_deref().unwrap_or(&file.path);
    let mut head = format!("diff --git {} {}\n", quoted("a/", from), quoted("b/", &file.path));
    // Writing to a String cannot fail.
    let _infallible = match (file.old, file.new) {
        (None, Some(new)) => writeln!(head, "new file mode {:06o}", new.mode),
        (Some(old), None) => writeln!(head, "deleted file mode {:06o}", old.mode),
        (Some(old), Some(new)) if old.mode != new.mode => {
            writeln!(head, "old mode {:06o}\nnew mode {:06o}", old.mode, new.mode)
        }
        _ => Ok(()),
    };
    if file.from.is_some() {
        let _infallible =
            writeln!(head, "rename from {}\nrename to {}", quoted("", from), quoted("", &file.path));
    }
    let name = |entry: Option<Entry>| entry.map_or_else(|| "0".repeat(10), |entry| short(entry.oid));
    if file.old.map(|old| old.oid) != file.new.map(|new| new.oid) {
        let _infallible = writeln!(head, "index {}..{}", name(file.old), name(file.new));
    }
    head
}

/// What stands on one side; none where it is not printed.
fn text(look: &Look<'_>, entry: Option<Entry>) -> Option<Vec<u8>> {
    let Some(entry) = entry else { return Some(Vec::new()) };
    if entry.is_submodule() {
        return Some(format!("Subproject commit {}\n", entry.oid).into_bytes());
    }
    look.header(entry.oid).filter(|(bytes, _)| *bytes <= MAX_FILE)?;
    content_of(look, entry.oid)
}

fn content_of(look: &Look<'_>, oid: Oid) -> Option<Vec<u8>> {
    look.quarantine.repository.find_blob(oid).ok().map(|blob| blob.content().to_vec())
}

/// A path as git quotes it where it holds more than plain characters: nothing in it ends its line.
fn quoted(side: &str, path: &[u8]) -> String {
    let path = excerpt(path, MAX_PATH);
    let is_plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
    if path.chars().all(is_plain) {
        return format!("{side}{path}");
    }
    let escape = |c: char| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() };
    format!("\"{side}{}\"", path.chars().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_end_its_line() {
        assert_eq!(quoted("a/", b"src/main.rs"), "a/src/main.rs");
        assert_eq!(quoted("b/", b"x\n+++ b/y\"\\"), "\"b/x\\n+++ b/y\\\"\\\\\"");
    }

    #[test]
    fn what_json_makes_longer_counts_as_what_it_becomes() {
        let mut unified = Unified::default();
        assert!(unified.push(&"\u{1}".repeat(MAX_DIFF / 6)));
        assert!(!unified.push("more than fits"));
        let (text, is_cut) = unified.finish();
        assert!(is_cut && serde_json::to_string(&text).expect("JSON").len() <= MAX_DIFF + 2);
    }
}
