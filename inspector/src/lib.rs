//! `keyhatch-inspect`: reads what may be hostile, so that the process that holds secrets need not.
//!
//! Comes in: one request on a socket, and read-only descriptors. Goes out: one answer, which nobody believes unchecked. It
//! confines itself before it reads a hostile byte; libgit2 and gix are in this program alone.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod harvest;
pub mod push;
mod sys;
pub mod verify;

/// The code for a task that does not exist.
const UNKNOWN: u8 = 2;

/// Runs the task that the only argument names.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let task = arguments.into_iter().nth(1).unwrap_or_default();
    match task.to_str() {
        Some("inspect") => push::main(),
        Some("harvest") => harvest::main(),
        Some("verify-objects") => verify::main(),
        Some("--version") => {
            println!("keyhatch-inspect {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("keyhatch-inspect: the broker starts this program\nhint: keyhatch --help");
            ExitCode::from(UNKNOWN)
        }
    }
}
