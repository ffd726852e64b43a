//! A machine that gives no user namespaces, as most containers: a namespace around the command whose own limit of namespaces
//! is zero. The powers that it gives are dropped before keyhatch starts.

use std::path::Path;
use std::process::Command;

use crate::{Finished, Running, World};

/// Runs the rest of its arguments where no user namespace can be made.
pub const NO_NAMESPACES: &[&str] = &[
    "unshare",
    "--user",
    "--map-current-user",
    "--keep-caps",
    "sh",
    "-c",
    "echo 0 > /proc/sys/user/max_user_namespaces && \
     exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all \"$@\"",
    "sh",
];

impl World {
    /// A keyhatch command where no user namespace can be made.
    #[must_use]
    pub fn unnamespaced(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(NO_NAMESPACES[0]);
        command.args(&NO_NAMESPACES[1..]).arg(self.path("bin/keyhatch")).args(arguments);
        command
    }

    /// Starts a shell script in a project's sandbox there.
    pub fn start_unnamespaced(&self, project: &Path, policy: &str, script: &str) -> Running {
        let mut command = self.unnamespaced(&["run", "--policy", policy, "--", "sh", "-c", script]);
        command.current_dir(project);
        self.spawn(command)
    }

    /// Runs a shell script in a project's sandbox there and waits for it.
    pub fn run_unnamespaced(&self, project: &Path, policy: &str, script: &str) -> Finished {
        self.start_unnamespaced(project, policy, script).finish()
    }
}
