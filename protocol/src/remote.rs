//! A remote repository, parsed once into typed parts.
//!
//! Comes in: a URL from the user's own configuration, or the path of a front-end request, chosen by
//! a session. Goes out: a value whose every part is safe to print, to compare and to hand to ssh.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest accepted remote, in bytes: well above what servers allow, well below a header.
const MAX_BYTES: usize = 2048;

/// Why a remote was refused. The text is not repeated: it may hold a secret or be hostile.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RemoteError {
    /// Longer than the limit.
    #[error("the remote is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Neither https, nor ssh, nor git's `user@host:path`.
    #[error("the remote is not https://, ssh:// or user@host:path")]
    Scheme,
    /// A host name that is empty, option-like or not plain ASCII.
    #[error("the remote's host is not a plain ASCII host name")]
    Host,
    /// A port outside 1 to 65535.
    #[error("the remote's port is not a number from 1 to 65535")]
    Port,
    /// A user name with characters outside letters, digits, `.`, `_`, `-`, `+`, or one that looks like an option.
    #[error("the remote's user is not a plain name")]
    User,
    /// User or password in an https URL.
    #[error("the remote has a user or password in its URL")]
    Userinfo,
    /// Control characters, percent tricks, `..`, or an option-like path.
    #[error("the remote's path has a character or component that is refused")]
    Path,
}

/// How a remote is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Smart HTTP over TLS.
    Https,
    /// `ssh://[user@]host[:port]/path`: the path is absolute.
    Ssh,
    /// `[user@]host:path`: the path is as the server's shell sees it.
    Scp,
}

impl Scheme {
    /// The word that stands for it in front-end paths.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::Scp => "scp",
        }
    }
}

/// A host name or address: lower-case ASCII letters, digits, `.`, `-`, `_`, or an address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// Parses a host, folding case.
    ///
    /// # Errors
    /// When it is empty, starts with `-` or `.`, or has a byte outside the plain set.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let text = text.to_ascii_lowercase();
        if let Some(address) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| RemoteError::Host)?;
            return Ok(Self(format!("[{address}]")));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let legal = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(plain)
            && !text.starts_with(['-', '.'])
            && !text.contains("..");
        if legal { Ok(Self(text)) } else { Err(RemoteError::Host) }
    }

    /// The host as it stands in a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Host {
    type Error = RemoteError;

    fn try_from(text: String) -> Result<Self, RemoteError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// A remote repository. Made only by the parsers here; every part is already checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Remote {
    scheme: Scheme,
    user: Option<String>,
    host: Host,
    port: Option<u16>,
    path: String,
}

impl Remote {
    /// Parses a URL as git writes it: `https://…`, `ssh://…`, `git+ssh://…` or `[user@]host:path`.
    ///
    /// # Errors
    /// One variant of [`RemoteError`] for each part that can be wrong.
    pub fn parse(url: &str) -> Result<Self, RemoteError> {
        if url.len() > MAX_BYTES {
            return Err(RemoteError::TooLong);
        }
        if let Some(rest) = url.strip_prefix("https://") {
            let (authority, path) = rest.split_once('/').ok_or(RemoteError::Path)?;
            return Self::from_parts(Scheme::Https, authority, path);
        }
        let ssh = ["ssh://", "git+ssh://", "ssh+git://"];
        if let Some(rest) = ssh.iter().find_map(|prefix| url.strip_prefix(prefix)) {
            let (authority, path) = rest.split_once('/').ok_or(RemoteError::Path)?;
            return Self::from_parts(Scheme::Ssh, authority, path);
        }
        if url.contains("://") || url.starts_with(['/', '.']) {
            return Err(RemoteError::Scheme);
        }
        // git's rule: scp-like only when the first colon comes before any slash.
        let end = if url.contains('[') { url.find("]:").map(|at| at + 1) } else { url.find(':') };
        let at = end.ok_or(RemoteError::Scheme)?;
        let (authority, path) = (&url[..at], &url[at + 1..]);
        if authority.contains('/') {
            return Err(RemoteError::Scheme);
        }
        Self::from_parts(Scheme::Scp, authority, path)
    }

