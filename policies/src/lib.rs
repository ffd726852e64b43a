//! Policies: parse one, judge an operation by it. Pure: no network, no clock, no file system.
//!
//! Comes in: a policy's text (the user's, trusted once parsed) and operations with their facts. Goes out: judgements.
//! Unlisted is denied; deny beats ask beats allow; the order of rules means nothing.
#![forbid(unsafe_code)]

mod brief;
mod explain;
mod judge;
mod limits;
pub mod network;
mod network_toml;
mod parse;
mod pattern;
mod place;
mod repository;
mod sandbox;
mod sign;
mod ssh_agent;
mod units;

use std::time::Duration;

use keyhatch_protocol::{Facts, Identity, Remote, UpdateKind};

pub use keyhatch_sandbox_rules::{mechanism, rules};

pub use brief::brief;
pub use explain::{describe, explain, settings};
pub use judge::{brokered, judge, judge_ref, judge_remote, push_credential};
pub use limits::{Bytes, SessionLimits, Span};
pub use place::PolicyError;
pub use repository::{GitDirectory, RepositoryPolicy};
pub use sandbox::{
    HidePatterns, HomeChoice, ProjectAccess, SECRET_PLACES, SandboxPolicy, TerminalAccess, tool_line,
};

pub use sign::SignOperation;
pub use ssh_agent::SshAgentPolicy;

use network::Network;
use pattern::{RefPattern, Where};

/// A parsed policy.
#[derive(Debug, Clone)]
pub struct Policy {
    name: String,
    description: String,
    text: String,
    fetch: Vec<Rule>,
    push: Vec<PushRule>,
    sign: Vec<sign::SignRule>,
    ssh_agent: Option<SshAgentPolicy>,
    approval_timeout: Duration,
    limits: PushLimits,
    session_limits: SessionLimits,
    sandbox: SandboxPolicy,
    network: Network,
    repository: RepositoryPolicy,
}

/// What a push may weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushLimits {
    /// Bytes of the pack and its commands.
    pub pack_bytes: u64,
    /// Objects in the pack.
    pub objects: u64,
}

/// One rule, for any service.
#[derive(Debug, Clone)]
struct Rule {
    name: String,
    reason: String,
    place: Where,
    decision: RuleDecision,
    credential: CredentialChoice,
}

/// A rule for pushes.
#[derive(Debug, Clone)]
struct PushRule {
    rule: Rule,
    refs: Option<Vec<RefPattern>>,
    updates: Vec<UpdateKind>,
    once: bool,
    accepts_risks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RuleDecision {
    Allow,
    Ask,
    Deny,
}

impl RuleDecision {
    /// Its word, as wide as the widest.
    const fn padded(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask  ",
            Self::Deny => "deny ",
        }
    }
}

/// Which credential a rule uses upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialChoice {
    /// What the user already has on the host.
    Host,
    /// None: anonymously.
    None,
    /// One that the user named.
    Named(String),
}

/// The project that a session works on, as it was on the host when the session opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Project {
    /// The URLs of its remotes.
    pub remotes: Vec<Remote>,
    /// The URLs of its initialised submodules: `{remotes}` stands for them too, when fetching.
    pub submodules: Vec<Remote>,
    /// Who the user is, by the host's git configuration: `{identity}` stands for them.
    pub identities: Vec<Identity>,
}

/// What is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Fetch, clone, ls-remote.
    Fetch(FetchOperation),
    /// Push.
    Push(PushOperation),
    /// A signature.
    Sign(SignOperation),
}

/// A fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOperation {
    /// From here.
    pub remote: Remote,
}

/// A push, after inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOperation {
    /// To here.
    pub remote: Remote,
    /// What it would do.
    pub facts: Facts,
    /// The options of `git push -o`.
    pub push_options: Vec<String>,
}

/// Which service a remote is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// upload-pack.
    Fetch,
    /// receive-pack.
    Push,
}

/// The policy's word on an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a judgement that is not looked at protects nobody"]
pub enum Judgement {
    /// May be done without asking.
    Allow(Terms),
    /// A person must agree to exactly this.
    Ask(Terms),
    /// Must not be done.
    Deny(Reason),
}

/// On which terms an operation may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The rule that says so.
    pub rule: String,
    /// Its reason.
    pub reason: String,
    /// What is used upstream.
    pub credential: CredentialChoice,
    /// Whether a person can only approve it once.
    pub once_only: bool,
}

/// Why an operation is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule, where one says so; none when no rule speaks of it.
    pub rule: Option<String>,
    /// One line of ASCII, as it stands in `! [remote rejected] main -> main (…)`.
    pub text: String,
    /// What the user can do.
    pub hint: String,
}

/// The shipped policies.
const SHIPPED: &[(&str, &str)] = &[
    ("aider", include_str!("../aider.toml")),
    ("build", include_str!("../build.toml")),
    ("claude-code", include_str!("../claude-code.toml")),
    ("codex", include_str!("../codex.toml")),
    ("cursor-agent", include_str!("../cursor-agent.toml")),
    ("default", include_str!("../default.toml")),
    ("feature-branches", include_str!("../feature-branches.toml")),
    ("node", include_str!("../node.toml")),
    ("opencode", include_str!("../opencode.toml")),
    ("python", include_str!("../python.toml")),
    ("read-only", include_str!("../read-only.toml")),
    ("rust", include_str!("../rust.toml")),
    ("snippet", include_str!("../snippet.toml")),
];

/// The names of the shipped policies.
#[must_use]
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// The text of a shipped policy.
#[must_use]
pub fn shipped_text(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

impl Policy {
    /// Parses a policy. `origin` is the file's name, for messages.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PolicyError> {
        parse::parse(text, origin)
    }

    /// A shipped policy.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        // A test parses every shipped policy, so this is some.
        Self::parse(shipped_text(name)?, name).ok()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The text it was parsed from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The ssh-agent of its sessions; none where it is off.
    #[must_use]
    pub const fn ssh_agent(&self) -> Option<&SshAgentPolicy> {
        self.ssh_agent.as_ref()
    }

    /// How long a person may take; then the answer is no.
    #[must_use]
    pub const fn approval_timeout(&self) -> Duration {
        self.approval_timeout
    }

    /// What a push may weigh.
    #[must_use]
    pub const fn limits(&self) -> PushLimits {
        self.limits
    }

    /// What a session may use up.
    #[must_use]
    pub const fn session_limits(&self) -> &SessionLimits {
        &self.session_limits
    }

    /// What the agent finds inside.
    #[must_use]
    pub const fn sandbox(&self) -> &SandboxPolicy {
        &self.sandbox
    }

    /// What of the network it opens.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// How it goes together with the project's repository.
    #[must_use]
    pub const fn repository(&self) -> &RepositoryPolicy {
        &self.repository
    }
}
