//! A remote repository, parsed once into typed parts.
//!
//! Comes in: a URL from the user's own configuration, or the path of a front-end request, chosen by
//! a session. Goes out: a value whose every part is safe to print, to compare and to hand to ssh.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::{is_blank, is_plain};
use crate::{Host, forge, lookalike};

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
    /// A host name that is empty, option-like or not plain ASCII, or a number that is no address.
    #[error("the remote's host is not a plain ASCII host name")]
    Host,
    /// A port outside 1 to 65535.
    #[error("the remote's port is not a number from 1 to 65535")]
    Port,
    /// A user name with characters outside letters, digits, `.`, `_`, `-`, `+`, or one that looks like an option.
    #[error("the remote's user is not a plain name")]
    User,
    /// A password in an https URL.
    #[error("the remote has a password in its URL")]
    Userinfo,
    /// A character that no repository's path needs, and that servers read in more than one way.
    #[error("the remote's path has a character that is refused, as one of % ; ? # \\ \" `")]
    Path,
    /// An empty component, `.`, `..`, or one that begins or ends with a space: another spelling of another path.
    #[error("the remote's path has an empty component, or `.`, `..`, or a space at an end")]
    Component,
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

    /// The port where a URL names none.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Ssh | Self::Scp => 22,
        }
    }

    /// Whether the host's ssh reaches it.
    #[must_use]
    pub const fn is_ssh(self) -> bool {
        matches!(self, Self::Ssh | Self::Scp)
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
        let Parts { scheme, authority, path } = Parts::of(url)?;
        Self::from_parts(scheme, authority, path)
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
            Some((user, rest)) => (Some(parse_user(scheme, user)?), rest),
            None => (None, authority),
        };
        let (host, port) = split_port(host_port)?;
        if scheme == Scheme::Scp && port.is_some() {
            return Err(RemoteError::Port);
        }
        let port = port.filter(|port| *port != scheme.port());
        Ok(Self { scheme, user, host: Host::parse(host)?, port, path: parse_path(scheme, path)? })
    }

    /// How it is reached.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The user to log in as, decoded: of ssh, or the one whose credential https asks for.
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

    /// `[user@]host[:port]`, as it stands in a URL.
    #[must_use]
    pub fn authority(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{}@", encoded(user))).unwrap_or_default();
        format!("{user}{}", self.host_port())
    }

    /// `host[:port]`.
    #[must_use]
    pub fn host_port(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}", self.host.as_str())
    }

    /// Where on its server the repository lies.
    #[must_use]
    pub fn location(&self) -> Location<'_> {
        Location::of(self.scheme, self.user(), &self.path)
    }

    /// Whether its host is one whose names have no case, and whose paths are the same over https and ssh.
    #[must_use]
    pub fn is_on_forge(&self) -> bool {
        forge::is_forge(self.host.as_str())
    }

    /// Its host by the name that all names of one service share.
    #[must_use]
    pub fn service(&self) -> &str {
        self.host.service()
    }

    /// Whether its path could be taken for another.
    #[must_use]
    pub fn is_lookalike(&self) -> bool {
        lookalike::is_lookalike(&self.path)
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

    /// Whether both surely name the same repository for the same user: `.git`, the ssh form, and the case where a forge
    /// folds it, make no difference.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        let (own, others) = (self.location(), other.location());
        let (path, other_path) = (without_git(own.path), without_git(others.path));
        let same_path = if self.is_on_forge() {
            path.eq_ignore_ascii_case(other_path)
        } else {
            path == other_path && own.root == others.root
        };
        self.scheme.is_ssh() == other.scheme.is_ssh()
            && self.user == other.user
            && self.host == other.host
            && self.port == other.port
            && same_path
    }
}

/// A URL cut into its parts, not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'u> {
    /// How it is reached.
    pub scheme: Scheme,
    /// `[user@]host[:port]`.
    pub authority: &'u str,
    /// What follows the slash, or in scp form the colon.
    pub path: &'u str,
}

