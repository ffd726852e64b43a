//! A session for a container that keyhatch did not make: one directory to mount, and mounts over the project.
//!
//! Comes in: where the project is inside, and the helper's program. Goes out: files in the session's directory of
//! sockets, mounts and variables for whoever starts the container. Inside, any uid must reach them; on the host, the
//! 0700 directory around them lets nobody through but the user.

mod confined;
mod name;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use keyhatch_policies::network::NetworkMode;
use keyhatch_policies::rules::{FileInside, Mount};
use keyhatch_policies::{Policy, Project, ProjectAccess};
use keyhatch_protocol::SessionId;
use keyhatch_protocol::message::{BRIDGE_BASE, HTTP_SOCKET_NAME, SOCKET_NAME, SOCKETS_VARIABLE};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use name::{NameClaim, NameClaims, NameError, SessionName};
pub use program::ProgramError;

use super::git_config::{self, Setting};
use super::{FRONT_END_PORT, SOCKETS_INSIDE};
use crate::{signer, ssh_agent};

/// The runner's name in the mounted directory, and the one that people know.
const RUNNER: &str = "keyhatch-run";
const COMMAND: &str = "keyhatch";
/// The helper's.
const HELPER: &str = "keyhatch-helper";
/// Its roles that git calls by a program's path, besides those of signing.
const ROLES: [&str; 2] = ["git-credential-keyhatch", "ssh"];
/// The configuration that `GIT_CONFIG_SYSTEM` names (git 2.32 and later). It includes the image's own.
const CONFIG: &str = "gitconfig";
/// Where things go and who is asked, without preferences: `GIT_CONFIG_PARAMETERS` includes it. git 2.30 and 2.31 know no
/// `GIT_CONFIG_SYSTEM`; and read last, it outdoes the credential helpers that editors put into the image's home.
const BROKERED: &str = "gitconfig-brokered";
/// The same for tools that speak HTTP only, to a port that `keyhatch-helper forward` opens.
const OVER_HTTP: &str = "gitconfig-http";
/// What is mounted over the image's own, where that is asked for: it cannot include what it covers.
const OVER_ETC: &str = "gitconfig-etc";
/// The image's own.
const ETC: &str = "/etc/gitconfig";

/// What a container's session is opened with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Where the project is mounted inside; none where that is not known, and then its git directory is not covered.
    pub target: Option<PathBuf>,
    /// The helper's program on the host.
    pub helper: PathBuf,
    /// The static runner's, where there is one: what `keyhatch run --inside` is in the container.
    pub runner: Option<PathBuf>,
    /// Whether the image's `/etc/gitconfig` is covered too.
    pub over_etc: bool,
    /// Whether the directory of sockets is reached at its own path: by a sandbox that shows the host's files.
    pub in_place: bool,
    /// What a link to the session's directory is called.
    pub name: Option<SessionName>,
    /// How many seconds it lasts at most.
    pub lasts: u64,
    /// Whether it ends with the connection that opened it.
    pub bound: bool,
}

/// A container's session could not be furnished.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The helper or the runner cannot be used.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The project itself would have to be mounted over.
    #[error("the project is a bare repository: nothing can be mounted over it in a container")]
    Bare,
    /// A file of ours.
    #[error("cannot write the session's files")]
    Write(#[from] io::Error),
}

/// What whoever starts the container needs.
#[derive(Debug)]
pub struct Furniture {
    /// The directory of sockets, and mounts over the project; parents first. Targets are paths inside.
    pub mounts: Vec<Mount>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// What of the policy does not hold here, and what is open: a line each.
    pub warnings: Vec<String>,
}

/// What of a session becomes files in its directory.
#[derive(Debug)]
pub struct Content<'c> {
    /// The session.
    pub id: &'c SessionId,
    /// Its directory of sockets on the host.
    pub sockets: &'c Path,
    /// Its policy.
    pub policy: &'c Policy,
    /// Its remotes.
    pub project: &'c Project,
    /// How the user likes git, and how they sign.
    pub preferences: Vec<Setting>,
    /// Files that those name, by the path where a sandbox has them.
    pub files: Vec<FileInside>,
}

impl Container {
    /// Writes what is mounted, and says what is mounted where. Every mount target is a path inside.
    ///
    /// # Errors
    /// When the helper cannot be used, or a file not be written.
    pub fn furnish(&self, content: Content<'_>) -> Result<Furniture, ContainerError> {
        let (id, sockets, warnings) = (content.id, content.sockets, self.warnings(content.policy));
        let inside = self.inside(sockets);
        program::place(&self.helper, &sockets.join(HELPER))?;
        if let Some(runner) = &self.runner {
            program::place(runner, &sockets.join(RUNNER))?;
            symlink(RUNNER, sockets.join(COMMAND))?;
        }
        for role in ROLES.into_iter().chain(signer::links().map(|(role, _)| role)) {
            symlink(HELPER, sockets.join(role))?;
        }
        let agent = content.policy.ssh_agent().is_some();
        write_files(content, &inside)?;
        fs::set_permissions(sockets, fs::Permissions::from_mode(0o755))?;
        let read_only =
            |source: PathBuf, target: &str| Mount { source, target: target.into(), read_only: true };
        let mut mounts = Vec::new();
        if !self.in_place {
            mounts.push(read_only(sockets.to_owned(), SOCKETS_INSIDE));
        }
        if self.over_etc {
            mounts.push(read_only(sockets.join(OVER_ETC), ETC));
        }
        let mut env = BTreeMap::from([
            ("KEYHATCH_SESSION".to_owned(), id.to_string()),
            ("GIT_CONFIG_SYSTEM".to_owned(), format!("{inside}/{CONFIG}")),
            ("GIT_CONFIG_PARAMETERS".to_owned(), format!("'include.path={inside}/{BROKERED}'")),
            ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        ]);
        if agent {
            env.insert("SSH_AUTH_SOCK".into(), format!("{inside}/{}", ssh_agent::SOCKET_NAME));
        }
        if self.in_place {
            env.insert(SOCKETS_VARIABLE.into(), inside);
        }
        Ok(Furniture { mounts, env, warnings })
    }

