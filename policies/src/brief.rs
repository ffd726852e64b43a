//! A policy in a few lines, for the agent that works under it: what is allowed, what is asked, what is denied.

use crate::network::NetworkMode;
use crate::pattern::{HostPattern, RemotePattern, Where};
use crate::{HomeChoice, Policy, ProjectAccess, Rule, RuleDecision, Span};

/// Longest line: an agent reads it into its context.
const LONGEST: usize = 240;

/// Seven lines at most, each a word and what it says.
#[must_use]
pub fn brief(policy: &Policy) -> Vec<String> {
    let lines = [
        ("allowed", by_decision(policy, RuleDecision::Allow)),
        ("asked", asked(policy)),
        ("denied", denied(policy)),
        ("network", network(policy)),
        ("files", files(policy)),
        ("limits", limits(policy)),
    ];
    let cut = |text: String| {
        if text.len() > LONGEST { text.chars().take(LONGEST).collect::<String>() + "…" } else { text }
    };
    lines.into_iter().map(|(word, text)| cut(format!("{word}: {text}"))).collect()
}

fn by_decision(policy: &Policy, decision: RuleDecision) -> String {
    let fetch = policy.fetch.iter().map(|rule| ("fetch from", rule, String::new()));
    let push = policy.push.iter().map(|push| {
        let refs = push.refs.as_ref().map(|refs| {
            let names: Vec<&str> = refs.iter().map(|pattern| pattern.text.as_str()).collect();
            format!(" ({})", names.join(", "))
        });
        let updates: Vec<&str> = push.updates.iter().map(|kind| kind.word()).collect();
        ("push to", &push.rule, format!("{} by {}", refs.unwrap_or_default(), updates.join(", ")))
    });
    let said: Vec<String> = fetch
        .chain(push)
        .filter(|(_, rule, _)| rule.decision == decision)
        .map(|(verb, rule, more)| format!("{verb} {}{more}", place(rule)))
        .collect();
    if said.is_empty() { "nothing".to_owned() } else { said.join("; ") }
}

fn asked(policy: &Policy) -> String {
    let what = by_decision(policy, RuleDecision::Ask);
    if what == "nothing" {
        return what;
    }
    format!("{what}. The command waits up to {} while a person decides", Span(policy.approval_timeout))
}

fn denied(policy: &Policy) -> String {
    match by_decision(policy, RuleDecision::Deny).as_str() {
        "nothing" => "every other remote and ref".to_owned(),
        rules => format!("{rules}; and every other remote and ref"),
    }
}

fn network(policy: &Policy) -> String {
    let network = &policy.network;
    match network.mode {
        NetworkMode::None => "none, but for git through the hatch".to_owned(),
        NetworkMode::Host => "the host's".to_owned(),
        NetworkMode::Allow => {
            let hosts = network.allow.iter().map(|entry| entry.pattern.to_string());
            let registries =
                network.registries.iter().map(|registry| format!("the registry of {}", registry.word()));
            format!(
                "through the proxy: {}; no other host",
                hosts.chain(registries).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

fn files(policy: &Policy) -> String {
    let sandbox = &policy.sandbox;
    let project = match sandbox.project {
        ProjectAccess::Write => "the project can be written",
        ProjectAccess::Read => "the project can be read",
        ProjectAccess::None => "there is no project",
    };
    let home = match sandbox.home {
        HomeChoice::Empty => "home and /tmp are gone at the end",
        HomeChoice::Persistent => "home is kept, /tmp is gone at the end",
    };
    let hidden: Vec<&str> = sandbox.hide.patterns().take(4).collect();
    if hidden.is_empty() {
        return format!("{project}; {home}");
    }
    format!("{project}; {home}; {} and the like are shown empty on purpose", hidden.join(", "))
}

fn limits(policy: &Policy) -> String {
    let lines = policy.session_limits.lines();
    lines.iter().map(|(word, value)| format!("{word} {value}")).collect::<Vec<_>>().join(", ")
}

fn place(rule: &Rule) -> String {
    let names: Vec<String> = match &rule.place {
        Where::Remotes(patterns) => patterns
            .iter()
            .map(|pattern| match pattern {
                RemotePattern::Project => "the project's remotes".to_owned(),
                RemotePattern::Url(url) => url.text.clone(),
            })
            .collect(),
        Where::Hosts(hosts) => hosts
            .iter()
            .map(|host| match host {
                HostPattern::Project => "other repositories on their hosts".to_owned(),
                HostPattern::Host(host) => format!("repositories on {}", host.as_str()),
            })
            .collect(),
    };
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_policy_is_said_in_six_short_lines() {
        for name in crate::shipped_names() {
            let lines = brief(&Policy::shipped(name).expect("it parses"));
            assert_eq!(lines.len(), 6, "{name}");
            assert!(lines.iter().all(|line| line.chars().count() <= LONGEST + 1), "{name}: {lines:#?}");
        }
        let default = brief(&Policy::shipped("default").expect("it parses")).join("\n");
        for part in [
            "allowed: fetch from the project's remotes",
            "push to the project's remotes by create, fast-forward",
            "a person decides",
            "denied: every other remote and ref",
            "network: none",
        ] {
            assert!(default.contains(part), "{part}: {default}");
        }
    }
}
