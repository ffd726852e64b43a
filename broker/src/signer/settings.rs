//! What of the host's git configuration says how the user signs, and what the session's git is told of it.

use std::path::Path;

use keyhatch_host::untrusted_file;
use keyhatch_policies::Policy;
use keyhatch_policies::rules::FileInside;
use keyhatch_protocol::Identity;
use keyhatch_protocol::message::HELPER_INSIDE;

use super::ssh::{self, SshKey};
use super::{Signing, gpg};
use crate::credential::named;
use crate::session::{SOCKETS_INSIDE, Setting};

/// Where the session's public key is inside.
const KEY_INSIDE: &str = "/etc/keyhatch/signing.pub";
/// Where those who may sign are inside.
const SIGNERS_INSIDE: &str = "/etc/keyhatch/allowed_signers";
/// Longest list of signers of the user's own that is shown inside.
const MAX_SIGNERS: u64 = 256 * 1024;
/// Settings that say when to sign and what to show; they name no program, file or key.
const KEPT: &[&str] = &[
    "commit.gpgsign",
    "tag.gpgsign",
    "tag.forcesignannotated",
    "push.gpgsign",
    "log.showsignature",
    "merge.verifysignatures",
    "gpg.mintrustlevel",
];
/// The helper's roles that git calls by a program's path: links to it, beside the session's sockets.
const ROLES: [&str; 3] = ["ssh-keygen", "gpg", "gpgsm"];

/// What the session's git finds.
#[derive(Debug, Default)]
pub struct Inside {
    /// Settings.
    pub settings: Vec<Setting>,
    /// The public key and who may sign.
    pub files: Vec<FileInside>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The links that a session's directory of sockets holds: name and target inside.
pub fn links() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROLES.into_iter().map(|role| (role, HELPER_INSIDE))
}

/// Who the user is, by settings in git's order.
#[must_use]
pub fn identities(settings: &[Setting]) -> Vec<Identity> {
    Chosen(settings).identities()
}

impl Signing {
    /// Reads how the user signs. `settings` are the system's, the user's and the project's, in this order.
    pub async fn of(settings: &[Setting], policy: &Policy, project: &Path) -> (Self, Inside) {
        let chosen = Chosen(settings);
        let mut inside = Inside::default();
        let mut signing = Self {
            identities: chosen.identities(),
            ssh: None,
            openpgp: gpg::Program::new(chosen.any(&["gpg.openpgp.program", "gpg.program"]), "gpg"),
            x509: gpg::Program::new(chosen.any(&["gpg.x509.program"]), "gpgsm"),
        };
        let named = policy.signing_key();
        let format = if named.is_some() { Some("ssh") } else { chosen.last("gpg.format") };
        let key = match named {
            Some(name) => named::signing_key(name),
            None if format == Some("ssh") => ssh::configured(&chosen.ssh_setting()).await,
            None => Ok(None),
        };
        match key {
            Ok(key) => signing.ssh = key,
            Err(why) => inside.notes.push(format!("the ssh signing key cannot be used: {why}")),
        }
        if let Some(format) = format.filter(|format| matches!(*format, "ssh" | "openpgp" | "x509")) {
            inside.set("gpg.format", format);
        }
        for (key, role) in
            [("gpg.ssh.program", ROLES[0]), ("gpg.program", ROLES[1]), ("gpg.x509.program", ROLES[2])]
        {
            inside.set(key, &format!("{SOCKETS_INSIDE}/{role}"));
        }
        for name in KEPT {
            if let Some(value) = chosen.last(name) {
                inside.set(name, value);
            }
        }
        if format == Some("ssh") {
            inside.set("user.signingkey", KEY_INSIDE);
            let signers = chosen.last("gpg.ssh.allowedsignersfile").and_then(|path| signers(path, project));
            inside.ssh_files(signing.ssh.as_ref(), &signing.identities, signers);
        } else if let Some(key) = chosen.last("user.signingkey") {
            inside.set("user.signingkey", key);
            signing.openpgp.named(key);
            signing.x509.named(key);
        }
        (signing, inside)
    }
}

/// The list of those whom the user trusts; none where it cannot be read, or a session could have put another file there.
fn signers(path: &str, project: &Path) -> Option<String> {
    match untrusted_file::read(&ssh::expanded(path), &[project], MAX_SIGNERS) {
        Ok(text) => String::from_utf8(text?).ok(),
        Err(error) => {
            tracing::warn!(%error, "the user's allowed signers are not taken inside");
            None
        }
    }
}

