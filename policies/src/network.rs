//! The network of a sandbox: which hosts it reaches through the proxy, which of its ports the user reaches, which
//! services of the host it reaches. Names only: who resolves them, and filters what they resolve to, is the broker.
//!
//! What is not listed is refused; an empty list allows nothing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use keyhatch_protocol::destination::parse_port;
use keyhatch_protocol::{Destination, DestinationHost, DnsName};
use serde::{Deserialize, Serialize};

/// What of the network a policy opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// How.
    pub mode: NetworkMode,
    /// Destinations by name.
    pub allow: Vec<AllowedHost>,
    /// Tools whose own configuration names more hosts.
    pub registries: Vec<Registry>,
    /// Ports of the sandbox that the user reaches on the host's loopback.
    pub publish: Vec<u16>,
    /// Services of the host that the sandbox reaches on its own loopback, under the same port.
    pub host_services: Vec<HostService>,
    /// How much.
    pub limits: NetworkLimits,
}

/// Ports of a sandbox's loopback that are the session's own: git's front end and the proxy.
pub const OWN_PORTS: [u16; 2] = [8417, 8418];

/// How a sandbox is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// Its own loopback and the session's sockets.
    None,
    /// That, and a proxy to the listed hosts.
    Allow,
    /// The host's own network, with everything on it.
    Host,
}

/// One entry of `allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// Which destinations.
    pub pattern: HostPort,
    /// Why, where the policy says.
    pub reason: Option<String>,
    /// Whether it may resolve to a private address.
    pub private: bool,
}

/// One service of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostService {
    /// On the host's loopback.
    pub address: SocketAddr,
    /// Why, where the policy says.
    pub reason: Option<String>,
}

/// A tool that fetches packages from hosts that it is configured to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registry {
    /// npm, and what reads its configuration.
    Npm,
    /// pip.
    Pip,
    /// cargo.
    Cargo,
    /// go.
    Go,
}

impl Registry {
    /// The word in a policy.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pip => "pip",
            Self::Cargo => "cargo",
            Self::Go => "go",
        }
    }
}

/// What a session's connections may weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Connections that are open at once.
    pub connections: usize,
    /// Bytes that leave.
    pub sent: u64,
    /// Bytes that come in.
    pub received: u64,
    /// How long a host may take to accept a connection.
    pub connect: Duration,
    /// How long a connection may carry nothing.
    pub idle: Duration,
}

/// What holds unless the policy says otherwise. Connections: npm opens some 15 for each install, a browser 6 a host. Bytes:
/// ten times what a large build downloads, and enough that only a leak is stopped. Idle: a model may think for minutes.
pub(crate) const LIMITS: NetworkLimits = NetworkLimits {
    connections: 256,
    sent: 8 << 30,
    received: 64 << 30,
    connect: Duration::from_secs(15),
    idle: Duration::from_secs(15 * 60),
};

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::None,
            allow: Vec::new(),
            registries: Vec::new(),
            publish: Vec::new(),
            host_services: Vec::new(),
            limits: LIMITS,
        }
    }
}

/// A pattern for destinations: `api.example.org:443`, `*.example.org:443` (one label), `**.example.org:443` (one or
/// more), or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    host: HostPattern,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(DestinationHost),
    /// Whole labels before this name.
    Below {
        parent: DnsName,
        deep: bool,
    },
}

