//! The system calls that no safe crate offers. Each block: why no safe call does this, and what must hold.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel kill a program that a confined child starts when that child ends: it may not send signals itself. The filter
/// keeps the program from taking this back.
pub fn end_with_this_process(command: &mut Command) {
    // JUSTIFICATION: std has no way to ask for a death signal. SAFETY: between fork and exec only prctl(2) is called, which is
    // async-signal-safe, allocates nothing and touches no memory.
    unsafe {
        command.pre_exec(|| {
            let result = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}
