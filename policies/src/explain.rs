//! A policy in words, and why an operation is judged as it is.

use std::fmt::Write as _;

use crate::judge::{judge, push_rules};
use crate::pattern::{HostPattern, REMOTES, RemotePattern, Where};
use crate::{
    CredentialChoice, HomeChoice, Judgement, Operation, Policy, Project, ProjectAccess, Rule, RuleDecision,
    Service, TerminalAccess, network, sign, ssh_agent,
};

/// Describes a policy, a rule a paragraph.
#[must_use]
pub fn describe(policy: &Policy) -> String {
    let mut text = format!("{}: {}\n", policy.name, policy.description);
    for rule in &policy.fetch {
        text.push_str(&paragraph("fetch", rule, ""));
    }
    for push in &policy.push {
        let updates: Vec<&str> = push.updates.iter().map(|kind| kind.word()).collect();
        let refs = match &push.refs {
            None => "any ref".to_owned(),
            Some(refs) => refs.iter().map(|pattern| pattern.text.as_str()).collect::<Vec<_>>().join(", "),
        };
        let once = if push.once { ", approved once at a time" } else { "" };
        text.push_str(&paragraph(
            "push",
            &push.rule,
            &format!("    {} of {refs}{once}\n", updates.join(", ")),
        ));
    }
    text.push_str(&sign::describe(policy));
    text.push_str(&ssh_agent::describe(policy.ssh_agent()));
    text.push_str(&inside(policy));
    text.push_str(&network::describe(&policy.network));
    let minutes = policy.approval_timeout.as_secs() / 60;
    let mib = policy.limits.pack_bytes >> 20;
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "\nno answer in {minutes} min is a no; a push has at most {mib} MiB and {} objects\nwhat no rule names is denied",
        policy.limits.objects
    );
    text
}

/// What a policy says of the sandbox, a word and its value, as the policy writes them.
#[must_use]
pub fn settings(policy: &Policy) -> Vec<(&'static str, String)> {
    let sandbox = &policy.sandbox;
    let tools: Vec<String> = sandbox.tools.iter().map(|tool| format!("~/{tool}")).collect();
    let require: Vec<String> = sandbox.require.iter().map(ToString::to_string).collect();
    let home = match sandbox.home {
        HomeChoice::Empty => "empty",
        HomeChoice::Persistent => "persistent",
    };
    let project = match sandbox.project {
        ProjectAccess::Write => "write",
        ProjectAccess::Read => "read",
        ProjectAccess::None => "none",
    };
    let mut settings = vec![
        ("home", home.to_owned()),
        ("project", project.to_owned()),
        ("tools", tools.join(" ")),
        ("hide", sandbox.hide.patterns().collect::<Vec<_>>().join(" ")),
        ("require", require.join(" ")),
    ];
    if sandbox.terminal == TerminalAccess::Everything {
        settings.push(("terminal", "everything".to_owned()));
    }
    settings.extend(policy.session_limits.lines());
    settings
}

/// What the agent finds inside, and what it may use up.
fn inside(policy: &Policy) -> String {
    let sandbox = &policy.sandbox;
    let list = |names: Vec<&str>| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let project = match sandbox.project {
        ProjectAccess::Write => "the project, to write",
        ProjectAccess::Read => "the project, to read",
        ProjectAccess::None => "no project",
    };
    let home = match sandbox.home {
        HomeChoice::Empty => "an empty home",
        HomeChoice::Persistent => "a home that this policy keeps",
    };
    let tools: Vec<String> = sandbox.tools.iter().map(|tool| format!("~/{tool}")).collect();
    let tools = list(tools.iter().map(String::as_str).collect());
    let limits: Vec<String> =
        policy.session_limits.lines().iter().map(|(word, value)| format!("{word} {value}")).collect();
    let mut text = format!(
        "\ninside: {project}; {home}\n    of your home: {tools}\n    hidden in the project: {}\n    limits: {}\n",
        list(sandbox.hide.patterns().collect()),
        limits.join(", ")
    );
    if !sandbox.require.is_empty() {
        let words: Vec<String> = sandbox.require.iter().map(ToString::to_string).collect();
        text.push_str(&format!("    does not start without: {}\n", words.join(", ")));
    }
    if sandbox.terminal == TerminalAccess::Everything {
        text.push_str("    its output may use all of your terminal: clipboard, notifications, questions\n");
    }
    text
}

fn paragraph(service: &str, rule: &Rule, more: &str) -> String {
    let credential = match &rule.credential {
        CredentialChoice::Host => "with what you have on the host",
        CredentialChoice::None => "without a credential",
        CredentialChoice::Named(name) => name,
    };
    format!(
        "\n{} {service} \"{}\"\n    {}, {credential}\n{more}    because {}\n",
        rule.decision.padded(),
        rule.name,
        place(&rule.place),
        rule.reason
    )
}

fn place(place: &Where) -> String {
    let names: Vec<String> = match place {
        Where::Remotes(patterns) => patterns
            .iter()
            .map(|pattern| match pattern {
                RemotePattern::Project => "the project's own remotes".to_owned(),
                RemotePattern::Url(url) => url.text.clone(),
            })
            .collect(),
        Where::Hosts(hosts) => hosts
            .iter()
            .map(|host| match host {
                HostPattern::Project => format!("any repository on the hosts of {REMOTES}"),
                HostPattern::Host(host) => format!("any repository on {}", host.as_str()),
            })
            .collect(),
    };
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Says how an operation is judged, and which rules speak of it.
#[must_use]
pub fn explain(policy: &Policy, project: &Project, operation: &Operation) -> String {
    let mut text = match judge(policy, project, operation) {
        Judgement::Allow(terms) => format!("allow: rule \"{}\": {}\n", terms.rule, terms.reason),
        Judgement::Ask(terms) => {
            let once = if terms.once_only { " (once at a time)" } else { "" };
            format!("ask{once}: rule \"{}\": {}\n", terms.rule, terms.reason)
        }
        Judgement::Deny(reason) => format!("deny: {}\nhint: {}\n", reason.text, reason.hint),
    };
    let mut line = |name: &str, decision: RuleDecision, note: &str| {
        text.push_str(&format!("  rule \"{name}\" says {}{note}\n", decision.padded().trim_end()));
    };
    let mut say = |rule: &Rule, note: &str| line(&rule.name, rule.decision, note);
    match operation {
        Operation::Fetch(fetch) => {
            let speaks = |rule: &&Rule| rule.speaks_of(&fetch.remote, project, Service::Fetch);
            policy.fetch.iter().filter(speaks).for_each(|rule| say(rule, ""));
        }
        Operation::Sign(operation) => {
            sign::speaking(policy, project, operation).for_each(|(name, decision)| line(name, decision, ""));
        }
        Operation::Push(push) => {
            for update in &push.facts.updates {
                for rule in push_rules(policy, project, &push.remote, &update.ref_name) {
                    let applies = rule.updates.contains(&update.kind);
                    let note = if applies { "" } else { ", but not of this kind of update" };
                    say(&rule.rule, note);
                }
            }
        }
    }
    text
}