impl HostPort {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("a destination is written HOST:PORT")?;
        let port = parse_port(port).map_err(|_| "the port is not a number from 1 to 65535")?;
        let wildcard = [("**.", true), ("*.", false)];
        let below = wildcard.iter().find_map(|(prefix, deep)| Some((host.strip_prefix(prefix)?, *deep)));
        let host = match below {
            None => HostPattern::Exact(
                DestinationHost::parse(host).map_err(|_| "the host is not a name or an address")?,
            ),
            Some((parent, deep)) => {
                let parent = DnsName::parse(parent).map_err(|_| "what follows `*.` is not a name")?;
                if parent.labels().count() < 2 {
                    return Err("this would match a whole top-level domain");
                }
                HostPattern::Below { parent, deep }
            }
        };
        Ok(Self { host, port })
    }

    /// Whether it means exactly one host.
    pub(crate) const fn is_exact(&self) -> bool {
        matches!(self.host, HostPattern::Exact(_))
    }

    /// Whether a destination is one of those that it means.
    #[must_use]
    pub fn matches(&self, destination: &Destination) -> bool {
        self.port == destination.port()
            && match (&self.host, destination.host()) {
                (HostPattern::Exact(host), asked) => host == asked,
                (HostPattern::Below { .. }, DestinationHost::Name(name)) => self.names(name),
                (HostPattern::Below { .. }, DestinationHost::Address(_)) => false,
            }
    }

    /// Whether it means this name, on whatever port.
    #[must_use]
    pub fn names(&self, name: &DnsName) -> bool {
        match &self.host {
            HostPattern::Exact(host) => matches!(host, DestinationHost::Name(own) if own == name),
            HostPattern::Below { parent, deep } => {
                below(parent, name).is_some_and(|labels| labels == 1 || *deep)
            }
        }
    }
}

/// How many labels a name has before another name; none when it is not below it.
fn below(parent: &DnsName, name: &DnsName) -> Option<usize> {
    let mut rest = name.labels().rev();
    let same = parent.labels().rev().all(|label| rest.next() == Some(label));
    same.then(|| rest.count()).filter(|labels| *labels > 0)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostPattern::Exact(host) => write!(f, "{host}:{}", self.port),
            HostPattern::Below { parent, deep: false } => write!(f, "*.{}:{}", parent.as_str(), self.port),
            HostPattern::Below { parent, deep: true } => write!(f, "**.{}:{}", parent.as_str(), self.port),
        }
    }
}

/// A host that a tool of the user's is configured to fetch packages from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryHost {
    /// Whose registry.
    pub registry: Registry,
    /// Where.
    pub destination: Destination,
}

/// The policy's word on a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a judgement that is not looked at protects nobody"]
pub enum Reach {
    /// May be connected to, once its address is looked at.
    Allowed {
        /// The entry that says so.
        by: String,
        /// Whether a private address will do: the user's own configuration names this host.
        private: bool,
    },
    /// Must not.
    Refused {
        /// One line.
        reason: String,
        /// The policy line that would allow it.
        line: String,
    },
}

/// Judges a destination. `registries` are what the user's tools said when the session opened.
pub fn judge_destination(network: &Network, registries: &[RegistryHost], asked: &Destination) -> Reach {
    let refused = |reason: &str| Reach::Refused { reason: reason.to_owned(), line: line_for(network, asked) };
    match network.mode {
        NetworkMode::None => return refused("the policy opens no network"),
        // No proxy is served there; a request that comes all the same is an error of ours.
        NetworkMode::Host => return refused("the sandbox has the host's network: use it directly"),
        NetworkMode::Allow => {}
    }
    let entries: Vec<&AllowedHost> =
        network.allow.iter().filter(|entry| entry.pattern.matches(asked)).collect();
    if let Some(first) = entries.first() {
        let private = entries.iter().any(|entry| entry.private);
        return Reach::Allowed { by: first.pattern.to_string(), private };
    }
    // A company's mirror has a private address, and the user's own configuration names it.
    match registries.iter().find(|host| host.destination == *asked) {
        Some(host) => Reach::Allowed { by: format!("registries: {}", host.registry.word()), private: true },
        None => refused("it is not in the policy's [network] allow list"),
    }
}

/// The line of a policy that would allow a destination, whole: it can be pasted over the one that is there.
#[must_use]
pub fn line_for(network: &Network, asked: &Destination) -> String {
    let listed = network.allow.iter().map(|entry| entry.pattern.to_string());
    let mut entries: Vec<String> =
        listed.chain([asked.to_string()]).map(|entry| format!("{entry:?}")).collect();
    entries.dedup();
    // A long list is not repeated: the new entry is what counts.
    if entries.len() > 4 {
        return format!("[network] allow = [..., \"{asked}\"]");
    }
    format!("[network] allow = [{}]", entries.join(", "))
}

