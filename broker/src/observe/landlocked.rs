//! The same where the command has no mounts of its own (tiers B and C): it sees the host's names, and Landlock says what of
//! them opens. What the runner granted is told from the same rules (`sandbox-runner/src/furniture.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::{Mount, SandboxRules};

use super::Denial;
use super::explain::{View, at_home, denial, is_own, written};

/// What lies where without mounts.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The directory of ours that is the home.
    home: PathBuf,
    /// Where else files of ours are.
    fallback: PathBuf,
    system: Vec<PathBuf>,
    mounts: Vec<Mount>,
}

impl Places {
    pub(super) fn of(rules: &SandboxRules) -> Self {
        Self {
            home: rules.home_source.clone().unwrap_or_else(|| rules.fallback.join("home")),
            fallback: rules.fallback.clone(),
            system: rules.system.clone(),
            mounts: rules.mounts.clone(),
        }
    }

    /// The innermost mount that there would be.
    fn mount(&self, path: &Path) -> Option<&Mount> {
        let around = self.mounts.iter().filter(|mount| path.starts_with(&mount.target));
        around.max_by_key(|mount| mount.target.components().count())
    }

    /// Whether something is protected below a directory, so that no entry can be made in it.
    fn holds_protected(&self, directory: &Path) -> bool {
        self.mounts.iter().any(|mount| mount.target != directory && mount.target.starts_with(directory))
    }

    /// Whether a path names something of the session's own by the name that it has on the host.
    fn is_of_the_session(&self, path: &Path) -> bool {
        let moved = self.mounts.iter().filter(|mount| mount.source != mount.target);
        path.starts_with(&self.fallback) || moved.into_iter().any(|mount| path.starts_with(&mount.source))
    }
}

/// Whether a process sees the same names as this one.
pub(super) fn is_without_mounts(pid: u32) -> bool {
    let names = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    names("self").is_some_and(|own| names(&pid.to_string()) == Some(own))
}

/// What the command does not get there; none where it gets it, or where the host has not got it either.
pub(super) fn missing(path: &Path, writes: bool, view: &View) -> Option<Denial> {
    let Places { home, system, .. } = &view.places;
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    if let Ok(below) = path.strip_prefix(home) {
        // The user's own is what the command means.
        let meant = view.home.join(below);
        return (!is_there(path) && !writes && is_there(&meant)).then(|| at_home(&meant, view)).flatten();
    }
    if view.places.is_of_the_session(path) {
        return None;
    }
    if let Some(hidden) = view.hidden(path, "it is hidden, and cannot be opened") {
        return Some(hidden);
    }
    match view.places.mount(path) {
        Some(mount) if mount.read_only && writes => denial(path, "it can only be read", written(path, view)),
        Some(_) if writes && !is_there(path) && view.places.holds_protected(path.parent()?) => denial(
            path,
            "its directory holds what is protected, and without namespaces nothing new can be made beside that",
            None,
        ),
        Some(_) => None,
        None if path.starts_with(&view.home) => at_home(path, view).filter(|_| is_there(path)),
        None if path.starts_with("/tmp") => {
            denial(path, "/tmp is out of reach without namespaces: TMPDIR names another", None)
        }
        None if is_own(path) => None,
        None if system.iter().any(|shown| path.starts_with(shown)) => {
            denial(path, "it can only be read", None).filter(|_| writes)
        }
        None if !is_there(path) => None,
        None => denial(path, "the sandbox shows no more of the system", None),
    }
}
