//! Why a sandbox could not be built. Every variant is a refusal to start.

use std::io;

use thiserror::Error;

/// A step failed; the command was not started.
#[derive(Debug, Error)]
pub enum RunError {
    /// Called by hand, or by another version.
    #[error("keyhatch-run is started by keyhatch, with --rules-fd and --handoff-fd")]
    Usage,
    /// Refused by default.
    #[error("refusing to run as root")]
    Root,
    /// The rules are not what this version understands.
    #[error("the sandbox's rules cannot be read: keyhatch and keyhatch-run are of different versions")]
    Rules,
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
    #[error("the seccomp filter cannot be enforced: {what}")]
    Filter {
        /// Why.
        what: String,
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
            Self::NoNamespaces { .. } => Some(
                "allow them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and \
                 kernel.apparmor_restrict_unprivileged_userns; most containers forbid them",
            ),
            Self::NoLandlock => Some("a kernel from 5.13 on, with landlock in its lsm= list"),
            Self::ProbeWorked { .. } => {
                Some("nothing was started; please report this with your kernel's version")
            }
            _ => None,
        }
    }
}

/// Names a step for the errors of its system calls.
pub(crate) fn at<E: Into<io::Error>>(
    act: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(E) -> RunError {
    let object = object.into();
    move |error| RunError::Step { act, object, source: error.into() }
}
