//! The host's own git: `git credential`, and the settings of its global and system configuration.
//!
//! git runs in `/`, with a cleared environment, and never in a project: nothing that a session can write is read.
//! Secrets cross by standard input and output alone. Protocol: git-credential(1), "INPUT/OUTPUT FORMAT".

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keyhatch_protocol::Remote;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::{Kind, Login};

/// A helper may ask the user for a touch or a passphrase; after this it is given up.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// A login is kept for the requests of one git command, not longer.
const LOGIN_LASTS: Duration = Duration::from_secs(120);
/// Logins in the environment: for the credential helpers, and no other program.
const TOKENS: &[&str] = &["GH_TOKEN", "GITHUB_TOKEN"];
/// The user's variables that helpers, keyrings and ssh need.
const KEPT: &[&str] = &[
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GH_CONFIG_DIR",
    "GH_HOST",
    "GNUPGHOME",
    "HOME",
    "LANG",
    "LOGNAME",
    "PASSWORD_STORE_DIR",
    "PATH",
    "SSH_AUTH_SOCK",
    "USER",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
];

/// No credential could be had.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// git cannot be run.
    #[error("cannot run git")]
    Git(#[source] io::Error),
    /// The helper took too long.
    #[error("the credential helper did not answer in time")]
    TimedOut,
    /// No helper knows a login.
    #[error("no credential is known for {authority}")]
    None {
        /// For which host.
        authority: String,
    },
}

/// The HTTP settings of the user's global and system configuration for one URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HttpSettings {
    /// `http.sslCAInfo`: a file of certificates instead of the system's store.
    pub ca_file: Option<String>,
    /// `http.proxy`.
    pub proxy: Option<String>,
    /// `http.extraHeader`, which may hold a secret.
    pub extra_header: Option<HiddenHeader>,
}

/// A header of the user's configuration: compared and hashed, never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HiddenHeader(pub(crate) String);

impl std::fmt::Debug for HiddenHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HiddenHeader")
    }
}

/// The host's git and what it said lately.
#[derive(Debug)]
pub struct HostGit {
    environment: Vec<(OsString, OsString)>,
    tokens: Vec<(OsString, OsString)>,
    /// Made by [`HostGit::fill`], dropped by age or by [`HostGit::reject`]. A key without login says "asks for one".
    logins: Mutex<HashMap<String, Known>>,
    settings: Mutex<HashMap<String, HttpSettings>>,
}

#[derive(Debug, Clone)]
struct Known {
    login: Login,
    until: Instant,
    /// Whether the helpers were told that it works: once for each answer of theirs, not for each request.
    approved: bool,
}

impl HostGit {
    /// Takes what helpers need from this process's environment, and nothing else.
    #[must_use]
    pub fn of_user() -> Self {
        let kept = |name: &&str| std::env::var_os(name).map(|value| (OsString::from(*name), value));
        Self {
            environment: KEPT.iter().filter_map(kept).collect(),
            tokens: TOKENS.iter().filter_map(kept).collect(),
            logins: Mutex::default(),
            settings: Mutex::default(),
        }
    }

