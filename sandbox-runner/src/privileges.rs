//! Capabilities and `no_new_privs`: no power is left, and no later exec gets one back.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};

/// Drops every capability, also from what a later exec could regain.
pub(crate) fn drop_capabilities() -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Capabilities) {
        return Ok(());
    }
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel is older than the capability's name.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            // Without namespaces there was no power to begin with, and none is needed to keep it so.
            Err(rustix::io::Errno::PERM) => break,
            Err(error) => return Err(at("drop", "a capability")(error)),
        }
    }
    clear_ambient_capability_set().map_err(at("drop", "ambient capabilities"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(at("drop", "capabilities"))
}

/// Makes setuid programs and file capabilities powerless from here on.
pub(crate) fn forbid_new() -> Result<(), RunError> {
    if mutation::is_off(Mitigation::NoNewPrivileges) {
        return Ok(());
    }
    set_no_new_privs(true).map_err(at("forbid", "new privileges"))
}

/// Hides this process's memory and descriptors from others of the same user, the agent above all.
pub(crate) fn hide() -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Dumpable) {
        return Ok(());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("hide", "this process's memory"))
}
