//! Namespaces: user, mount, pid, ipc, uts, network and cgroup, in one call.

use std::fs;
use std::io;

use keyhatch_sandbox_rules::rules::NetworkInside;

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

const ALWAYS: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;

/// Leaves the host's namespaces; the next child is pid 1 of the new one. The user keeps its own numbers.
///
/// Where the kernel refuses the call itself, nothing has changed and the process can go on without.
pub(crate) fn enforce(network: &NetworkInside) -> Result<(), RunError> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // Not dumpable, /proc/self would belong to root and the maps could not be written.
    sys::unshare(kinds(network)).map_err(|source| RunError::NoNamespaces { source })?;
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
    if mutation::is_off(Mitigation::UtsNamespace) {
        return Ok(());
    }
    rustix::system::sethostname(b"sandbox").map_err(|error| match error {
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => {
            RunError::NoNamespaces { source: error.into() }
        }
        _ => at("set", "the host name")(error),
    })
}

fn kinds(network: &NetworkInside) -> libc::c_int {
    let unless = |mitigation, kind| if mutation::is_off(mitigation) { 0 } else { kind };
    let own_network = match network {
        NetworkInside::Own { .. } => unless(Mitigation::NetworkNamespace, libc::CLONE_NEWNET),
        NetworkInside::Host => 0,
    };
    ALWAYS
        | own_network
        | unless(Mitigation::PidNamespace, libc::CLONE_NEWPID)
        | unless(Mitigation::UtsNamespace, libc::CLONE_NEWUTS)
        | unless(Mitigation::IpcNamespace, libc::CLONE_NEWIPC)
}
