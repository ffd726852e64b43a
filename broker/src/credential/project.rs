//! Secrets that the project's own configuration holds: tokens in URLs, and extra headers.

use std::fmt;

use keyhatch_protocol::{Remote, Scheme};
use secrecy::SecretString;
use url::Url;

use super::Login;
use crate::session::parse_list;

/// Read on the host when a session opens; used upstream, never shown inside.
#[derive(Default)]
pub struct ProjectSecrets {
    logins: Vec<(Remote, Login)>,
    headers: Vec<(Option<Url>, SecretString)>,
}

impl ProjectSecrets {
    /// Reads them from the output of `git config --list -z` for the project's own file.
    #[must_use]
    pub fn from_config_list(bytes: &[u8]) -> Self {
        let mut secrets = Self::default();
        for setting in parse_list(bytes) {
            let key = setting.key.as_str();
            if key.starts_with("remote.") && (key.ends_with(".url") || key.ends_with(".pushurl")) {
                secrets.logins.extend(login_of(&setting.value));
            } else if key == "http.extraheader" {
                secrets.headers.push((None, setting.value.into()));
            } else if let Some(url) = key.strip_prefix("http.").and_then(|k| k.strip_suffix(".extraheader"))
                && let Ok(url) = Url::parse(url)
            {
                secrets.headers.push((Some(url), setting.value.into()));
            }
        }
        secrets
    }

    /// The login that a URL of the project's configuration held for this remote.
    #[must_use]
    pub fn login(&self, remote: &Remote) -> Option<Login> {
        self.logins.iter().find(|(of, _)| of.same_repository(remote)).map(|(_, login)| login.clone())
    }

    /// The `Name: value` headers that the project's configuration adds for this URL.
    pub fn headers<'a>(&'a self, url: &'a Url) -> impl Iterator<Item = &'a SecretString> {
        let applies = |prefix: &Option<Url>| prefix.as_ref().is_none_or(|prefix| covers(prefix, url));
        self.headers.iter().filter(move |(prefix, _)| applies(prefix)).map(|(_, header)| header)
    }
}

impl fmt::Debug for ProjectSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProjectSecrets")
    }
}

/// Whether what stands where a URL has its user is a token: forges take them there.
pub(crate) fn is_token(user: &str) -> bool {
    /// The beginnings that forges give their tokens.
    const MADE_BY_FORGES: &[&str] = &[
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "gldt-",
        "glcbt-",
        "glptt-",
        "glrt-",
        "gloas-",
        "ATBB",
        "ATCTT",
        "ATATT",
    ];
    /// Names of people and services are shorter, or have other characters than letters and digits.
    const LONGEST_NAME: usize = 19;
    let is_random = user.len() > LONGEST_NAME
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && user.bytes().any(|b| b.is_ascii_digit());
    is_random || MADE_BY_FORGES.iter().any(|start| user.starts_with(start))
}

fn login_of(value: &str) -> Option<(Remote, Login)> {
    let mut url = Url::parse(value).ok().filter(|url| url.scheme() == Scheme::Https.word())?;
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().ok().map(String::from);
    let (user, password) = (decode(url.username())?, decode(url.password().unwrap_or_default())?);
    // A name alone is no login: it is part of the remote, and says whose login is asked for.
    if password.is_empty() && !is_token(&user) {
        return None;
    }
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    let remote = Remote::parse(url.as_str()).ok()?;
    Some((remote, Login::basic(user, password.into())))
}

/// git-config(1), `http.<url>.*`: same scheme, host and port, and a path that is a prefix by whole components.
fn covers(prefix: &Url, url: &Url) -> bool {
    let path = prefix.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(path);
    let same_user = prefix.username().is_empty() || prefix.username() == url.username();
    prefix.origin() == url.origin()
        && same_user
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn tokens_and_headers_of_the_project_are_found_for_their_remote_only() {
        let list = b"remote.origin.url\nhttps://u:t%40k@h.example/a/b.git\0\
            http.https://h.example/a.extraheader\nX-Secret: 1\0http.extraheader\nX-All: 2\0";
        let secrets = ProjectSecrets::from_config_list(list);
        let remote = Remote::parse("https://h.example/a/b.git").expect("parses");
        let login = secrets.login(&remote).expect("a login");
        assert_eq!(login.authorization().expose_secret(), "Basic dTp0QGs=");
        assert!(secrets.login(&Remote::parse("https://h.example/a/c.git").expect("parses")).is_none());
        let headers = |url: &str| secrets.headers(&Url::parse(url).expect("url")).count();
        assert_eq!(headers("https://h.example/a/b.git"), 2);
        assert_eq!(headers("https://h.example/ab.git"), 1);
        assert_eq!(headers("https://evil.example/a/b.git"), 1);
        assert_eq!(format!("{secrets:?}"), "ProjectSecrets");
    }

    #[test]
    fn a_name_alone_is_no_login_and_a_token_in_its_place_is_one() {
        let login = |url: &str| login_of(url).map(|(remote, _)| remote.to_string());
        assert_eq!(login("https://bob@h.example/a"), None);
        assert_eq!(login("https://x-token-auth@h.example/a"), None);
        assert_eq!(login("https://bob.smith%40corp.example@h.example/a"), None);
        let token = format!("https://ghp_{}@h.example/a", "x".repeat(36));
        assert_eq!(login(&token).as_deref(), Some("https://h.example/a"));
        assert_eq!(
            login("https://0123456789abcdef0123456789abcdef01234567@h.example/a").as_deref(),
            Some("https://h.example/a")
        );
        assert_eq!(login("https://u:t@h.example/a").as_deref(), Some("https://h.example/a"));
    }
}