    /// A program of the host's with the clean environment, in `/`.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .current_dir("/")
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("LC_MESSAGES", "C")
            // A prompt on the broker's terminal would be one that nobody sees.
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .kill_on_drop(true);
        command
    }

    /// The login that was had for this remote a moment ago.
    pub fn known(&self, remote: &Remote) -> Option<Login> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.retain(|_, known| known.until > Instant::now());
        logins.get(&key(remote)).map(|known| known.login.clone())
    }

    /// Asks the helpers for a login: of the user that the remote names, where it names one.
    ///
    /// # Errors
    /// When git cannot be run, takes too long, or no helper knows one.
    pub async fn fill(&self, remote: &Remote) -> Result<Login, CredentialError> {
        let username = remote.user().map(|user| format!("username={user}\n")).unwrap_or_default();
        let question = format!(
            "capability[]=authtype\nprotocol=https\nhost={}\npath={}\n{username}\n",
            remote.host_port(),
            remote.path()
        );
        let answer = self.credential("fill", question.as_bytes()).await?;
        // A helper that answers with another user's login was not asked for that one.
        let login = answer.as_ref().and_then(parse).filter(|login| login.is_of(remote.user()));
        let login = login.ok_or_else(|| CredentialError::None { authority: remote.authority() })?;
        let known = Known { login: login.clone(), until: Instant::now() + LOGIN_LASTS, approved: false };
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(key(remote), known);
        Ok(login)
    }

    /// Tells the helpers that a login worked, where they were not told before.
    pub async fn approve(&self, remote: &Remote, login: &Login) {
        let mut told = false;
        if let Some(known) = self.logins.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key(remote))
        {
            told = std::mem::replace(&mut known.approved, true);
        }
        if !told {
            self.tell("approve", login).await;
        }
    }

    /// Tells the helpers that a login did not work, in the words that they answered with, and forgets it. One of the
    /// project's own configuration they are not told of: it is none of theirs.
    pub async fn reject(&self, remote: &Remote, login: &Login) {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(remote));
        self.tell("reject", login).await;
    }

    async fn tell(&self, verb: &str, login: &Login) {
        let Some(answer) = &login.answer else { return };
        if let Err(error) = self.credential(verb, answer.expose_secret().as_bytes()).await {
            tracing::warn!(verb, %error, "the credential helpers could not be told");
        }
    }

    async fn credential(
        &self,
        verb: &str,
        input: &[u8],
    ) -> Result<Option<Zeroizing<String>>, CredentialError> {
        let mut child = self
            .program("git")
            .envs(self.tokens.iter().map(|(name, value)| (name, value)))
            // A helper that opens a window would ask about something that the user did not start.
            .args(["-c", "credential.interactive=false", "credential", verb])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(CredentialError::Git)?;
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input).await?;
            }
            child.wait_with_output().await
        };
        let output =
            tokio::time::timeout(HELPER_TIMEOUT, talk).await.map_err(|_| CredentialError::TimedOut)?;
        let output = output.map_err(CredentialError::Git)?;
        let text = Zeroizing::new(String::from_utf8(output.stdout).unwrap_or_default());
        Ok(output.status.success().then_some(text))
    }

    /// The HTTP settings for a URL, of the global and system files only; read once while the broker runs.
    pub async fn http_settings(&self, url: &str) -> HttpSettings {
        if let Some(settings) = self.settings.lock().unwrap_or_else(PoisonError::into_inner).get(url) {
            return settings.clone();
        }
        let settings = self.read_settings(url).await;
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).insert(url.to_owned(), settings.clone());
        settings
    }

    async fn read_settings(&self, url: &str) -> HttpSettings {
        let mut git = self.program("git");
        // No repository is read, were there one in `/`.
        git.env("GIT_DIR", "/nonexistent").args(["config", "-z", "--get-urlmatch", "http", url]);
        let output = match tokio::time::timeout(HELPER_TIMEOUT, git.output()).await {
            Ok(Ok(output)) => output.stdout,
            Ok(Err(_)) | Err(_) => return HttpSettings::default(),
        };
        let mut settings = HttpSettings::default();
        for setting in crate::session::parse_list(&output) {
            match setting.key.as_str() {
                "http.sslcainfo" => settings.ca_file = Some(self.expanded(&setting.value)),
                "http.proxy" if !setting.value.is_empty() => settings.proxy = Some(setting.value),
                "http.extraheader" => settings.extra_header = Some(HiddenHeader(setting.value)),
                _ => {}
            }
        }
        settings
    }

    /// `~/` as git expands it in a path.
    fn expanded(&self, path: &str) -> String {
        let home = self.environment.iter().find(|(name, _)| name == "HOME");
        match (path.strip_prefix("~/"), home) {
            (Some(rest), Some((_, home))) => format!("{}/{rest}", home.to_string_lossy()),
            _ => path.to_owned(),
        }
    }
}

fn key(remote: &Remote) -> String {
    format!("{}/{}", remote.authority(), remote.path())
}

/// Reads an answer. A value with a control character is no answer: a line of it could be another's.
fn parse(answer: &Zeroizing<String>) -> Option<Login> {
    let value = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        (!line.is_empty() && !line.chars().any(char::is_control)).then(|| line.to_owned())
    };
    let kind = match (value("authtype"), value("credential")) {
        (Some(scheme), Some(credential)) => Kind::Header { scheme, credential: credential.into() },
        _ => Kind::Basic { user: value("username").unwrap_or_default(), password: value("password")?.into() },
    };
    let whole = SecretString::from(answer.as_str().to_owned());
    Some(Login { kind, answer: Some(std::sync::Arc::new(whole)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_of_the_environment_is_for_the_credential_helpers_alone() {
        let home = tempfile::tempdir().expect("a directory");
        let helper = "!f() { echo username=u; echo password=$GITHUB_TOKEN; }; f";
        let file = home.path().join(".gitconfig");
        std::fs::write(file, format!("[credential]\n\thelper = \"{helper}\"\n")).expect("a configuration");
        let variable = |name: &str, value: &std::ffi::OsStr| (OsString::from(name), value.to_owned());
        let path = std::env::var_os("PATH").expect("a path");
        let git = HostGit {
            environment: vec![variable("HOME", home.path().as_os_str()), variable("PATH", &path)],
            tokens: vec![variable("GITHUB_TOKEN", "canary".as_ref())],
            logins: Mutex::default(),
            settings: Mutex::default(),
        };
        let shown = git.program("env").output().await.expect("env runs");
        assert!(!String::from_utf8_lossy(&shown.stdout).contains("canary"), "{shown:?}");
        let remote = Remote::parse("https://h.example/r.git").expect("a remote");
        let login = git.fill(&remote).await.expect("the helper answers");
        assert_eq!(login.authorization().expose_secret(), "Basic dTpjYW5hcnk=");
    }

    #[test]
    fn an_answer_is_a_password_or_a_header() {
        let login = |text: &str| parse(&Zeroizing::new(text.to_owned())).map(|login| login.authorization());
        let shown = |text: &str| login(text).map(|secret| secret.expose_secret().to_owned());
        assert_eq!(shown("username=u\npassword=p\n").as_deref(), Some("Basic dTpw"));
        assert_eq!(shown("authtype=Bearer\ncredential=x\n").as_deref(), Some("Bearer x"));
        assert_eq!(shown("username=u\n"), None);
        assert_eq!(shown("username=u\npassword=a\rb\n"), None);
    }
}
