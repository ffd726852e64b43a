//! What this kernel gives, asked of the kernel itself: absent, disabled (by what), or present at a version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyhatch_protocol::SessionId;
use keyhatch_sandbox_rules::mechanism::{Mechanism, State};
use keyhatch_sandbox_rules::rules::{Limits, NetworkInside, SandboxRules};

use crate::error::RunError;
use crate::sys::{self, try_forbidden};
use crate::tier::{self, ABI_LOCAL_SOCKETS, ABI_SCOPES, Tier};

const PRESENT: State = State::Present { version: None };

/// Every mechanism, in the order of a start.
pub(crate) fn all() -> Vec<Mechanism> {
    let namespaces = namespaces();
    let landlock = landlock();
    let tier = tier(&namespaces, tier::landlock_abi());
    vec![
        namespaces,
        call(
            "mounts by descriptor",
            libc::SYS_mount_setattr,
            "a fresh root without a moment in a looser form",
            "Linux 5.12",
        ),
        call("close_range", libc::SYS_close_range, "no descriptor of the host's crosses", "Linux 5.9"),
        call(
            "keyrings",
            libc::SYS_keyctl,
            "a fresh session keyring",
            "a kernel with CONFIG_KEYS; nothing is lost without",
        ),
        landlock,
        seccomp(),
        cgroup(),
        tier,
    ]
}

fn fact(name: &str, state: State, detail: impl Into<String>, remedy: Option<&str>) -> Mechanism {
    Mechanism { name: name.to_owned(), state, detail: detail.into(), remedy: remedy.map(str::to_owned) }
}

fn namespaces() -> Mechanism {
    let name = "user namespaces";
    match tier::trial() {
        Ok(()) => fact(name, PRESENT, "a root, processes and a network of the sandbox's own", None),
        Err(RunError::NoNamespaces { source }) if source.raw_os_error() == Some(libc::EINVAL) => {
            fact(name, State::Absent, "the kernel was built without", Some("a kernel with CONFIG_USER_NS"))
        }
        Err(RunError::NoNamespaces { source }) => {
            fact(name, State::Disabled, tier::explain(&source), Some(allow_namespaces()))
        }
        Err(other) => fact(name, State::Disabled, other.to_string(), Some(allow_namespaces())),
    }
}

fn allow_namespaces() -> &'static str {
    if Path::new(tier::APPARMOR_RESTRICTION).exists() || tier::apparmor_profile().is_some() {
        "install keyhatch's AppArmor profile (packaging/apparmor/keyhatch-run), or on Ubuntu: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "sudo sysctl user.max_user_namespaces=10000, and kernel.unprivileged_userns_clone=1 where it exists; in a container: a seccomp profile that allows unshare and mount"
    }
}

fn landlock() -> Mechanism {
    let name = "Landlock";
    match sys::landlock_abi() {
        Ok(abi) => {
            let (detail, remedy) = match abi {
                ABI_LOCAL_SOCKETS.. => ("files, devices, signals, and which local sockets are reached", None),
                ABI_SCOPES.. => (
                    "files, devices, signals; not which local sockets are reached by path",
                    Some("Linux 7.1 or newer, for tier B where there are no namespaces"),
                ),
                _ => (
                    "files; within namespaces that is enough",
                    Some("Linux 6.12 or newer, for signals and abstract sockets"),
                ),
            };
            fact(name, State::Present { version: u32::try_from(abi).ok() }, detail, remedy)
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => fact(
            name,
            State::Disabled,
            "the kernel has it and does not enforce it",
            Some("add landlock to the lsm= list on the kernel's command line"),
        ),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => fact(
            name,
            State::Absent,
            "the kernel was built without",
            Some("Linux 5.13 or newer, with CONFIG_SECURITY_LANDLOCK"),
        ),
        Err(error) => {
            fact(name, State::Disabled, error.to_string(), Some("a container's filter may refuse it"))
        }
    }
}

/// A call with arguments that mean nothing: a kernel that has it says so in any other way than ENOSYS.
fn call(name: &str, number: libc::c_long, use_of_it: &str, needed: &str) -> Mechanism {
    // close_range(2, 1) and mount_setattr(-1, null, -1) are EINVAL; keyctl(-1) is EOPNOTSUPP.
    let arguments = if number == libc::SYS_close_range { [2, 1, 0] } else { [-1, 0, -1] };
    match try_forbidden(number, arguments).map_err(|error| error.raw_os_error()) {
        Err(Some(libc::ENOSYS)) => {
            fact(name, State::Absent, "the kernel does not know the call", Some(needed))
        }
        Err(Some(libc::EPERM)) => fact(
            name,
            State::Disabled,
            "a filter refuses the call, as containers do",
            Some("run keyhatch outside of the container"),
        ),
        Ok(()) | Err(_) => fact(name, PRESENT, use_of_it, None),
    }
}

fn seccomp() -> Mechanism {
    let name = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("kill_process") => fact(
            name,
            PRESENT,
            format!("a filter of {} steps", crate::seccomp::NAMESPACED.steps().len()),
            None,
        ),
        Ok(_) => fact(name, State::Absent, "without killing whole processes", Some("Linux 4.14 or newer")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fact(
            name,
            State::Absent,
            "the kernel was built without",
            Some("a kernel with CONFIG_SECCOMP_FILTER"),
        ),
        Err(error) => fact(name, State::Disabled, error.to_string(), None),
    }
}

fn cgroup() -> Mechanism {
    let name = "cgroup v2";
    let remedy = "a systemd user session (loginctl enable-linger), or a delegated cgroup; resource limits hold all the same";
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let root = roots.iter().find(|root| root.join("cgroup.controllers").exists());
    let (Some(root), Some(own)) = (root, own) else {
        return fact(name, State::Absent, "no cgroup v2 is mounted", Some(remedy));
    };
    let controllers = fs::read_to_string(root.join(&own).join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> = ["memory", "pids", "cpu"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|c| c == *name))
        .collect();
    if missing.is_empty() {
        fact(name, PRESENT, "memory, processes and processor can be limited", None)
    } else {
        fact(name, State::Disabled, format!("not delegated to you: {}", missing.join(", ")), Some(remedy))
    }
}

fn tier(namespaces: &Mechanism, abi: i32) -> Mechanism {
    let tier = match (namespaces.state, abi) {
        (State::Present { .. }, _) => Some(Tier::A),
        (_, ABI_LOCAL_SOCKETS..) => Some(Tier::B),
        (_, ABI_SCOPES..) => Some(Tier::C),
        _ => None,
    };
    match tier {
        Some(tier) => fact("tier", PRESENT, format!("{tier}: {}", tier.meaning()), None),
        None => {
            fact("tier", State::Absent, "nothing here can confine a command", namespaces.remedy.as_deref())
        }
    }
}

/// The smallest sandbox that can be: its start is the proof that sandboxes hold here.
pub(crate) fn smallest(fallback: PathBuf) -> SandboxRules {
    SandboxRules {
        session: SessionId::from_random(Default::default()),
        cwd: "/".into(),
        home: "/home/agent".into(),
        home_source: None,
        system: ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"].map(PathBuf::from).into(),
        mounts: Vec::new(),
        files: Vec::new(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        command: vec!["true".to_owned()],
        network: NetworkInside::Own { sockets: Vec::new() },
        terminal: false,
        limits: Limits::default(),
        cgroup: false,
        observe: None,
        require: Vec::new(),
        quiet: true,
        fallback,
    }
}
