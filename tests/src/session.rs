//! A session for containers that keyhatch did not make, and what they mount of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::{Mount, Running, World};

/// An open session.
pub struct ContainerSession {
    /// The directory of its sockets on the host.
    pub sockets: PathBuf,
    /// What a container mounts.
    pub mounts: Vec<Mount>,
    /// A container's environment.
    pub env: Vec<(String, String)>,
    held: Running,
}

impl ContainerSession {
    /// Opens one for a project.
    #[must_use]
    pub fn open(world: &World, project: &Path, policy: &str) -> Self {
        world.static_helper();
        let held = world.start(
            project,
            policy,
            "git config --system --list -z > conf; cp /etc/gitconfig etc-gitconfig; sleep 1000",
        );
        let sessions = world.path("run/keyhatch/sessions");
        world.wait_until("a session opens", || project.join("etc-gitconfig").exists());
        let sockets = fs::read_dir(&sessions)
            .expect("it is there")
            .next()
            .expect("it is there")
            .expect("it is there")
            .path();
        let text = fs::read_to_string(project.join("etc-gitconfig")).expect("it is there");
        let text = text
            .replace("http://127.0.0.1:8417/", "ssh://keyhatch/")
            .replace("/run/keyhatch-helper ssh", "/run/keyhatch/keyhatch-helper ssh")
            .replace("\tformat = \"ssh\"\n", "")
            .replace("/etc/keyhatch/", "/run/keyhatch/")
            .replace(
                "[credential]\n\thelper = \"\"",
                "[credential]\n\thelper = /run/keyhatch/git-credential-keyhatch",
            );
        fs::write(sockets.join("gitconfig"), text).expect("it is there");
        fs::copy(world.path("bin/keyhatch-helper"), sockets.join("keyhatch-helper")).expect("it is there");
        for file in ["signing.pub", "allowed_signers"] {
            let made = world.home().join("allowed_signers");
            if let Ok(text) = fs::read_to_string(made) {
                let line = text.split_once(' ').expect("a signer").1.to_owned();
                fs::write(sockets.join(file), if file == "signing.pub" { line } else { text })
                    .expect("it is there");
            }
        }
        for role in ["ssh-keygen", "gpg", "gpgsm", "ssh", "git-credential-keyhatch"] {
            fs::remove_file(sockets.join(role)).ok();
            symlink("keyhatch-helper", sockets.join(role)).expect("it is there");
        }
        for (name, mode) in [("http.sock", 0o666), ("broker.sock", 0o666), ("", 0o755)] {
            fs::set_permissions(sockets.join(name), fs::Permissions::from_mode(mode)).expect("it is there");
        }
        let mounts = vec![
            (sockets.clone(), "/run/keyhatch".to_owned(), true),
            (sockets.join("gitconfig"), "/etc/gitconfig".to_owned(), true),
        ];
        let env = vec![("GIT_CONFIG_SYSTEM".to_owned(), "/run/keyhatch/gitconfig".to_owned())];
        Self { sockets, mounts, env, held }
    }

    /// Closes it.
    pub fn close(self, _world: &World) {
        drop(self.held);
    }
}
