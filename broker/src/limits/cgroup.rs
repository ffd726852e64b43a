//! A cgroup of the session's own (cgroup v2): memory, swap, processes, processor and disk bandwidth, held by the kernel.
//!
//! Where it is made: below a scope that the user's systemd starts for us, or below a directory that was delegated to the
//! user. The runner's outer process stays beside it, so that what the kernel kills can still be told of:
//!
//! ```text
//! keyhatch-ID.scope          systemd's, or a delegated directory
//! ├ runner                   the outer process (systemd only: no process may sit where controllers are handed down)
//! └ box                      init and the command: the limits are here
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhatch_policies::SessionLimits;
use keyhatch_protocol::SessionId;
use thiserror::Error;

use super::systemd::{self, SystemdError};
use super::{Hit, Limit};

/// Names a directory that is delegated to the user, where there is no systemd of the user's.
const DELEGATED: &str = "KEYHATCH_CGROUP";
/// Controllers that are handed down as far as they are there; the first two must be.
const CONTROLLERS: &[&str] = &["memory", "pids", "cpu", "io"];
/// How long the kernel may take to end what it was told to kill.
const ENDING: Duration = Duration::from_secs(5);

/// Why there is no cgroup. Words for the line at the start.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// Version 1, or nothing.
    #[error("cgroup v2 is not mounted")]
    NotMounted,
    /// The hybrid layout.
    #[error("cgroup v2 has no memory and pids controllers here, version 1 has them")]
    Hybrid,
    /// Nobody who could give one.
    #[error("neither a systemd of yours nor a delegated directory is there")]
    NoPlace,
    /// systemd said no.
    #[error("systemd gives none")]
    Systemd(#[from] SystemdError),
    /// The controllers are not handed down to the user.
    #[error("the controllers memory and pids are not delegated to you in {0}")]
    NotDelegated(PathBuf),
    /// The kernel moves a process only below a directory that its mover may write.
    #[error("this process is not below {0}: only what was started there can be put into it")]
    NotBelow(PathBuf),
    /// A file of it.
    #[error("cannot set up {path}")]
    SetUp {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where a cgroup can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Below a scope of the user's systemd.
    Systemd,
    /// Below this directory.
    Delegated(PathBuf),
}

/// The session's cgroup. [`Cgroup::end`] removes it.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
    limits: SessionLimits,
}

/// Looks for a place, without making anything.
///
/// # Errors
/// Why there is none.
pub fn find() -> Result<Place, CgroupError> {
    let mount = mount_point().ok_or(CgroupError::NotMounted)?;
    if let Some(named) = std::env::var_os(DELEGATED).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(Place::Delegated(named));
    }
    if !has_needed(&mount.join("cgroup.controllers")) {
        return Err(CgroupError::Hybrid);
    }
    let own = mount.join(own_path().unwrap_or_default());
    if writable(&own) && has_needed(&own.join("cgroup.subtree_control")) {
        return Ok(Place::Delegated(own));
    }
    if systemd::may_be_there() { Ok(Place::Systemd) } else { Err(CgroupError::NoPlace) }
}

