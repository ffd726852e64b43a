//! Which sockets of a session's own network are served, and what its processes are told about them.
//!
//! Comes in: the policy's network. Goes out: the list that the runner makes sockets from, in the order in which they come
//! back, variables for tools, and lines for the user.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use keyhatch_policies::network::{Network, NetworkMode};
use keyhatch_policies::rules::{NetworkInside, SocketInside};

use crate::session::FRONT_END_PORT;

/// The port of the proxy on a sandbox's own loopback; HTTP and SOCKS5 both.
pub const PROXY_PORT: u16 = 8418;
/// Where resolvers ask when no server is configured.
const NAMES_PORT: u16 = 53;
/// Connections to published ports at once, of each address family. A browser opens six a host.
const DIALERS: u16 = 32;

/// What a socket of a session's network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// git over HTTP.
    FrontEnd,
    /// The proxy.
    Proxy,
    /// Questions for names, which are answered with addresses that lead nowhere.
    Names,
    /// A service of the host.
    Service(SocketAddr),
    /// Connections to published ports.
    Dialers,
}

/// The sockets of a session's own network, in the order in which they are made and handed over.
#[must_use]
pub fn sockets(network: &Network) -> Vec<(Purpose, SocketInside)> {
    if network.mode == NetworkMode::Host {
        return Vec::new();
    }
    let listener = |port| SocketInside::Listener { port };
    let mut sockets = vec![
        (Purpose::FrontEnd, listener(FRONT_END_PORT)),
        (Purpose::Names, SocketInside::Datagrams { port: NAMES_PORT }),
    ];
    if network.mode == NetworkMode::Allow {
        sockets.push((Purpose::Proxy, listener(PROXY_PORT)));
    }
    let services = network.host_services.iter();
    sockets.extend(services.map(|one| (Purpose::Service(one.address), listener(one.address.port()))));
    if !network.publish.is_empty() {
        let dialers = |ipv6| (Purpose::Dialers, SocketInside::Dialers { ipv6, count: DIALERS });
        sockets.extend([dialers(false), dialers(true)]);
    }
    sockets
}

/// The same for the runner.
#[must_use]
pub fn inside(network: &Network) -> NetworkInside {
    match network.mode {
        NetworkMode::Host => NetworkInside::Host,
        NetworkMode::None | NetworkMode::Allow => {
            NetworkInside::Own { sockets: sockets(network).into_iter().map(|(_, socket)| socket).collect() }
        }
    }
}

/// Variables that lead tools to the proxy. Security depends on none of them: there is no other way out.
#[must_use]
pub fn environment(network: &Network) -> BTreeMap<String, String> {
    if network.mode != NetworkMode::Allow {
        return BTreeMap::new();
    }
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    // The sandbox's own servers, the front end among them, are reached directly.
    let direct = "localhost,127.0.0.1,::1";
    let mut env = BTreeMap::new();
    let mut set = |names: &[&str], value: &str| {
        env.extend(names.iter().map(|name| ((*name).to_owned(), value.to_owned())));
    };
    // ALL_PROXY is an HTTP proxy too, though SOCKS5 is spoken on the same port: Python's httpx refuses to start where it
    // sees a SOCKS proxy and lacks the package for it.
    set(&["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"], &proxy);
    set(&["NO_PROXY", "no_proxy"], direct);
    // npm and yarn read their own names first; cargo its own before those of curl; pip its own before those of requests.
    set(&["npm_config_proxy", "npm_config_https_proxy", "YARN_HTTP_PROXY", "YARN_HTTPS_PROXY"], &proxy);
    set(&["npm_config_noproxy"], direct);
    set(&["CARGO_HTTP_PROXY", "PIP_PROXY"], &proxy);
    // Node's own fetch and http obey the variables above only where they are told to (v22.21, v24).
    set(&["NODE_USE_ENV_PROXY"], "1");
    env
}

/// What the user should know at the start.
#[must_use]
pub fn notes(network: &Network) -> Vec<String> {
    let mut notes = Vec::new();
    if network.mode == NetworkMode::Host {
        notes.push(
            "network = \"host\": the agent reaches what this machine reaches: the internet, your local network, and every \
             service that listens on this machine, other people's and your own; nothing is refused or counted"
                .to_owned(),
        );
    }
    for port in &network.publish {
        notes.push(format!(
            "http://127.0.0.1:{port}/ is port {port} of the sandbox while this session lasts; others on this machine reach \
             it too"
        ));
    }
    for service in &network.host_services {
        let reason = service.reason.as_deref().unwrap_or("no reason given");
        notes.push(format!("the agent reaches {} of this machine: {reason}", service.address));
    }
    notes
}

#[cfg(test)]
mod tests {
    use keyhatch_policies::Policy;

    use super::*;

    fn network(section: &str) -> Network {
        let text = format!("name = \"t\"\ndescription = \"d\"\n{section}");
        Policy::parse(&text, "t.toml").expect("parses").network().clone()
    }

    #[test]
    fn without_a_network_there_is_no_proxy_and_no_variable() {
        let none = network("");
        let purposes: Vec<Purpose> = sockets(&none).into_iter().map(|(purpose, _)| purpose).collect();
        assert_eq!(purposes, [Purpose::FrontEnd, Purpose::Names]);
        assert_eq!(keyhatch_policies::network::OWN_PORTS, [FRONT_END_PORT, PROXY_PORT]);
        assert!(environment(&none).is_empty());
        assert_eq!(inside(&network("network = \"host\"\n")), NetworkInside::Host);
    }

    #[test]
    fn an_opened_network_is_told_to_tools_in_both_cases() {
        let env = environment(&network("[network]\nallow = [\"h.example:443\"]\n"));
        for name in ["HTTP_PROXY", "https_proxy", "all_proxy", "npm_config_https_proxy", "CARGO_HTTP_PROXY"] {
            assert_eq!(env.get(name).map(String::as_str), Some("http://127.0.0.1:8418"), "{name}");
        }
        assert!(env["no_proxy"].contains("127.0.0.1"));
    }
}
