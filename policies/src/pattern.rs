//! Patterns for remotes and refs. `*` stays within a path component, `**` crosses; nothing is negated.
//!
//! A pattern is read in two ways. A rule that permits speaks of what is *surely* meant; a rule that denies also of what
//! *could* be meant: every spelling that a server may take as the same.

use globset::{GlobBuilder, GlobMatcher};
use keyhatch_protocol::{Host, Parts, RefName, Remote, RemoteError, Root, lookalike};

use crate::{Project, RuleDecision, Service};

/// The word that stands for the project's own remotes.
pub(crate) const REMOTES: &str = "{remotes}";

/// What git puts behind a repository's name, and its directory's own name.
const GIT: &str = ".git";

/// Which repositories a rule speaks of.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// These remotes.
    Remotes(Vec<RemotePattern>),
    /// Any repository on these hosts.
    Hosts(Vec<HostPattern>),
}

/// How a pattern is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What is surely meant: for rules that permit.
    Sure,
    /// What could be meant: for rules that deny, and for those that ask where another allows.
    Possible,
}

impl Reading {
    pub(crate) const fn of(decision: RuleDecision) -> Self {
        match decision {
            RuleDecision::Allow | RuleDecision::Ask => Self::Sure,
            RuleDecision::Deny => Self::Possible,
        }
    }
}

/// One pattern for a remote's URL.
#[derive(Debug, Clone)]
pub(crate) enum RemotePattern {
    /// `{remotes}`.
    Project,
    /// A URL with `*` in its path.
    Url(Box<UrlPattern>),
}

/// A URL whose path may have `*`.
#[derive(Debug, Clone)]
pub(crate) struct UrlPattern {
    pub(crate) text: String,
    /// The same with `x` for each `*`.
    pub(crate) example: Remote,
    path: GlobMatcher,
    loose: LoosePath,
}

/// One pattern for a host.
#[derive(Debug, Clone)]
pub(crate) enum HostPattern {
    /// Any other repository on the hosts of `{remotes}`.
    Project,
    /// This host.
    Host(Host),
}

/// One pattern for a full ref name.
#[derive(Debug, Clone)]
pub(crate) struct RefPattern {
    pub(crate) text: String,
    matcher: GlobMatcher,
    loose: Loose,
}

impl RemotePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == REMOTES {
            return Ok(Self::Project);
        }
        UrlPattern::parse(text).map(|url| Self::Url(Box::new(url)))
    }

    fn matches(&self, remote: &Remote, own: &[&Remote], reading: Reading) -> bool {
        match (self, reading) {
            (Self::Project, Reading::Sure) => own.iter().any(|one| one.same_repository(remote)),
            (Self::Project, Reading::Possible) => own
                .iter()
                .any(|one| LoosePath::of_remote(one).is_some_and(|path| could_be(one, &path, remote))),
            (Self::Url(url), Reading::Sure) => url.is_surely(remote, own),
            (Self::Url(url), Reading::Possible) => could_be(&url.example, &url.loose, remote),
        }
    }
}

