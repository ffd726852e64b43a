//! What `tests/downloads.sh` brought before the tests: programs and data that no test downloads by itself.

use std::path::{Path, PathBuf};

/// A directory of it, by the name that the script gives it; nobody writes to it.
///
/// # Panics
/// When it is not there: what brings it.
#[must_use]
pub fn downloaded(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/downloads").join(name);
    assert!(directory.is_dir(), "{name} is missing: run ./test.sh, or tests/downloads.sh target/downloads");
    directory
}
