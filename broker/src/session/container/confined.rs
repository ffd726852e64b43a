//! The rules for `keyhatch run --inside`: the policy resolved here, where it cannot be touched, for a sandbox that the
//! runner builds in the container. What only the container knows (its user's home, a place for temporary files) is left
//! open, and what cannot be had there is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_policies::network::NetworkMode;
use keyhatch_policies::rules::{INSIDE_FILE, InsideRules, Mount, NetworkInside, SandboxRules};
use keyhatch_policies::{HomeChoice, Policy, ProjectAccess, SessionLimits};
use keyhatch_protocol::SessionId;

use super::{Container, ContainerError, Furniture};
use crate::inside::system::{KEPT, SYSTEM, limits};

/// What images have of programs and libraries beside what hosts have: musl's loader reads its own path, and git the
/// image's configuration, which ours includes.
const IMAGES: &[&str] = &[
    "/opt",
    "/nix/store",
    "/etc/ld-musl-aarch64.path",
    "/etc/ld-musl-x86_64.path",
    "/etc/gitconfig",
    "/etc/profile.d",
];

impl Container {
    /// Writes the rules beside the session's sockets, where there is a runner that reads them. Without the project's place
    /// inside nothing could be said of what the command may write: then there are none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn confine(
        &self,
        id: &SessionId,
        sockets: &Path,
        (policy, furniture): (&Policy, &Furniture),
    ) -> Result<(), ContainerError> {
        let access = policy.sandbox().project;
        let project = self.target.as_ref().filter(|_| access != ProjectAccess::None);
        if self.runner.is_none() || (project.is_none() && access != ProjectAccess::None) {
            return Ok(());
        }
        let rules = InsideRules {
            rules: self.rules((id, &self.inside(sockets)), policy, (project, furniture)),
            keep: KEPT.iter().map(|name| (*name).to_owned()).chain(policy.sandbox().keep.clone()).collect(),
            tools: policy.sandbox().tools.clone(),
            notes: notes(policy),
            seconds: policy.session_limits().time.map(|time| time.as_secs()),
        };
        let text = serde_json::to_vec(&rules).map_err(std::io::Error::from)?;
        let path = sockets.join(INSIDE_FILE);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
        Ok(())
    }

    fn rules(
        &self,
        (id, sockets): (&SessionId, &str),
        policy: &Policy,
        (project, furniture): (Option<&PathBuf>, &Furniture),
    ) -> SandboxRules {
        let read_only = policy.sandbox().project == ProjectAccess::Read;
        let at_its_place =
            |path: &Path, read_only| Mount { source: path.into(), target: path.into(), read_only };
        // What is mounted over the project comes with it. The sockets are connected to; their directory is read-only.
        let mut mounts = vec![at_its_place(Path::new(sockets), false)];
        mounts.extend(project.map(|project| at_its_place(project, read_only)));
        let elsewhere = furniture
            .mounts
            .iter()
            .filter(|mount| !mounts.iter().any(|shown| mount.target.starts_with(&shown.target)));
        let elsewhere: Vec<Mount> =
            elsewhere.map(|mount| at_its_place(&mount.target, mount.read_only)).collect();
        mounts.extend(elsewhere);
        let mut env = policy.sandbox().env.clone();
        env.extend(furniture.env.clone());
        SandboxRules {
            session: id.clone(),
            cwd: project.cloned().unwrap_or_default(),
            home: PathBuf::new(),
            home_source: None,
            system: SYSTEM.iter().chain(IMAGES).map(PathBuf::from).collect(),
            mounts,
            files: Vec::new(),
            env,
            command: Vec::new(),
            network: NetworkInside::Own { sockets: Vec::new() },
            terminal: false,
            limits: limits(policy.session_limits(), false),
            cgroup: false,
            observe: None,
            require: policy.sandbox().require.clone(),
            quiet: false,
            fallback: PathBuf::new(),
        }
    }
}

/// What of the policy the container does not have, a line each.
fn notes(policy: &Policy) -> Vec<String> {
    let mut notes = Vec::new();
    if policy.network().mode != NetworkMode::None {
        notes.push(
            "the policy's [network] is enforced on the host, for keyhatch run there: here nothing connects but to the \
             session's sockets"
                .to_owned(),
        );
    }
    if policy.sandbox().home == HomeChoice::Persistent {
        notes.push(
            "the home that the policy keeps is on the host: here it is empty, and gone at the end".to_owned(),
        );
    }
    let SessionLimits { memory, swap, cpu, io, idle, growth, output, processes: _, time: _, disk: _ } =
        *policy.session_limits();
    let held = [
        ("swap", swap.filter(|_| memory.is_some()).is_some()),
        ("cpu", cpu.is_some()),
        ("io", io.is_some()),
        ("idle", idle.is_some()),
        ("growth", growth.is_some()),
        ("output", output.is_some()),
    ];
    let lost: Vec<&str> = held.iter().filter_map(|(word, wanted)| wanted.then_some(*word)).collect();
    let memory =
        if memory.is_some() { "; memory is limited for each process, not for all together" } else { "" };
    let lost = if lost.is_empty() { String::new() } else { format!("; not limited: {}", lost.join(", ")) };
    if !(memory.is_empty() && lost.is_empty()) {
        notes.push(format!("no cgroup of keyhatch's inside a container{memory}{lost}"));
    }
    notes
}
