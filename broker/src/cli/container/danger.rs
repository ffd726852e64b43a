//! What in a container's command line would undo the point of a session: it reaches keys, or what decides about them,
//! around the session.
//!
//! The command line is the user's own. This is advice that stops: `--allow WHAT` has each all the same.

use std::fs;
use std::path::{Path, PathBuf};

use keyhatch_policies::SECRET_PLACES;

use super::line::{Bind, Line};
use crate::paths::{Paths, config_home};

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Danger {
    /// `--privileged`
    Privileged,
    /// A socket of docker, podman or containerd
    EngineSocket,
    /// Directories with keys and tokens: ~/.ssh, ~/.gnupg, ~/.aws and their like
    Keys,
    /// The whole home
    Home,
    /// `/`, /etc, /proc and their like
    System,
    /// The ssh-agent's socket, or the variable that names it
    SshAgent,
    /// The runtime directory: session bus, agents, keyrings
    RuntimeDirectory,
    /// keyhatch's own sockets, state and configuration
    KeyhatchFiles,
    /// X11's sockets
    Display,
    /// `--network host`
    HostNetwork,
    /// `--pid host`
    HostPid,
    /// `--ipc host`
    HostIpc,
    /// `--userns host` of an engine that maps users
    HostUserns,
    /// Capabilities that are the whole machine
    Capabilities,
    /// Devices
    Device,
    /// `--security-opt …=unconfined`
    Unconfined,
    /// `--volumes-from`
    VolumesFrom,
    /// Tokens in variables, or all variables of the host
    Environment,
}

impl Danger {
    /// What `--allow` calls it.
    pub(super) fn word(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Privileged => "root inside reaches every device and every interface of the kernel",
            Self::EngineSocket => {
                "whoever reaches the engine starts a container that has all of this machine"
            }
            Self::Keys => {
                "keys and tokens would be read inside: the session is there so that they need not be"
            }
            Self::Home => "your keys, tokens and shell's start files would be inside, writable",
            Self::System => "the system's own files lead to every key on it",
            Self::SshAgent => "the ssh-agent signs whatever it is given: logins and pushes that nobody sees",
            Self::RuntimeDirectory => {
                "the session bus, agents and keyrings listen there, and keyhatch's own control socket"
            }
            Self::KeyhatchFiles => "what is inside could approve what it asks for",
            Self::Display => "whoever reaches the X server reads every key that you type, and types",
            Self::HostNetwork => {
                "services on this machine's loopback and every abstract Unix socket (session bus, X11) would be in reach; \
                 the control socket has a path and is not, as long as its directory is not mounted"
            }
            Self::HostPid => "/proc leads from your other processes to their files, variables and memory",
            Self::HostIpc => "shared memory of your other processes would be in reach",
            Self::HostUserns => "root inside would be root of this machine",
            Self::Capabilities => "root inside could mount, load and read what is outside",
            Self::Device => "a device leads past the container's file system: disks, input, the kernel",
            Self::Unconfined => "system calls that engines deny have been the way out of containers",
            Self::VolumesFrom => "what another container has mounted is not known here",
            Self::Environment => "tokens would be inside, and whatever has them pushes around the session",
        }
    }
}

/// Something of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Which kind.
    pub(super) danger: Danger,
    /// As it was written.
    what: String,
}

impl Found {
    /// For the user.
    pub(super) fn line(&self) -> String {
        format!("{}: {}", self.what, self.danger.reason())
    }
}

/// Where things are on this machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// The user's home.
    pub(super) home: PathBuf,
    /// `XDG_RUNTIME_DIR`.
    pub(super) runtime: Option<PathBuf>,
    /// `SSH_AUTH_SOCK`.
    pub(super) agent: Option<PathBuf>,
    /// The path in `DOCKER_HOST` and its like.
    pub(super) engine: Option<PathBuf>,
    /// keyhatch's own.
    pub(super) own: Vec<PathBuf>,
}

