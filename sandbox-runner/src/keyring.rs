//! The session keyring: a fresh, empty one. Keyrings are not namespaced, so a key of the user's would stay readable.

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

/// Joins a fresh session keyring.
pub(crate) fn enforce() -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Keyring) {
        return Ok(());
    }
    match sys::join_fresh_keyring() {
        // A container's filter refuses keyrings to everybody, or the kernel has none: then none can be read either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => Ok(()),
        joined => joined.map_err(at("join", "a fresh session keyring")),
    }
}