/// Makes the session's cgroup with its limits. The runner's outer process waits meanwhile.
///
/// # Errors
/// When it cannot be had; nothing of it is left then.
pub async fn make(
    place: &Place,
    session: &SessionId,
    runner: u32,
    limits: &SessionLimits,
) -> Result<Cgroup, CgroupError> {
    let (parent, name) = match place {
        Place::Delegated(directory) if !may_move_to(directory) => {
            return Err(CgroupError::NotBelow(directory.clone()));
        }
        Place::Delegated(directory) => (directory.clone(), format!("keyhatch-{session}")),
        Place::Systemd => {
            systemd::start_scope(session, runner).await?;
            let mount = mount_point().ok_or(CgroupError::NotMounted)?;
            let scope = mount.join(path_of(runner).ok_or(CgroupError::NoPlace)?);
            // No process may sit where controllers are handed down.
            let beside = scope.join("runner");
            make_directory(&beside)?;
            write(&beside.join("cgroup.procs"), &runner.to_string())?;
            (scope, "box".to_owned())
        }
    };
    for controller in CONTROLLERS {
        // One that is not there is missed below, where a limit needs it.
        drop(fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")));
    }
    let cgroup = Cgroup { directory: parent.join(name), limits: *limits };
    make_directory(&cgroup.directory)?;
    match cgroup.set() {
        Ok(()) => Ok(cgroup),
        Err(error) => {
            drop(fs::remove_dir(&cgroup.directory));
            Err(error)
        }
    }
}

impl Cgroup {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn set(&self) -> Result<(), CgroupError> {
        let SessionLimits { memory, swap, processes, cpu, io, .. } = self.limits;
        if !self.file("memory.max").exists() || !self.file("pids.max").exists() {
            return Err(CgroupError::NotDelegated(self.directory.clone()));
        }
        if let Some(bytes) = memory {
            write(&self.file("memory.max"), &bytes.to_string())?;
            // Half a session is worth nothing: the kernel ends all of it.
            write(&self.file("memory.oom.group"), "1")?;
        }
        if let Some(bytes) = swap
            && self.file("memory.swap.max").exists()
        {
            write(&self.file("memory.swap.max"), &bytes.to_string())?;
        }
        write(&self.file("pids.max"), &processes.to_string())?;
        if let Some(percent) = cpu {
            write(&self.file("cpu.max"), &format!("{} 100000", percent * 1000))?;
        }
        if let Some(weight) = io {
            write(&self.file("io.weight"), &format!("default {weight}"))?;
        }
        Ok(())
    }

    /// The file through which a process joins: its descriptor is handed to the runner.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn door(&self) -> io::Result<fs::File> {
        fs::File::options().write(true).open(self.file("cgroup.procs"))
    }

    /// What the kernel says was hit so far.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        let hit = |limit, killed| Hit { limit, killed, by_cgroup: true };
        let killed =
            self.event("memory.events", "oom_kill") + self.event("memory.events", "oom_group_kill") > 0;
        let memory = self.limits.memory.filter(|_| killed).map(|bytes| hit(Limit::Memory(bytes), true));
        let refused = self.event("pids.events", "max") > 0;
        let processes = refused.then(|| hit(Limit::Processes(self.limits.processes), false));
        memory.into_iter().chain(processes).collect()
    }

    /// The most memory that was in use, where the kernel says (5.19).
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.file("memory.peak")).ok()?.trim().parse().ok()
    }

    /// Kills everything in it at once.
    pub fn kill(&self) {
        if let Err(error) = fs::write(self.file("cgroup.kill"), "1") {
            tracing::debug!(%error, "the cgroup cannot be killed");
        }
    }

    /// Kills what is left and removes it.
    pub fn end(self) {
        self.kill();
        let deadline = Instant::now() + ENDING;
        while self.event("cgroup.events", "populated") > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            tracing::debug!(%error, "the session's cgroup stays");
        }
    }

    fn event(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.file(file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir(path).map_err(|source| CgroupError::SetUp { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|source| CgroupError::SetUp { path: path.to_owned(), source })
}

fn writable(directory: &Path) -> bool {
    use rustix::fs::{Access, access};
    [directory.to_owned(), directory.join("cgroup.procs")]
        .iter()
        .all(|path| access(path, Access::WRITE_OK).is_ok())
}

/// Whether this process may be moved there: cgroups(7), the nearest common ancestor must be the user's to write.
fn may_move_to(directory: &Path) -> bool {
    let Some(mount) = mount_point() else { return false };
    let own = mount.join(own_path().unwrap_or_default());
    let common = directory.ancestors().find(|ancestor| own.starts_with(ancestor));
    common.is_some_and(writable)
}

fn has_needed(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    CONTROLLERS[..2].iter().all(|needed| text.split_whitespace().any(|word| word == *needed))
}

/// Where cgroup v2 is mounted.
fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        // proc(5): optional fields end with a hyphen; the type follows it.
        let (fields, rest) = line.split_once(" - ")?;
        let place = fields.split(' ').nth(4)?;
        rest.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

fn own_path() -> Option<PathBuf> {
    path_of(std::process::id())
}

/// The cgroup of a process below the mount point.
fn path_of(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(path))
}
