//! The judgement: a pure function of policy, project and operation.

use std::collections::BTreeMap;

use keyhatch_protocol::{RefName, Remote, RiskKind, Scheme, UpdateKind};

use crate::pattern::{HostPattern, Reading, RefPattern, RemotePattern, Where};
use crate::{
    CredentialChoice, FetchOperation, Judgement, Operation, Policy, Project, PushOperation, PushRule, Reason,
    Rule, RuleDecision, Service, Terms, sign,
};

/// Judges an operation. Unlisted is denied; deny beats ask beats allow; the strictest of several refs wins.
pub fn judge(policy: &Policy, project: &Project, operation: &Operation) -> Judgement {
    match operation {
        Operation::Fetch(FetchOperation { remote }) => {
            let rules = policy.fetch.iter().filter(|rule| rule.speaks_of(remote, project, Service::Fetch));
            let Some(rule) = strictest(rules) else {
                return Judgement::Deny(unlisted("no rule allows fetching from this remote"));
            };
            let could_ask = policy.fetch.iter().any(|rule| rule.could_ask(remote, project, Service::Fetch));
            match by_rule(rule, false) {
                Judgement::Allow(terms) if could_ask || remote.is_lookalike() => Judgement::Ask(terms),
                judgement => judgement,
            }
        }
        Operation::Push(push) => judge_push(policy, project, push),
        Operation::Sign(operation) => sign::judge(policy, project, operation),
    }
}

fn judge_push(policy: &Policy, project: &Project, push: &PushOperation) -> Judgement {
    let facts = &push.facts;
    if facts.risks.iter().any(|risk| risk.kind == RiskKind::Unreachable) {
        return Judgement::Deny(Reason {
            rule: None,
            text: "the pack holds objects that no ref reaches".into(),
            hint: "git never sends such a pack; something else made it".into(),
        });
    }
    let mut worst: Option<&PushRule> = None;
    let mut once = !facts.risks.is_empty() || !push.push_options.is_empty();
    let (mut accepted, mut could_ask) = (true, false);
    let mut credentials: Vec<&CredentialChoice> = Vec::new();
    for update in &facts.updates {
        let matching = push_rules(policy, project, &push.remote, &update.ref_name);
        let rule = strictest_push(matching.filter(|rule| rule.updates.contains(&update.kind)));
        let Some(rule) = rule else {
            let what = format!("no rule allows to {} {}", verb(update.kind), ascii(update.ref_name.short()));
            return Judgement::Deny(unlisted(&what));
        };
        once |= rule.once || matches!(update.kind, UpdateKind::Force | UpdateKind::Delete);
        accepted &= rule.accepts_risks;
        if !credentials.contains(&&rule.rule.credential) {
            credentials.push(&rule.rule.credential);
        }
        could_ask |= policy.push.iter().any(|rule| {
            rule.rule.could_ask(&push.remote, project, Service::Push)
                && rule.updates.contains(&update.kind)
                && rule.names(&update.ref_name, Reading::Possible)
        });
        if worst.is_none_or(|worst| rule.rule.decision > worst.rule.decision) {
            worst = Some(rule);
        }
    }
    let Some(rule) = worst else {
        return Judgement::Deny(unlisted("the push has no command"));
    };
    // One push is one login: none of its refs may go by a login that its own rule does not give it.
    if rule.rule.decision != RuleDecision::Deny && credentials.len() > 1 {
        return Judgement::Deny(Reason {
            rule: None,
            text: "its refs go by rules with different credentials: push them one by one".into(),
            hint: "git push REMOTE REF, for each ref by itself".into(),
        });
    }
    // A rule that allows was written for the ordinary case: a risk is for a person, unless the rule accepts risks. What was
    // not looked at can be any risk, and no rule accepts that.
    let unlooked = facts.risks.iter().any(|risk| risk.kind.is_unlooked());
    let risky = !facts.risks.is_empty() || !push.push_options.is_empty();
    match by_rule(&rule.rule, once) {
        Judgement::Allow(terms) if could_ask || unlooked || (risky && !accepted) => Judgement::Ask(terms),
        judgement => judgement,
    }
}

