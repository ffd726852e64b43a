//! `[[sign]]`: who may be named in what a session has signed. A policy without such a rule signs the user's own work.

use globset::GlobMatcher;
use keyhatch_protocol::{Identity, SignFacts, SignableKind, SignedChanges};
use serde::Deserialize;
use toml::Spanned;

use crate::parse::{DecisionToml, Patterns, ScopeToml, Text};
use crate::pattern::glob;
use crate::place::PolicyError;
use crate::{CredentialChoice, Judgement, Policy, Project, Reason, RuleDecision, Terms};

/// The word that stands for the name and address of the user's own git configuration.
const IDENTITY: &str = "{identity}";
/// Everything that can be signed.
const KINDS: [SignableKind; 3] = [SignableKind::Commit, SignableKind::Tag, SignableKind::PushCertificate];

/// A signature that a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOperation {
    /// What it would cover.
    pub facts: SignFacts,
    /// What a commit changes; none where nobody is asked, or its objects are not at hand. It plays no part in a judgement.
    pub changes: Option<SignedChanges>,
}

impl SignOperation {
    /// A signature of this, before anybody looked at what it changes.
    #[must_use]
    pub const fn of(facts: SignFacts) -> Self {
        Self { facts, changes: None }
    }
}

/// A rule for signatures.
#[derive(Debug, Clone)]
pub(crate) struct SignRule {
    name: String,
    reason: String,
    kinds: Vec<SignableKind>,
    committer: Vec<PersonPattern>,
    author: Option<Vec<PersonPattern>>,
    key: Option<String>,
    decision: RuleDecision,
    once: bool,
}

#[derive(Debug, Clone)]
enum PersonPattern {
    /// `{identity}`: name and address, as the user's own configuration has them.
    Own,
    /// An address with `*`.
    Email { text: String, matcher: GlobMatcher },
}

