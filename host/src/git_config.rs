//! git's configuration as data: what git prints of it, and files that git reads.

use std::fmt::Write as _;

/// One `key = value` of a git configuration, as `git config --list -z` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `section.name` or `section.subsection.name`, section and name in lower case.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Parses the output of `git config --list -z`: `key LF value NUL`, or `key NUL` for a bare key.
#[must_use]
pub fn parse_list(bytes: &[u8]) -> Vec<Setting> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .map(|entry| entry.split_once('\n').unwrap_or((entry, "true")))
        .map(|(key, value)| Setting { key: key.to_owned(), value: value.to_owned() })
        .collect()
}

/// Writes settings as a git configuration file.
#[must_use]
pub fn render(settings: &[Setting]) -> String {
    let mut text = String::new();
    for setting in settings {
        let Some((section, rest)) = setting.key.split_once('.') else { continue };
        let header = match rest.rsplit_once('.') {
            Some((subsection, _)) => format!("[{section} \"{}\"]", escape(subsection)),
            None => format!("[{section}]"),
        };
        let name = rest.rsplit_once('.').map_or(rest, |(_, name)| name);
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{header}\n\t{name} = \"{}\"", escape(&setting.value));
    }
    text
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    #[test]
    fn what_is_rendered_is_what_git_reads() {
        let settings = vec![
            setting("user.name", "Ada \"the\" L; # \\ x"),
            setting("url.http://127.0.0.1:1/a \"b\"/.insteadof", "https://h/"),
            setting("alias.multi", "log\n--all"),
        ];
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("config");
        std::fs::write(&file, render(&settings)).expect("writes");
        let list = std::process::Command::new("git")
            .args(["config", "--list", "-z", "--file"])
            .arg(&file)
            .output()
            .expect("git runs");
        assert_eq!(parse_list(&list.stdout), settings, "{}", String::from_utf8_lossy(&list.stderr));
    }
}
