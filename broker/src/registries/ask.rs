//! Running a tool of the user's to ask it something: a clean environment, an empty directory, a bounded time.
//!
//! The directory lies in one of the user's own and not in `/tmp`: cargo and npm obey configuration in every directory above,
//! and in `/tmp` anybody can put one. A tool that lies in the project is not run at all: an earlier session may have written
//! it, and a virtual environment that the user works in puts one on the `PATH`.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long one tool may take in all; some look at the network.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a running tool is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Most output that is read.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// Variables of the user's that say where a tool's own configuration is, or hold a part of it. Proxies are among them: a
/// tool that looks at the network does so as it would for the user.
const KEPT: &[&str] = &[
    "ALL_PROXY",
    "CARGO_HOME",
    "CARGO_HTTP_CAINFO",
    "GOENV",
    "GONOPROXY",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOPROXY",
    "GOSUMDB",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "NPM_CONFIG_GLOBALCONFIG",
    "NPM_CONFIG_REGISTRY",
    "NPM_CONFIG_USERCONFIG",
    "NVM_DIR",
    "PATH",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PYENV_ROOT",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "USER",
    "VOLTA_HOME",
    "XDG_CONFIG_HOME",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "npm_config_globalconfig",
    "npm_config_registry",
    "npm_config_userconfig",
];

/// The user's tools and their settings, as far as they matter.
#[derive(Debug, Clone)]
pub struct Tools {
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

/// A tool gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It is not there.
    Missing,
    /// It failed.
    Failed,
    /// It took too long.
    TimedOut,
}

impl NoAnswer {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Missing => "it is not on this machine's PATH",
            Self::Failed => "it did not say where it fetches from",
            Self::TimedOut => "it did not answer in time",
        }
    }
}

impl Tools {
    /// With what the user's own environment says, but for what leads into the project; they run beneath a directory that
    /// only the user can enter.
    #[must_use]
    pub fn of_user(directory: PathBuf, project: Option<&Path>) -> Self {
        Self::with(std::env::vars_os(), directory, project)
    }

    fn with(
        variables: impl Iterator<Item = (OsString, OsString)>,
        directory: PathBuf,
        project: Option<&Path>,
    ) -> Self {
        let kept = variables.filter(|(name, _)| KEPT.iter().any(|kept| name == kept));
        let environment = kept.filter_map(|(name, value)| {
            if name == "PATH" {
                return Some((name, outside_only(&value, project)));
            }
            (!is_inside(Path::new(&value), project)).then_some((name, value))
        });
        let mut environment: Vec<_> = environment.collect();
        // In one order: the cache compares them.
        environment.sort();
        Self { environment, directory }
    }

    /// The settings, for a cache to compare.
    pub(super) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// One of the variables as a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value))
    }

    /// Where the user's home is.
    pub(super) fn home(&self) -> PathBuf {
        self.path("HOME").unwrap_or_else(|| "/".into())
    }

    /// A directory with nothing in it, gone when dropped.
    pub(super) fn empty_directory(&self) -> Result<TempDir, NoAnswer> {
        TempDir::new_in(&self.directory).map_err(|_| NoAnswer::Failed)
    }

    /// Finds a program, as a shell does, but relative to nothing.
    fn find(&self, program: &str) -> Option<PathBuf> {
        let path = self.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value)?;
        std::env::split_paths(path).map(|directory| directory.join(program)).find(|file| file.is_file())
    }

    /// Runs a tool in an empty directory and returns what it printed.
    pub(super) fn ask(&self, program: &str, arguments: &[&str]) -> Result<String, NoAnswer> {
        let empty = self.empty_directory()?;
        self.ask_in(empty.path(), (program, arguments), &[])
    }

    /// Runs a tool in a directory of ours, with more variables.
    pub(super) fn ask_in(
        &self,
        directory: &Path,
        (program, arguments): (&str, &[&str]),
        more: &[(&str, &Path)],
    ) -> Result<String, NoAnswer> {
        let mut command = Command::new(self.find(program).ok_or(NoAnswer::Missing)?);
        command.args(arguments).current_dir(directory).env_clear();
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).envs(more.iter().copied());
        command.env("LC_ALL", "C.UTF-8").env("NO_COLOR", "1");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => NoAnswer::Missing,
            _ => NoAnswer::Failed,
        })?;
        let output = child.stdout.take();
        // Read beside the wait: a tool that prints more than a pipe holds would never end.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.map(|output| output.take(MAX_OUTPUT).read_to_string(&mut text));
            text
        });
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(None) | Err(_) => {
                    // It may have ended this very moment; then there is nothing to end.
                    drop((child.kill(), child.wait()));
                    return Err(NoAnswer::TimedOut);
                }
            }
        };
        let text = reader.join().map_err(|_| NoAnswer::Failed)?;
        if status.success() { Ok(text) } else { Err(NoAnswer::Failed) }
    }
}

/// The directories of a `PATH` that are absolute and lie outside the project, links followed.
fn outside_only(path: &OsStr, project: Option<&Path>) -> OsString {
    let outside =
        std::env::split_paths(path).filter(|entry| entry.is_absolute() && !is_inside(entry, project));
    // Only an entry with a colon cannot be joined, and none came out of a split.
    std::env::join_paths(outside).unwrap_or_default()
}

fn is_inside(path: &Path, project: Option<&Path>) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    project.is_some_and(|project| real.starts_with(project) || path.starts_with(project))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_in_the_project_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let root = temp.path().canonicalize().expect("it is there");
        let project = root.join("project");
        std::fs::create_dir_all(project.join("bin")).expect("a directory");
        let tool = project.join("bin/asked-tool");
        std::fs::write(&tool, "#!/bin/sh\necho ran\n").expect("a file");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        std::os::unix::fs::symlink(project.join("bin"), root.join("link")).expect("a link");
        for entry in [project.join("bin"), root.join("link"), "bin".into()] {
            let path = format!("{}:/usr/bin:/bin", entry.display());
            let variables =
                || [("PATH".into(), path.clone().into()), ("CARGO_HOME".into(), entry.clone().into())];
            let tools = Tools::with(variables().into_iter(), root.clone(), Some(&project));
            assert_eq!(tools.ask("asked-tool", &[]), Err(NoAnswer::Missing), "{path}");
            let elsewhere =
                Tools::with(variables().into_iter(), root.clone(), Some(Path::new("/nonexistent")));
            let expected = if entry.is_absolute() { Ok("ran\n".to_owned()) } else { Err(NoAnswer::Missing) };
            assert_eq!(elsewhere.ask("asked-tool", &[]), expected, "{path}");
        }
    }

    #[test]
    fn a_tool_sees_an_empty_directory_and_no_other_variable() {
        let own = tempfile::tempdir().expect("tempdir");
        let tools = Tools {
            environment: vec![("HOME".into(), "/h".into()), ("PATH".into(), "/usr/bin:/bin".into())],
            directory: own.path().to_owned(),
        };
        let printed =
            tools.ask("sh", &["-c", "ls -A; env | cut -d= -f1 | grep -v '^_$' | sort | tr '\\n' ' '"]);
        assert_eq!(printed.as_deref(), Ok("HOME LC_ALL NO_COLOR PATH PWD "));
        assert_eq!(tools.ask("no-such-tool", &[]), Err(NoAnswer::Missing));
        assert_eq!(tools.ask("false", &[]), Err(NoAnswer::Failed));
    }
}
