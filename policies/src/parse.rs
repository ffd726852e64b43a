//! From TOML to a policy. The wire structs are private; what they cannot hold is an error with a place.

use std::ops::Range;
use std::time::Duration;

use keyhatch_protocol::UpdateKind;
use serde::Deserialize;
use toml::Spanned;

use crate::limits::LimitsToml;
use crate::network_toml::{self, NetworkToml};
use crate::pattern::{HostPattern, RefPattern, RemotePattern, Where};
use crate::place::PolicyError;
use crate::repository::RepositoryToml;
use crate::sandbox::SandboxToml;
use crate::sign::SignToml;
use crate::ssh_agent::SshAgentToml;
use crate::{
    CredentialChoice, Policy, PushRule, Rule, RuleDecision, limits, repository, sandbox, sign, ssh_agent,
    units,
};

/// How long a person may take, unless the policy says otherwise.
const APPROVAL_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest that a policy may make an approval wait.
const MAX_APPROVAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyToml {
    name: Spanned<String>,
    description: Spanned<String>,
    #[serde(default)]
    fetch: Vec<RuleToml>,
    #[serde(default)]
    push: Vec<PushToml>,
    #[serde(default)]
    sign: Vec<SignToml>,
    ssh_agent: Option<SshAgentToml>,
    approval: Option<ApprovalToml>,
    limits: Option<LimitsToml>,
    sandbox: Option<SandboxToml>,
    network: Option<Spanned<NetworkToml>>,
    repository: Option<RepositoryToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleToml {
    name: Spanned<String>,
    reason: Spanned<String>,
    remote: Option<Spanned<Patterns>>,
    host: Option<Spanned<Patterns>>,
    decision: DecisionToml,
    credential: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushToml {
    name: Spanned<String>,
    reason: Spanned<String>,
    remote: Option<Spanned<Patterns>>,
    host: Option<Spanned<Patterns>>,
    decision: DecisionToml,
    credential: Option<Spanned<String>>,
    refs: Option<Vec<Spanned<String>>>,
    updates: Vec<UpdateKind>,
    scope: Option<ScopeToml>,
    risks: Option<RisksToml>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Patterns {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DecisionToml {
    Allow,
    Ask,
    Deny,
}

impl From<DecisionToml> for RuleDecision {
    fn from(decision: DecisionToml) -> Self {
        match decision {
            DecisionToml::Allow => Self::Allow,
            DecisionToml::Ask => Self::Ask,
            DecisionToml::Deny => Self::Deny,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScopeToml {
    Once,
    Session,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RisksToml {
    Ask,
    Accept,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalToml {
    timeout: Option<Spanned<String>>,
}

/// The text being parsed, for messages.
pub(crate) struct Text<'t> {
    text: &'t str,
    origin: &'t str,
}

impl Text<'_> {
    pub(crate) fn wrong(&self, span: Range<usize>, what: &str, help: &str) -> PolicyError {
        PolicyError::at(self.text, self.origin, span, what, Some(help))
    }

    pub(crate) fn present(&self, value: &Spanned<String>, what: &str) -> Result<String, PolicyError> {
        let text = value.get_ref().trim();
        let plain = |c: char| c.is_ascii_graphic() || c == ' ';
        if text.is_empty() || text.len() > 200 || !text.chars().all(plain) {
            let help = "write 1 to 200 printable ASCII characters: it is shown to you, and to git";
            return Err(self.wrong(value.span(), &format!("{what} is empty, too long or not plain"), help));
        }
        Ok(text.to_owned())
    }

    /// A value that a process gets: one line without control characters.
    pub(crate) fn value(&self, value: &Spanned<String>) -> Result<String, PolicyError> {
        let text = value.get_ref();
        if text.len() > 4096 || text.chars().any(char::is_control) {
            return Err(self.wrong(
                value.span(),
                "this value is too long or holds control characters",
                "one line",
            ));
        }
        Ok(text.clone())
    }

    pub(crate) fn patterns<T>(
        &self,
        patterns: &Spanned<Patterns>,
        parse: fn(&str) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, PolicyError> {
        let texts: Vec<&String> = match patterns.get_ref() {
            Patterns::One(text) => vec![text],
            Patterns::Many(texts) => texts.iter().collect(),
        };
        let parsed: Result<Vec<T>, &'static str> = texts.iter().map(|text| parse(text)).collect();
        parsed.map_err(|what| {
            self.wrong(
                patterns.span(),
                what,
                "`*` stays in a path component, `**` crosses; `{remotes}` are the project's own",
            )
        })
    }

    fn place(
        &self,
        name: &Spanned<String>,
        remote: Option<&Spanned<Patterns>>,
        host: Option<&Spanned<Patterns>>,
    ) -> Result<Where, PolicyError> {
        match (remote, host) {
            (Some(remote), None) => Ok(Where::Remotes(self.patterns(remote, RemotePattern::parse)?)),
            (None, Some(host)) => Ok(Where::Hosts(self.patterns(host, HostPattern::parse)?)),
            _ => Err(self.wrong(
                name.span(),
                "a rule has either `remote` or `host`",
                "remote = \"{remotes}\" are the project's own remotes",
            )),
        }
    }

    fn credential(&self, given: Option<&Spanned<String>>) -> Result<CredentialChoice, PolicyError> {
        Ok(match given {
            None => CredentialChoice::Host,
            Some(name) => match name.get_ref().as_str() {
                "host" => CredentialChoice::Host,
                "none" => CredentialChoice::None,
                named => {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                    if named.is_empty() || named.len() > 64 || !named.bytes().all(plain) {
                        let help = "\"host\" is what you already have, \"none\" is anonymous, another name is one of keyhatch credential list";
                        return Err(self.wrong(name.span(), "this is not a credential's name", help));
                    }
                    CredentialChoice::Named(named.to_owned())
                }
            },
        })
    }

    fn rule(&self, rule: &RuleToml) -> Result<Rule, PolicyError> {
        Ok(Rule {
            name: self.present(&rule.name, "the rule's name")?,
            reason: self.present(&rule.reason, "the rule's reason")?,
            place: self.place(&rule.name, rule.remote.as_ref(), rule.host.as_ref())?,
            decision: rule.decision.into(),
            credential: self.credential(rule.credential.as_ref())?,
        })
    }

    fn push(&self, push: PushToml) -> Result<PushRule, PolicyError> {
        let PushToml { name, reason, remote, host, decision, credential, refs, updates, scope, risks } = push;
        if updates.is_empty() {
            let help =
                "updates = [\"create\", \"fast-forward\"], and \"force\", \"delete\" where you mean it";
            return Err(self.wrong(name.span(), "a push rule without updates says nothing", help));
        }
        let refs = refs.map(|refs| {
            refs.iter()
                .map(|pattern| {
                    RefPattern::parse(pattern.get_ref())
                        .map_err(|what| self.wrong(pattern.span(), what, "refs = [\"refs/heads/agent/*\"]"))
                })
                .collect::<Result<Vec<RefPattern>, PolicyError>>()
        });
        let rule = RuleToml { name, reason, remote, host, decision, credential };
        Ok(PushRule {
            rule: self.rule(&rule)?,
            refs: refs.transpose()?,
            updates,
            once: matches!(scope, Some(ScopeToml::Once)),
            accepts_risks: matches!(risks, Some(RisksToml::Accept)),
        })
    }

    fn approval_timeout(&self, approval: Option<&ApprovalToml>) -> Result<Duration, PolicyError> {
        let Some(timeout) = approval.and_then(|approval| approval.timeout.as_ref()) else {
            return Ok(APPROVAL_TIMEOUT);
        };
        units::duration(timeout.get_ref()).filter(|timeout| *timeout <= MAX_APPROVAL_TIMEOUT).ok_or_else(
            || {
                self.wrong(
                    timeout.span(),
                    "this is not a duration up to 24 hours",
                    "timeout = \"10m\"; units are s, m and h",
                )
            },
        )
    }
}

/// Parses a policy.
pub(crate) fn parse(text: &str, origin: &str) -> Result<Policy, PolicyError> {
    let place = Text { text, origin };
    let toml: PolicyToml = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..text.len().min(1));
        PolicyError::at(text, origin, span, error.message(), None)
    })?;
    let (push_limits, session_limits) = limits::parse(&place, toml.limits)?;
    let policy = Policy {
        name: place.present(&toml.name, "the policy's name")?,
        description: place.present(&toml.description, "the policy's description")?,
        text: text.to_owned(),
        fetch: toml.fetch.iter().map(|rule| place.rule(rule)).collect::<Result<_, _>>()?,
        approval_timeout: place.approval_timeout(toml.approval.as_ref())?,
        limits: push_limits,
        session_limits,
        sandbox: sandbox::parse(&place, toml.sandbox)?,
        network: network_toml::network(&place, toml.network)?,
        repository: repository::parse(&place, toml.repository)?,
        sign: sign::parse(&place, toml.sign)?,
        ssh_agent: ssh_agent::parse(&place, toml.ssh_agent)?,
        push: toml.push.into_iter().map(|rule| place.push(rule)).collect::<Result<_, _>>()?,
    };
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"t\"\ndescription = \"d\"\n";

    fn error(rest: &str) -> PolicyError {
        Policy::parse(&format!("{HEAD}{rest}"), "p.toml").expect_err("must not parse")
    }

    #[test]
    fn every_shipped_policy_parses() {
        for name in crate::shipped_names() {
            let policy = Policy::shipped(name).unwrap_or_else(|| panic!("{name} does not parse"));
            assert_eq!(policy.name(), name);
        }
    }

    #[test]
    fn an_error_has_file_line_column_and_a_caret_under_the_line() {
        let wrong = error("[[fetch]]\nname = \"a\"\nreason = \"r\"\nremote = \"*\"\ndecision = \"allow\"\n");
        assert_eq!((wrong.line(), wrong.column()), (6, 10), "{wrong}");
        let text = wrong.to_string();
        assert!(
            text.contains("p.toml:6:10") && text.contains("remote = \"*\"") && text.contains("^^^"),
            "{text}"
        );
    }

    #[test]
    fn what_a_policy_cannot_say_is_refused_where_it_stands() {
        assert_eq!(error("allow_everything = true\n").line(), 3);
        assert_eq!(
            error("[[fetch]]\nname = \"a\"\nremote = \"{remotes}\"\ndecision = \"allow\"\n").line(),
            3
        );
        assert_eq!(error("[approval]\ntimeout = \"10\"\n").line(), 4);
        assert_eq!(error("[limits]\npack = 5\n").line(), 4);
        assert_eq!(error("not toml").line(), 3);
        let both = "[[fetch]]\nname = \"a\"\nreason = \"r\"\nremote = \"{remotes}\"\nhost = \"h\"\ndecision = \"allow\"\n";
        assert!(error(both).what().contains("either"));
        let verb = "[[fetch]]\nname = \"a\"\nreason = \"r\"\nremote = \"{remotes}\"\ndecision = \"permit\"\n";
        assert_eq!(error(verb).line(), 7);
    }
}
