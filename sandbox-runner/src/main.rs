//! `keyhatch-run`: builds the sandbox from resolved rules, proves it, and execs the agent.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    keyhatch_run::main(std::env::args_os())
}
