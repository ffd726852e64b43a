//! What the inspector cannot do, from before the first hostile byte: no socket, no write outside its quarantine, no
//! read outside object stores and programs, bounded memory, time and files; it dies with the broker.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::Limits;

/// Programs and libraries: git, and what it is linked with.
const PROGRAMS: &[&str] = &[
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/nix/store",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/dev/null",
    "/dev/urandom",
    "/proc/self",
];
/// Address space beyond the mapped packs.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// Processor time of one process, seconds.
const SECONDS: u64 = 240;

/// System calls that inspection never makes: how bytes could leave, or other processes be reached.
const REFUSED: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_open_by_handle_at,
];

/// What a confined child may still do.
pub(crate) struct Cage<'c> {
    /// What it may read, beside programs.
    pub(crate) readable: &'c [PathBuf],
    /// The one directory that it may write.
    pub(crate) quarantine: &'c Path,
    /// How much it may hold.
    pub(crate) limits: Limits,
}

/// Confines this process and everything that it starts.
pub(crate) fn enforce(cage: &Cage<'_>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit(cage)?;
    restrict(cage)?;
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(io::Error::other)?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

fn limit(cage: &Cage<'_>) -> io::Result<()> {
    let pack = cage.limits.pack_bytes;
    let limits = [
        (Resource::Core, 0),
        (Resource::As, MEMORY.saturating_add(pack.saturating_mul(3))),
        (Resource::Fsize, pack.saturating_mul(2).saturating_add(MEMORY)),
        (Resource::Cpu, SECONDS),
        (Resource::Nofile, 256),
    ];
    for (resource, value) in limits {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    Ok(())
}

fn restrict(cage: &Cage<'_>) -> io::Result<()> {
    let known = ABI::V6;
    let readable = PROGRAMS.iter().map(PathBuf::from).chain(cage.readable.iter().cloned());
    let build = || -> Result<RulesetStatus, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(known))?
            .scope(Scope::from_all(known))?
            .create()?
            .set_compatibility(CompatLevel::BestEffort);
        let mut grant = |path: &Path, access| -> Result<(), landlock::RulesetError> {
            if let Ok(path) = PathFd::new(path) {
                let ruleset = &mut ruleset;
                ruleset.add_rule(PathBeneath::new(path, access))?;
            }
            Ok(())
        };
        for path in readable {
            grant(&path, AccessFs::from_read(known))?;
        }
        grant(Path::new("/dev/null"), AccessFs::from_file(known))?;
        grant(cage.quarantine, AccessFs::from_all(known))?;
        Ok(ruleset.restrict_self()?.ruleset)
    };
    match build().map_err(io::Error::other)? {
        RulesetStatus::NotEnforced => Err(io::Error::other("the kernel has no Landlock")),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}
