//! The proof: the forbidden acts are tried from where the command will be. One that works is a refusal to start.

use std::io;
use std::net::UdpSocket;

use crate::error::RunError;
use crate::sys::try_forbidden;

/// One act that must fail.
struct Act {
    what: &'static str,
    attempt: fn() -> io::Result<()>,
}

const ACTS: &[Act] = &[
    Act {
        what: "making a user namespace",
        attempt: || try_forbidden(libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0),
    },
    Act { what: "asking for a key of a keyring", attempt: || try_forbidden(libc::SYS_keyctl, 0, -3) },
    Act {
        what: "a virtual machine socket",
        attempt: || try_forbidden(libc::SYS_socket, libc::AF_VSOCK.into(), 1),
    },
    Act { what: "io_uring", attempt: || try_forbidden(libc::SYS_io_uring_setup, 1, 0) },
    Act { what: "writing to /usr", attempt: || std::fs::write("/usr/.keyhatch-probe", b"") },
    Act { what: "reading the host's /root", attempt: || std::fs::read_dir("/root").map(drop) },
    Act { what: "reaching the network", attempt: reach_network },
    Act { what: "looking into init's memory", attempt: || std::fs::read("/proc/1/environ").map(drop) },
    Act { what: "seeing the host's /boot", attempt: || std::fs::metadata("/boot").map(drop) },
];

/// Tries every act.
pub(crate) fn enforce() -> Result<(), RunError> {
    for act in ACTS {
        if (act.attempt)().is_ok() {
            return Err(RunError::ProbeWorked { act: act.what });
        }
    }
    Ok(())
}

/// TEST-NET-1 (RFC 5737): nobody is there, but a route would let the datagram go.
fn reach_network() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"", "192.0.2.1:9").map(drop)
}