/// Denies a remote whatever would be done there: known before any connection.
#[must_use]
pub fn judge_remote(policy: &Policy, project: &Project, service: Service, remote: &Remote) -> Option<Reason> {
    if service == Service::Fetch {
        let rules: Vec<&Rule> =
            policy.fetch.iter().filter(|rule| rule.speaks_of(remote, project, service)).collect();
        let denying = rules.iter().find(|rule| rule.decision == RuleDecision::Deny);
        return match (denying, rules.is_empty()) {
            (Some(rule), _) => Some(denied(rule)),
            (None, true) => Some(unlisted("no rule allows fetching from this remote")),
            (None, false) => None,
        };
    }
    let rules: Vec<&PushRule> =
        policy.push.iter().filter(|push| push.rule.speaks_of(remote, project, service)).collect();
    let denies = |push: &&&PushRule| push.rule.decision == RuleDecision::Deny;
    // An update is possible where a rule does not deny it, and none denies it for every ref.
    let possible = |kind: &UpdateKind| {
        let mut of_kind = rules.iter().filter(|push| push.updates.contains(kind));
        of_kind.clone().any(|push| !denies(&push))
            && !of_kind.any(|push| denies(&push) && push.is_for_every_ref())
    };
    if UpdateKind::ALL.iter().any(possible) {
        return None;
    }
    let denying = rules.iter().find(denies);
    Some(denying.map_or_else(|| unlisted("no rule allows pushing to this remote"), |push| denied(&push.rule)))
}

/// The credential that pushes to a remote use, before it is known which refs: that of the first rule that does not deny.
#[must_use]
pub fn push_credential(policy: &Policy, project: &Project, remote: &Remote) -> CredentialChoice {
    let speaks =
        |rule: &&Rule| rule.decision != RuleDecision::Deny && rule.speaks_of(remote, project, Service::Push);
    let first = policy.push.iter().map(|push| &push.rule).find(speaks);
    first.map_or(CredentialChoice::Host, |rule| rule.credential.clone())
}

/// Denies a ref for every kind of update that its command could turn out to be: known before the pack is read.
#[must_use]
pub fn judge_ref(
    policy: &Policy,
    project: &Project,
    remote: &Remote,
    name: &RefName,
    possible: &[UpdateKind],
) -> Option<Reason> {
    let mut first = None;
    for kind in possible {
        let rules = push_rules(policy, project, remote, name).filter(|rule| rule.updates.contains(kind));
        match strictest_push(rules) {
            Some(rule) if rule.rule.decision != RuleDecision::Deny => return None,
            Some(rule) => first = first.or_else(|| Some(denied(&rule.rule))),
            None => {
                let what = format!("no rule allows to {} {}", verb(*kind), ascii(name.short()));
                first = first.or_else(|| Some(unlisted(&what)));
            }
        }
    }
    first
}

/// The authorities whose URLs the agent's git is to send to the front end: one remote for each.
#[must_use]
pub fn brokered(policy: &Policy, project: &Project) -> Vec<Remote> {
    let mut found: BTreeMap<(Scheme, String), Remote> = BTreeMap::new();
    let mut add = |remote: Remote| {
        found.entry((remote.scheme(), remote.authority())).or_insert(remote);
    };
    project.remotes.iter().chain(&project.submodules).cloned().for_each(&mut add);
    let rules = policy.fetch.iter().chain(policy.push.iter().map(|push| &push.rule));
    for rule in rules.filter(|rule| rule.decision != RuleDecision::Deny) {
        match &rule.place {
            Where::Remotes(patterns) => {
                for pattern in patterns {
                    if let RemotePattern::Url(url) = pattern {
                        add(url.example.clone());
                    }
                }
            }
            Where::Hosts(hosts) => {
                for host in hosts {
                    if let HostPattern::Host(host) = host {
                        let host = host.as_str();
                        let forms = [
                            format!("https://{host}/x"),
                            format!("ssh://git@{host}/x"),
                            format!("git@{host}:x"),
                        ];
                        forms.iter().filter_map(|url| Remote::parse(url).ok()).for_each(&mut add);
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

pub(crate) fn push_rules<'p>(
    policy: &'p Policy,
    project: &'p Project,
    remote: &'p Remote,
    name: &'p RefName,
) -> impl Iterator<Item = &'p PushRule> {
    policy.push.iter().filter(move |rule| {
        rule.rule.speaks_of(remote, project, Service::Push)
            && rule.names(name, Reading::of(rule.rule.decision))
    })
}

impl Rule {
    /// Whether it speaks of a remote: what denies, of everything that could be the one that it names.
    pub(crate) fn speaks_of(&self, remote: &Remote, project: &Project, service: Service) -> bool {
        self.place.matches(remote, project, service, Reading::of(self.decision))
    }

    /// Whether it asks about what could be this remote: then no other rule allows it without a question.
    fn could_ask(&self, remote: &Remote, project: &Project, service: Service) -> bool {
        self.decision == RuleDecision::Ask && self.place.matches(remote, project, service, Reading::Possible)
    }
}

impl PushRule {
    fn names(&self, name: &RefName, reading: Reading) -> bool {
        self.refs.as_ref().is_none_or(|refs| refs.iter().any(|pattern| pattern.matches(name, reading)))
    }

    fn is_for_every_ref(&self) -> bool {
        self.refs.as_ref().is_none_or(|refs| refs.iter().any(RefPattern::is_every_ref))
    }
}

/// The strictest rule; among equals the first, so that the answer names the same rule every time.
fn strictest<'p>(rules: impl Iterator<Item = &'p Rule>) -> Option<&'p Rule> {
    rules.fold(None, |worst: Option<&Rule>, rule| match worst {
        Some(worst) if worst.decision >= rule.decision => Some(worst),
        _ => Some(rule),
    })
}

fn strictest_push<'p>(rules: impl Iterator<Item = &'p PushRule>) -> Option<&'p PushRule> {
    rules.fold(None, |worst: Option<&PushRule>, rule| match worst {
        Some(worst) if worst.rule.decision >= rule.rule.decision => Some(worst),
        _ => Some(rule),
    })
}

