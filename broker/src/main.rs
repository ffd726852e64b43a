//! `keyhatch`: the user's command and the daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    keyhatch_broker::cli::main(std::env::args_os())
}
