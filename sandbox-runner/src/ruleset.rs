//! Landlock: a second wall, of another making. Inside the mount namespace it doubles what mounts say; where there are no
//! namespaces it is what there is.
//!
//! Rights over TCP and UDP are handled where there is no network namespace, and trusted nowhere: MPTCP and TCP Fast Open
//! pass them by. The network namespace and seccomp are the boundary.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictSelfAttr, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};

use crate::error::RunError;
use crate::mutation::{self, Mitigation};
use crate::tier::Tier;

/// The newest ABI that the crate names; an older kernel enforces what it has, and says which that is.
const ABI_KNOWN: ABI = ABI::V10;

/// What may be done beneath a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Where, as this process sees it.
    pub path: PathBuf,
    /// What.
    pub may: May,
}

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum May {
    /// List directories.
    List,
    /// Read, list and execute.
    Read,
    /// Write to files that are there: a process writes about itself in /proc, the kernel checks whose entry it is.
    WriteExisting,
    /// Read and write a device, and make requests of it.
    Device,
    /// Everything but making devices.
    Write,
    /// Read, and connect to the local sockets there.
    Connect,
    /// Make named pipes, open them and remove them; nothing else can be there.
    Pipes,
}

impl May {
    fn access(self, abi: ABI) -> BitFlags<AccessFs> {
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate;
        match self {
            Self::List => AccessFs::ReadDir.into(),
            Self::Read => AccessFs::from_read(abi),
            Self::WriteExisting => AccessFs::WriteFile.into(),
            Self::Device => device | AccessFs::ReadDir,
            Self::Write => {
                AccessFs::from_all(abi) & !(AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::ResolveUnix)
            }
            Self::Connect => AccessFs::from_read(abi) | AccessFs::ResolveUnix,
            Self::Pipes => {
                AccessFs::MakeFifo | AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::RemoveFile
            }
        }
    }
}

/// The devices that every program may use. Terminals are added by who knows whose they are.
pub(crate) fn devices() -> impl Iterator<Item = Grant> {
    let named = ["null", "zero", "full", "random", "urandom", "tty", "console"];
    named.into_iter().map(|name| Grant { path: Path::new("/dev").join(name), may: May::Device })
}

/// A ruleset that the kernel has taken, not yet enforced.
pub(crate) struct Ready(Option<RulesetCreated>);

/// Makes the ruleset of these grants. What is not there needs none.
pub(crate) fn prepare(grants: Vec<Grant>, tier: Tier) -> Result<Ready, RunError> {
    if mutation::is_off(Mitigation::Landlock) {
        return Ok(Ready(None));
    }
    build(grants, tier).map(|ruleset| Ready(Some(ruleset))).map_err(|source| RunError::Ruleset { source })
}

fn build(grants: Vec<Grant>, tier: Tier) -> Result<RulesetCreated, RulesetError> {
    let abi = mutation::landlock_abi().map_or(ABI_KNOWN, ABI::from);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?;
    if !Scope::from_all(abi).is_empty() && !mutation::is_off(Mitigation::Scopes) {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    if tier != Tier::A && !AccessNet::from_all(abi).is_empty() {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    let mut created = ruleset.create()?.set_compatibility(CompatLevel::BestEffort);
    for Grant { path, may } in grants {
        let Ok(path) = PathFd::new(&path) else { continue };
        let mut access = may.access(abi) & AccessFs::from_all(abi);
        if !is_directory(&path) {
            access &= AccessFs::from_file(abi);
        }
        if !access.is_empty() {
            created = created.add_rule(PathBeneath::new(path, access))?;
        }
    }
    Ok(created)
}

fn is_directory(path: &PathFd) -> bool {
    rustix::fs::fstat(path.as_fd()).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    })
}

impl Ready {
    /// Enforces it on this process and everything it starts. `no_new_privs` must be set.
    ///
    /// What the command is denied may be logged by the kernel, for those who may read its log; what the proof tries is not.
    pub(crate) fn enforce(self) -> Result<(), RunError> {
        let Some(ruleset) = self.0 else { return Ok(()) };
        let enforced = ruleset
            .no_new_privs(false)
            .log_same_exec(false)
            .and_then(|ruleset| ruleset.log_new_exec(true))
            .and_then(|ruleset| ruleset.log_subdomains(false))
            .and_then(RulesetCreated::restrict_self)
            .map_err(|source| RunError::Ruleset { source })?;
        // `BestEffort` says nothing of itself where the kernel has none: the kernel's own word counts.
        if enforced.ruleset == RulesetStatus::NotEnforced { Err(RunError::NoLandlock) } else { Ok(()) }
    }
}
