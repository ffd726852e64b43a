//! Limits and capabilities: what is taken away for good before the command starts.

use keyhatch_policies::rules::Limits;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::error::{RunError, at};

/// Sets resource limits, hard and soft: nothing inside can raise them again.
pub(crate) fn limit(limits: &Limits) -> Result<(), RunError> {
    let set = |resource, value: u64, name: &str| {
        let current =
            rustix::process::getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        let limit = Rlimit { current: Some(current), maximum: Some(current) };
        setrlimit(resource, limit).map_err(at("limit", name))
    };
    // A core dump is written by the host's handler, outside, and holds what the process read.
    set(Resource::Core, 0, "core dumps")?;
    if let Some(files) = limits.open_files {
        set(Resource::Nofile, files, "open files")?;
    }
    if let Some(bytes) = limits.file_bytes {
        set(Resource::Fsize, bytes, "file sizes")?;
    }
    if let Some(processes) = limits.processes {
        set(Resource::Nproc, processes, "processes")?;
    }
    if let Some(bytes) = limits.data_bytes {
        set(Resource::Data, bytes, "memory")?;
    }
    Ok(())
}

/// Drops every capability, also from what a later exec could regain, and forbids new privileges.
pub(crate) fn drop_all() -> Result<(), RunError> {
    // Init keeps the same uid as the agent: not dumpable, its memory and descriptors are out of the agent's reach.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("hide", "init's memory"))?;
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel is older than the capability's name.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(at("drop", "a capability")(error)),
        }
    }
    clear_ambient_capability_set().map_err(at("drop", "ambient capabilities"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(at("drop", "capabilities"))?;
    set_no_new_privs(true).map_err(at("forbid", "new privileges"))
}
