//! Programs from the npm registry, as their users install them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs a package (`name@version`) into the tree's own target directory, once; answers its prefix, with `bin` in it.
///
/// # Panics
/// When npm is missing or fails: what it says.
#[must_use]
pub fn npm_package(package: &str) -> PathBuf {
    let name: String = package.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/presets").join(name);
    if !prefix.join("bin").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--global", "--no-audit", "--no-fund", "--prefix"]).arg(&prefix).arg(package);
        let output = npm.output().expect("npm is installed by ./test.sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    prefix
}
