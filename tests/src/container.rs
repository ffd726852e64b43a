//! Containers that keyhatch did not make, on real engines, each as its users start it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Finished, Image, Running, World};

/// One mount: where from, where to, whether it is read-only.
pub type Mount = (PathBuf, String, bool);

/// A container to be started.
#[derive(Debug, Clone)]
pub struct Container {
    /// What it starts from.
    pub image: Image,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Its environment, beside `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Whether it has the host's network; else it has none.
    pub network: bool,
    /// Who runs the command inside, where that is not root.
    pub uid: Option<u32>,
    /// A system call that the engine's filter answers with EPERM.
    pub forbidden: Option<&'static str>,
}

impl Container {
    /// A container without a network, as root, with these mounts and variables.
    #[must_use]
    pub fn new(image: Image, mounts: &[Mount], env: &[(String, String)]) -> Self {
        Self { image, mounts: mounts.to_vec(), env: env.to_vec(), network: false, uid: None, forbidden: None }
    }

    /// With the host's network.
    #[must_use]
    pub fn with_network(self) -> Self {
        Self { network: true, ..self }
    }

    /// As this user inside.
    #[must_use]
    pub fn as_uid(self, uid: u32) -> Self {
        Self { uid: Some(uid), ..self }
    }

    /// With a filter that forbids a system call, as other sandboxes have.
    #[must_use]
    pub fn forbidding(self, call: &'static str) -> Self {
        Self { forbidden: Some(call), ..self }
    }

    /// Runs a shell script by rootless `runc`: read-only root, no capability, one mapped id.
    pub fn runc(&self, world: &World, script: &str) -> Finished {
        self.start_runc(world, &["sh", "-c", script]).finish()
    }

    /// Starts a command by rootless `runc`.
    ///
    /// # Panics
    /// When runc is not installed.
    pub fn start_runc(&self, world: &World, arguments: &[&str]) -> Running {
        let id = format!("c{}", crate::free_port());
        let bundle = world.make_directory(&format!("bundle-{id}"));
        let runc = || world.command(program("/usr/sbin/runc"));
        let spec = runc().current_dir(&bundle).args(["spec", "--rootless"]).output().expect("runc runs");
        assert!(spec.status.success(), "{}", String::from_utf8_lossy(&spec.stderr));
        let file = bundle.join("config.json");
        let text = fs::read_to_string(&file).expect("a specification");
        let spec = self.specification(world, serde_json::from_str(&text).expect("JSON"), arguments);
        fs::write(&file, spec.to_string()).expect("it can be written");
        let mut command = runc();
        command.arg("--root").arg(world.path("runc")).arg("run").arg("--bundle").arg(&bundle).arg(&id);
        world.spawn(command)
    }

    fn specification(&self, world: &World, mut spec: Value, arguments: &[&str]) -> Value {
        let process = &mut spec["process"];
        process["terminal"] = false.into();
        process["args"] = json!(arguments);
        process["env"] =
            self.environment().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        process["capabilities"] = json!({});
        spec["root"] = json!({"path": self.image.root(world), "readonly": true});
        if !self.network {
            list(&mut spec["linux"]["namespaces"]).push(json!({"type": "network"}));
        }
        if let Some(call) = self.forbidden {
            let rule = json!({"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM});
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        }
        let tmpfs = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]});
        list(&mut spec["mounts"]).push(tmpfs);
        for (source, target, read_only) in &self.mounts {
            let options = ["rbind", if *read_only { "ro" } else { "rw" }];
            list(&mut spec["mounts"])
                .push(json!({"destination": target, "type": "none", "source": source, "options": options}));
        }
        spec
    }

    /// Runs a shell script by rootless podman, which has not needed root for anything.
    pub fn podman(&self, world: &World, script: &str) -> Finished {
        self.start_podman(world, &[], script).finish()
    }

    /// Starts a shell script by rootless podman with more options.
    ///
    /// # Panics
    /// When podman is not installed.
    pub fn start_podman(&self, world: &World, options: &[&str], script: &str) -> Running {
        let podman = program("/usr/bin/podman");
        // podman wants a cgroup v2 hierarchy to look at; as root of a namespace of its own, a user can mount one there.
        let mounts = "mount -t tmpfs t /sys/fs/cgroup && mount -t cgroup2 c /sys/fs/cgroup && mount -t tmpfs t /dev/shm && \
                      mount -t tmpfs t /run && exec \"$@\"";
        let at = |name: &str| world.path(&format!("podman/{name}"));
        let mut command = world.command("unshare");
        command.env("DBUS_SESSION_BUS_ADDRESS", "disabled:");
        command.args(["-UrmC", "--map-auto", "sh", "-c", mounts, "podman"]).arg(podman);
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.args([
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "run",
            "--rm",
            "--cgroups=disabled",
        ]);
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--log-driver=none"]);
        command.args(["--network", if self.network { "host" } else { "none" }]);
        command.args(self.options()).args(options);
        command.arg("--rootfs").arg(self.image.root(world)).args(["sh", "-c", script]);
        world.spawn(command)
    }

    /// Mounts, variables and user, as docker and podman take them.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        for (source, target, read_only) in &self.mounts {
            let mode = if *read_only { ":ro" } else { "" };
            options.extend(["-v".to_owned(), format!("{}:{target}{mode}", source.display())]);
        }
        for (key, value) in self.environment() {
            options.extend(["-e".to_owned(), format!("{key}={value}")]);
        }
        if let Some(uid) = self.uid {
            options.extend(["--user".to_owned(), format!("{uid}:{uid}")]);
        }
        options
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = "/usr/local/bin:/usr/bin:/bin";
        let own = [("PATH", path), ("HOME", "/tmp"), ("GIT_TERMINAL_PROMPT", "0")];
        own.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .chain(self.env.clone())
            .collect()
    }
}

fn list(value: &mut Value) -> &mut Vec<Value> {
    value.as_array_mut().expect("a list")
}

/// A program that the test needs.
pub(crate) fn program(path: &str) -> &Path {
    let path = Path::new(path);
    assert!(path.exists(), "{} is missing: run ./test.sh, which installs it", path.display());
    path
}

impl World {
    /// Commands of root's, where only root can start an engine.
    ///
    /// # Panics
    /// Never; what fails says so when it is run.
    #[must_use]
    pub fn as_root(&self, program: &str) -> Command {
        let mut command = if rustix::process::getuid().is_root() {
            Command::new(program)
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", program]);
            sudo
        };
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}
