//! A real OpenSSH server, run by the user on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::ports::wait_for;
use crate::{Running, World, free_port};

/// Which git protocol the server lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshVersion {
    /// It accepts `GIT_PROTOCOL`, as forges do.
    V2,
    /// A plain sshd, which drops the variable.
    V0,
}

/// A running sshd; ends when dropped.
pub struct SshServer {
    port: u16,
    user: String,
    _sshd: Running,
}

impl SshServer {
    /// Starts one, and sets the user's ssh up for it: key, known_hosts, and an alias `work`.
    ///
    /// # Panics
    /// When sshd is not installed or does not start.
    #[must_use]
    pub fn start(world: &World, version: SshVersion) -> Self {
        assert!(
            Path::new("/usr/sbin/sshd").exists(),
            "openssh-server is missing: run ./test.sh, which installs it"
        );
        let port = free_port();
        let directory = world.make_directory(&format!("sshd-{port}"));
        let at = |name: &str| directory.join(name).display().to_string();
        for key in ["host", "id"] {
            let made =
                world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]).status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        let accept = if version == SshVersion::V2 { "AcceptEnv GIT_PROTOCOL\n" } else { "" };
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n{accept}",
            at("host"),
            at("id.pub")
        );
        let config = world.write(&format!("sshd-{port}/sshd_config"), &config);
        let mut sshd = world.command("/usr/sbin/sshd");
        sshd.arg("-D").arg("-e").arg("-f").arg(config).stdin(Stdio::null());
        let sshd = world.spawn(sshd);
        wait_for(port, "sshd");
        let public = std::fs::read_to_string(at("host.pub")).expect("a host key");
        world.write(&format!("sshd-{port}/known_hosts"), &format!("[127.0.0.1]:{port} {public}"));
        let user = world.user.name.clone();
        let client = format!(
            "Host work\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\nHost *\n  IdentityFile {}\n  \
             IdentitiesOnly yes\n  UserKnownHostsFile {}\n  LogLevel ERROR\n",
            at("id"),
            at("known_hosts")
        );
        let client = world.write(&format!("sshd-{port}/config"), &client);
        // OpenSSH finds its configuration by the password file and not by HOME: this is how a test has its own.
        let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", client.display());
        world.write_mode("bin/ssh", &wrapper, 0o755);
        Self { port, user, _sshd: sshd }
    }

    /// Gives the user's ssh an alias for the same server, with a key of its own that the server does not accept, and has it
    /// share connections by itself.
    ///
    /// # Panics
    /// When no key can be made.
    pub fn add_alias_without_access(&self, world: &World, alias: &str) {
        let at = |name: &str| world.path(&format!("sshd-{}/{name}", self.port)).display().to_string();
        let key = at(alias);
        let made = world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
        assert!(made.expect("ssh-keygen runs").success());
        let host = |name: &str, key: &str| {
            format!(
                "Host {name}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {key}\n",
                self.port, self.user
            )
        };
        let all = format!(
            "Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  LogLevel ERROR\n  ControlMaster auto\n  \
             ControlPath {}\n  ControlPersist 60\n",
            at("known_hosts"),
            at("%C")
        );
        let text = [host("work", &at("id")), host(alias, &key), all].concat();
        world.write(&format!("sshd-{}/config", self.port), &text);
    }

    /// `ssh://user@127.0.0.1:port/path`.
    #[must_use]
    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, repository.display())
    }

    /// `work:path`, through the alias of the user's configuration.
    #[must_use]
    pub fn alias_url(&self, repository: &Path) -> String {
        format!("work:{}", repository.display())
    }
}

impl World {
    /// A user with a project whose only remote asks for a key over ssh: the server, the upstream and the project.
    ///
    /// # Panics
    /// When the server does not start.
    #[must_use]
    pub fn behind_ssh() -> (Self, SshServer, PathBuf, PathBuf) {
        let world = Self::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        (world, server, upstream, project)
    }
}