impl UrlPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a remote pattern starts with https://HOST/, ssh://[USER@]HOST/ or [USER@]HOST:, the host in full";
        let Parts { authority, path, .. } = Parts::of(text).map_err(|_| FORM)?;
        if authority.contains(['*', '?', '{', '}', '!']) {
            return Err(
                "a remote pattern has its user, host and port in full: `*` stands for parts of the path alone",
            );
        }
        if lookalike::is_lookalike(text) {
            return Err("this pattern has a character that looks like another");
        }
        let example = Remote::parse(&text.replace('*', "x")).map_err(why)?;
        let located = example.location().root;
        let path = pattern_path(path, &example);
        let matcher = glob_of(without_git(path), example.is_on_forge()).ok_or("this is not a pattern")?;
        let loose = LoosePath::of(path, located).ok_or("this is not a pattern")?;
        Ok(Self { text: text.to_owned(), example, path: matcher, loose })
    }

    fn is_surely(&self, remote: &Remote, own: &[&Remote]) -> bool {
        let (place, other) = (self.example.location(), remote.location());
        // Whose credential https asks for is the user's own choice: one that their own remotes made, or the pattern.
        let chosen = |one: &&Remote| one.scheme() == remote.scheme() && one.authority() == remote.authority();
        let by_own = !remote.scheme().is_ssh() && self.example.user().is_none() && own.iter().any(chosen);
        self.example.scheme().is_ssh() == remote.scheme().is_ssh()
            && self.example.host() == remote.host()
            && self.example.port() == remote.port()
            && (self.example.user() == remote.user() || by_own)
            && (place.root == other.root || remote.is_on_forge())
            && self.path.is_match(without_git(other.path))
    }
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == REMOTES {
            return Ok(Self::Project);
        }
        Host::parse(text).map(Self::Host).map_err(|_| "this is not a host name")
    }

    fn matches(&self, remote: &Remote, own: &[&Remote], reading: Reading) -> bool {
        match (self, reading) {
            // The same authority, not the name alone: another user or port is another service.
            (Self::Project, Reading::Sure) => {
                let beside =
                    |one: &&Remote| one.scheme() == remote.scheme() && one.authority() == remote.authority();
                own.iter().any(beside) && !own.iter().any(|one| one.same_repository(remote))
            }
            (Self::Project, Reading::Possible) => {
                let beside = |one: &&Remote| one.service() == remote.service();
                own.iter().any(beside) && !own.iter().any(|one| one.same_repository(remote))
            }
            (Self::Host(host), Reading::Sure) => {
                let chosen = |one: &&Remote| one.authority() == remote.authority();
                host == remote.host()
                    && (remote.scheme().is_ssh() || remote.user().is_none() || own.iter().any(chosen))
            }
            (Self::Host(host), Reading::Possible) => host.service() == remote.service(),
        }
    }
}

impl RefPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with("refs/") {
            return Err("a ref pattern starts with refs/");
        }
        if lookalike::is_lookalike(text) {
            return Err("this pattern has a character that looks like another");
        }
        let matcher = glob(text).ok_or("this is not a pattern")?;
        let loose = Loose::of(text).ok_or("this is not a pattern")?;
        Ok(Self { text: text.to_owned(), matcher, loose })
    }

    pub(crate) fn matches(&self, name: &RefName, reading: Reading) -> bool {
        self.matcher.is_match(name.as_str())
            || (reading == Reading::Possible && self.loose.is_match(name.as_str()))
    }

    /// Whether every ref is meant.
    pub(crate) fn is_every_ref(&self) -> bool {
        self.text == "refs/**"
    }
}

impl Where {
    /// Whether a rule speaks of this remote.
    pub(crate) fn matches(
        &self,
        remote: &Remote,
        project: &Project,
        service: Service,
        reading: Reading,
    ) -> bool {
        let own: Vec<&Remote> = match service {
            Service::Fetch => project.remotes.iter().chain(&project.submodules).collect(),
            Service::Push => project.remotes.iter().collect(),
        };
        match self {
            Self::Remotes(patterns) => patterns.iter().any(|pattern| pattern.matches(remote, &own, reading)),
            Self::Hosts(patterns) => patterns.iter().any(|pattern| pattern.matches(remote, &own, reading)),
        }
    }
}

/// A text compared without case, and with letters of one shape as one.
#[derive(Debug, Clone)]
struct Loose {
    lower: GlobMatcher,
    shapes: GlobMatcher,
}

impl Loose {
    fn of(pattern: &str) -> Option<Self> {
        Some(Self { lower: build(pattern, true)?, shapes: build(&lookalike::folded(pattern), true)? })
    }

    fn is_match(&self, text: &str) -> bool {
        self.lower.is_match(text) || (!text.is_ascii() && self.shapes.is_match(lookalike::folded(text)))
    }
}

/// A path that may lie elsewhere on the server than it says: below a home directory, or below the server's root.
#[derive(Debug, Clone)]
struct LoosePath {
    root: Root,
    whole: Loose,
    /// What a path from a home directory could be of one from the server's root: its ends that begin with a name.
    ends: Vec<Loose>,
}

impl LoosePath {
    fn of(path: &str, root: Root) -> Option<Self> {
        let path = repository(path);
        let begins_with_name = |end: &&str| !end.starts_with('*');
        let ends = ends(path).skip(1).filter(begins_with_name).map(Loose::of).collect::<Option<_>>()?;
        Some(Self { root, whole: Loose::of(path)?, ends })
    }

