//! The proof: the forbidden acts are tried from where the command will be. One that works is a refusal to start.
//!
//! A kernel that ignores a rule, or a mechanism that was left out by mistake, shows here and not in an incident.

use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_sandbox_rules::rules::{NetworkInside, SandboxRules};

use crate::error::RunError;
use crate::mutation::{self, Mitigation};
use crate::sys::try_forbidden;
use crate::tier::{Chosen, Tier};

/// One act that must fail.
struct Act {
    what: &'static str,
    attempt: fn(&SandboxRules) -> io::Result<()>,
}

const EVERYWHERE: &[Act] = &[
    Act {
        what: "making a user namespace",
        attempt: |_| call(libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0),
    },
    Act { what: "asking for a key of a keyring", attempt: |_| call(libc::SYS_keyctl, 0, -3) },
    Act { what: "a virtual machine socket", attempt: |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) },
    Act {
        what: "a multipath TCP socket",
        attempt: |_| socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
    },
    Act { what: "io_uring", attempt: |_| call(libc::SYS_io_uring_setup, 1, 0) },
    Act { what: "typing into a terminal", attempt: |_| call(libc::SYS_ioctl, 0, 0x5412) },
    Act { what: "writing to /usr", attempt: |_| std::fs::write("/usr/.keyhatch-probe", b"") },
    Act { what: "making a setuid file", attempt: set_id },
    Act { what: "reaching the network", attempt: reach_network },
];

const NAMESPACED: &[Act] = &[
    Act { what: "looking into init's memory", attempt: |_| std::fs::read("/proc/1/environ").map(drop) },
    Act { what: "seeing the host's /boot", attempt: |_| std::fs::metadata("/boot").map(drop) },
    Act { what: "reading the host's /root", attempt: read_root },
    Act { what: "mounting", attempt: |_| call(libc::SYS_umount2, 0, 0) },
];

const LANDLOCKED: &[Act] = &[
    Act { what: "an internet socket", attempt: |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0) },
    Act { what: "listing the user's home", attempt: |rules| std::fs::read_dir(&rules.home).map(drop) },
    Act { what: "listing /tmp", attempt: |_| std::fs::read_dir("/tmp").map(drop) },
    Act { what: "making shared memory", attempt: |_| call(libc::SYS_shmget, 0, 4096) },
    Act { what: "tracing a process", attempt: |_| call(libc::SYS_ptrace, 16, parent()) },
];

const SOCKETLESS: &[Act] =
    &[Act { what: "a local socket", attempt: |_| socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }];

/// Where root's home is the command's, or holds the project, it was made for it.
fn read_root(rules: &SandboxRules) -> io::Result<()> {
    let root = Path::new("/root");
    let made = |path: &Path| path.starts_with(root);
    if made(&rules.home) || rules.mounts.iter().any(|mount| made(&mount.target)) {
        return Err(io::ErrorKind::NotFound.into());
    }
    std::fs::read_dir(root).map(drop)
}

/// From this ABI on signals have a scope.
const ABI_SIGNALS: i32 = 6;

/// Tries every act.
pub(crate) fn enforce(rules: &SandboxRules, chosen: &Chosen) -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Probe) {
        return Ok(());
    }
    let own: &[&[Act]] = match chosen.tier {
        Tier::A => &[NAMESPACED],
        Tier::B => &[LANDLOCKED],
        Tier::C => &[LANDLOCKED, SOCKETLESS],
    };
    for act in EVERYWHERE.iter().chain(own.iter().copied().flatten()) {
        if (act.attempt)(rules).is_ok() {
            return Err(RunError::ProbeWorked { act: act.what });
        }
    }
    // Only Landlock stops this one: it shows that the ruleset is not just accepted, but in force.
    if chosen.abi >= ABI_SIGNALS && call(libc::SYS_kill, parent(), 0).is_ok() {
        return Err(RunError::ProbeWorked { act: "signalling the process that watches" });
    }
    Ok(())
}

fn call(number: libc::c_long, first: libc::c_long, second: libc::c_long) -> io::Result<()> {
    walled(try_forbidden(number, [first, second, 0]))
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    walled(try_forbidden(libc::SYS_socket, [family.into(), kind.into(), protocol.into()]))
}

/// A call that fails for any other reason than a wall was looked at by the kernel: the wall is not there.
fn walled(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS)) => {
            Err(error)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn parent() -> libc::c_long {
    rustix::process::getppid().map_or(1, |parent| parent.as_raw_nonzero().get().into())
}

fn set_id(rules: &SandboxRules) -> io::Result<()> {
    let directory = if Path::new("/tmp").is_dir() && std::fs::read_dir("/tmp").is_ok() {
        PathBuf::from("/tmp")
    } else {
        rules.fallback.join("tmp")
    };
    let path = directory.join(".keyhatch-probe");
    std::fs::write(&path, b"")?;
    let changed = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755));
    std::fs::remove_file(&path)?;
    changed
}

/// TEST-NET-1 (RFC 5737): nobody is there, but a route would let the datagram go.
fn reach_network(rules: &SandboxRules) -> io::Result<()> {
    if rules.network == NetworkInside::Host {
        // The policy gives it: there is nothing to prove.
        return Err(io::ErrorKind::Unsupported.into());
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"", "192.0.2.1:9").map(drop)
}
