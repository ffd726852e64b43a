//! Lines of a reflog, `git-reflog(1)`: old, new, who, when, and a message that the session chose.

use keyhatch_protocol::ObjectId;
use serde::{Deserialize, Serialize};

/// Longest message that is carried over.
const MAX_MESSAGE: usize = 300;
/// Longest name or address.
const MAX_NAME: usize = 200;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Before.
    pub old: ObjectId,
    /// After.
    pub new: ObjectId,
    /// Who did it, by their own word.
    pub name: String,
    /// Their address.
    pub email: String,
    /// Seconds since the epoch, and the zone.
    pub when: String,
    /// Why.
    pub message: String,
}

impl LogEntry {
    /// Parses one line; none where it is not one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(line);
        let (head, message) = text.split_once('\t').unwrap_or((&text, ""));
        let (old, rest) = head.split_once(' ')?;
        let (new, rest) = rest.split_once(' ')?;
        let (name, rest) = rest.split_once('<')?;
        let (email, when) = rest.rsplit_once("> ")?;
        if !is_time(when) {
            return None;
        }
        Some(Self {
            old: ObjectId::parse(old).ok()?,
            new: ObjectId::parse(new).ok()?,
            name: plain(name.trim(), MAX_NAME),
            email: plain(email, MAX_NAME),
            when: when.trim().to_owned(),
            message: plain(message.trim(), MAX_MESSAGE),
        })
    }

    /// Whether it is as [`LogEntry::parse`] makes them: it becomes a line of the host's log, and variables of its git.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        let Self { old, new, name, email, when, message } = self;
        let tame = |text: &str, most| plain(text, most) == *text;
        old.format() == new.format()
            && is_time(when)
            && tame(name, MAX_NAME)
            && tame(email, MAX_NAME)
            && tame(message, MAX_MESSAGE)
    }

    /// The lines of a log.
    pub fn lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
        log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }

    /// The last entries of a log, oldest first.
    #[must_use]
    pub fn tail(log: &[u8], most: usize) -> Vec<Self> {
        let lines: Vec<&[u8]> = Self::lines(log).collect();
        let from = lines.len().saturating_sub(most);
        lines[from..].iter().filter_map(|line| Self::parse(line)).collect()
    }

    /// Its line in a log file.
    #[must_use]
    pub fn render(&self) -> String {
        let Self { old, new, name, email, when, message } = self;
        format!("{old} {new} {name} <{email}> {when}\t{message}\n")
    }
}

/// Seconds since the epoch and a zone, as far as git must not take it for something else.
fn is_time(when: &str) -> bool {
    let legal = |c: char| c.is_ascii_digit() || matches!(c, ' ' | '+' | '-');
    !when.is_empty() && when.len() <= 24 && when.chars().all(legal) && !when.starts_with('-')
}

/// Text of the session that goes into a line, or a variable, of the host's git: one line, nothing that commands.
fn plain(text: &str, most: usize) -> String {
    text.chars()
        .filter(|c| keyhatch_protocol::text::is_plain(*c) && !matches!(c, '<' | '>'))
        .take(most)
        .collect()
}

/// The entries that lead from one value to another, oldest first; none where the log does not say.
#[must_use]
pub fn path(log: &[LogEntry], from: Option<&ObjectId>, to: &ObjectId) -> Option<Vec<LogEntry>> {
    let mut steps = Vec::new();
    let mut at = to.clone();
    // The log may be ahead of the value: it was read a moment later.
    for entry in log.iter().rev().skip_while(|entry| entry.new != *to) {
        if entry.new != at {
            return None;
        }
        at = entry.old.clone();
        steps.push(entry.clone());
        if Some(&at) == from || (from.is_none() && at.is_zero()) {
            steps.reverse();
            return Some(steps);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ObjectId {
        ObjectId::parse(&digit.to_string().repeat(40)).expect("an id")
    }

    #[test]
    fn the_way_between_two_values_is_found_and_words_are_tamed() {
        let line = |old: char, new: char, words: &str| {
            format!("{} {} Ada <a@b> 1700000000 +0100\t{words}\n", id(old), id(new))
        };
        let log =
            line('0', '1', "start") + &line('1', '2', "commit: a\x1b[31m\u{202e}b") + &line('2', '3', "c");
        let log = LogEntry::tail(log.as_bytes(), 10);
        assert_eq!(log.len(), 3);
        assert_eq!(log[1].message, "commit: a[31mb");
        assert_eq!(path(&log, Some(&id('1')), &id('3')).map(|p| p.len()), Some(2));
        assert_eq!(path(&log, None, &id('3')).map(|p| p.len()), Some(3));
        assert_eq!(path(&log, Some(&id('9')), &id('3')), None);
        assert_eq!(path(&log, Some(&id('1')), &id('2')).map(|p| p.len()), Some(1), "the log is ahead");
        assert_eq!(LogEntry::parse(log[1].render().trim_end().as_bytes()).as_ref(), Some(&log[1]));
        assert_eq!(LogEntry::parse(b"nonsense"), None);
    }
}
