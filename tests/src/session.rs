//! A session for containers that keyhatch did not make, opened as a user does it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Finished, Mount, World};

/// An open session.
pub struct ContainerSession {
    /// Its id.
    pub id: String,
    /// The directory of its sockets on the host.
    pub sockets: PathBuf,
    /// What a container mounts.
    pub mounts: Vec<Mount>,
    /// A container's environment.
    pub env: Vec<(String, String)>,
    /// All that `keyhatch session open --json` printed.
    pub json: Value,
}

impl ContainerSession {
    /// Opens one for a project.
    #[must_use]
    pub fn open(world: &World, project: &Path, policy: &str) -> Self {
        Self::open_with(world, project, policy, &[])
    }

    /// Opens one with more options.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn open_with(world: &World, project: &Path, policy: &str, options: &[&str]) -> Self {
        world.static_helper();
        let mut command = world.command(world.path("bin/keyhatch"));
        command.current_dir(project).args([
            "session",
            "open",
            "--project",
            ".",
            "--policy",
            policy,
            "--json",
        ]);
        let opened = Finished::from(command.args(options).output().expect("keyhatch runs")).ok();
        Self::of(serde_json::from_str(&opened.stdout).expect("JSON"))
    }

    /// Reads what was printed.
    ///
    /// # Panics
    /// When it is not what the documentation says.
    #[must_use]
    pub fn of(json: Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mounts: Vec<Mount> = json["mounts"]
            .as_array()
            .expect("mounts")
            .iter()
            .map(|m| {
                let read_only = m["readonly"].as_bool().expect("yes or no");
                (PathBuf::from(text(&m["source"])), text(&m["target"]), read_only)
            })
            .collect();
        let env = json["env"].as_object().expect("an object");
        Self {
            id: text(&json["session"]),
            sockets: mounts.first().expect("the directory of sockets comes first").0.clone(),
            env: env.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            mounts,
            json,
        }
    }

    /// Closes it, whatever runs.
    pub fn close(self, world: &World) {
        world.keyhatch(&["session", "close", &self.id]).ok();
    }
}
