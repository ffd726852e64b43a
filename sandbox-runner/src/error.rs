//! Why a sandbox could not be built. Every variant is a refusal to start.

use std::io;

use keyhatch_sandbox_rules::rules::Requirement;
use thiserror::Error;

use crate::tier::Tier;

/// A step failed; the command was not started.
#[derive(Debug, Error)]
pub enum RunError {
    /// Called by hand, or by another version.
    #[error("keyhatch-run is started by keyhatch, with --rules-fd and --handoff-fd")]
    Usage,
    /// Refused by default.
    #[error("refusing to run as root")]
    Root,
    /// The same in a container, where root is what most images start as.
    #[error("refusing to run as root: the files of the image are root's, and only Landlock would keep them")]
    RootInside,
    /// Nothing of a session's is beside this program.
    #[error("there are no rules for a sandbox in {directory}")]
    NoSession {
        /// Where they would be.
        directory: String,
    },
    /// The policy requires a cgroup.
    #[error("the policy requires a cgroup, and keyhatch makes none inside a container")]
    NoCgroup,
    /// A call that the sandbox is made of is refused before any of it is built.
    #[error("{call} is refused here ({answer}): {by}")]
    Filtered {
        /// Which.
        call: &'static str,
        /// The kernel's word.
        answer: io::Error,
        /// Whose doing it is, as far as it can be seen.
        by: &'static str,
    },
    /// Nowhere can a file be made.
    #[error("no directory here can hold a home and temporary files: {tried}")]
    NoPlace {
        /// Which were tried.
        tried: String,
    },
    /// The rules are not what this version understands.
    #[error("the sandbox's rules cannot be read: keyhatch and keyhatch-run are of different versions")]
    Rules,
    /// The sandbox was begun for other rules than those that came.
    #[error("the sandbox's rules do not stand on the foundation that came before them")]
    Foundation,
    /// The kernel gives no user namespace.
    #[error("the kernel does not allow user namespaces here: {source}")]
    NoNamespaces {
        /// What it said.
        source: io::Error,
    },
    /// The kernel has no Landlock.
    #[error("the kernel does not enforce Landlock")]
    NoLandlock,
    /// A rule of the ruleset was refused.
    #[error("the Landlock ruleset cannot be enforced: {source}")]
    Ruleset {
        /// Why.
        source: landlock::RulesetError,
    },
    /// The filter was refused.
    #[error("the seccomp filter cannot be enforced: {source}")]
    Filter {
        /// Why.
        source: io::Error,
    },
    /// The policy requires what this machine does not give.
    #[error("the policy requires {what}, and here is only {tier} with Landlock ABI {abi}{}{because}", separator(.because))]
    Required {
        /// Which requirement.
        what: Requirement,
        /// What there would be.
        tier: Tier,
        /// The kernel's Landlock ABI.
        abi: i32,
        /// Why there is no more.
        because: String,
        /// Whether it is somebody's container that has no more.
        in_container: bool,
    },
    /// Neither namespaces nor a Landlock that could do without them.
    #[error(
        "nothing here can confine a command: {because}; Landlock has ABI {abi}, and without namespaces 6 is needed (Linux 6.12): below it a command's signals reach your other processes"
    )]
    NoTier {
        /// Why there are no namespaces.
        because: String,
        /// What the kernel has; 0 for none.
        abi: i32,
        /// Whether this is somebody's container.
        in_container: bool,
    },
    /// More sockets than one message can carry.
    #[error("a sandbox hands out at most {most} sockets")]
    Sockets {
        /// How many.
        most: usize,
    },
    /// A forbidden act worked.
    #[error("the sandbox does not hold: {act} worked")]
    ProbeWorked {
        /// Which.
        act: &'static str,
    },
    /// A system call failed.
    #[error("cannot {act} {object}: {source}")]
    Step {
        /// What was tried.
        act: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RunError {
    /// What the user can do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Root => Some("run keyhatch as an ordinary user"),
            Self::RootInside => Some(
                "start the container as an ordinary user (--user, USER in the image); --as-root runs it as root all the same, without any capability",
            ),
            Self::NoSession { .. } => Some(
                "open the session with --target DIR, the project's place inside, and mount the whole of what it prints",
            ),
            Self::NoCgroup => Some(
                "the engine's own limits hold around the container; leave cgroup out of the policy's require",
            ),
            Self::Filtered { .. } => Some(
                "docker from 23 on and podman allow the call; for others --security-opt seccomp=FILE, with the landlock_* calls and seccomp allowed",
            ),
            Self::NoPlace { .. } => Some("mount one in memory: --tmpfs /tmp"),
            Self::Required { in_container: true, .. } => Some(
                "what is given here is for the container's engine to say, and for the host's kernel, which keyhatch doctor on the host knows; or leave it out of the policy's require",
            ),
            Self::NoTier { in_container: true, .. } => Some(
                "the host's kernel must be 6.12 or later, with landlock in its lsm= list; on an older one run keyhatch on the host, or the command unconfined",
            ),
            Self::NoNamespaces { .. } | Self::NoTier { .. } | Self::Required { .. } => {
                Some("keyhatch doctor says what is missing and how to get it")
            }
            Self::NoLandlock => Some("a kernel from 5.13 on, with landlock in its lsm= list"),
            Self::ProbeWorked { .. } => {
                Some("nothing was started; please report this with your kernel's version")
            }
            _ => None,
        }
    }
}

const fn separator(because: &str) -> &'static str {
    if because.is_empty() { "" } else { ": " }
}

/// Names a step for the errors of its system calls.
pub(crate) fn at<E: Into<io::Error>>(
    act: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(E) -> RunError {
    let object = object.into();
    move |error| RunError::Step { act, object, source: error.into() }
}
