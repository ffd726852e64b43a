//! Loading a filter. Each block: why no safe call does this, and what must hold.
#![allow(unsafe_code)]

use std::io;

/// Loads a seccomp filter for this thread and everything it starts: `seccomp(2)` SECCOMP_SET_MODE_FILTER. `flags` are those of
/// the call.
///
/// # Errors
/// What the kernel says; EACCES where `no_new_privs` is not set.
pub fn load_filter(steps: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let length = u16::try_from(steps.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len: length, filter: steps.as_ptr().cast_mut() };
    // JUSTIFICATION: no safe crate loads a program that it did not compile itself. SAFETY: the kernel copies the steps, which
    // live across the call, and keeps no pointer; it never writes to them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