impl Machine {
    /// Looks at the user's environment.
    pub(super) fn of_user(paths: &Paths) -> Self {
        let variable =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let engine = ["DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .map(|value| PathBuf::from(value.strip_prefix("unix://").unwrap_or(&value)))
            .find(|path| path.is_absolute());
        let mut own = vec![paths.runtime().to_owned(), paths.state().to_owned()];
        own.extend(config_home().map(|config| config.join("keyhatch")));
        Self {
            home: real(&variable("HOME").unwrap_or_else(|| "/nonexistent".into())),
            runtime: variable("XDG_RUNTIME_DIR").map(|path| real(&path)),
            agent: variable("SSH_AUTH_SOCK").map(|path| real(&path)),
            engine: engine.map(|path| real(&path)),
            own: own.iter().map(|path| real(path)).collect(),
        }
    }
}

/// Everything in a command line that would undo the point.
pub(super) fn find(line: &Line, machine: &Machine) -> Vec<Found> {
    let mut found = flags(line);
    found.extend(line.binds().iter().filter_map(|bind| of_bind(bind, machine)));
    if line.is("rootfs")
        && let Some(root) = line.image()
        && let Some(danger) = of_source(&real(Path::new(root)), machine)
    {
        found.push(Found { danger, what: format!("--rootfs {root}") });
    }
    found.extend(variables(line));
    found
}

/// What flags and values say by themselves.
fn flags(line: &Line) -> Vec<Found> {
    let mut found = Vec::new();
    let mut say = |danger, what: String| found.push(Found { danger, what });
    for (flag, danger) in [
        ("privileged", Danger::Privileged),
        ("use-api-socket", Danger::EngineSocket),
        ("env-host", Danger::Environment),
    ] {
        if line.is(flag) {
            say(danger, format!("--{flag}"));
        }
    }
    for (option, danger) in [
        ("device", Danger::Device),
        ("device-cgroup-rule", Danger::Device),
        ("gpus", Danger::Device),
        ("volumes-from", Danger::VolumesFrom),
    ] {
        line.values(option).for_each(|value| say(danger, format!("--{option} {value}")));
    }
    for (option, danger) in [
        ("network", Danger::HostNetwork),
        ("net", Danger::HostNetwork),
        ("pid", Danger::HostPid),
        ("ipc", Danger::HostIpc),
    ] {
        let host = |value: &&str| *value == "host" || value.contains("allow_host_loopback=true");
        line.values(option).filter(host).for_each(|value| say(danger, format!("--{option} {value}")));
    }
    // A rootless podman has mapped its user already, and `host` is its own default.
    if line.engine_name() != "podman" {
        line.values("userns").filter(|value| *value == "host").for_each(|value| {
            say(Danger::HostUserns, format!("--userns {value}"));
        });
    }
    for value in line.values("cap-add").flat_map(|value| value.split(',')) {
        let upper = value.to_ascii_uppercase();
        if WHOLE_MACHINE.contains(&upper.strip_prefix("CAP_").unwrap_or(&upper)) {
            say(Danger::Capabilities, format!("--cap-add {value}"));
        }
    }
    for value in line.values("security-opt") {
        let opens =
            value.ends_with("=unconfined") || value.ends_with(":unconfined") || value.starts_with("unmask=");
        if opens {
            say(Danger::Unconfined, format!("--security-opt {value}"));
        }
    }
    found
}

/// capabilities(7): each of them is a way to all others, or to what lies outside.
const WHOLE_MACHINE: &[&str] = &[
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

fn of_bind(bind: &Bind, machine: &Machine) -> Option<Found> {
    let danger = of_source(&real(&bind.source), machine)?;
    Some(Found { danger, what: format!("the mount of {}", bind.source.display()) })
}

/// Names of the sockets through which engines are told what to do.
const ENGINE_SOCKETS: &[&str] = &[
    "docker.sock",
    "podman.sock",
    "containerd.sock",
    "containerd.sock.ttrpc",
    "crio.sock",
    "buildkitd.sock",
];
/// Where they lie, and what they keep.
const ENGINE_DIRECTORIES: &[&str] = &[
    "/run/docker",
    "/run/podman",
    "/run/containerd",
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
];
/// What of a home opens something elsewhere, beside [`SECRET_PLACES`]: here a policy may name a directory, a mount may not.
const KEYS: &[&str] = &[
    ".config/chromium",
    ".config/git/credentials",
    ".config/glab-cli",
    ".config/google-chrome",
    ".config/hub",
    ".config/op",
    ".config/sops",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".npmrc",
    ".pypirc",
    ".terraform.d",
    ".vault-token",
];
/// Of the system's directories, those that are too much as a whole …
const SYSTEM: &[&str] = &[
    "/",
    "/boot",
    "/etc",
    "/home",
    "/root",
    "/run",
    "/run/user",
    "/usr",
    "/var",
    "/var/lib",
    "/var/run",
    "/etc/ssh",
];
/// … and those of which every part is.
const SYSTEM_PARTS: &[&str] = &["/dev", "/proc", "/sys", "/root"];

/// What a mount of this path would show. The path is resolved.
fn of_source(source: &Path, machine: &Machine) -> Option<Danger> {
    let shows = |path: &Path| path.starts_with(source) || source.starts_with(path);
    if machine.own.iter().any(|own| source.starts_with(own)) {
        return Some(Danger::KeyhatchFiles);
    }
    let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let of_engine = ENGINE_SOCKETS.contains(&name)
        || ENGINE_DIRECTORIES.iter().any(|directory| source.starts_with(directory))
        || machine.engine.as_deref() == Some(source);
    if of_engine {
        return Some(Danger::EngineSocket);
    }
    if machine.agent.as_deref() == Some(source) || name.starts_with("S.gpg-agent") {
        return Some(Danger::SshAgent);
    }
    if source.starts_with("/tmp/.X11-unix") {
        return Some(Danger::Display);
    }
    if SYSTEM.iter().any(|path| source == Path::new(path)) {
        return Some(Danger::System);
    }
    if machine.home.starts_with(source) {
        return Some(Danger::Home);
    }
    if machine.runtime.as_ref().is_some_and(|runtime| shows(runtime)) {
        return Some(Danger::RuntimeDirectory);
    }
    if machine.own.iter().any(|own| own.starts_with(source)) {
        return Some(Danger::KeyhatchFiles);
    }
    let key = |key: &str| {
        let key = machine.home.join(key);
        source.starts_with(&key) || (key.starts_with(source) && key.exists())
    };
    if SECRET_PLACES.iter().chain(KEYS).any(|path| key(path)) {
        return Some(Danger::Keys);
    }
    SYSTEM_PARTS.iter().any(|path| source.starts_with(path)).then_some(Danger::System)
}

/// Variables that name the agent's socket, or hold a token with which one pushes.
fn variables(line: &Line) -> Vec<Found> {
    let given = line.values("env").map(|value| ("--env", value.to_owned()));
    let files = line.values("env-file").filter_map(|file| fs::read_to_string(file).ok());
    let lines: Vec<String> =
        files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let all = given.chain(lines.into_iter().map(|line| ("--env-file", line)));
    all.filter_map(|(option, value)| {
        let name = value.split('=').next().unwrap_or_default().trim();
        let danger = match name {
            "SSH_AUTH_SOCK" => Danger::SshAgent,
            name if TOKENS.contains(&name) => Danger::Environment,
            _ => return None,
        };
        Some(Found { danger, what: format!("{option} {name}") })
    })
    .collect()
}

/// Tokens that push, and that open clouds. An agent's own key of its model's is none of them.
const TOKENS: &[&str] = &[
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_DEVOPS_EXT_PAT",
    "BITBUCKET_TOKEN",
    "CI_JOB_TOKEN",
    "GH_ENTERPRISE_TOKEN",
    "GH_TOKEN",
    "GITEA_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GIT_ASKPASS",
    "VAULT_TOKEN",
];

/// Where a path leads; as it is where nothing is there.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        let machine = Machine {
            home: "/home/u".into(),
            runtime: Some("/run/user/7".into()),
            agent: Some("/tmp/ssh-x/agent.1".into()),
            engine: Some("/srv/engine".into()),
            own: vec!["/run/user/7/keyhatch".into(), "/home/u/.local/state/keyhatch".into()],
        };
        let line = format!("docker run {line} img");
        let line = Line::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).expect("reads");
        find(&line, &machine).iter().map(|found| found.danger.word()).collect()
    }

    #[test]
    fn what_undoes_the_point_is_found_however_it_is_written() {
        for (line, word) in [
            ("--privileged", "privileged"),
            ("--privileged=true", "privileged"),
            ("-v /var/run/docker.sock:/d", "engine-socket"),
            ("--mount type=bind,source=/run/containerd,target=/c", "engine-socket"),
            ("-v /srv/engine:/e", "engine-socket"),
            ("--use-api-socket", "engine-socket"),
            ("-v /home/u/.ssh:/root/.ssh:ro", "keys"),
            ("-v /home/u/.ssh/id_ed25519:/k", "keys"),
            ("-v/home/u/.gnupg:/g", "keys"),
            ("-v /home/u/.aws:/a", "keys"),
            ("-v /home/u:/home/u", "home"),
            ("-v /home:/h", "system"),
            ("-v /:/host", "system"),
            ("-v /proc:/p", "system"),
            ("-v /tmp/ssh-x/agent.1:/a", "ssh-agent"),
            ("-e SSH_AUTH_SOCK", "ssh-agent"),
            ("-e SSH_AUTH_SOCK=/x", "ssh-agent"),
            ("-v /run/user/7:/r", "runtime-directory"),
            ("-v /run/user/7/bus:/b", "runtime-directory"),
            ("-v /run/user/7/keyhatch/control.sock:/c", "keyhatch-files"),
            ("-v /home/u/.local/state:/s", "keyhatch-files"),
            ("-v /tmp/.X11-unix:/x", "display"),
            ("--network host", "host-network"),
            ("--net=host", "host-network"),
            ("--network slirp4netns:allow_host_loopback=true", "host-network"),
            ("--pid=host", "host-pid"),
            ("--ipc host", "host-ipc"),
            ("--userns=host", "host-userns"),
            ("--cap-add SYS_ADMIN", "capabilities"),
            ("--cap-add cap_all", "capabilities"),
            ("--cap-add NET_RAW,ALL", "capabilities"),
            ("--device /dev/sda", "device"),
            ("--security-opt seccomp=unconfined", "unconfined"),
            ("--security-opt systempaths=unconfined", "unconfined"),
            ("--volumes-from other", "volumes-from"),
            ("--env-host", "environment"),
            ("-e GH_TOKEN", "environment"),
        ] {
            assert_eq!(words(line), [word], "{line}");
        }
        for line in [
            "-v /home/u/src/p:/work -w /work",
            "-v /etc/localtime:/etc/localtime:ro",
            "--privileged=false",
            "--network none --pid container:x",
            "--cap-drop ALL --cap-add NET_RAW",
            "--security-opt no-new-privileges --security-opt label=disable",
            "-e TERM -e ANTHROPIC_API_KEY",
            "-v cache:/root/.cache",
        ] {
            assert!(words(line).is_empty(), "{line}: {:?}", words(line));
        }
    }

    #[test]
    fn a_file_of_variables_is_looked_into() {
        let temp = tempfile::tempdir().expect("tempdir");
        let file = temp.path().join("env");
        fs::write(&file, "A=1\nGITHUB_TOKEN=x\n").expect("writes");
        assert_eq!(words(&format!("--env-file {}", file.display())), ["environment"]);
    }
}
