//! From TOML to a [`Network`]: `network = "none"`, `network = "host"`, or the section `[network]`.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use toml::Spanned;

use crate::network::{
    AllowedHost, HostPort, HostService, LIMITS, Network, NetworkLimits, NetworkMode, OWN_PORTS, Registry,
};
use crate::parse::Text;
use crate::place::PolicyError;
use crate::units;

/// Ports of one sandbox that the user reaches; each holds a port of the host for the whole session.
const MAX_PUBLISHED: usize = 16;
/// Services of the host that one sandbox reaches.
const MAX_SERVICES: usize = 16;
/// Connections at once that a policy can ask for: each costs the broker descriptors.
const MAX_CONNECTIONS: u64 = 1024;

/// Either form.
pub(crate) enum NetworkToml {
    Word(Spanned<String>),
    Section(Box<SectionToml>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SectionToml {
    mode: Option<Spanned<String>>,
    #[serde(default)]
    allow: Vec<Spanned<AllowToml>>,
    #[serde(default)]
    registries: Vec<Spanned<String>>,
    #[serde(default)]
    publish: Vec<Spanned<u16>>,
    #[serde(default)]
    host_services: Vec<Spanned<ServiceToml>>,
    limits: Option<NetworkLimitsToml>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AllowToml {
    Plain(String),
    Entry(AllowEntryToml),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowEntryToml {
    to: String,
    reason: String,
    #[serde(default)]
    private: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ServiceToml {
    Plain(String),
    Entry(ServiceEntryToml),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntryToml {
    address: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkLimitsToml {
    connections: Option<Spanned<u64>>,
    sent: Option<Spanned<String>>,
    received: Option<Spanned<String>>,
    connect: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for NetworkToml {
    /// By hand: an untagged enum would lose the places of what is inside.
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = NetworkToml;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"host\" or a section [network]")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<NetworkToml, E> {
                Ok(NetworkToml::Word(Spanned::new(0..0, word.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkToml, A::Error> {
                let section = SectionToml::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NetworkToml::Section(Box::new(section)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Makes the network of a policy.
pub(crate) fn network(text: &Text<'_>, toml: Option<Spanned<NetworkToml>>) -> Result<Network, PolicyError> {
    let Some(toml) = toml else { return Ok(Network::default()) };
    let span = toml.span();
    match toml.into_inner() {
        NetworkToml::Word(word) => {
            let mode = mode(text, &Spanned::new(span.clone(), word.into_inner()))?;
            if mode == NetworkMode::Allow {
                let help = "[network]\nallow = [\"api.example.org:443\"]";
                return Err(text.wrong(span, "which hosts are allowed?", help));
            }
            Ok(Network { mode, ..Network::default() })
        }
        NetworkToml::Section(section) => of_section(text, *section),
    }
}

fn of_section(text: &Text<'_>, toml: SectionToml) -> Result<Network, PolicyError> {
    let SectionToml { mode: given, allow, registries, publish, host_services, limits: given_limits } = toml;
    let asks_for_hosts = !allow.is_empty() || !registries.is_empty();
    let implied = if asks_for_hosts { NetworkMode::Allow } else { NetworkMode::None };
    let mode_is = given.as_ref().map_or(Ok(implied), |given| mode(text, given))?;
    if let Some(given) = given
        && asks_for_hosts
        && mode_is != NetworkMode::Allow
    {
        let help = "leave `mode` out, or leave `allow` and `registries` out";
        return Err(text.wrong(given.span(), "this mode has no use for a list of hosts", help));
    }
    let network = Network {
        mode: mode_is,
        allow: allow.into_iter().map(|entry| allowed(text, entry)).collect::<Result<_, _>>()?,
        registries: registries.iter().map(|word| registry(text, word)).collect::<Result<_, _>>()?,
        publish: publish.iter().map(|port| published(text, port)).collect::<Result<_, _>>()?,
        host_services: host_services.into_iter().map(|one| service(text, one)).collect::<Result<_, _>>()?,
        limits: limits(text, given_limits)?,
    };
    let over = publish.get(MAX_PUBLISHED).map(|port| (port.span(), "at most 16 ports can be published"));
    match over {
        Some((span, what)) => Err(text.wrong(span, what, "publish what you look at now")),
        None if network.host_services.len() > MAX_SERVICES => Err(text.wrong(
            0..1,
            "at most 16 services of the host can be named",
            "name what this project needs",
        )),
        None => Ok(network),
    }
}

fn mode(text: &Text<'_>, word: &Spanned<String>) -> Result<NetworkMode, PolicyError> {
    match word.get_ref().as_str() {
        "none" => Ok(NetworkMode::None),
        "allow" => Ok(NetworkMode::Allow),
        "host" => Ok(NetworkMode::Host),
        _ => {
            let help = "\"none\", \"allow\" with a list of hosts, or \"host\", which opens everything";
            Err(text.wrong(word.span(), "this is not a network mode", help))
        }
    }
}

fn allowed(text: &Text<'_>, entry: Spanned<AllowToml>) -> Result<AllowedHost, PolicyError> {
    let span = entry.span();
    let (to, reason, private) = match entry.into_inner() {
        AllowToml::Plain(to) => (to, None, false),
        AllowToml::Entry(AllowEntryToml { to, reason, private }) => {
            let reason = text.present(&Spanned::new(span.clone(), reason), "the entry's reason")?;
            (to, Some(reason), private)
        }
    };
    let pattern = HostPort::parse(&to).map_err(|what| {
        let help = "\"api.example.org:443\"; `*.` is one label and `**.` one or more; network = \"host\" opens everything";
        text.wrong(span.clone(), what, help)
    })?;
    if private && !pattern.is_exact() {
        let help = "a wildcard would let whoever answers for one of its names choose among your machines";
        return Err(text.wrong(span, "only a host in full can have a private address", help));
    }
    Ok(AllowedHost { pattern, reason, private })
}

fn registry(text: &Text<'_>, word: &Spanned<String>) -> Result<Registry, PolicyError> {
    let all = [Registry::Npm, Registry::Pip, Registry::Cargo, Registry::Go];
    all.into_iter().find(|registry| registry.word() == word.get_ref()).ok_or_else(|| {
        let help = "registries = [\"npm\", \"pip\", \"cargo\", \"go\"]; other hosts go into `allow`";
        text.wrong(word.span(), "no tool of this name is known", help)
    })
}

fn published(text: &Text<'_>, port: &Spanned<u16>) -> Result<u16, PolicyError> {
    match *port.get_ref() {
        number @ 1024.. if !OWN_PORTS.contains(&number) => Ok(number),
        1024.. => Err(own_port(text, port.span())),
        _ => Err(text.wrong(port.span(), "a published port is 1024 or higher", "publish = [3000]")),
    }
}

fn service(text: &Text<'_>, entry: Spanned<ServiceToml>) -> Result<HostService, PolicyError> {
    let span = entry.span();
    let (address, reason) = match entry.into_inner() {
        ServiceToml::Plain(address) => (address, None),
        ServiceToml::Entry(ServiceEntryToml { address, reason }) => {
            let reason = text.present(&Spanned::new(span.clone(), reason), "the service's reason")?;
            (address, Some(reason))
        }
    };
    let parsed: Option<SocketAddr> = address.parse().ok();
    match parsed.filter(|address| address.ip().is_loopback() && address.port() != 0) {
        Some(address) if OWN_PORTS.contains(&address.port()) => Err(own_port(text, span)),
        Some(address) => Ok(HostService { address, reason }),
        None => {
            let help = "host_services = [{ address = \"127.0.0.1:5432\", reason = \"the tests' database\" }]";
            Err(text.wrong(span, "a service of the host is an address on its loopback", help))
        }
    }
}

fn own_port(text: &Text<'_>, span: Range<usize>) -> PolicyError {
    text.wrong(
        span,
        "inside, this port is the session's own",
        "ports 8417 and 8418 are git's front end and the proxy",
    )
}

fn limits(text: &Text<'_>, given: Option<NetworkLimitsToml>) -> Result<NetworkLimits, PolicyError> {
    let Some(NetworkLimitsToml { connections, sent, received, connect, idle }) = given else {
        return Ok(LIMITS);
    };
    let size = |given: Option<Spanned<String>>, usual: u64| match given {
        None => Ok(usual),
        Some(given) => units::size(given.get_ref()).ok_or_else(|| {
            text.wrong(given.span(), "this is not a size", "sent = \"1GiB\"; units are KiB, MiB and GiB")
        }),
    };
    let duration = |given: Option<Spanned<String>>, usual| match given {
        None => Ok(usual),
        Some(given) => units::duration(given.get_ref()).ok_or_else(|| {
            text.wrong(given.span(), "this is not a duration", "idle = \"10m\"; units are s, m and h")
        }),
    };
    let connections = match connections {
        None => LIMITS.connections,
        Some(given) => match *given.get_ref() {
            count @ 1..=MAX_CONNECTIONS => usize::try_from(count).unwrap_or(LIMITS.connections),
            _ => {
                return Err(text.wrong(
                    given.span(),
                    "this is not a number from 1 to 1024",
                    "connections = 256",
                ));
            }
        },
    };
    Ok(NetworkLimits {
        connections,
        sent: size(sent, LIMITS.sent)?,
        received: size(received, LIMITS.received)?,
        connect: duration(connect, LIMITS.connect)?,
        idle: duration(idle, LIMITS.idle)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    const HEAD: &str = "name = \"t\"\ndescription = \"d\"\n";

    fn parsed(rest: &str) -> Result<Network, PolicyError> {
        Policy::parse(&format!("{HEAD}{rest}"), "p.toml").map(|policy| policy.network().clone())
    }

    #[test]
    fn both_forms_and_all_fields_are_read() {
        assert_eq!(parsed("").expect("parses").mode, NetworkMode::None);
        assert_eq!(parsed("network = \"host\"\n").expect("parses").mode, NetworkMode::Host);
        let network = parsed(
            "[network]\nallow = [\"api.example.org:443\", { to = \"*.example.net:443\", reason = \"r\" }]\n\
             registries = [\"npm\", \"cargo\"]\npublish = [3000]\n\
             host_services = [\"127.0.0.1:5432\", { address = \"[::1]:6379\", reason = \"cache\" }]\n\
             limits = { connections = 8, sent = \"1MiB\", idle = \"2s\" }\n",
        )
        .expect("parses");
        assert_eq!(network.mode, NetworkMode::Allow);
        assert_eq!(network.allow[1].reason.as_deref(), Some("r"));
        assert_eq!(network.registries, [Registry::Npm, Registry::Cargo]);
        assert_eq!((network.publish[0], network.host_services.len()), (3000, 2));
        assert_eq!((network.limits.connections, network.limits.sent), (8, 1 << 20));
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_stands() {
        for (rest, line, what) in [
            ("network = \"open\"\n", 3, "network mode"),
            ("network = \"allow\"\n", 3, "which hosts"),
            ("[network]\nallow = [\"*.org:443\"]\n", 4, "top-level"),
            ("[network]\nallow = [\n  \"a.example:443\",\n  \"b.example\",\n]\n", 6, "HOST:PORT"),
            ("[network]\nmode = \"host\"\nallow = [\"a.example:443\"]\n", 4, "no use"),
            ("[network]\nregistries = [\"maven\"]\n", 4, "no tool"),
            ("[network]\npublish = [80]\n", 4, "1024"),
            ("[network]\npublish = [8418]\n", 4, "session's own"),
            ("[network]\nhost_services = [\"127.0.0.1:8417\"]\n", 4, "session's own"),
            ("[network]\nhost_services = [\"192.0.2.1:80\"]\n", 4, "loopback"),
            (
                "[network]\nallow = [{ to = \"*.a.example:443\", reason = \"r\", private = true }]\n",
                4,
                "in full",
            ),
            ("[network.limits]\nsent = \"10\"\n", 4, "not a size"),
        ] {
            let wrong = parsed(rest).expect_err(rest);
            assert_eq!((wrong.line(), wrong.what().contains(what)), (line, true), "{wrong}");
        }
        assert!(parsed("[network]\nalow = []\n").is_err() && parsed("network = 3\n").is_err());
    }
}
