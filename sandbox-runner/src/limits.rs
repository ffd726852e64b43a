//! Resource limits: taken away for good before the command starts. They hold in every tier.

use keyhatch_sandbox_rules::rules::{Limits, SandboxRules};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};

/// The limits to set.
pub(crate) struct Bounds(Vec<(Resource, u64, &'static str)>);

/// Lists the limits of the rules.
pub(crate) fn prepare(rules: &SandboxRules) -> Bounds {
    let Limits { open_files, file_bytes, processes, data_bytes, memory_files: _ } = &rules.limits;
    // A core dump is written by the host's handler, outside, and holds what the process read.
    let mut bounds = vec![(Resource::Core, 0, "core dumps")];
    bounds.extend(open_files.map(|files| (Resource::Nofile, files, "open files")));
    bounds.extend(file_bytes.map(|bytes| (Resource::Fsize, bytes, "file sizes")));
    bounds.extend(processes.map(|processes| (Resource::Nproc, processes, "processes")));
    bounds.extend(data_bytes.map(|bytes| (Resource::Data, bytes, "memory")));
    Bounds(bounds)
}

impl Bounds {
    /// Sets them, hard and soft: nothing inside can raise them again.
    pub(crate) fn enforce(self) -> Result<(), RunError> {
        if mutation::is_off(Mitigation::Limits) {
            return Ok(());
        }
        for (resource, value, name) in self.0 {
            let value = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
            let limit = Rlimit { current: Some(value), maximum: Some(value) };
            setrlimit(resource, limit).map_err(at("limit", name))?;
        }
        Ok(())
    }
}