    fn of_remote(remote: &Remote) -> Option<Self> {
        let place = remote.location();
        Self::of(&globset::escape(place.path), place.root)
    }
}

/// Whether a server could take both as one repository: without regard to case, `.git`, user, transport and, over ssh,
/// whose port the user's ssh configuration may set, and where the path begins.
fn could_be(pattern: &Remote, path: &LoosePath, remote: &Remote) -> bool {
    let same_port = pattern.scheme().is_ssh() || remote.scheme().is_ssh() || pattern.port() == remote.port();
    if pattern.service() != remote.service() || !same_port {
        return false;
    }
    let place = remote.location();
    let found = repository(place.path);
    if path.whole.is_match(found) {
        return true;
    }
    // A path of ssh from the server's root may go through what another one leaves out.
    let from_root = |remote: &Remote, root: Root| remote.scheme().is_ssh() && root == Root::Server;
    let (ours, theirs) = (from_root(pattern, path.root), from_root(remote, place.root));
    (theirs && !ours && ends(found).any(|end| path.whole.is_match(end)))
        || (ours && !theirs && path.ends.iter().any(|end| end.is_match(found)))
}

/// The repository that a path is in, without what git adds or leaves out: `.git`, `/.git`, a worktree of it.
fn repository(path: &str) -> &str {
    let mut end = 0_usize;
    for component in path.split('/') {
        if is_git(component) {
            let mut name = component;
            while is_git(name) {
                name = &name[..name.len() - GIT.len()];
            }
            let cut = if name.is_empty() { end.saturating_sub(1) } else { end + name.len() };
            return path[..cut].trim_end_matches('.');
        }
        end += component.len() + 1;
    }
    let outer = path.rsplit_once('/').and_then(|(rest, _)| rest.strip_suffix("/worktrees"));
    outer.unwrap_or(path).trim_end_matches('.')
}

fn is_git(name: &str) -> bool {
    name.len()
        .checked_sub(GIT.len())
        .and_then(|at| name.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(GIT))
}

/// A path, and what is left of it without its first component, without its second, and so on.
fn ends(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |rest| rest.split_once('/').map(|(_, rest)| rest))
}

/// The path of a pattern from where its root is, as [`keyhatch_protocol::Location`] has it.
fn pattern_path<'p>(path: &'p str, example: &Remote) -> &'p str {
    let path = path.trim_end_matches('/');
    // `*` and `x` are one byte each: what the parser left out in front is as long here.
    &path[path.len() - example.location().path.len()..]
}

fn without_git(path: &str) -> &str {
    path.strip_suffix(".git").unwrap_or(path)
}

const fn why(error: RemoteError) -> &'static str {
    match error {
        RemoteError::TooLong => "this pattern is too long",
        RemoteError::Scheme => "a remote pattern is https://, ssh:// or user@host:path",
        RemoteError::Host => "the pattern's host is not a plain ASCII host name",
        RemoteError::Port => "the pattern's port is not a number from 1 to 65535",
        RemoteError::User => "the pattern's user is not a plain name",
        RemoteError::Userinfo => "a pattern has no password",
        RemoteError::Path => "the pattern's path has a character that no remote has, as one of % ; ? #",
        RemoteError::Component => {
            "the pattern's path has an empty component, or `.`, `..`, or a space at an end"
        }
    }
}

pub(crate) fn glob(text: &str) -> Option<GlobMatcher> {
    glob_of(text, false).filter(|_| !text.is_empty())
}

fn glob_of(text: &str, any_case: bool) -> Option<GlobMatcher> {
    // Braces would be a second way to write a list, and `{project}` a trap.
    if text.contains(['{', '}', '[', ']', '?', '!', '\\']) {
        return None;
    }
    build(text, any_case)
}

fn build(text: &str, any_case: bool) -> Option<GlobMatcher> {
    let mut glob = GlobBuilder::new(text);
    glob.literal_separator(true).case_insensitive(any_case);
    glob.build().ok().map(|glob| glob.compile_matcher())
}

#[cfg(test)]
mod tests;
