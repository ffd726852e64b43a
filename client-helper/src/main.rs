//! `keyhatch-helper`: plays its role by the name it is called by, or by its first argument.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    keyhatch_helper::main(std::env::args_os(), &mut std::io::stdin(), &mut std::io::stdout().lock())
}