impl Inside {
    fn set(&mut self, key: &str, value: &str) {
        self.settings.push(Setting { key: key.to_owned(), value: value.to_owned() });
    }

    fn ssh_files(&mut self, key: Option<&SshKey>, identities: &[Identity], signers: Option<String>) {
        let mut list = String::new();
        if let Some(key) = key {
            let line = key.line();
            self.files.push(FileInside::new(KEY_INSIDE, format!("{line}\n")));
            for who in identities.iter().filter(|who| !who.email.contains([' ', ',', '"', '*', '?', '!'])) {
                let entry = format!("{} namespaces=\"git\" {line}\n", who.email);
                if !list.contains(&entry) {
                    list.push_str(&entry);
                }
            }
        }
        // Public keys and addresses of those whom the user trusts: what `git log --show-signature` needs inside.
        list.extend(signers);
        self.files.push(FileInside::new(SIGNERS_INSIDE, list));
        self.set("gpg.ssh.allowedsignersfile", SIGNERS_INSIDE);
    }
}

/// Settings by their names; of several the last counts, as in git.
struct Chosen<'s>(&'s [Setting]);

impl<'s> Chosen<'s> {
    fn last(&self, key: &str) -> Option<&'s str> {
        self.0.iter().rfind(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }

    fn any(&self, keys: &[&str]) -> Option<&'s str> {
        keys.iter().find_map(|key| self.last(key))
    }

    fn ssh_setting(&self) -> ssh::Configured<'s> {
        ssh::Configured {
            key: self.last("user.signingkey").filter(|key| !key.is_empty()),
            command: self.last("gpg.ssh.defaultkeycommand"),
        }
    }

    /// The names that git would put into a commit as its committer, and its author.
    fn identities(&self) -> Vec<Identity> {
        let mut found: Vec<Identity> = Vec::new();
        for role in ["committer", "author", "user"] {
            let of = |what: &str| self.any(&[&format!("{role}.{what}"), &format!("user.{what}")]);
            if let (Some(name), Some(email)) = (of("name"), of("email")) {
                let who = Identity { name: clean(name), email: clean(email) };
                if !found.contains(&who) {
                    found.push(who);
                }
            }
        }
        found
    }
}

/// As git writes a name into a header: without what it calls crud at the ends (ident.c).
fn clean(text: &str) -> String {
    let crud =
        |c: char| (c as u32) <= 32 || matches!(c, '.' | ',' | ':' | ';' | '<' | '>' | '"' | '\\' | '\'');
    text.trim_matches(crud).replace(['<', '>', '\n'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(&str, &str)]) -> Vec<Setting> {
        list.iter().map(|(key, value)| Setting { key: (*key).into(), value: (*value).into() }).collect()
    }

    #[tokio::test]
    async fn the_users_own_way_to_sign_is_found_and_told_to_the_sessions_git() {
        let policy = Policy::shipped("default").expect("it is shipped");
        let user = settings(&[
            ("user.name", "Ada L."),
            ("user.email", "old@example.org"),
            ("user.email", "ada@example.org"),
            ("committer.email", "c@example.org"),
            ("gpg.format", "openpgp"),
            ("user.signingkey", "ABCDEF"),
            ("commit.gpgsign", "true"),
            ("gpg.program", "/opt/gpg"),
        ]);
        let (signing, inside) = Signing::of(&user, &policy, Path::new("/nonexistent")).await;
        let emails: Vec<&str> = signing.identities.iter().map(|who| who.email.as_str()).collect();
        assert_eq!(emails, ["c@example.org", "ada@example.org"]);
        assert_eq!(signing.identities[0].name, "Ada L", "git drops a dot at the end");
        let set = |key: &str| Chosen(&inside.settings).last(key).map(str::to_owned);
        assert_eq!(set("commit.gpgsign").as_deref(), Some("true"));
        assert_eq!(set("user.signingkey").as_deref(), Some("ABCDEF"));
        assert_eq!(set("gpg.program").as_deref(), Some("/run/keyhatch/gpg"), "never the host's");
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_had_is_a_note_and_no_signature() {
        let policy = Policy::shipped("default").expect("it is shipped");
        let user = settings(&[("gpg.format", "ssh"), ("user.signingkey", "/nonexistent/id.pub")]);
        let (signing, inside) = Signing::of(&user, &policy, Path::new("/nonexistent")).await;
        assert!(signing.ssh.is_none());
        assert!(inside.notes[0].contains("cannot be used"), "{:?}", inside.notes);
    }
}
