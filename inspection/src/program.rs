//! Where `keyhatch-inspect` is: beside the program that asks.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::{env, io};

use keyhatch_cage::{ChildError, Program};
use rustix::fs::OFlags;

/// The inspector's file name.
pub const INSPECTOR: &str = "keyhatch-inspect";

/// The inspector, opened once: a broker that runs on while its programs are replaced keeps the one of its own version.
static OPENED: OnceLock<File> = OnceLock::new();

/// Finds the inspector beside this program, and keeps it for all that this process will ask.
///
/// # Errors
/// When it is not there, by its file's name, or cannot be opened.
pub fn open_inspector() -> Result<(), ChildError> {
    inspector().map(drop)
}

fn inspector() -> Result<&'static File, ChildError> {
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let path = env::current_exe()?.with_file_name(INSPECTOR);
    let flags = OFlags::PATH.bits().cast_signed();
    let opened =
        File::options().read(true).custom_flags(flags).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ChildError::Missing { program: path },
            _ => error.into(),
        })?;
    Ok(OPENED.get_or_init(|| opened))
}

/// The inspector with one of its tasks. The descriptor is open as long as this process, and closes as the child starts.
pub(crate) fn program(task: &'static str, max_answer: usize) -> Result<Program, ChildError> {
    let opened = inspector()?;
    Ok(Program { path: PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())), task, max_answer })
}
