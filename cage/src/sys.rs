//! The system calls that no safe crate offers. Each block: why no safe call does this, and what must hold.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel kill a program that a confined child starts when that child ends: it may not send signals itself. The filter
/// keeps the program from taking this back.
pub fn end_with_this_process(command: &mut Command) {
    let parent = std::process::id();
    // JUSTIFICATION: std has no way to ask for a death signal. SAFETY: between fork and exec only prctl(2) and getppid(2) are
    // called, which are async-signal-safe, allocate nothing and touch no memory.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
                return Err(io::Error::last_os_error());
            }
            // A parent that died before it was watched sends nothing any more: prctl(2).
            let still = u32::try_from(libc::getppid()).is_ok_and(|now| now == parent);
            if still { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        });
    }
}
