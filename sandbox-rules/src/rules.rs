//! The resolved rules of one sandbox: what the runner builds, with nothing left to decide.
//!
//! Made by the broker from a policy and a project; read by the runner as JSON from a descriptor: first the [`Foundation`],
//! then, once the session is open, all of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use keyhatch_protocol::SessionId;
use serde::{Deserialize, Serialize};

/// Everything the runner needs. Paths are absolute and, where they are sources, resolved on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxRules {
    /// Whose sandbox it is.
    pub session: SessionId,
    /// Where the command starts: a path inside.
    pub cwd: PathBuf,
    /// The home directory inside, writable.
    pub home: PathBuf,
    /// The directory of the host that is the home; none for one that is empty and in memory.
    pub home_source: Option<PathBuf>,
    /// Directories and files of the host that are shown read-only at their own path, where they exist.
    pub system: Vec<PathBuf>,
    /// What is mounted over that, in this order.
    pub mounts: Vec<Mount>,
    /// Small files that are made inside, read-only for the agent (`/etc/passwd`, `/etc/gitconfig`).
    pub files: Vec<FileInside>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The program and its arguments; looked up in the environment's `PATH` inside.
    pub command: Vec<String>,
    /// The network, and the sockets in it that are handed out before the command starts.
    pub network: NetworkInside,
    /// Whether standard input is a terminal of our own that becomes the controlling one.
    pub terminal: bool,
    /// Resource limits, always enforced.
    pub limits: Limits,
    /// Whether the descriptor of a cgroup's `cgroup.procs` comes over the hand-off socket before anything else.
    pub cgroup: bool,
    /// Which calls are looked at from outside; none where nobody looks.
    pub observe: Option<Observe>,
    /// What the policy insists on: without it nothing starts.
    pub require: Vec<Requirement>,
    /// Whether nothing is said at the start: the command's standard error is read by a program.
    pub quiet: bool,
    /// A directory of the session's on the host, private and empty: where the kernel gives no namespaces, home, temporary
    /// files and the files above are here.
    pub fallback: PathBuf,
}

/// The part of the rules that a policy decides without a session: what a sandbox is built on while its session still
/// opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foundation {
    /// As [`SandboxRules::system`].
    pub system: Vec<PathBuf>,
    /// As [`SandboxRules::network`].
    pub network: NetworkInside,
    /// As [`SandboxRules::limits`].
    pub limits: Limits,
    /// As [`SandboxRules::cgroup`].
    pub cgroup: bool,
    /// As [`SandboxRules::observe`].
    pub observe: Option<Observe>,
    /// As [`SandboxRules::require`].
    pub require: Vec<Requirement>,
}

impl SandboxRules {
    /// What these rules are built on.
    #[must_use]
    pub fn foundation(&self) -> Foundation {
        Foundation {
            system: self.system.clone(),
            network: self.network.clone(),
            limits: self.limits.clone(),
            cgroup: self.cgroup,
            observe: self.observe,
            require: self.require.clone(),
        }
    }
}

/// Which calls of the command somebody outside looks at. Nothing more is allowed either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observe {
    /// Those that are refused, and those that connect: whatever is allowed is as fast as ever.
    Refused,
    /// Those that name a path too.
    Paths,
}

/// What a policy can insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// Namespaces of its own: tier A.
    Namespaces,
    /// At least a Landlock that tells local sockets apart: tier A or B.
    LocalSockets,
    /// A cgroup with the policy's limits.
    Cgroup,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::LocalSockets => "local-sockets",
            Self::Cgroup => "cgroup",
        })
    }
}

/// What the sandbox is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkInside {
    /// A network namespace of its own, with nothing but loopback.
    Own {
        /// Handed out in this order.
        sockets: Vec<SocketInside>,
    },
    /// The host's: nothing is handed out, and nothing is confined.
    Host,
}

/// Sockets of the sandbox's own loopback that are served from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "socket", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SocketInside {
    /// One listening TCP socket.
    Listener {
        /// On this port.
        port: u16,
    },
    /// One UDP socket.
    Datagrams {
        /// On this port.
        port: u16,
    },
    /// TCP sockets that are not connected yet: a socket stays in the network that it was made in, so whoever holds
    /// these can connect to what the command listens on.
    Dialers {
        /// Of which family.
        ipv6: bool,
        /// How many.
        count: u16,
    },
}

impl SocketInside {
    /// How many descriptors are handed out for it.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Listener { .. } | Self::Datagrams { .. } => 1,
            Self::Dialers { count, .. } => (*count).into(),
        }
    }
}

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// A directory or file of the host.
    pub source: PathBuf,
    /// Where it appears inside.
    pub target: PathBuf,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// A small file that exists only inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileInside {
    /// Its absolute path inside.
    pub path: PathBuf,
    /// Its whole content.
    pub content: String,
    /// What it holds instead where the sandbox has no network of its own (tiers B and C).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridged: Option<String>,
}

impl FileInside {
    /// A file that holds the same in every tier.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, content: String) -> Self {
        Self { path: path.into(), content, bridged: None }
    }
}

/// Resource limits by `setrlimit(2)`; none means the user's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open descriptors of one process.
    pub open_files: Option<u64>,
    /// Largest file, in bytes.
    pub file_bytes: Option<u64>,
    /// Processes and threads; counted inside alone where there is a user namespace.
    pub processes: Option<u64>,
    /// Private memory of one process: what a cgroup does better.
    pub data_bytes: Option<u64>,
    /// Bytes in each file system that is memory: `/tmp`, `/dev/shm`, an empty home.
    pub memory_files: Option<u64>,
}

/// The name of the file in a container's session directory that holds [`InsideRules`].
pub const INSIDE_FILE: &str = "sandbox.json";

/// What `keyhatch run --inside` reads in a container: the policy as it was resolved on the host when the session was
/// opened, and what only the container knows left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InsideRules {
    /// What holds. Paths are the container's. Command, home and temporary files are found there; `cwd` is the project.
    pub rules: SandboxRules,
    /// Variables of the container's that are kept, by name.
    pub keep: Vec<String>,
    /// Directories of the home that the policy shows on the host, relative to it: not shown here.
    pub tools: Vec<String>,
    /// What of the policy cannot be had in a container: said at the start, a line each.
    pub notes: Vec<String>,
    /// How many seconds the command may take.
    pub seconds: Option<u64>,
}
