//! Git configuration for the agent's side: written by us, value by value, from what is known to be harmless.
//!
//! Security depends on none of it: the agent owns its configuration. It only makes unmodified tools find the front end.

use std::collections::BTreeSet;

pub use keyhatch_host::git_config::{Setting, parse_list, render};
use keyhatch_policies::{Policy, Project, brokered};
use keyhatch_protocol::message::{BRIDGE_BASE, BRIDGE_HOST, HELPER_INSIDE};

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