    /// Parses what follows the first slash of a front-end request: `SCHEME/AUTHORITY/PATH`.
    ///
    /// # Errors
    /// As [`Remote::parse`].
    pub fn from_front_end(path: &str) -> Result<Self, RemoteError> {
        if path.len() > MAX_BYTES {
            return Err(RemoteError::TooLong);
        }
        let mut parts = path.splitn(3, '/');
        let scheme = match parts.next() {
            Some("https") => Scheme::Https,
            Some("ssh") => Scheme::Ssh,
            Some("scp") => Scheme::Scp,
            _ => return Err(RemoteError::Scheme),
        };
        let authority = parts.next().ok_or(RemoteError::Host)?;
        let path = parts.next().ok_or(RemoteError::Path)?;
        Self::from_parts(scheme, authority, path)
    }

    fn from_parts(scheme: Scheme, authority: &str, path: &str) -> Result<Self, RemoteError> {
        let (user, host_port) = match authority.rsplit_once('@') {
            Some(_) if scheme == Scheme::Https => return Err(RemoteError::Userinfo),
            Some((user, rest)) => (Some(parse_user(user)?), rest),
            None => (None, authority),
        };
        let (host, port) = split_port(host_port)?;
        if scheme == Scheme::Scp && port.is_some() {
            return Err(RemoteError::Port);
        }
        let port = port.filter(|port| !(scheme == Scheme::Https && *port == 443));
        Ok(Self { scheme, user, host: Host::parse(host)?, port, path: parse_path(scheme, path)? })
    }

    /// How it is reached.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The user to log in as, for ssh.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The host, or the user's own ssh alias for one.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, where the URL named one that is not the scheme's own.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path as the front end carries it, without a leading slash for https and ssh.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path that the ssh command line carries: absolute for `ssh://` (but `/~user` as `~user`), verbatim for scp form.
    #[must_use]
    pub fn ssh_path(&self) -> String {
        match self.scheme {
            Scheme::Ssh if self.path.starts_with('~') => self.path.clone(),
            Scheme::Ssh | Scheme::Https => format!("/{}", self.path),
            Scheme::Scp => self.path.clone(),
        }
    }

    /// `[user@]host[:port]`.
    #[must_use]
    pub fn authority(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{user}{}{port}", self.host.as_str())
    }

    /// The path of the front end that stands for this remote, without a leading slash.
    #[must_use]
    pub fn front_end(&self) -> String {
        format!("{}/{}/{}", self.scheme.word(), self.authority(), self.path)
    }

    /// The URL prefixes with this authority, and the front-end path each is rewritten to.
    #[must_use]
    pub fn rewrites(&self) -> (String, String) {
        let authority = self.authority();
        let prefix = match self.scheme {
            Scheme::Https => format!("https://{authority}/"),
            Scheme::Ssh => format!("ssh://{authority}/"),
            Scheme::Scp => format!("{authority}:"),
        };
        (prefix, format!("{}/{authority}/", self.scheme.word()))
    }

    /// Whether both name the same repository, however written: `.git`, a trailing slash, the ssh form.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        let transport = |r: &Self| r.scheme == Scheme::Https;
        transport(self) == transport(other)
            && self.user == other.user
            && self.host == other.host
            && self.port.unwrap_or(22) == other.port.unwrap_or(22)
            && self.repository_key() == other.repository_key()
    }

    fn repository_key(&self) -> String {
        let path = self.ssh_path();
        let path = path.trim_end_matches('/');
        path.strip_suffix(".git").unwrap_or(path).to_owned()
    }
}

fn parse_user(user: &str) -> Result<String, RemoteError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    let legal = !user.is_empty() && user.len() <= 64 && !user.starts_with('-') && user.bytes().all(plain);
    if legal { Ok(user.to_owned()) } else { Err(RemoteError::User) }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), RemoteError> {
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_brackets..].rfind(':') {
        None => Ok((text, None)),
        Some(colon) => {
            let colon = after_brackets + colon;
            let digits = &text[colon + 1..];
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(RemoteError::Port);
            }
            let port = digits.parse().ok().filter(|port| *port != 0).ok_or(RemoteError::Port)?;
            Ok((&text[..colon], Some(port)))
        }
    }
}

