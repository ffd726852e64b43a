//! What a call names: a path, taken from the memory of the process that waits, or an address.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::sys::Notification;

/// Longest path, `path_resolution(7)`.
const PATH_MAX: usize = 4096;
/// Longest address of a local socket or of the internet, `unix(7)`.
const ADDRESS_MAX: usize = 110;

/// What a call wants of what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To execute it.
    Execute,
    /// To open it: the argument with the flags.
    Open(usize),
    /// To change the directory that it is in.
    Change,
    /// To connect to it.
    Connect,
}

/// A call that was read.
#[derive(Debug)]
pub(super) enum Request {
    /// An absolute path, as the process sees it.
    Path {
        /// The process.
        pid: u32,
        /// What.
        path: PathBuf,
        /// Whether it would be written, made or removed.
        writes: bool,
    },
    /// An address of the internet.
    Address(SocketAddr),
}

/// Where a path is among the arguments: the directory's descriptor, if there is one, and the path.
struct Place {
    directory: Option<usize>,
    path: usize,
}

/// Which calls are looked at; none for one that is refused.
pub(super) fn kind(call: i64) -> Option<Kind> {
    Some(match call {
        libc::SYS_execve => Kind::Execute,
        libc::SYS_openat => Kind::Open(2),
        libc::SYS_mkdirat | libc::SYS_unlinkat | libc::SYS_renameat2 => Kind::Change,
        libc::SYS_connect => Kind::Connect,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => Kind::Open(1),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir | libc::SYS_unlink | libc::SYS_rename => Kind::Change,
        _ => return None,
    })
}

fn place(call: i64) -> Place {
    let at = matches!(call, libc::SYS_openat | libc::SYS_mkdirat | libc::SYS_unlinkat | libc::SYS_renameat2);
    if at { Place { directory: Some(0), path: 1 } } else { Place { directory: None, path: 0 } }
}

impl Request {
    /// Reads what the call names; none where it cannot be read.
    pub(super) fn read(call: &Notification, kind: Kind) -> Option<Self> {
        let memory = File::open(format!("/proc/{}/mem", call.pid)).ok()?;
        if kind == Kind::Connect {
            return address(&memory, call);
        }
        let Place { directory, path } = place(call.call);
        let text = string(&memory, call.arguments[path])?;
        let path = absolute(call, directory, &text)?;
        let writes = match kind {
            Kind::Open(flags) => {
                let flags = call.arguments[flags] as libc::c_int;
                flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_CREAT != 0
            }
            Kind::Change => true,
            Kind::Execute | Kind::Connect => false,
        };
        Some(Self::Path { pid: call.pid, path, writes })
    }
}

/// A path ends with a zero; what follows it may lie on a page that is not there.
fn string(memory: &File, address: u64) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < PATH_MAX {
        let at = address.checked_add(bytes.len() as u64)?;
        let mut piece = [0; 256];
        let to_page_end = 4096 - usize::try_from(at % 4096).ok()?;
        let length = piece.len().min(to_page_end);
        let read = memory.read_at(&mut piece[..length], at).ok()?;
        if let Some(end) = piece[..read].iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return String::from_utf8(bytes).ok().filter(|path| !path.is_empty());
        }
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(&piece[..read]);
    }
    None
}

fn absolute(call: &Notification, directory: Option<usize>, text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let process = format!("/proc/{}", call.pid);
    let base = match directory.map(|argument| call.arguments[argument] as libc::c_int) {
        Some(descriptor) if descriptor != libc::AT_FDCWD => format!("{process}/fd/{descriptor}"),
        _ => format!("{process}/cwd"),
    };
    // What the kernel prints for a place in another mount namespace is its path from that namespace's root.
    std::fs::read_link(base).ok().filter(|base| base.is_absolute()).map(|base| base.join(path))
}

fn address(memory: &File, call: &Notification) -> Option<Request> {
    let length = usize::try_from(call.arguments[2]).ok()?.min(ADDRESS_MAX);
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, call.arguments[1]).ok()?;
    let family = libc::c_int::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    match family {
        libc::AF_INET => {
            let four: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(Request::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(four)), port()?)))
        }
        libc::AF_INET6 => {
            let sixteen: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(Request::Address(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(sixteen)), port()?)))
        }
        libc::AF_UNIX => {
            let end = bytes[2..].iter().position(|byte| *byte == 0).map_or(bytes.len(), |end| end + 2);
            let path = String::from_utf8(bytes.get(2..end)?.to_vec()).ok()?;
            path.starts_with('/').then(|| Request::Path { pid: call.pid, path: path.into(), writes: false })
        }
        _ => None,
    }
}
