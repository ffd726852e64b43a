//! The image's own programs: what this helper does not answer itself, the real one does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What a shell exits with for a command that is not there.
const NOT_FOUND: u8 = 127;

/// Becomes the image's program of this name, which verifies signatures there.
pub(crate) fn become_program(name: &str, arguments: &[OsString]) -> ExitCode {
    if !has(name) {
        eprintln!("keyhatch: {name} is not installed in this image, and only signing is done on the host");
        eprintln!("hint: install it in the image to verify signatures there");
        return ExitCode::from(NOT_FOUND);
    }
    become_program_with(name, arguments, [])
}

/// Becomes the image's program of this name, with these variables beside its own.
pub(crate) fn become_program_with(
    name: &str,
    arguments: &[OsString],
    variables: impl IntoIterator<Item = (&'static str, PathBuf)>,
) -> ExitCode {
    let Some(program) = find(name) else {
        eprintln!("keyhatch: {name} is not installed here");
        return ExitCode::from(NOT_FOUND);
    };
    // Only an error returns.
    let error = Command::new(&program).args(arguments).envs(variables).exec();
    eprintln!("keyhatch: cannot run {}: {error}", program.display());
    ExitCode::from(NOT_FOUND)
}

/// Whether the image has a program of this name.
pub(crate) fn has(name: &str) -> bool {
    find(name).is_some()
}

/// Finds a program in `PATH` that is not this one under another name.
fn find(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?.canonicalize().ok()?;
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories)
        .map(|directory| directory.join(name))
        .find(|path| path.canonicalize().is_ok_and(|real| real != own && real.is_file()))
}
