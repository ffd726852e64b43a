//! One user's machine: home, runtime directory, programs, project, broker.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::User;

/// How long a test waits for anything before it fails; far above what a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// When the harness commits.
const DATE: &str = "1699999999 +0000";
const PROGRAMS: [&str; 4] = ["keyhatch", "keyhatch-run", "keyhatch-helper", "keyhatch-inspect"];

/// A user with a home, a broker and our programs.
pub struct World {
    directory: TempDir,
    /// Who everything runs as.
    pub user: User,
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it printed as errors.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Finished {
    /// Fails the test where the command failed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Fails the test where the command succeeded.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(!self.status.success(), "{self:#?}");
        self
    }

    /// The exit code; -1 for a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Everything that it printed.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command that runs; killed when dropped.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    /// Looks after a child.
    pub(crate) fn of(child: Child) -> Self {
        Self { child: Some(child) }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn finish(mut self) -> Finished {
        let child = self.child.take().expect("it is waited for once");
        child.wait_with_output().expect("a child can be waited for").into()
    }

    /// Its process.
    ///
    /// # Panics
    /// When it was waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = rustix::process::Pid::from_raw(self.id().cast_signed()).expect("a pid");
        let signal = rustix::process::Signal::from_named_raw(signal).expect("a signal");
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A server that is asked to end takes its own children with it; one that is killed does not.
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(child.kill());
        drop(child.wait());
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Makes a home with git set up, and copies the programs there: the build's own directory may be root's alone.
    ///
    /// # Panics
    /// When the programs were not built, or the machine lacks what the tests need.
    #[must_use]
    pub fn new() -> Self {
        let user = User::ordinary();
        let directory =
            tempfile::Builder::new().prefix("keyhatch-world-").tempdir_in("/tmp").expect("a directory");
        user.owns(directory.path());
        let world = Self { directory, user };
        for name in [
            "home",
            "run",
            "bin",
            "srv",
            "home/.config",
            "home/.config/keyhatch",
            "home/.config/keyhatch/policies",
        ] {
            world.make_directory(name);
        }
        let built = built();
        for program in PROGRAMS {
            let source = built.join(program);
            assert!(
                source.is_file(),
                "{} is missing: cargo build --workspace first (with --release for benchmarks)",
                source.display()
            );
            fs::copy(source, world.path("bin").join(program)).expect("a program can be copied");
        }
        for (key, value) in
            [("user.name", "Ada Lovelace"), ("user.email", "ada@example.org"), ("init.defaultBranch", "main")]
        {
            world.git(&world.home(), &["config", "--global", key, value]).ok();
        }
        world
    }

    /// A path in the world.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The user's home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Makes a directory of the user's, mode 0700.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a directory can be made");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("a mode can be set");
        self.user.owns(&path);
        path
    }