impl<'u> Parts<'u> {
    /// Cuts a URL as git does.
    ///
    /// # Errors
    /// When it is too long, has no path, or is in none of the forms of [`Scheme`].
    pub fn of(url: &'u str) -> Result<Self, RemoteError> {
        if url.len() > MAX_BYTES {
            return Err(RemoteError::TooLong);
        }
        if let Some(rest) = url.strip_prefix("https://") {
            let (authority, path) = rest.split_once('/').ok_or(RemoteError::Path)?;
            return Ok(Self { scheme: Scheme::Https, authority, path });
        }
        let ssh = ["ssh://", "git+ssh://", "ssh+git://"];
        if let Some(rest) = ssh.iter().find_map(|prefix| url.strip_prefix(prefix)) {
            let (authority, path) = rest.split_once('/').ok_or(RemoteError::Path)?;
            return Ok(Self { scheme: Scheme::Ssh, authority, path });
        }
        if url.contains("://") || url.starts_with(['/', '.']) {
            return Err(RemoteError::Scheme);
        }
        // git's rule: scp-like only when the first colon comes before any slash.
        let colon = url.find(':');
        let in_brackets = url.find('[').is_some_and(|bracket| colon.is_some_and(|colon| bracket < colon));
        let end = if in_brackets { url.find("]:").map(|at| at + 1) } else { colon };
        let at = end.ok_or(RemoteError::Scheme)?;
        let (authority, path) = (&url[..at], &url[at + 1..]);
        if authority.contains('/') {
            return Err(RemoteError::Scheme);
        }
        Ok(Self { scheme: Scheme::Scp, authority, path })
    }
}

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// At the server's root.
    Server,
    /// In the home directory of who logs in: `h:path`, `ssh://h/~/path`.
    Home,
}

/// Where on its server a repository lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'p> {
    /// Where the path begins.
    pub root: Root,
    /// The path from there, without a leading slash.
    pub path: &'p str,
}

impl<'p> Location<'p> {
    /// Reads the path of a URL.
    #[must_use]
    pub fn of(scheme: Scheme, user: Option<&str>, path: &'p str) -> Self {
        let below_home = |path: &'p str| {
            let own = path.strip_prefix('~').and_then(|rest| rest.split_once('/'));
            match own {
                Some((name, rest)) if name.is_empty() || Some(name) == user => rest,
                _ => path,
            }
        };
        match scheme {
            Scheme::Https => Self { root: Root::Server, path },
            Scheme::Ssh if path.starts_with('~') => Self { root: Root::Home, path: below_home(path) },
            Scheme::Ssh => Self { root: Root::Server, path },
            Scheme::Scp => match path.strip_prefix('/') {
                Some(path) => Self { root: Root::Server, path },
                None => Self { root: Root::Home, path: below_home(path) },
            },
        }
    }
}

fn without_git(path: &str) -> &str {
    path.strip_suffix(".git").unwrap_or(path)
}

/// Of ssh a plain name; of https any of printable ASCII, as an address, in one encoding.
fn parse_user(scheme: Scheme, user: &str) -> Result<String, RemoteError> {
    if scheme == Scheme::Https && user.contains(':') {
        return Err(RemoteError::Userinfo);
    }
    let decoded = if scheme == Scheme::Https { decoded(user)? } else { user.to_owned() };
    let legal = |b: u8| is_plain_in_user(b) || (scheme == Scheme::Https && b.is_ascii_graphic() && b != b':');
    let fits = !decoded.is_empty() && decoded.len() <= 64 && !decoded.starts_with('-');
    if fits && decoded.bytes().all(legal) { Ok(decoded) } else { Err(RemoteError::User) }
}

const fn is_plain_in_user(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+')
}

