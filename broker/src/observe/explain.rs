//! Why something is not to be had inside, and which line of a policy would change that.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::{NetworkInside, SandboxRules};
use keyhatch_policies::tool_line;
use keyhatch_protocol::text::shown;
use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, openat2};

use super::Denial;
use super::landlocked::Places;

/// What a sandbox was made of, as far as it explains what is missing.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) home: PathBuf,
    /// Files with an empty one mounted over.
    hidden: Vec<PathBuf>,
    /// Everything of the host that is mounted.
    shown: Vec<PathBuf>,
    /// Where the project is, when it can only be read.
    read_only_project: Option<PathBuf>,
    /// Whether there is no network but the session's own.
    pub(super) own_network: bool,
    /// What is where without namespaces.
    pub(super) places: Places,
}

impl View {
    /// Takes what matters from the rules.
    #[must_use]
    pub fn of(rules: &SandboxRules, read_only_project: Option<&Path>) -> Self {
        let is_empty = |source: &Path| source.file_name().is_some_and(|name| name == "empty");
        let hidden = rules.mounts.iter().filter(|mount| mount.read_only && is_empty(&mount.source));
        let hidden = hidden.map(|mount| mount.target.clone()).collect();
        let session = Path::new("/run/keyhatch");
        let shown = rules.mounts.iter().map(|mount| mount.target.clone()).filter(|target| target != session);
        Self {
            home: rules.home.clone(),
            shown: shown.collect(),
            hidden,
            read_only_project: read_only_project.map(Path::to_owned),
            own_network: rules.network != NetworkInside::Host,
            places: Places::of(rules),
        }
    }

    /// The denial of a file that is hidden, in these words.
    pub(super) fn hidden(&self, path: &Path, why: &str) -> Option<Denial> {
        self.hidden.iter().find(|hidden| *hidden == path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        denial(path, why, Some(format!("[sandbox] show = [\"{}\"]", shown(&name))))
    }
}

/// Places that are the kernel's or the session's own: what is missing there is missing on purpose, and everywhere.
const OWN_PLACES: &[&str] = &["/proc", "/dev", "/sys", "/tmp", "/run/keyhatch"];

pub(super) fn is_own(path: &Path) -> bool {
    OWN_PLACES.iter().any(|place| path.starts_with(place))
}

/// What the command misses there; none where it gets it, or where the host has not got it either.
pub(super) fn missing((pid, path, writes): (u32, &Path, bool), view: &View) -> Option<Denial> {
    let of_the_host = [&view.home].into_iter().chain(&view.shown).any(|place| path.starts_with(place));
    if (is_own(path) && !of_the_host) || !path.is_absolute() {
        return None;
    }
    missing_path(pid, path, writes, view)
}

fn missing_path(pid: u32, path: &Path, writes: bool, view: &View) -> Option<Denial> {
    let Some(found) = open_inside(pid, path) else {
        if writes {
            let parent = path.parent().and_then(|parent| open_inside(pid, parent))?;
            return if is_read_only(&parent) {
                denial(path, "its directory can only be read", written(path, view))
            } else {
                None
            };
        }
        // The host's own answer: a path that is nowhere is not the sandbox's doing.
        std::fs::symlink_metadata(path).ok()?;
        return if path.starts_with(&view.home) {
            at_home(path, view)
        } else {
            denial(path, "the sandbox shows no more of the system", None)
        };
    };
    if let Some(hidden) = view.hidden(path, "it is hidden: shown empty") {
        return Some(hidden);
    }
    if writes && is_read_only(&found) {
        return denial(path, "it can only be read", written(path, view));
    }
    None
}

/// A denial of a path; the program is named by whoever saw it.
pub(super) fn denial(path: &Path, why: &str, line: Option<String>) -> Option<Denial> {
    Some(Denial { program: String::new(), object: shown(&path.to_string_lossy()), why: why.into(), line })
}

/// The denial of what the user has at home.
pub(super) fn at_home(path: &Path, view: &View) -> Option<Denial> {
    let below = path.strip_prefix(&view.home).ok()?;
    let (why, line) = match below.to_str().map(tool_line) {
        Some(Ok(line)) => ("it is yours, and not shown", Some(line)),
        Some(Err(reason)) => (reason, None),
        None => ("it is yours, and not shown", None),
    };
    denial(path, why, line)
}

/// The line that would let the project be written.
pub(super) fn written(path: &Path, view: &View) -> Option<String> {
    let project = view.read_only_project.as_ref().is_some_and(|project| path.starts_with(project));
    project.then(|| "[sandbox] project = \"write\"".to_owned())
}

/// Opens what a process would find under a path, without opening it: links lead to where they lead inside.
fn open_inside(pid: u32, path: &Path) -> Option<OwnedFd> {
    let root =
        rustix::fs::open(format!("/proc/{pid}/root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
        .ok()
}

fn is_read_only(found: &OwnedFd) -> bool {
    fstatvfs(found).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}