    /// Writes a file of the user's.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        self.write_mode(name, text, 0o644)
    }

    /// Writes a file of the user's with a mode.
    pub fn write_mode(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file can be written");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("a mode can be set");
        self.user.owns(&path);
        path
    }

    /// Writes a policy of the user's that `--policy NAME` finds.
    pub fn policy(&self, name: &str, text: &str) {
        self.write(&format!("home/.config/keyhatch/policies/{name}.toml"), text);
    }

    /// Writes a policy that allows everything with the project's own remotes, for tests of what is not the decision.
    pub fn allow_policy(&self) {
        self.policy("allow", ALLOW);
    }

    /// A command of the user's: clean environment, in the home.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home())
            .env("USER", &self.user.name)
            .env("LOGNAME", &self.user.name)
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.path("bin").display()))
            .env("LANG", "C.UTF-8")
            .current_dir(self.home())
            .stdin(Stdio::null());
        self.user.runs(&mut command);
        command
    }

    /// Runs the host's git, as the user does without keyhatch.
    pub fn git(&self, directory: &Path, arguments: &[&str]) -> Finished {
        self.command("git").current_dir(directory).args(arguments).output().expect("git runs").into()
    }

    /// Runs a keyhatch command.
    pub fn keyhatch(&self, arguments: &[&str]) -> Finished {
        self.command(self.path("bin/keyhatch")).args(arguments).output().expect("keyhatch runs").into()
    }

    /// Runs a shell script in a project's sandbox and waits for it.
    pub fn run(&self, project: &Path, policy: &str, script: &str) -> Finished {
        self.start(project, policy, script).finish()
    }

    /// Starts a shell script in a project's sandbox.
    pub fn start(&self, project: &Path, policy: &str, script: &str) -> Running {
        let mut command = self.command(self.path("bin/keyhatch"));
        command.current_dir(project).args(["run", "--policy", policy, "--", "sh", "-c", script]);
        self.spawn(command)
    }

    /// Starts a command with its output captured.
    pub fn spawn(&self, mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        loop {
            match command.spawn() {
                // Another test's child, between fork and exec, still has the program open that was just written here.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                child => return Running { child: Some(child.expect("it starts")) },
            }
        }
    }

    /// Makes a project with one commit and a remote.
    pub fn project(&self, name: &str, origin: &str) -> PathBuf {
        self.project_with(name, origin, "sha1")
    }

    /// Makes a project of an object format.
    pub fn project_with(&self, name: &str, origin: &str, format: &str) -> PathBuf {
        let path = self.make_directory(name);
        self.git(&path, &["init", "--quiet", "--object-format", format]).ok();
        self.git(&path, &["remote", "add", "origin", origin]).ok();
        self.commit(&path, "README", "hello\n");
        path
    }

    /// Commits one file on the host's side.
    pub fn commit(&self, project: &Path, file: &str, content: &str) {
        let path = project.join(file);
        fs::write(&path, content).expect("a file can be written");
        self.user.owns(&path);
        self.git(project, &["add", file]).ok();
        // At a fixed second: the same content is the same commit, also in a twin.
        let mut commit = self.command("git");
        commit.current_dir(project).args(["commit", "--quiet", "-m", &format!("Add {file}")]);
        commit.env("GIT_AUTHOR_DATE", DATE).env("GIT_COMMITTER_DATE", DATE);
        Finished::from(commit.output().expect("git runs")).ok();
    }

    /// Makes an empty upstream repository under `srv` and returns its path.
    pub fn upstream(&self, name: &str, format: &str) -> PathBuf {
        let path = self.path("srv").join(name);
        self.git(
            &self.home(),
            &["init", "--quiet", "--bare", "--object-format", format, &path.to_string_lossy()],
        )
        .ok();
        for (key, value) in [
            ("receive.advertisePushOptions", "true"),
            ("http.receivepack", "true"),
            ("uploadpack.allowFilter", "true"),
            ("uploadpack.allowAnySHA1InWant", "true"),
        ] {
            self.git(&path, &["config", key, value]).ok();
        }
        path
    }

    /// Where a ref of a repository points; empty where it does not exist.
    pub fn tip(&self, repository: &Path, name: &str) -> String {
        let found = self.git(repository, &["rev-parse", "--verify", "--quiet", name]);
        found.stdout.trim().to_owned()
    }

    /// Waits for a request to be pending.
    ///
    /// # Panics
    /// When none comes.
    pub fn pending(&self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let listed = self.keyhatch(&["pending", "--json"]);
            if listed.status.success()
                && let Ok(Value::Array(requests)) = serde_json::from_str(&listed.stdout)
                && let Some(first) = requests.into_iter().next()
            {
                return first;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nothing asked for approval; the broker said:\n{}", self.broker_log());
    }

    /// The id of the request that is pending.
    pub fn pending_id(&self) -> String {
        self.pending()["id"].as_str().expect("a request has an id").to_owned()
    }

    /// Approves what is pending next.
    pub fn approve_next(&self) -> Finished {
        let id = self.pending_id();
        self.approve(&id, &[]).ok()
    }

    /// Looks at a request, as a person does, and approves it.
    pub fn approve(&self, id: &str, options: &[&str]) -> Finished {
        self.keyhatch(&["show", id]).ok();
        self.keyhatch(&[&["approve", id], options].concat())
    }

    /// The audit log's records.
    pub fn audit(&self) -> Vec<Value> {
        let text =
            fs::read_to_string(self.home().join(".local/state/keyhatch/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
    }

    /// The events of the audit log, by name.
    pub fn events(&self) -> Vec<String> {
        self.audit().iter().map(|record| record["event"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the detached broker logged.
    #[must_use]
    pub fn broker_log(&self) -> String {
        fs::read_to_string(self.home().join(".local/state/keyhatch/broker.log")).unwrap_or_default()
    }

    /// The processes of this world that run a program with these words in their command line.
    #[must_use]
    pub fn processes(&self, words: &str) -> Vec<i32> {
        // The broker hides its environment; its own path is in its command line.
        let ours = self.path("").display().to_string();
        let numbers = fs::read_dir("/proc").expect("/proc can be read").filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
            (line.contains(&ours) && line.contains(words)).then_some(pid)
        });
        numbers.collect()
    }

    /// The broker's process.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn broker(&self) -> i32 {
        // A child of it between fork and exec looks the same.
        let found = self.processes("keyhatch broker");
        let parent = |pid: &i32| -> Option<i32> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
        };
        let own = found.iter().find(|pid| parent(pid).is_some_and(|parent| !found.contains(&parent)));
        *own.expect("a broker runs")
    }

    /// Waits for something to become true.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "{what} did not happen; the broker said:\n{}",
                self.broker_log()
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Runs a command with text on its standard input.
    pub fn with_input(&self, mut command: Command, input: &[u8]) -> Finished {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("it can be waited for");
        writer.join().expect("the writer ends");
        output.into()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.processes("keyhatch broker") {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // It may have gone meanwhile.
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        // A container that a failed test left outlives runc, which passes a signal on that its shell does not take.
        for left in std::fs::read_dir(self.path("runc")).into_iter().flatten().filter_map(Result::ok) {
            let mut delete = self.command("/usr/sbin/runc");
            delete.arg("--root").arg(self.path("runc")).args(["delete", "--force"]).arg(left.file_name());
            drop(delete.output());
        }
        if std::thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", self.broker_log());
        }
    }
}

/// Where `cargo build --workspace` put the programs.
fn built() -> PathBuf {
    match std::env::var_os("KEYHATCH_BIN") {
        Some(directory) => directory.into(),
        // Benchmarks measure what is shipped; tests run what builds fastest.
        None if cfg!(debug_assertions) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
    }
}

const ALLOW: &str = r#"
name = "allow"
description = "Everything with the project's own remotes."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"

[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward", "force", "delete"]
decision = "allow"
risks = "accept"
reason = "a test"
"#;
