//! `keyhatch demo`: the whole story in a throwaway directory, against a throwaway server.
//!
//! Nothing of the user's is touched: home, runtime directory, broker, key and token are the demo's own, and go with it.
//! The demo only calls the commands that a user would call.

mod server;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;

use server::Server;

/// What is planted: worthless, but shaped so that a leak would be seen.
const PLANTED_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nthis-is-the-demo-key-that-must-not-be-read\n\
                           -----END OPENSSH PRIVATE KEY-----\n";
/// How long between two looks at the queue.
const LOOK: Duration = Duration::from_millis(100);

/// What the agent does inside. Each command is printed before it runs.
const SCRIPT: &str = r#"
say() { printf '\n\033[1m[agent] $ %s\033[0m\n' "$*"; }
say cat ~/.ssh/id_ed25519
cat ~/.ssh/id_ed25519 && exit 41
say git ls-remote https://192.0.2.1/stolen.git
git ls-remote https://192.0.2.1/stolen.git && exit 42
say git commit -am "'Greet by name'"
printf 'fn main() {\n    println!("Hello, Ada!");\n}\n' > main.rs
git commit -qam 'Greet by name' && git log --oneline
say git push origin main
git push origin main
"#;

/// The demo could not be shown.
#[derive(Debug, Error)]
pub enum DemoError {
    /// A file or program of the demo.
    #[error("the demo cannot {what}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// git refused a step.
    #[error("the demo's git failed: git {arguments}")]
    Git {
        /// What it was told.
        arguments: String,
    },
    /// Nobody is there to decide.
    #[error("there is no terminal to ask on")]
    NoTerminal,
    /// The story did not go as it should.
    #[error("{what}")]
    Story {
        /// What went otherwise.
        what: &'static str,
    },
}

fn setup<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> DemoError {
    move |source| DemoError::Setup { what, source: source.into() }
}

/// The demo's machine.
struct Stage {
    directory: TempDir,
    server: Server,
}

/// Plays the story. With `yes` it approves by itself.
///
/// # Errors
/// When a step fails; the directory goes all the same.
pub fn play(yes: bool) -> Result<(), DemoError> {
    if !yes && !rustix::termios::isatty(io::stdin()) {
        return Err(DemoError::NoTerminal);
    }
    let stage = Stage::build()?;
    println!("keyhatch demo, in {} (it goes when the demo ends)", stage.directory.path().display());
    println!("  upstream   {}", stage.server.url("hello.git"));
    println!("  your key   {}", stage.home().join(".ssh/id_ed25519").display());
    println!("  your token in git's own credential store; the server wants it");
    let played = stage.act(yes);
    let ended = stage.end();
    played?;
    ended
}