    /// Where the directory of sockets is inside.
    fn inside(&self, sockets: &Path) -> String {
        if self.in_place { sockets.display().to_string() } else { SOCKETS_INSIDE.to_owned() }
    }

    fn warnings(&self, policy: &Policy) -> Vec<String> {
        let mut warnings = Vec::new();
        match (policy.sandbox().project, &self.target) {
            (ProjectAccess::None, _) => {}
            (_, None) => warnings.push(
                "the host's git directory is writable from inside, with hooks and configuration that the host's git \
                 obeys, and files that the policy hides can be read: --target DIR, the project's place inside, covers them"
                    .to_owned(),
            ),
            (ProjectAccess::Read, Some(target)) => warnings.push(format!(
                "the policy lets the project be read only: mount it read-only at {}",
                target.display()
            )),
            (ProjectAccess::Write, Some(_)) => {}
        }
        if policy.network().mode != NetworkMode::None {
            warnings.push(
                "the policy's [network] holds in keyhatch run only: the container has the network that its engine gives it"
                    .to_owned(),
            );
        }
        warnings
    }

    /// The same mounts where the project is inside.
    ///
    /// # Errors
    /// When the project itself would be covered, which its own mount does already.
    pub fn moved(&self, project: &Path, mounts: Vec<Mount>) -> Result<Vec<Mount>, ContainerError> {
        let Some(target) = &self.target else { return Ok(mounts) };
        let moved = mounts.into_iter().map(|mount| match mount.target.strip_prefix(project) {
            Ok(rest) if rest.as_os_str().is_empty() => Err(ContainerError::Bare),
            Ok(rest) => Ok(Mount { target: target.join(rest), ..mount }),
            Err(_) => Ok(mount),
        });
        moved.collect()
    }
}

/// Lets any uid inside connect. The sockets are bound with what the umask left of their mode.
///
/// # Errors
/// When a mode cannot be set.
pub fn let_all_connect(sockets: &Path) -> io::Result<()> {
    for name in [SOCKET_NAME, HTTP_SOCKET_NAME, ssh_agent::SOCKET_NAME] {
        match fs::set_permissions(sockets.join(name), fs::Permissions::from_mode(0o666)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `inside` is where the directory is inside.
fn write_files(content: Content<'_>, inside: &str) -> io::Result<()> {
    let Content { id: _, sockets, policy, project, mut preferences, files } = content;
    let write = |name: &str, text: &str| {
        fs::write(sockets.join(name), text)?;
        fs::set_permissions(sockets.join(name), fs::Permissions::from_mode(0o644))
    };
    for FileInside { path, content, bridged: _ } in files {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        write(name, &content)?;
        for setting in preferences.iter_mut().filter(|setting| Path::new(&setting.value) == path) {
            setting.value = format!("{inside}/{name}");
        }
    }
    let mut programs = Vec::new();
    for setting in preferences.iter_mut().filter(|setting| setting.key.ends_with("program")) {
        if let Ok(role) = Path::new(&setting.value).strip_prefix(SOCKETS_INSIDE) {
            setting.value = format!("{inside}/{}", role.display());
            programs.push(setting.clone());
        }
    }
    let place = |front_end: &str| {
        let helper = format!("{inside}/{HELPER}");
        let mut settings = git_config::brokering(policy, project, front_end, &helper);
        let helper = format!("{inside}/{}", ROLES[0]);
        settings.push(Setting { key: "credential.helper".into(), value: helper });
        settings
    };
    // git 2.30 to 2.33 read nothing but their system configuration of ours, and die of a format that they do not know.
    let ssh = preferences.iter().any(|setting| setting.key == "gpg.format" && setting.value == "ssh");
    let signs = |setting: &Setting| setting.key == "gpg.format" || setting.key.ends_with("gpgsign");
    let older = preferences.iter().filter(|setting| !(ssh && signs(setting))).cloned().collect();
    let included = vec![Setting { key: "include.path".into(), value: ETC.into() }];
    let loopback = format!("http://127.0.0.1:{FRONT_END_PORT}");
    for (name, parts) in [
        (CONFIG, [included.clone(), preferences.clone(), place(BRIDGE_BASE)]),
        (OVER_ETC, [Vec::new(), older, place(BRIDGE_BASE)]),
        (OVER_HTTP, [included, preferences, place(&loopback)]),
        (BROKERED, [Vec::new(), programs, place(BRIDGE_BASE)]),
    ] {
        write(name, &git_config::render(&parts.concat()))?;
    }
    Ok(())
}
