//! What a child cannot do, from before the first hostile byte: no socket, no signal, no write outside its directory, no read
//! outside of what it was given and programs, bounded memory, time and files; no way out of dying with its parent.

use std::io;
use std::path::{Path, PathBuf};

use keyhatch_seccomp::sys::load_filter;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use thiserror::Error;

use crate::filter::FILTER;

/// Programs and libraries: git, and what it is linked with.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/lib", "/lib64", "/nix/store", "/opt"];
/// What these read.
const DATA: &[&str] =
    &["/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/dev/null", "/dev/urandom"];
/// Address space beyond the mapped packs.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// What of the machine's memory one process may hold of its own, at least: what a large pack needs.
const LEAST_HELD: u64 = 512 * 1024 * 1024;
/// And at most.
const MOST_HELD: u64 = 2 * 1024 * 1024 * 1024;
/// The machine's memory has so many shares: two inspections of two processes each hold a quarter of it together.
const SHARES: u64 = 16;
/// Processor time of one process, seconds.
const SECONDS: u64 = 240;
/// Open files: a store has a descriptor or two a pack.
const OPEN_FILES: u64 = 256;

/// What a confined child may still do.
#[derive(Debug)]
pub struct Cage<'c> {
    /// What it may read, beside programs.
    pub readable: &'c [PathBuf],
    /// The one directory that it may write.
    pub writable: &'c Path,
    /// How much it may hold.
    pub limits: Limits,
}

/// Limits of one process, by `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space.
    pub address_space: u64,
    /// Bytes of memory of its own; what it maps of files is not.
    pub held: u64,
    /// Bytes of the largest file.
    pub file_bytes: u64,
    /// Seconds of processor time.
    pub seconds: u64,
    /// Open descriptors.
    pub open_files: u64,
}

impl Limits {
    /// For work on packs of at most so many bytes on this machine: each is mapped and written a few times.
    #[must_use]
    pub fn for_pack(bytes: u64) -> Self {
        Self {
            address_space: MEMORY.saturating_add(bytes.saturating_mul(3)),
            held: share_of_machine(),
            file_bytes: bytes.saturating_mul(2).saturating_add(MEMORY),
            seconds: SECONDS,
            open_files: OPEN_FILES,
        }
    }
}

/// One process's share of the machine's memory.
fn share_of_machine() -> u64 {
    let machine = rustix::system::sysinfo();
    let unit = u64::from(machine.mem_unit.max(1));
    // Its width differs between architectures.
    #[allow(clippy::useless_conversion)]
    let total = u64::from(machine.totalram).saturating_mul(unit);
    (total / SHARES).clamp(LEAST_HELD, MOST_HELD)
}

/// The child cannot be confined: it must not go on.
#[derive(Debug, Error)]
pub enum CageError {
    /// A thread that was started before would stay outside.
    #[error("there are {count} threads already")]
    Threads {
        /// How many.
        count: usize,
    },
    /// The kernel refuses a step.
    #[error("cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses Landlock's rules.
    #[error("cannot restrict the file system")]
    Landlock(#[from] landlock::RulesetError),
    /// The kernel has no Landlock.
    #[error("the kernel has no Landlock")]
    NoLandlock,
}

impl Cage<'_> {
    /// Confines this process and everything that it starts, for ever.
    ///
    /// # Errors
    /// When a step cannot be made. What was made by then stays; nothing hostile may be read.
    pub fn enforce(&self) -> Result<(), CageError> {
        let step = |step| move |source: io::Error| CageError::Step { step, source };
        let threads = std::fs::read_dir("/proc/self/task").map_err(step("count threads"))?.count();
        if threads != 1 {
            return Err(CageError::Threads { count: threads });
        }
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| step("hide its memory")(error.into()))?;
        self.limit().map_err(step("limit itself"))?;
        // Sets `no_new_privs` too, without which the filter is refused.
        self.restrict()?;
        load_filter(FILTER.steps(), 0).map_err(step("load the filter")).map(drop)
    }

    fn limit(&self) -> io::Result<()> {
        let Limits { address_space, held, file_bytes, seconds, open_files } = self.limits;
        let limits = [
            (Resource::Core, 0),
            (Resource::As, address_space),
            (Resource::Data, held),
            (Resource::Fsize, file_bytes),
            (Resource::Cpu, seconds),
            (Resource::Nofile, open_files),
        ];
        for (resource, value) in limits {
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
        }
        Ok(())
    }

    fn restrict(&self) -> Result<(), CageError> {
        let known = ABI::V6;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        // Files and directories: no devices, pipes or sockets, and nothing that was written is executed.
        let write = read
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(known))?
            .scope(Scope::from_all(known))?
            .create()?
            .set_compatibility(CompatLevel::BestEffort);
        let mut grant = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), landlock::RulesetError> {
            if let Ok(path) = PathFd::new(path) {
                let ruleset = &mut ruleset;
                ruleset.add_rule(PathBeneath::new(path, access))?;
            }
            Ok(())
        };
        for path in PROGRAMS {
            grant(Path::new(path), AccessFs::from_read(known))?;
        }
        for path in DATA.iter().map(Path::new).chain(self.readable.iter().map(PathBuf::as_path)) {
            grant(path, read)?;
        }
        grant(Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
        grant(self.writable, write)?;
        match ruleset.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(CageError::NoLandlock),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}