impl PersonPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == IDENTITY {
            return Ok(Self::Own);
        }
        let matcher = glob(&text.to_ascii_lowercase()).filter(|_| text.contains('@'));
        let matcher = matcher.ok_or("this is neither an address, as *@example.org, nor {identity}")?;
        Ok(Self::Email { text: text.to_owned(), matcher })
    }

    fn matches(&self, who: &Identity, project: &Project) -> bool {
        match self {
            Self::Own => project.identities.contains(who),
            Self::Email { matcher, .. } => matcher.is_match(who.email.to_ascii_lowercase()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Own => "yourself",
            Self::Email { text, .. } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignToml {
    name: Spanned<String>,
    reason: Spanned<String>,
    kinds: Option<Vec<SignableKind>>,
    committer: Option<Spanned<Patterns>>,
    author: Option<Spanned<Patterns>>,
    key: Option<Spanned<String>>,
    decision: DecisionToml,
    scope: Option<ScopeToml>,
}

/// What a policy means that says nothing about signatures.
fn own_work() -> SignRule {
    SignRule {
        name: "own work".into(),
        reason: "a signature is harmless until it is pushed, and a push is judged by itself".into(),
        kinds: KINDS.to_vec(),
        committer: vec![PersonPattern::Own],
        author: None,
        key: None,
        decision: RuleDecision::Allow,
        once: false,
    }
}

/// Parses the rules of a policy.
pub(crate) fn parse(text: &Text<'_>, rules: Vec<SignToml>) -> Result<Vec<SignRule>, PolicyError> {
    if rules.is_empty() {
        return Ok(vec![own_work()]);
    }
    let mut first_key: Option<String> = None;
    let mut parsed = Vec::new();
    for rule in rules {
        let SignToml { name, reason, kinds, committer, author, key, decision, scope } = rule;
        let people = |patterns: &Spanned<Patterns>| text.patterns(patterns, PersonPattern::parse);
        if let Some(key) = &key {
            let value = text.present(key, "the key's name")?;
            if first_key.get_or_insert_with(|| value.clone()) != &value {
                return Err(text.wrong(
                    key.span(),
                    "a session signs with one key, and another rule names another",
                    "name the same key in every [[sign]] rule, or open two sessions",
                ));
            }
        }
        parsed.push(SignRule {
            name: text.present(&name, "the rule's name")?,
            reason: text.present(&reason, "the rule's reason")?,
            kinds: kinds.unwrap_or_else(|| KINDS.to_vec()),
            committer: match &committer {
                None => vec![PersonPattern::Own],
                Some(patterns) => people(patterns)?,
            },
            author: author.as_ref().map(people).transpose()?,
            key: key.map(Spanned::into_inner),
            decision: decision.into(),
            once: matches!(scope, Some(ScopeToml::Once)),
        });
    }
    Ok(parsed)
}

impl Policy {
    /// The named credential that signs for its sessions; none for the key of the user's own git configuration.
    #[must_use]
    pub fn signing_key(&self) -> Option<&str> {
        self.sign.iter().find_map(|rule| rule.key.as_deref())
    }
}

/// Judges a signature. Unlisted is denied; deny beats ask beats allow.
pub(crate) fn judge(policy: &Policy, project: &Project, operation: &SignOperation) -> Judgement {
    let facts = &operation.facts;
    let speaks = |rule: &&SignRule| rule.speaks_of(facts, project);
    let worst = policy.sign.iter().filter(speaks).fold(None, |worst: Option<&SignRule>, rule| match worst {
        Some(worst) if worst.decision >= rule.decision => Some(worst),
        _ => Some(rule),
    });
    let Some(rule) = worst else { return Judgement::Deny(unlisted(facts)) };
    if let Some(promise) = &facts.certificate
        && !project.remotes.iter().any(|known| known.same_repository(&promise.remote))
    {
        return Judgement::Deny(foreign_pushee());
    }
    let terms = || Terms {
        rule: rule.name.clone(),
        reason: rule.reason.clone(),
        credential: rule.key.clone().map_or(CredentialChoice::Host, CredentialChoice::Named),
        once_only: rule.once,
    };
    match rule.decision {
        // A rule that allows was written for the ordinary case: a risk is for a person.
        RuleDecision::Allow if facts.risks.is_empty() => Judgement::Allow(terms()),
        RuleDecision::Allow | RuleDecision::Ask => Judgement::Ask(terms()),
        RuleDecision::Deny => Judgement::Deny(Reason {
            rule: Some(rule.name.clone()),
            text: format!("denied by policy ({}): {}", rule.name, rule.reason),
            hint: format!("the user can change the rule \"{}\" of the session's policy", rule.name),
        }),
    }
}

impl SignRule {
    fn speaks_of(&self, facts: &SignFacts, project: &Project) -> bool {
        let named =
            |patterns: &[PersonPattern], who: &Identity| patterns.iter().any(|p| p.matches(who, project));
        // A certificate that names the very key that signs it speaks for whoever holds that key: the user.
        let committer = match &facts.speaker {
            Some(who) => named(&self.committer, who),
            None => self.committer.iter().any(|pattern| matches!(pattern, PersonPattern::Own)),
        };
        let author = match (&self.author, &facts.author) {
            (Some(patterns), Some(who)) => named(patterns, who),
            (None, _) | (Some(_), None) => true,
        };
        self.kinds.contains(&facts.kind) && committer && author
    }
}

/// Why nothing lets a session sign this: most often, it would speak as somebody else.
fn unlisted(facts: &SignFacts) -> Reason {
    let plain = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let kind = facts.kind.word().replace('-', " ");
    let who = facts.speaker.as_ref().map_or_else(
        || "its key's holder".to_owned(),
        |who| {
            let known = if who.email.is_empty() { &who.name } else { &who.email };
            known.chars().map(plain).take(100).collect::<String>()
        },
    );
    Reason {
        rule: None,
        text: format!("denied by policy: no rule lets this session sign a {kind} of {who}"),
        hint: "a session signs as the name and address of the host's git configuration; the user can allow others \
               with a [[sign]] rule"
            .into(),
    }
}

/// Why no push certificate for another server is signed, whatever a rule says: it would count there.
fn foreign_pushee() -> Reason {
    Reason {
        rule: None,
        text: "denied by policy: the push certificate is for a remote that the project does not have".into(),
        hint: "the user can add it on the host: git remote add NAME URL; it counts in the next session"
            .into(),
    }
}

/// The rules in words.
pub(crate) fn describe(policy: &Policy) -> String {
    let paragraph = |rule: &SignRule| {
        let kinds: Vec<String> =
            rule.kinds.iter().map(|kind| format!("{}s", kind.word().replace('-', " "))).collect();
        let people = |patterns: &[PersonPattern]| {
            patterns.iter().map(PersonPattern::text).collect::<Vec<_>>().join(", ")
        };
        let author =
            rule.author.as_ref().map_or_else(String::new, |who| format!(", written by {}", people(who)));
        let key = rule.key.as_deref().unwrap_or("your own key");
        let once = if rule.once { ", approved once at a time" } else { "" };
        format!(
            "\n{} sign \"{}\"\n    {} of {}{author}, with {key}{once}\n    because {}\n",
            rule.decision.padded(),
            rule.name,
            kinds.join(", "),
            people(&rule.committer),
            rule.reason
        )
    };
    policy.sign.iter().map(paragraph).collect()
}

/// Which rules speak of a signature, for `keyhatch policy explain`.
pub(crate) fn speaking<'p>(
    policy: &'p Policy,
    project: &'p Project,
    operation: &'p SignOperation,
) -> impl Iterator<Item = (&'p str, RuleDecision)> {
    let speaks = |rule: &&SignRule| rule.speaks_of(&operation.facts, project);
    policy.sign.iter().filter(speaks).map(|rule| (rule.name.as_str(), rule.decision))
}

#[cfg(test)]
mod tests {
    use keyhatch_protocol::{PushPromise, Remote, Risk, RiskKind, SignatureFormat};

    use super::*;
    use crate::Operation;

    fn who(name: &str, email: &str) -> Identity {
        Identity { name: name.into(), email: email.into() }
    }

    fn judged(rules: &str, speaker: Option<Identity>, author: Option<Identity>) -> Judgement {
        let policy =
            Policy::parse(&format!("name = \"t\"\ndescription = \"d\"\n{rules}"), "t").expect("a policy");
        let project = Project { identities: vec![who("Ada", "ada@example.org")], ..Project::default() };
        let facts = SignFacts {
            kind: SignableKind::Commit,
            format: SignatureFormat::Ssh,
            key: "SHA256:x".into(),
            speaker,
            author,
            subject: "s".into(),
            body: String::new(),
            encoding: None,
            risks: Vec::new(),
            tag: None,
            certificate: None,
            parents: Vec::new(),
            tree: None,
            covered: "0".into(),
        };
        crate::judge(&policy, &project, &Operation::Sign(SignOperation::of(facts)))
    }

    #[test]
    fn a_rule_that_allows_does_not_cover_a_risk() {
        let ada = || Some(who("Ada", "ada@example.org"));
        let allow = "[[sign]]\nname = \"own\"\nreason = \"r\"\ndecision = \"allow\"\n";
        let policy =
            Policy::parse(&format!("name = \"t\"\ndescription = \"d\"\n{allow}"), "t").expect("a policy");
        let project = Project { identities: vec![who("Ada", "ada@example.org")], ..Project::default() };
        let judged = |risks: Vec<Risk>| {
            let facts = SignFacts {
                kind: SignableKind::Commit,
                format: SignatureFormat::Ssh,
                key: "SHA256:x".into(),
                speaker: ada(),
                author: ada(),
                subject: "s".into(),
                body: String::new(),
                encoding: None,
                risks,
                tag: None,
                certificate: None,
                parents: Vec::new(),
                tree: None,
                covered: "0".into(),
            };
            crate::judge(&policy, &project, &Operation::Sign(SignOperation::of(facts)))
        };
        assert!(matches!(judged(Vec::new()), Judgement::Allow(_)));
        let risk = Risk { kind: RiskKind::Encoding, detail: "ISO-8859-1".into() };
        assert!(matches!(judged(vec![risk]), Judgement::Ask(_)));
    }

    #[test]
    fn a_certificate_for_a_remote_that_the_project_does_not_have_is_denied_whatever_a_rule_says() {
        let anybody = "[[sign]]\nname = \"all\"\nreason = \"r\"\ncommitter = \"*@*\"\ndecision = \"allow\"\n";
        for rules in ["", anybody] {
            for (pushee, expected) in [
                ("https://git.example.org/acme/app.git", "allow"),
                ("https://git.example.org/acme/other", "deny"),
                ("https://elsewhere.example.org/acme/app", "deny"),
                ("ssh://git@git.example.org/acme/app", "deny"),
            ] {
                let policy = Policy::parse(&format!("name = \"t\"\ndescription = \"d\"\n{rules}"), "t")
                    .expect("a policy");
                let project = Project {
                    identities: vec![who("Ada", "ada@example.org")],
                    remotes: vec![Remote::parse("https://git.example.org/acme/app").expect("a remote")],
                    ..Project::default()
                };
                let facts = SignFacts {
                    kind: SignableKind::PushCertificate,
                    format: SignatureFormat::Ssh,
                    key: "SHA256:x".into(),
                    speaker: Some(who("Ada", "ada@example.org")),
                    author: None,
                    subject: "s".into(),
                    body: String::new(),
                    encoding: None,
                    risks: Vec::new(),
                    tag: None,
                    certificate: Some(Box::new(PushPromise {
                        remote: Remote::parse(pushee).expect("a remote"),
                        nonce: None,
                        updates: Vec::new(),
                        update_count: 0,
                        push_options: Vec::new(),
                    })),
                    parents: Vec::new(),
                    tree: None,
                    covered: "0".into(),
                };
                let judged = crate::judge(&policy, &project, &Operation::Sign(SignOperation::of(facts)));
                assert_eq!(word(&judged), expected, "{pushee}");
            }
        }
    }

    fn word(judgement: &Judgement) -> &str {
        match judgement {
            Judgement::Allow(_) => "allow",
            Judgement::Ask(_) => "ask",
            Judgement::Deny(_) => "deny",
        }
    }

    #[test]
    fn a_policy_that_says_nothing_signs_the_users_own_work_and_nobody_elses() {
        let ada = || Some(who("Ada", "ada@example.org"));
        assert_eq!(word(&judged("", ada(), Some(who("Bob", "bob@example.org")))), "allow");
        for other in [("Bob", "bob@example.org"), ("Linus", "ada@example.org"), ("Ada", "ada@example.com")] {
            let judgement = judged("", Some(who(other.0, other.1)), None);
            let Judgement::Deny(reason) = judgement else { panic!("{other:?}: {judgement:?}") };
            assert!(reason.text.contains("no rule lets this session sign a commit of"), "{}", reason.text);
        }
        assert_eq!(word(&judged("", None, None)), "allow");
    }

    #[test]
    fn rules_name_committers_authors_and_the_strictest_counts() {
        let rules = "[[sign]]\nname = \"team\"\nreason = \"r\"\ncommitter = \"*@example.org\"\n\
                     author = [\"{identity}\", \"bot@example.org\"]\ndecision = \"ask\"\n";
        let bob = || Some(who("Bob", "BOB@example.org"));
        assert_eq!(word(&judged(rules, bob(), Some(who("Ada", "ada@example.org")))), "ask");
        assert_eq!(word(&judged(rules, bob(), bob())), "deny");
        assert_eq!(word(&judged(rules, Some(who("B", "b@evil.org")), None)), "deny");
        let tags = "[[sign]]\nname = \"tags\"\nreason = \"r\"\nkinds = [\"tag\"]\ndecision = \"allow\"\n";
        assert_eq!(word(&judged(tags, Some(who("Ada", "ada@example.org")), None)), "deny");
    }

    #[test]
    fn two_keys_in_one_policy_and_odd_people_are_refused_where_they_stand() {
        let error = |rules: &str| {
            Policy::parse(&format!("name = \"t\"\ndescription = \"d\"\n{rules}"), "t").expect_err("refused")
        };
        let rule = |key: &str| {
            format!("[[sign]]\nname = \"n\"\nreason = \"r\"\ndecision = \"allow\"\nkey = \"{key}\"\n")
        };
        assert_eq!(error(&format!("{}{}", rule("a"), rule("b"))).line(), 12);
        let person =
            "[[sign]]\nname = \"n\"\nreason = \"r\"\ndecision = \"allow\"\ncommitter = \"everyone\"\n";
        assert!(error(person).what().contains("{identity}"));
    }
}
