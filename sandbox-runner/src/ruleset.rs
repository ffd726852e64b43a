//! Landlock inside the mount namespace: a second wall, of another making, around what may be written.

use std::path::{Path, PathBuf};

use keyhatch_policies::rules::SandboxRules;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::error::RunError;

/// The newest ABI that the crate names; an older kernel enforces what it has.
const ABI_KNOWN: ABI = ABI::V6;

/// Enforces the ruleset on this process and everything it starts.
pub(crate) fn enforce(rules: &SandboxRules) -> Result<(), RunError> {
    let status = restrict(rules).map_err(|source| RunError::Ruleset { source })?;
    // `BestEffort` says nothing of itself where the kernel has none: the kernel's own word counts.
    if status == RulesetStatus::NotEnforced { Err(RunError::NoLandlock) } else { Ok(()) }
}

fn restrict(rules: &SandboxRules) -> Result<RulesetStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_KNOWN))?
        .scope(Scope::from_all(ABI_KNOWN))?
        .create()?
        .set_compatibility(CompatLevel::BestEffort);
    for (path, access) in grants(rules) {
        // What is not there needs no rule.
        if let Ok(path) = PathFd::new(&path) {
            ruleset = ruleset.add_rule(PathBeneath::new(path, access))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

fn grants(rules: &SandboxRules) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let everything = AccessFs::from_all(ABI_KNOWN);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate;
    let mut grants = vec![
        (PathBuf::from("/"), AccessFs::from_read(ABI_KNOWN)),
        // Processes write about themselves here; the kernel checks whose entry it is.
        (PathBuf::from("/proc"), AccessFs::WriteFile.into()),
        (PathBuf::from("/dev/pts"), AccessFs::from_read(ABI_KNOWN) | device),
    ];
    for name in ["null", "zero", "full", "random", "urandom", "tty", "console"] {
        grants.push((Path::new("/dev").join(name), device));
    }
    let writable = rules.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.target.clone());
    let ours = [rules.home.clone(), "/tmp".into(), "/dev/shm".into()];
    grants.extend(
        writable.chain(ours).map(|path| (path, everything & !AccessFs::MakeBlock & !AccessFs::MakeChar)),
    );
    grants
}
