//! Git configuration for the agent's side: written by us, value by value, from what is known to be harmless.
//!
//! Security depends on none of it: the agent owns its configuration. It only makes unmodified tools find the front end.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use keyhatch_policies::{Policy, Project, brokered};
use keyhatch_protocol::message::{BRIDGE_BASE, BRIDGE_HOST, HELPER_INSIDE};

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

/// Which settings of the user's global and system configuration are taken inside: nothing that names a program, a
/// file, a host or a secret.
#[must_use]
pub fn is_harmless_preference(setting: &Setting) -> bool {
    const KEYS: &[&str] = &[
        "user.name",
        "user.email",
        "author.name",
        "author.email",
        "committer.name",
        "committer.email",
        "user.useconfigonly",
        "init.defaultbranch",
        "pull.rebase",
        "pull.ff",
        "push.default",
        "push.autosetupremote",
        "push.followtags",
        "fetch.prune",
        "fetch.prunetags",
        "merge.conflictstyle",
        "merge.ff",
        "rebase.autosquash",
        "rebase.autostash",
        "rebase.updaterefs",
        "rerere.enabled",
        "rerere.autoupdate",
        "diff.algorithm",
        "diff.renames",
        "diff.mnemonicprefix",
        "diff.colormoved",
        "branch.autosetupmerge",
        "branch.autosetuprebase",
        "branch.sort",
        "tag.sort",
        "log.date",
        "log.decorate",
        "log.follow",
        "column.ui",
        "color.ui",
        "commit.verbose",
        "status.showuntrackedfiles",
        "status.short",
        "status.branch",
        "core.autocrlf",
        "core.eol",
        "core.quotepath",
        "core.abbrev",
        "help.autocorrect",
        "advice.detachedhead",
        "format.pretty",
        "versionsort.suffix",
    ];
    let alias = setting.key.starts_with("alias.") && !setting.value.trim_start().starts_with('!');
    KEYS.contains(&setting.key.as_str()) || alias
}

/// The system configuration of a sandbox: the user's harmless preferences, and the front end, by its address.
#[must_use]
pub fn inside(policy: &Policy, project: &Project, preferences: &[Setting], front_end: &str) -> String {
    render(&[preferences, &brokering(policy, project, front_end, HELPER_INSIDE)].concat())
}

/// The settings that lead git to the front end, by its address, for every brokered authority, and to the helper for the rest.
#[must_use]
pub fn brokering(policy: &Policy, project: &Project, front_end: &str, helper: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |key: String, value: &str| settings.push(Setting { key, value: value.to_owned() });
    let rewrites: BTreeSet<(String, String)> =
        brokered(policy, project).iter().map(keyhatch_protocol::Remote::rewrites).collect();
    for (prefix, path) in rewrites {
        set(format!("url.{front_end}/{path}.insteadof"), &prefix);
    }
    // An ssh server is asked in protocol v2: v0 is a dialogue, which does not map onto stateless HTTP.
    set("protocol.version".into(), "2");
    // A held push is silent for longer than a user's own limits allow.
    set("http.lowspeedlimit".into(), "0");
    set("http.lowspeedtime".into(), "0");
    // git probes with an empty request above this; 1 MiB is its default, and a user's own may be larger than memory.
    set("http.postbuffer".into(), "1048576");
    // Whose files these are the host's git has judged; inside, every other owner looks like nobody.
    set("safe.directory".into(), "*");
    set("credential.helper".into(), "");
    set("core.sshcommand".into(), &format!("{helper} ssh"));
    set("ssh.variant".into(), "ssh");
    if front_end == BRIDGE_BASE {
        // git-lfs takes an ssh server to speak HTTP too, and asks for these by that address.
        set(format!("lfs.https://{BRIDGE_HOST}/.standalonetransferagent"), "keyhatch");
        set("lfs.customtransfer.keyhatch.path".into(), helper);
        set("lfs.customtransfer.keyhatch.args".into(), "lfs");
    }
    settings
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

    #[test]
    fn programs_includes_and_secrets_are_no_preferences() {
        for harmless in [("user.name", "x"), ("alias.co", "checkout"), ("init.defaultbranch", "main")] {
            assert!(is_harmless_preference(&setting(harmless.0, harmless.1)), "{harmless:?}");
        }
        for harmful in [
            ("alias.x", "!sh"),
            ("alias.y", " !sh"),
            ("core.pager", "less"),
            ("core.hookspath", "/x"),
            ("core.fsmonitor", "x"),
            ("include.path", "/x"),
            ("credential.helper", "store"),
            ("http.extraheader", "Authorization: x"),
            ("http.proxy", "http://u:p@h"),
            ("core.editor", "vi"),
            ("url.x.insteadof", "y"),
            ("filter.x.clean", "y"),
            ("user.signingkey", "x"),
            ("diff.external", "x"),
        ] {
            assert!(!is_harmless_preference(&setting(harmful.0, harmful.1)), "{harmful:?}");
        }
    }
}