fn by_rule(rule: &Rule, once_only: bool) -> Judgement {
    let terms = Terms {
        rule: rule.name.clone(),
        reason: rule.reason.clone(),
        credential: rule.credential.clone(),
        once_only,
    };
    match rule.decision {
        RuleDecision::Allow => Judgement::Allow(terms),
        RuleDecision::Ask => Judgement::Ask(terms),
        RuleDecision::Deny => Judgement::Deny(denied(rule)),
    }
}

fn denied(rule: &Rule) -> Reason {
    Reason {
        rule: Some(rule.name.clone()),
        text: format!("denied by policy ({}): {}", rule.name, rule.reason),
        hint: format!("the user can change the rule \"{}\" of the session's policy", rule.name),
    }
}

fn unlisted(what: &str) -> Reason {
    Reason {
        rule: None,
        text: format!("denied by policy: {what}"),
        hint: "the user can add a rule to the session's policy: keyhatch policy show".into(),
    }
}

const fn verb(kind: UpdateKind) -> &'static str {
    match kind {
        UpdateKind::Create => "create",
        UpdateKind::FastForward => "fast-forward",
        UpdateKind::Force => "force",
        UpdateKind::Delete => "delete",
    }
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(100).collect()
}

#[cfg(test)]
mod tests {
    use keyhatch_protocol::{ObjectFormat, ObjectId, UpdateFact};

    use super::*;

    const POLICY: &str = r#"
name = "two"
description = "two credentials for one remote"

[[push]]
name = "work"
remote = "ssh://git@git.example.org/acme/app"
refs = ["refs/heads/a/*"]
updates = ["create"]
decision = "allow"
credential = "work"
reason = "w"

[[push]]
name = "also work"
remote = "ssh://git@git.example.org/acme/app"
refs = ["refs/heads/c/*"]
updates = ["create"]
decision = "ask"
credential = "work"
reason = "w"

[[push]]
name = "release"
remote = "ssh://git@git.example.org/acme/app"
refs = ["refs/heads/b/*"]
updates = ["create"]
decision = "ask"
credential = "release"
reason = "r"
"#;

    fn judged(names: &[&str]) -> Judgement {
        let policy = Policy::parse(POLICY, "here").expect("a policy");
        let zero = ObjectId::zero(ObjectFormat::Sha1);
        let update = |name: &&str| UpdateFact {
            ref_name: RefName::parse(format!("refs/heads/{name}").as_bytes()).expect("legal"),
            kind: UpdateKind::Create,
            old: zero.clone(),
            new: zero.clone(),
            commit_count: None,
        };
        let facts = keyhatch_protocol::Facts {
            object_format: ObjectFormat::Sha1,
            updates: names.iter().map(update).collect(),
            commit_count: 0,
            new_commit_count: 0,
            commits: Vec::new(),
            tag_count: 0,
            tags: Vec::new(),
            file_count: 0,
            files: Vec::new(),
            added: 0,
            removed: 0,
            object_count: 0,
            pack_bytes: 0,
            risks: Vec::new(),
            diff: String::new(),
            diff_cut: false,
        };
        let remote = Remote::parse("ssh://git@git.example.org/acme/app").expect("a remote");
        let push = PushOperation { remote, facts, push_options: Vec::new() };
        judge(&policy, &Project::default(), &Operation::Push(push))
    }

    #[test]
    fn refs_under_different_credentials_are_not_pushed_with_one_of_them() {
        for (names, credential) in [(&["a/1"][..], "work"), (&["b/1"], "release"), (&["a/1", "c/1"], "work")]
        {
            let (Judgement::Allow(terms) | Judgement::Ask(terms)) = judged(names) else {
                panic!("{names:?} may be pushed")
            };
            assert_eq!(terms.credential, CredentialChoice::Named(credential.into()), "{names:?}");
        }
        for names in [&["a/1", "b/1"][..], &["b/1", "a/1"], &["a/1", "c/1", "b/1"]] {
            let Judgement::Deny(reason) = judged(names) else { panic!("{names:?} goes by one credential") };
            assert!(reason.text.contains("different credentials: push them one by one"), "{reason:?}");
        }
    }
}