/// The network in words, for `keyhatch policy show`.
#[must_use]
pub(crate) fn describe(network: &Network) -> String {
    let mut text = match network.mode {
        NetworkMode::None => "\nnetwork: none\n".to_owned(),
        NetworkMode::Host => "\nnetwork: the host's own, with everything on it\n".to_owned(),
        NetworkMode::Allow => "\nnetwork: these hosts, through a proxy, and nothing else\n".to_owned(),
    };
    let because = |reason: &Option<String>| reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    for entry in &network.allow {
        let private = if entry.private { ", also at a private address" } else { "" };
        text.push_str(&format!("    {}{private}{}\n", entry.pattern, because(&entry.reason)));
    }
    for registry in &network.registries {
        text.push_str(&format!("    whatever {} is configured to fetch from\n", registry.word()));
    }
    for port in &network.publish {
        text.push_str(&format!("    port {port} of the sandbox is yours at 127.0.0.1:{port}\n"));
    }
    for service in &network.host_services {
        text.push_str(&format!("    {} of this machine{}\n", service.address, because(&service.reason)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPort {
        HostPort::parse(text).expect(text)
    }

    fn to(text: &str) -> Destination {
        Destination::parse(text).expect(text)
    }

    fn allowing(entries: &[&str]) -> Network {
        let entry = |text: &&str| AllowedHost { pattern: pattern(text), reason: None, private: false };
        Network { mode: NetworkMode::Allow, allow: entries.iter().map(entry).collect(), ..Network::default() }
    }

    #[test]
    fn a_wildcard_matches_whole_labels() {
        let one = pattern("*.example.org:443");
        assert!(one.matches(&to("a.example.org:443")));
        for other in [
            "example.org:443",
            "a.b.example.org:443",
            "evilexample.org:443",
            "a.example.org:80",
            "a.example.org.evil.net:443",
        ] {
            assert!(!one.matches(&to(other)), "{other}");
        }
        let deep = pattern("**.example.org:443");
        assert!(deep.matches(&to("a.example.org:443")) && deep.matches(&to("a.b.example.org:443")));
        assert!(!deep.matches(&to("example.org:443")) && !deep.matches(&to("notexample.org:443")));
        assert!(!pattern("*.2.0.192.example:1").matches(&to("192.0.2.1:1")));
    }

    #[test]
    fn what_is_too_wide_or_odd_is_no_pattern() {
        for bad in [
            "*",
            "*:443",
            "*.org:443",
            "**.com:443",
            "a.*.org:443",
            "*a.example.org:443",
            "example.org",
            "example.org:*",
            "https://example.org:443",
            "2130706433:443",
        ] {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_host_of_a_shipped_policy_has_its_reason() {
        for name in crate::shipped_names() {
            let policy = crate::Policy::shipped(name).expect("it parses");
            let network = policy.network();
            assert!(network.allow.iter().all(|entry| entry.reason.is_some()), "{name}");
            assert!(network.mode != NetworkMode::Host && network.host_services.is_empty(), "{name}");
            assert!(describe(network).lines().count() > network.allow.len(), "{name}");
        }
    }

    #[test]
    fn an_empty_list_means_nothing() {
        for network in [allowing(&[]), Network::default()] {
            let judged = judge_destination(&network, &[], &to("example.org:443"));
            assert!(matches!(judged, Reach::Refused { .. }), "{judged:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_line_that_would_allow_it() {
        let network = allowing(&["api.example.org:443"]);
        let Reach::Refused { line, .. } = judge_destination(&network, &[], &to("b.example.org:8443")) else {
            panic!("must be refused");
        };
        assert_eq!(line, "[network] allow = [\"api.example.org:443\", \"b.example.org:8443\"]");
    }

    #[test]
    fn only_a_registry_or_a_named_private_host_may_have_a_private_address() {
        let mut network = allowing(&["api.example.org:443", "git.corp.example:443"]);
        network.allow[1].private = true;
        let mirror = RegistryHost { registry: Registry::Npm, destination: to("mirror.corp.example:443") };
        let private = |destination: &str| match judge_destination(
            &network,
            std::slice::from_ref(&mirror),
            &to(destination),
        ) {
            Reach::Allowed { private, .. } => private,
            Reach::Refused { .. } => panic!("{destination} is allowed"),
        };
        assert!(!private("api.example.org:443"));
        assert!(private("git.corp.example:443") && private("mirror.corp.example:443"));
    }
}
