//! A docker daemon of a test's own, with root and without systemd.

use std::process::Stdio;

use tempfile::TempDir;

use crate::container::program;
use crate::{Container, Finished, Image, Running, World};

/// A running dockerd; ends when dropped.
pub struct Docker<'a> {
    world: &'a World,
    directory: TempDir,
    daemon: Option<Running>,
}

impl<'a> Docker<'a> {
    /// Starts one; with user namespaces for containers where `remapped`.
    ///
    /// # Panics
    /// When docker.io is not installed, or dockerd does not start.
    #[must_use]
    pub fn start(world: &'a World, remapped: bool) -> Self {
        // Containers of remapped users have to get through to their roots: not within the world's own directory.
        let place =
            tempfile::Builder::new().prefix("keyhatch-docker-").tempdir_in("/tmp").expect("a directory");
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(place.path(), passable).expect("a mode can be set");
        let directory = place.path();
        let at = |name: &str| directory.join(name);
        // In mounts of its own, so that nothing of it is left on the machine's.
        let mut daemon = world.as_root("unshare");
        daemon.arg("-m").arg(program("/usr/sbin/dockerd"));
        daemon.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]);
        daemon.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("-p").arg(at("pid"));
        daemon.arg("-H").arg(format!("unix://{}", at("docker.sock").display()));
        // The user is one who may use it, as on machines where people work with it.
        daemon.arg("--group").arg(&world.user.name);
        if remapped {
            daemon.arg("--userns-remap").arg(format!("{0}:{0}", world.user.name));
        }
        let log = std::fs::File::create(at("log")).expect("a log");
        daemon.stderr(log.try_clone().expect("a descriptor")).stdout(log).stdin(Stdio::null());
        let daemon = Some(Running::of(daemon.spawn().expect("dockerd starts")));
        let docker = Self { world, directory: place, daemon };
        docker.wait();
        docker
    }

    fn wait(&self) {
        for _ in 0..1000 {
            if self.command(&["version"]).status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!(
            "dockerd does not answer:\n{}",
            std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
        );
    }

    /// Where it is reached: `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// Runs docker's command line as root.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let mut command = self.world.as_root("env");
        command
            .arg(format!("DOCKER_HOST={}", self.host()))
            .arg("HOME=/nonexistent")
            .arg("docker")
            .args(arguments);
        command.output().expect("docker runs").into()
    }

    /// Lets every user tell it what to do, as members of the group `docker` may.
    ///
    /// # Panics
    /// When the socket's mode cannot be set.
    pub fn let_everybody_in(&self) {
        let mut chmod = self.world.as_root("chmod");
        let done =
            chmod.arg("666").arg(self.directory.path().join("docker.sock")).status().expect("chmod runs");
        assert!(done.success());
    }

    /// Imports an image under its name.
    pub fn import(&self, image: Image) {
        self.import_as(image, image.name());
    }

    /// Imports an image under the name of one that it stands for.
    pub fn import_as(&self, image: Image, name: &str) {
        self.command(&["import", &image.archive().display().to_string(), name]).ok();
    }

    /// Runs a shell script in a container, with more options.
    pub fn run(&self, container: &Container, options: &[&str], script: &str) -> Finished {
        let own = container.options();
        let mut arguments = vec!["run", "--rm", "--network", if container.network { "host" } else { "none" }];
        arguments.extend(own.iter().map(String::as_str));
        arguments.extend(options);
        arguments.extend([container.image.name(), "sh", "-c", script]);
        self.command(&arguments)
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // Its containers first: it would wait for each to end by itself, and longer than this waits for it.
        let left = self.command(&["ps", "-aq"]).stdout;
        let left: Vec<&str> = left.split_whitespace().collect();
        if !left.is_empty() {
            self.command(&[&["rm", "-f"][..], &left].concat());
        }
        if let Ok(pid) = std::fs::read_to_string(self.directory.path().join("pid")) {
            // It is root's, also where a user started it.
            drop(self.world.as_root("kill").arg(pid.trim()).output());
        }
        drop(self.daemon.take());
        let mut remove = self.world.as_root("rm");
        remove.arg("-rf").arg(self.directory.path());
        drop(remove.output());
    }
}