/// RFC 3986, section 2.1: what is no plain character of a name stands as its number.
fn encoded(user: &str) -> String {
    let one = |b: u8| if is_plain_in_user(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    user.bytes().map(one).collect()
}

fn decoded(user: &str) -> Result<String, RemoteError> {
    let mut bytes = Vec::with_capacity(user.len());
    let mut rest = user.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'%').then(|| after.get(..2)).flatten();
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match (first, digits.and_then(|digits| std::str::from_utf8(digits).ok())) {
            (b'%', Some(digits)) => {
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| RemoteError::User)?);
                rest = &after[2..];
            }
            (b'%' | b'@', _) => return Err(RemoteError::User),
            (plain, _) => {
                bytes.push(*plain);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| RemoteError::User)
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
/// twice is how checks are passed. So are `;`, at which some servers cut a component, and every component that servers
/// drop: each path has one spelling.
fn parse_path(scheme: Scheme, path: &str) -> Result<String, RemoteError> {
    let path = path.trim_end_matches('/');
    let legal_char =
        |c: char| is_plain(c) && !is_blank(c) && !matches!(c, '%' | '\\' | '?' | '#' | '`' | '"' | ';');
    if path.is_empty() || !path.chars().all(legal_char) || path.starts_with(['-', ':']) {
        return Err(RemoteError::Path);
    }
    let relative = if scheme == Scheme::Scp { path.strip_prefix('/').unwrap_or(path) } else { path };
    let legal = |component: &str| {
        !matches!(component, "" | "." | "..") && !component.starts_with(' ') && !component.ends_with(' ')
    };
    if relative.split('/').all(legal) { Ok(path.to_owned()) } else { Err(RemoteError::Component) }
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
    use proptest::prelude::*;

    use super::*;

    fn parts(url: &str) -> (Scheme, Option<String>, String, Option<u16>, String) {
        let r = Remote::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"));
        (r.scheme, r.user.clone(), r.host.as_str().to_owned(), r.port, r.path.clone())
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
        for url in [
            "https://h/a/b.git",
            "ssh://u@[::1]:2222/a",
            "https://bob%40x.example@h/a",
            "u@h:a/b",
            "h:/abs/path",
            "ssh://h/~me/r",
        ] {
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
        assert!(same("https://h:443/a", "https://H./a/"));
        assert!(!same("https://h:22/a", "https://h/a"));
        assert!(same("ssh://h:22/a", "ssh://h/a"));
        assert!(same("ssh://git@h/~/r", "git@h:r") && same("ssh://git@h/~git/r", "git@h:r"));
        assert!(!same("ssh://git@h/~other/r", "git@h:r"));
        assert!(!same("https://bob@h/a", "https://h/a"));
        assert!(same("https://github.com/Acme/W", "https://github.com/acme/w.git"));
        assert!(!same("https://h/Acme/W", "https://h/acme/w"));
        assert!(same("git@github.com:acme/w", "ssh://git@github.com/Acme/w"));
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
            "https://h/a//b",
            "https://h/a/./b",
            "https://h/a%2fb",
            "https://h/a\\b",
            "https://h/a;x=1/b",
            "https://h/a /b",
            "https://h/a\u{200b}b",
            "h:/a//b",
            "h://a",
            "ssh://h/a/../b",
            "https://@h/a",
            "https://bob:@h/a",
            "https://a%3ab@h/a",
            "https://a@b@h/a",
            "https://1.2.3.256/a",
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

    proptest! {
        #[test]
        fn a_remote_has_one_spelling_which_is_itself(
            scheme in 0..3usize,
            user in proptest::option::of("[a-zA-Z0-9._+]{1,8}"),
            host in "[a-zA-Z0-9.-]{1,12}|\\[[0-9a-f:.]{2,12}\\]",
            port in proptest::option::of(0..70_000u32),
            path in "[a-z./~;% A-Z\u{430}-]{0,20}",
        ) {
            let user = user.map(|user| format!("{user}@")).unwrap_or_default();
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let url = match scheme {
                0 => format!("https://{user}{host}{port}/{path}"),
                1 => format!("ssh://{user}{host}{port}/{path}"),
                _ => format!("{user}{host}:{path}"),
            };
            if let Ok(remote) = Remote::parse(&url) {
                prop_assert_eq!(&Remote::parse(&remote.to_string()).expect("its own spelling"), &remote);
                prop_assert_eq!(&Remote::from_front_end(&remote.front_end()).expect("its own path"), &remote);
                prop_assert!(remote.same_repository(&remote));
                let empty = remote.location().path.split('/').any(|part| matches!(part, "" | "." | ".."));
                prop_assert!(!empty);
            }
        }

        #[test]
        fn no_text_makes_the_parser_fail(text in ".{0,80}") {
            if let Ok(remote) = Remote::parse(&text) {
                prop_assert_eq!(Remote::parse(&remote.to_string()).expect("its own spelling"), remote);
            }
        }
    }
}
