//! The home that a policy keeps: a directory of its own, below the user's state, that no other policy's session sees.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::paths::{Paths, PathsError, make_private};

/// Finds or makes it.
///
/// # Errors
/// When it cannot be made, or is not private.
pub(super) fn of_policy(paths: &Paths, name: &str, origin: &str) -> Result<PathBuf, PathsError> {
    let homes = paths.homes();
    make_private(&homes)?;
    let home = homes.join(directory_name(name, origin));
    make_private(&home)?;
    Ok(home)
}

/// A readable name and a digest: two files with a policy of the same name are two policies, and an edited one stays
/// itself.
fn directory_name(name: &str, origin: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let readable: String = name.chars().map(plain).take(40).collect();
    let mut digest = Sha256::new();
    digest.update(name.as_bytes());
    digest.update([0]);
    digest.update(origin.as_bytes());
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{readable}-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_or_another_file_is_another_home() {
        let names = [
            directory_name("default", "default.toml"),
            directory_name("default", "/home/u/default.toml"),
            directory_name("defaul", "tdefault.toml"),
            directory_name("../../x", "p"),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name));
            assert!(!name.contains(['/', '.']), "{name}");
        }
    }
}
