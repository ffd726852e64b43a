//! The tier: how much of the sandbox this kernel gives to an ordinary user.
//!
//! Comes in: what the kernel answers, and what the policy requires. Goes out: a tier that is printed before the command
//! starts, or a refusal. Nothing is ever silently weaker.

use std::fmt;
use std::fs;
use std::io;

use keyhatch_sandbox_rules::rules::{Foundation, NetworkInside, Requirement};

use crate::error::RunError;
use crate::sys::{self, Forked};
use crate::{mutation, namespaces};

/// From this ABI on Landlock decides which local socket may be connected to.
pub(crate) const ABI_LOCAL_SOCKETS: i32 = 9;
/// From this ABI on signals and abstract sockets can be kept inside; below, nothing holds without namespaces.
pub(crate) const ABI_SCOPES: i32 = 6;
/// Ubuntu's switch: a namespace is given, and no power in it.
pub(crate) const APPARMOR_RESTRICTION: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Namespaces, Landlock, seccomp.
    A,
    /// No namespaces; Landlock with a say over local sockets, seccomp.
    B,
    /// No namespaces, an older Landlock, seccomp without any socket.
    C,
}

impl Tier {
    /// What it is made of.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::A => "namespaces, Landlock, seccomp",
            Self::B => "Landlock and seccomp; local sockets by name, no network of its own",
            Self::C => "Landlock and seccomp; no sockets, git through pipes",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tier {self:?}")
    }
}

/// Where the sandbox is built.
#[derive(Debug, Default)]
pub(crate) enum Around {
    /// On a machine of the user's.
    #[default]
    Host,
    /// In somebody's container, where it was tried whether namespaces are of use.
    Container {
        /// Why they are not; none where they are.
        without: Option<String>,
    },
}

/// A tier with its reasons.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Which.
    pub tier: Tier,
    /// The kernel's Landlock ABI; 0 for none.
    pub abi: i32,
    /// Why it is not more.
    pub because: Option<String>,
    /// Whether this is somebody's container.
    pub in_container: bool,
}

/// The Landlock ABI in use; 0 where the kernel has none or does not enforce it.
pub(crate) fn landlock_abi() -> i32 {
    let kernel = sys::landlock_abi().unwrap_or(0);
    mutation::landlock_abi().map_or(kernel, |cap| cap.min(kernel))
}

/// Enters namespaces, or says what is left without them. Refuses what the policy does not accept.
pub(crate) fn prepare(foundation: &Foundation, around: Around) -> Result<Chosen, RunError> {
    let abi = landlock_abi();
    let (without, in_container) = match around {
        Around::Host => (None, false),
        Around::Container { without } => (without, true),
    };
    let because = match without {
        Some(known) => Some(known),
        None => match enter(&foundation.network) {
            Ok(()) => None,
            Err(RunError::NoNamespaces { source }) => Some(explain(&source)),
            Err(other) => return Err(other),
        },
    };
    let tier = match (&because, abi) {
        (None, _) => Tier::A,
        (Some(_), ABI_LOCAL_SOCKETS..) => Tier::B,
        (Some(_), ABI_SCOPES..) => Tier::C,
        (Some(because), _) => return Err(RunError::NoTier { because: because.clone(), abi, in_container }),
    };
    let missed = |required: &&Requirement| match required {
        Requirement::Namespaces => tier != Tier::A,
        Requirement::LocalSockets => tier == Tier::C,
        // Joined, or missed, before this.
        Requirement::Cgroup => false,
    };
    match foundation.require.iter().find(missed) {
        Some(what) => {
            let because = because.unwrap_or_default();
            Err(RunError::Required { what: *what, tier, abi, because, in_container })
        }
        None => Ok(Chosen { tier, abi, because, in_container }),
    }
}

/// Where AppArmor gives namespaces without power, a child finds out: this process could not come back from one.
fn enter(network: &NetworkInside) -> Result<(), RunError> {
    if fs::read_to_string(APPARMOR_RESTRICTION).is_ok_and(|switch| switch.trim() != "0") {
        trial()?;
    }
    namespaces::enforce(network)
}

/// Whether a child of this process can have namespaces.
pub(crate) fn trial() -> Result<(), RunError> {
    let refused = |source: io::Error| RunError::NoNamespaces { source };
    match sys::fork().map_err(refused)? {
        Forked::Child => {
            std::process::exit(match namespaces::enforce(&NetworkInside::Own { sockets: Vec::new() }) {
                Ok(()) => 0,
                Err(RunError::NoNamespaces { source }) => source.raw_os_error().unwrap_or(libc::EPERM),
                Err(_) => libc::EPERM,
            })
        }
        Forked::Parent(child) => {
            let ended = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
                .map_err(|error| refused(error.into()))?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(errno) => Err(refused(io::Error::from_raw_os_error(errno))),
                None => Err(refused(io::Error::from_raw_os_error(libc::EPERM))),
            }
        }
    }
}

/// The AppArmor profile around this process, without its mode.
///
/// Source: apparmor(7), `/proc/PID/attr/apparmor/current`: `NAME (MODE)`, or `unconfined`.
pub(crate) fn apparmor_profile() -> Option<String> {
    let told = fs::read_to_string("/proc/self/attr/apparmor/current").ok()?;
    let name = told.trim().rsplit_once(" (")?.0;
    Some(name.chars().filter(|letter| !letter.is_control()).collect())
}

/// Names the switch that forbids namespaces, as far as it can be seen from here.
pub(crate) fn explain(error: &io::Error) -> String {
    let reads = |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    if reads("/proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are switched off by the sysctl user.max_user_namespaces".to_owned()
    } else if reads("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "user namespaces are switched off by the sysctl kernel.unprivileged_userns_clone".to_owned()
    } else if reads(APPARMOR_RESTRICTION, "1") {
        "AppArmor restricts user namespaces to programs with a profile".to_owned()
    } else if let Some(profile) = apparmor_profile().filter(|_| error.raw_os_error() == Some(libc::EACCES)) {
        format!("AppArmor's profile {profile}, which this runs in, has no rule for user namespaces")
    } else {
        format!("the kernel refuses user namespaces here, as containers do ({error})")
    }
}
