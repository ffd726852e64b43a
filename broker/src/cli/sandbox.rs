//! The rules of a sandbox, from a session and the user's environment. Nothing here is the agent's choice.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::{FileInside, Limits, Mount, SandboxRules};

use super::Failure;
use crate::control::OpenedSession;
use crate::session::FRONT_END_PORT;

/// What of the host is shown read-only: programs, libraries, and the configuration that they cannot do without.
/// `/etc` is not shown whole: it holds host keys, machine ids and other people's secrets.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/tls",
    "/etc/profile",
    "/etc/protocols",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Variables of the user's that say how to print, and nothing else.
const KEPT: &[&str] = &["COLORTERM", "COLUMNS", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "TERM", "TZ"];

/// Where programs are looked for inside.
const PATH_INSIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the helper is inside.
const HELPER_INSIDE: &str = "/run/keyhatch-helper";
/// Open descriptors of one process inside: builds need thousands, nothing needs more.
const OPEN_FILES: u64 = 65_536;

/// Makes the rules for one run.
pub(super) fn rules(
    opened: &OpenedSession,
    (cwd, helper): (PathBuf, &Path),
    command: &[OsString],
    terminal: bool,
) -> Result<SandboxRules, Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.unwrap_or_else(|| PathBuf::from("/home/agent"));
    let user = user_name();
    let mut mounts = vec![Mount { source: helper.to_owned(), target: HELPER_INSIDE.into(), read_only: true }];
    mounts.extend(opened.mounts.iter().cloned());
    let mut files = system_files(&user, &home);
    files.extend(opened.files.iter().cloned());
    let command: Result<Vec<String>, _> = command.iter().cloned().map(OsString::into_string).collect();
    let command = command.map_err(|_| {
        Failure::invalid("the command is not UTF-8", "put it into a script with a plain name")
    })?;
    Ok(SandboxRules {
        session: opened.session.clone(),
        cwd,
        env: environment(opened, &user, &home),
        home,
        system: SYSTEM.iter().map(PathBuf::from).collect(),
        mounts,
        files,
        command,
        listen: vec![FRONT_END_PORT],
        terminal,
        limits: Limits { open_files: Some(OPEN_FILES), file_bytes: None },
    })
}

fn user_name() -> String {
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    std::env::var("USER").ok().filter(plain).unwrap_or_else(|| "agent".to_owned())
}

fn environment(opened: &OpenedSession, user: &str, home: &Path) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = KEPT
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .chain(std::env::vars().filter(|(name, _)| name.starts_with("LC_")))
        .collect();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("PATH", PATH_INSIDE);
    set("HOME", &home.to_string_lossy());
    set("USER", user);
    set("LOGNAME", user);
    set("SHELL", "/bin/sh");
    set("TMPDIR", "/tmp");
    // A git that was built with another place for its system configuration finds ours all the same.
    set("GIT_CONFIG_SYSTEM", "/etc/gitconfig");
    set("GIT_TERMINAL_PROMPT", "0");
    set("KEYHATCH_SESSION", opened.session.as_str());
    env
}

/// The few files of `/etc` that name the user and nobody else.
fn system_files(user: &str, home: &Path) -> Vec<FileInside> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let home = home.display();
    let file = |path: &str, content: String| FileInside { path: path.into(), content };
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
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        file("/etc/resolv.conf", "# no resolver: this sandbox has no network\n".to_owned()),
    ]
}