impl Stage {
    fn build() -> Result<Self, DemoError> {
        let directory =
            tempfile::Builder::new().prefix("keyhatch-demo-").tempdir().map_err(setup("make a directory"))?;
        let at = |name: &str| directory.path().join(name);
        for name in ["home", "home/.ssh", "run", "srv", "home/hello"] {
            fs::create_dir(at(name)).map_err(setup("make a directory"))?;
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o700))
                .map_err(setup("make a directory"))?;
        }
        write_private(&at("home/.ssh/id_ed25519"), PLANTED_KEY)?;
        let server = Server::start(&at("srv"))?;
        let stage = Self { directory, server };
        write_private(&stage.home().join(".git-credentials"), &stage.server.credential_line())?;
        let home = stage.home();
        let ca = stage.server.ca_file().to_string_lossy().into_owned();
        for (key, value) in [
            ("user.name", "Ada Lovelace"),
            ("user.email", "ada@example.org"),
            ("init.defaultBranch", "main"),
            ("credential.helper", "store"),
            ("http.sslCAInfo", ca.as_str()),
        ] {
            stage.git(&home, &["config", "--global", key, value])?;
        }
        stage.git(&home, &["init", "--quiet", "--bare", &stage.upstream().to_string_lossy()])?;
        let project = stage.project();
        stage.git(&project, &["init", "--quiet"])?;
        fs::write(project.join("main.rs"), "fn main() {\n    println!(\"Hello!\");\n}\n")
            .map_err(setup("write a file"))?;
        stage.git(&project, &["add", "."])?;
        stage.git(&project, &["commit", "--quiet", "-m", "Say hello"])?;
        stage.git(&project, &["remote", "add", "origin", &stage.server.url("hello.git")])?;
        stage.git(&project, &["push", "--quiet", "origin", "main"])?;
        Ok(stage)
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn project(&self) -> PathBuf {
        self.home().join("hello")
    }

    fn upstream(&self) -> PathBuf {
        self.directory.path().join("srv/hello.git")
    }

    /// A command of the demo's user: its own home, and nothing of the real one's environment but the terminal's.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let kept = ["PATH", "TERM", "COLORTERM", "LANG", "LC_ALL", "USER", "LOGNAME"];
        command
            .env_clear()
            .envs(kept.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .env("HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.directory.path().join("run"))
            .current_dir(self.project());
        command
    }

    fn git(&self, directory: &Path, arguments: &[&str]) -> Result<(), DemoError> {
        let status = self.command("git").current_dir(directory).args(arguments).stdin(Stdio::null()).status();
        match status.map_err(setup("run git"))? {
            status if status.success() => Ok(()),
            _ => Err(DemoError::Git { arguments: arguments.join(" ") }),
        }
    }

    fn keyhatch(&self, arguments: &[&str]) -> Result<Command, DemoError> {
        let own = std::env::current_exe().map_err(setup("find this program"))?;
        let mut command = self.command(own);
        command.args(arguments);
        Ok(command)
    }

    fn act(&self, yes: bool) -> Result<(), DemoError> {
        let mut agent = self.keyhatch(&["run", "--", "sh", "-c", SCRIPT])?;
        if yes {
            agent.stdin(Stdio::null());
        }
        let mut agent = agent.spawn().map_err(setup("start keyhatch run"))?;
        let approved = if yes { self.approve(&mut agent) } else { Ok(()) };
        let status = agent.wait().map_err(setup("wait for the agent"))?;
        approved?;
        self.conclude(status)
    }

    /// Shows what a person would see, and approves it.
    fn approve(&self, agent: &mut std::process::Child) -> Result<(), DemoError> {
        let id = loop {
            if agent.try_wait().map_err(setup("wait for the agent"))?.is_some() {
                return Err(DemoError::Story { what: "the agent ended without asking" });
            }
            let listed =
                self.keyhatch(&["pending", "--json"])?.output().map_err(setup("run keyhatch pending"))?;
            let requests: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
            if let Some(id) = requests[0]["id"].as_str() {
                break id.to_owned();
            }
            std::thread::sleep(LOOK);
        };
        for arguments in [vec!["show", &id, "--diff"], vec!["approve", &id]] {
            say(&format!("[you] $ keyhatch {}", arguments.join(" ")));
            let mut command = self.keyhatch(&arguments)?;
            let status = command.stdin(Stdio::null()).status().map_err(setup("run keyhatch"))?;
            if !status.success() {
                return Err(DemoError::Story { what: "the request could not be decided" });
            }
        }
        Ok(())
    }

    fn conclude(&self, status: ExitStatus) -> Result<(), DemoError> {
        match status.code() {
            Some(41) => {
                return Err(DemoError::Story { what: "the agent read the key: the sandbox does not hold" });
            }
            Some(42) => {
                return Err(DemoError::Story {
                    what: "the agent reached the network: the sandbox does not hold",
                });
            }
            _ => {}
        }
        say("[you] $ git log --oneline main    (on the server)");
        self.git(&self.upstream(), &["--no-pager", "log", "--oneline", "main"])?;
        for arguments in [["audit", "log"], ["audit", "verify"]] {
            say(&format!("[you] $ keyhatch {}", arguments.join(" ")));
            let mut command = self.keyhatch(&arguments)?;
            if !command.status().map_err(setup("run keyhatch"))?.success() {
                return Err(DemoError::Story { what: "the audit log does not verify" });
            }
        }
        if status.success() {
            println!("\nThe agent read no key, reached no network, and pushed what you approved.");
        } else {
            println!("\nThe agent read no key and reached no network, and nothing was pushed.");
        }
        Ok(())
    }

    /// Ends the demo's broker; the directory goes with the stage.
    fn end(&self) -> Result<(), DemoError> {
        let mut stop = self.keyhatch(&["broker", "--stop"])?;
        let stopped = stop.stdout(Stdio::null()).status().map_err(setup("stop the broker"))?;
        if stopped.success() {
            Ok(())
        } else {
            Err(DemoError::Story { what: "the demo's broker could not be stopped" })
        }
    }
}

fn say(line: &str) {
    println!("\n\x1b[1m{line}\x1b[0m");
    // A closed standard output ends the demo at its next line.
    io::stdout().flush().ok();
}

fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(setup("write a file"))
}
