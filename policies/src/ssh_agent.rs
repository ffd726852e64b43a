//! `[ssh_agent]`: an ssh-agent for tools that speak nothing else. Off where a policy does not have it.

use keyhatch_protocol::Host;
use serde::Deserialize;
use toml::Spanned;

use crate::parse::Text;
use crate::place::PolicyError;

/// The port of ssh.
const SSH_PORT: u16 = 22;

/// Which keys log in where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAgentPolicy {
    /// Names of credentials.
    pub keys: Vec<String>,
    /// Hosts as known_hosts has them: names and ports.
    pub hosts: Vec<(Host, u16)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SshAgentToml {
    keys: Vec<Spanned<String>>,
    hosts: Vec<Spanned<String>>,
}

/// Reads `[ssh_agent]`.
pub(crate) fn parse(
    text: &Text<'_>,
    given: Option<SshAgentToml>,
) -> Result<Option<SshAgentPolicy>, PolicyError> {
    let Some(SshAgentToml { keys, hosts }) = given else { return Ok(None) };
    let host = |host: &Spanned<String>| {
        let value = host.get_ref();
        let (name, port) = match value.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)),
            None => (value.as_str(), Some(SSH_PORT)),
        };
        Host::parse(name).ok().zip(port).ok_or_else(|| {
            text.wrong(
                host.span(),
                "this is not a host",
                "hosts = [\"git.example.org\", \"other.example.org:2222\"]",
            )
        })
    };
    Ok(Some(SshAgentPolicy {
        keys: keys.iter().map(|key| text.present(key, "the key's name")).collect::<Result<_, _>>()?,
        hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
    }))
}

/// In words; nothing where it is off.
pub(crate) fn describe(policy: Option<&SshAgentPolicy>) -> String {
    let Some(SshAgentPolicy { keys, hosts }) = policy else { return String::new() };
    let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{}:{port}", host.as_str())).collect();
    format!("\nssh-agent: logs in with {} to {}, and signs nothing else\n", keys.join(", "), hosts.join(", "))
}
