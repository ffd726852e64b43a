//! Namespaces: user, mount, pid, ipc, uts, network and cgroup, in one call.

use std::fs;
use std::io;

use crate::error::{RunError, at};
use crate::sys;

const ALL: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// Leaves the host's namespaces; the next child is pid 1 of the new one. The user keeps its own numbers.
pub(crate) fn enforce() -> Result<(), RunError> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // Not dumpable, /proc/self would belong to root and the maps could not be written.
    sys::unshare(ALL).map_err(|source| RunError::NoNamespaces { source })?;
    let write = |file: &str, text: String| -> Result<(), RunError> {
        // AppArmor's restriction gives a namespace without power: it shows here, as a refused write.
        fs::write(file, text).map_err(|source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => RunError::NoNamespaces { source },
            _ => at("write", file)(source),
        })
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    rustix::system::sethostname(b"sandbox").map_err(|error| match error {
        rustix::io::Errno::PERM => RunError::NoNamespaces { source: error.into() },
        _ => at("set", "the host name")(error),
    })
}