/// Percent signs are refused whole: `%0a`, `%2f` and `%00` have no honest use in a repository's path, and decoding
/// twice is how checks are passed.
fn parse_path(scheme: Scheme, path: &str) -> Result<String, RemoteError> {
    let path = path.trim_end_matches('/');
    let legal_char = |c: char| !c.is_control() && !matches!(c, '%' | '\\' | '?' | '#' | '`' | '"');
    let legal = !path.is_empty()
        && path.chars().all(legal_char)
        && !path.starts_with(['-', ':'])
        && path.split('/').all(|component| component != ".." && component != ".")
        && (scheme == Scheme::Scp || !path.starts_with('/'));
    if legal { Ok(path.to_owned()) } else { Err(RemoteError::Path) }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.authority();
        match self.scheme {
            Scheme::Https => write!(f, "https://{authority}/{}", self.path),
            Scheme::Ssh => write!(f, "ssh://{authority}/{}", self.path),
            Scheme::Scp => write!(f, "{authority}:{}", self.path),
        }
    }
}

impl TryFrom<String> for Remote {
    type Error = RemoteError;

    fn try_from(text: String) -> Result<Self, RemoteError> {
        Self::parse(&text)
    }
}

impl From<Remote> for String {
    fn from(remote: Remote) -> Self {
        remote.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (Scheme, Option<String>, String, Option<u16>, String) {
        let r = Remote::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
        (r.scheme, r.user.clone(), r.host.0.clone(), r.port, r.path.clone())
    }

    #[test]
    fn each_way_of_writing_a_remote_is_parsed_and_written_back() {
        assert_eq!(
            parts("https://Git.Example.org:8443/acme/widget.git"),
            (Scheme::Https, None, "git.example.org".into(), Some(8443), "acme/widget.git".into())
        );
        assert_eq!(
            parts("ssh://git@h:22022/srv/r.git"),
            (Scheme::Ssh, Some("git".into()), "h".into(), Some(22022), "srv/r.git".into())
        );
        assert_eq!(
            parts("git@work-alias:acme/w"),
            (Scheme::Scp, Some("git".into()), "work-alias".into(), None, "acme/w".into())
        );
        for url in ["https://h/a/b.git", "ssh://u@[::1]:22/a", "u@h:a/b", "h:/abs/path", "ssh://h/~me/r"] {
            let remote = Remote::parse(url).expect(url);
            assert_eq!(remote.to_string(), url);
            assert_eq!(Remote::from_front_end(&remote.front_end()).expect(url), remote);
        }
    }

    #[test]
    fn forms_of_one_repository_are_the_same_and_others_are_not() {
        let same = |a: &str, b: &str| Remote::parse(a).expect(a).same_repository(&Remote::parse(b).expect(b));
        assert!(same("https://h/a/b", "https://h/a/b.git/"));
        assert!(same("ssh://git@h/a/b", "git@h:/a/b.git"));
        assert!(!same("ssh://git@h/a/b", "git@h:a/b"));
        assert!(!same("https://h/a/b", "https://h/a/c"));
        assert!(!same("https://h/a/b", "git@h:/a/b"));
    }

    #[test]
    fn hostile_remotes_are_refused() {
        for bad in [
            "https://user:pw@h/r",
            "https://h",
            "http://h/r",
            "file:///r",
            "ext::sh -c x",
            "/abs",
            "./x",
            "https://-oProxyCommand=x/r",
            "ssh://-oProxyCommand=x/r",
            "ssh://h/-x",
            "-oX:r",
            "https://h/a%0ab",
            "https://h/a\nb",
            "https://h/../x",
            "https://h:0/r",
            "https://h:99999/r",
            "https://evil\u{0}.h/r",
            "https://h\u{430}/r",
            "ssh://-u@h/r",
            "git@h:",
            "https://h//r",
            "ssh://a b@h/r",
            "https://h/r?x=1",
            "https://h/r#x",
        ] {
            assert!(Remote::parse(bad).is_err(), "{bad:?}");
        }
    }
}
