//! `keyhatch-inspect`: reads what may be hostile, in confinement, for the broker.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    keyhatch_inspect::main(std::env::args_os())
}
