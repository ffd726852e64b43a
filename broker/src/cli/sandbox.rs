//! The rules of a sandbox, from a session and the user's environment. Nothing here is the agent's choice.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use keyhatch_policies::Policy;
use keyhatch_policies::rules::{FileInside, Foundation, Mount, Observe, SandboxRules};
use keyhatch_protocol::message::{HELPER_INSIDE, SOCKETS_INSIDE, SOCKETS_VARIABLE};

use super::Failure;
use crate::control::OpenedSession;
use crate::inside::Inside;
use crate::inside::system::{KEPT, SYSTEM, limits};
use crate::network::plan;

/// Where programs are looked for inside. In `/run` there is one: the helper.
const PATH_INSIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run";
/// What one run is made of.
#[derive(Debug)]
pub(super) struct Plan<'p> {
    /// The session.
    pub(super) opened: &'p OpenedSession,
    /// Its policy.
    pub(super) policy: &'p Policy,
    /// What is inside besides the project.
    pub(super) inside: &'p Inside,
    /// The helper's place on the host.
    pub(super) helper: &'p Path,
    /// Where the command starts; none for the home.
    pub(super) cwd: Option<PathBuf>,
    /// The command and its arguments.
    pub(super) command: &'p [OsString],
    /// Whether standard input is a terminal.
    pub(super) terminal: bool,
    /// What the runner was started on.
    pub(super) foundation: Foundation,
}

/// The user's home, and where it is inside.
pub(super) fn home() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    home.unwrap_or_else(|| PathBuf::from("/home/agent"))
}

/// What every session of a policy has: with a cgroup that limits memory, processes and processor or without, and looked at
/// to explain what fails.
pub(super) fn foundation(policy: &Policy, cgroup: bool, observe: Observe) -> Foundation {
    Foundation {
        system: SYSTEM.iter().map(PathBuf::from).collect(),
        network: plan::inside(policy.network()),
        limits: limits(policy.session_limits(), cgroup),
        cgroup,
        observe: Some(observe),
        require: policy.sandbox().require.clone(),
    }
}

/// Makes the rules for one run.
pub(super) fn rules(plan: Plan<'_>) -> Result<SandboxRules, Failure> {
    let env = environment(&plan);
    let Plan { opened, policy: _, inside, helper, cwd, command, terminal, foundation } = plan;
    let Foundation { system, network, limits, cgroup, observe, require } = foundation;
    let (home, user) = (home(), user_name());
    let mut mounts = vec![Mount { source: helper.to_owned(), target: HELPER_INSIDE.into(), read_only: true }];
    mounts.extend(opened.mounts.iter().cloned());
    mounts.extend(inside.mounts.iter().cloned());
    let mut files = system_files(&user, &home);
    files.extend(opened.files.iter().cloned());
    let command: Result<Vec<String>, _> = command.iter().cloned().map(OsString::into_string).collect();
    let command = command.map_err(|_| {
        Failure::invalid("the command is not UTF-8", "put it into a script with a plain name")
    })?;
    Ok(SandboxRules {
        session: opened.session.clone(),
        cwd: cwd.unwrap_or_else(|| home.clone()),
        env,
        home,
        home_source: inside.home.clone(),
        system,
        mounts,
        files,
        command,
        network,
        terminal,
        limits,
        cgroup,
        observe,
        quiet: false,
        require,
        fallback: fallback(opened),
    })
}

/// Where home and temporary files are when there are no mounts: beside the session's other files, and gone with them.
fn fallback(opened: &OpenedSession) -> PathBuf {
    let runtime = opened.sockets.ancestors().nth(2).unwrap_or(Path::new("/nonexistent"));
    runtime.join("files").join(opened.session.as_str()).join("fallback")
}

fn user_name() -> String {
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    std::env::var("USER").ok().filter(plain).unwrap_or_else(|| "agent".to_owned())
}

fn environment(plan: &Plan<'_>) -> BTreeMap<String, String> {
    let (home, user) = (home(), user_name());
    let sandbox = plan.policy.sandbox();
    let kept = KEPT.iter().copied().chain(sandbox.keep.iter().map(String::as_str));
    let mut env: BTreeMap<String, String> = kept
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .chain(std::env::vars().filter(|(name, _)| name.starts_with("LC_")))
        .chain(sandbox.env.clone())
        .collect();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    // The user's own tools come first, as they do for the user.
    let programs = plan.inside.programs.iter().filter_map(|directory| directory.to_str());
    set("PATH", &programs.chain([PATH_INSIDE]).collect::<Vec<_>>().join(":"));
    set("HOME", &home.to_string_lossy());
    set("USER", &user);
    set("LOGNAME", &user);
    set("SHELL", "/bin/sh");
    set("TMPDIR", "/tmp");
    // A git that was built with another place for its system configuration finds ours all the same.
    set("GIT_CONFIG_SYSTEM", "/etc/gitconfig");
    set("GIT_TERMINAL_PROMPT", "0");
    set(SOCKETS_VARIABLE, SOCKETS_INSIDE);
    // By name, because without a mount namespace it is where the user has it.
    set("KEYHATCH_HELPER", HELPER_INSIDE);
    set("KEYHATCH_SESSION", plan.opened.session.as_str());
    env.extend(plan.opened.env.clone());
    env
}

/// The few files of `/etc` that name the user and nobody else.
fn system_files(user: &str, home: &Path) -> Vec<FileInside> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let home = home.display();
    let file = |path: &str, content: String| FileInside::new(path, content);
    vec![
        file(
            "/etc/passwd",
            format!(
                "{user}:x:{uid}:{gid}:{user}:{home}:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        file("/etc/group", format!("{user}:x:{gid}:\nnogroup:x:65534:\n")),
        file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        file("/etc/hostname", "sandbox\n".to_owned()),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        // The broker answers there, at once: tools that know no proxy fail fast and leave a trace.
        file("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n".to_owned()),
    ]
}
