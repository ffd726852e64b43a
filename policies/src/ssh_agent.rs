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
    /// Names to log in with; none where any will do.
    pub users: Option<Vec<String>>,
}

impl SshAgentPolicy {
    /// Whether a login may use this name.
    #[must_use]
    pub fn lets_in(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.iter().any(|one| one == user))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SshAgentToml {
    keys: Vec<Spanned<String>>,
    hosts: Vec<Spanned<String>>,
    users: Option<Vec<Spanned<String>>>,
}

/// Reads `[ssh_agent]`.
pub(crate) fn parse(
    text: &Text<'_>,
    given: Option<SshAgentToml>,
) -> Result<Option<SshAgentPolicy>, PolicyError> {
    let Some(SshAgentToml { keys, hosts, users }) = given else { return Ok(None) };
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
    let user = |user: &Spanned<String>| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
        let name = text.present(user, "the user's name")?;
        if name.chars().all(plain) && !name.starts_with('-') {
            return Ok(name);
        }
        Err(text.wrong(user.span(), "this is not a user name on a server, in full", "users = [\"git\"]"))
    };
    Ok(Some(SshAgentPolicy {
        keys: keys.iter().map(|key| text.present(key, "the key's name")).collect::<Result<_, _>>()?,
        hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
        users: users.map(|users| users.iter().map(user).collect::<Result<_, _>>()).transpose()?,
    }))
}

/// In words; nothing where it is off.
pub(crate) fn describe(policy: Option<&SshAgentPolicy>) -> String {
    let Some(SshAgentPolicy { keys, hosts, users }) = policy else { return String::new() };
    let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{}:{port}", host.as_str())).collect();
    let users = users.as_ref().map_or_else(|| "any user".to_owned(), |users| users.join(", "));
    format!(
        "\nssh-agent: logs in with {} to {} as {users}, and signs nothing else\n",
        keys.join(", "),
        hosts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    fn policy(more: &str) -> Result<Policy, crate::PolicyError> {
        let text = format!(
            "name = \"t\"\ndescription = \"d\"\n[ssh_agent]\nkeys = [\"k\"]\nhosts = [\"h\"]\n{more}"
        );
        Policy::parse(&text, "t")
    }

    #[test]
    fn users_limit_the_name_and_without_them_any_will_do() {
        let lets =
            |more: &str, user: &str| policy(more).expect("a policy").ssh_agent().expect("one").lets_in(user);
        assert!(lets("", "root") && lets("users = [\"git\", \"ada\"]\n", "ada"));
        for user in ["root", "Git", "git ", "", "gi", "git\0"] {
            assert!(!lets("users = [\"git\"]\n", user), "{user:?}");
        }
        assert!(!lets("users = []\n", "git"));
        for odd in ["*", "g*", "", "-oProxyCommand=x", "a b", "a@b"] {
            assert!(policy(&format!("users = [\"{odd}\"]\n")).is_err(), "{odd:?}");
        }
    }
}
