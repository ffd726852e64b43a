//! Patterns for remotes and refs. `*` stays within a path component, `**` crosses; nothing is negated.

use globset::{GlobBuilder, GlobMatcher};
use keyhatch_protocol::{Host, RefName, Remote};

use crate::{Project, Service};

/// The word that stands for the project's own remotes.
pub(crate) const REMOTES: &str = "{remotes}";

/// Which repositories a rule speaks of.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// These remotes.
    Remotes(Vec<RemotePattern>),
    /// Any repository on these hosts.
    Hosts(Vec<HostPattern>),
}

/// One pattern for a remote's URL.
#[derive(Debug, Clone)]
pub(crate) enum RemotePattern {
    /// `{remotes}`.
    Project,
    /// A URL with `*`.
    Url { text: String, matcher: GlobMatcher },
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
}

impl RemotePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == REMOTES {
            return Ok(Self::Project);
        }
        let prefix = text.split(['*', '?', '[', '{']).next().unwrap_or_default();
        if prefix.contains("://") || prefix.contains(':') {
            let matcher = glob(text).ok_or("this is not a pattern")?;
            return Ok(Self::Url { text: text.to_owned(), matcher });
        }
        Err(
            "a remote pattern starts with https://HOST/, ssh://[USER@]HOST/ or [USER@]HOST:, the host in full",
        )
    }

    fn matches(&self, remote: &Remote, own: &[&Remote]) -> bool {
        match self {
            Self::Project => own.iter().any(|one| one.same_repository(remote)),
            Self::Url { matcher, .. } => {
                let url = remote.to_string();
                let url = url.strip_suffix(".git").unwrap_or(&url);
                matcher.is_match(url) || matcher.is_match(format!("{url}.git"))
            }
        }
    }
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == REMOTES {
            return Ok(Self::Project);
        }
        Host::parse(text).map(Self::Host).map_err(|_| "this is not a host name")
    }

    fn matches(&self, remote: &Remote, own: &[&Remote]) -> bool {
        match self {
            // The same authority, not the name alone: another user or port is another service.
            Self::Project => {
                let beside =
                    |one: &&Remote| one.scheme() == remote.scheme() && one.authority() == remote.authority();
                own.iter().any(beside) && !own.iter().any(|one| one.same_repository(remote))
            }
            Self::Host(host) => host == remote.host(),
        }
    }
}

impl RefPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with("refs/") {
            return Err("a ref pattern starts with refs/");
        }
        let matcher = glob(text).ok_or("this is not a pattern")?;
        Ok(Self { text: text.to_owned(), matcher })
    }

    pub(crate) fn matches(&self, name: &RefName) -> bool {
        self.matcher.is_match(name.as_str())
    }
}

impl Where {
    /// Whether a rule speaks of this remote.
    pub(crate) fn matches(&self, remote: &Remote, project: &Project, service: Service) -> bool {
        let own: Vec<&Remote> = match service {
            Service::Fetch => project.remotes.iter().chain(&project.submodules).collect(),
            Service::Push => project.remotes.iter().collect(),
        };
        match self {
            Self::Remotes(patterns) => patterns.iter().any(|pattern| pattern.matches(remote, &own)),
            Self::Hosts(patterns) => patterns.iter().any(|pattern| pattern.matches(remote, &own)),
        }
    }
}

pub(crate) fn glob(text: &str) -> Option<GlobMatcher> {
    // Braces would be a second way to write a list, and `{project}` a trap.
    if text.is_empty() || text.contains(['{', '}', '[', ']', '?', '!', '\\']) {
        return None;
    }
    GlobBuilder::new(text).literal_separator(true).build().ok().map(|glob| glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> Remote {
        Remote::parse(url).expect("a remote")
    }

    #[test]
    fn a_star_stays_in_its_component_and_git_is_optional() {
        let pattern = RemotePattern::parse("https://h.example/acme/*").expect("a pattern");
        assert!(pattern.matches(&remote("https://h.example/acme/w.git"), &[]));
        assert!(pattern.matches(&remote("https://h.example/acme/w"), &[]));
        assert!(!pattern.matches(&remote("https://h.example/acme/w/x"), &[]));
        assert!(!pattern.matches(&remote("https://h.example.evil/acme/w"), &[]));
        let refs = RefPattern::parse("refs/heads/agent/*").expect("a pattern");
        let name = |text: &str| RefName::parse(text.as_bytes()).expect("a ref");
        assert!(refs.matches(&name("refs/heads/agent/x")));
        assert!(!refs.matches(&name("refs/heads/agent/x/y")));
        assert!(!refs.matches(&name("refs/heads/Agent/x")));
    }

    #[test]
    fn a_neighbour_is_another_repository_on_the_same_host() {
        let own = remote("ssh://git@h:22/acme/w.git");
        let pattern = HostPattern::parse(REMOTES).expect("a pattern");
        assert!(pattern.matches(&remote("ssh://git@h:22/acme/other"), &[&own]));
        assert!(!pattern.matches(&own, &[&own]));
        assert!(!pattern.matches(&remote("ssh://root@h:22/acme/other"), &[&own]));
        assert!(!pattern.matches(&remote("ssh://git@h:23/acme/other"), &[&own]));
    }

    #[test]
    fn odd_patterns_are_refused() {
        for bad in ["*", "{project}", "https://h/{a,b}", "github.com/acme", "https://h/[ab]"] {
            assert!(RemotePattern::parse(bad).is_err(), "{bad}");
        }
        assert!(HostPattern::parse("*.example.org").is_err());
        assert!(RefPattern::parse("main").is_err());
    }
}
