//! A private directory for the command's home and temporary files: nothing of the host's session can be written here.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use keyhatch_sandbox_rules::rules::SandboxRules;

use super::{leads_into, shown};
use crate::error::RunError;

/// Where one may be made, after what `TMPDIR` names.
const CANDIDATES: &[&str] = &["/tmp", "/dev/shm", "/var/tmp", "/run"];
/// How many names are tried: each run has one that its process names.
const NAMES: u32 = 64;

/// The directory; removed when dropped.
pub(super) struct Place(PathBuf);

impl Place {
    /// Makes one, outside of what the command may write in any case.
    pub(super) fn make(rules: &SandboxRules) -> Result<Self, RunError> {
        let named = std::env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let shown = shown(rules);
        let candidates: Vec<PathBuf> = named
            .into_iter()
            .chain(CANDIDATES.iter().map(PathBuf::from))
            .filter(|path| !leads_into(path, &shown))
            .collect();
        candidates.iter().find_map(|directory| made_in(directory)).map(Self).ok_or_else(|| {
            let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            RunError::NoPlace { tried: tried.join(", ") }
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

fn made_in(directory: &Path) -> Option<PathBuf> {
    // Links of the image's are resolved now: later walls go by what is behind them.
    let directory = directory.canonicalize().ok()?;
    let names = (0..NAMES).map(|n| directory.join(format!("keyhatch-{}-{n}", std::process::id())));
    // One that is there already is somebody else's.
    let mut tries = names.map(|path| (fs::DirBuilder::new().mode(0o700).create(&path), path));
    tries
        .find(|(made, _)| {
            !made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
        })
        .and_then(|(made, path)| made.is_ok().then_some(path))
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("keyhatch: cannot remove {}: {error}", self.0.display());
        }
    }
}
