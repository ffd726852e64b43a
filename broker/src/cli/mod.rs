//! The user's command. Every subcommand is a client of the control socket, the daemon excepted.

mod agent_notes;
mod args;
mod audit;
mod bounds;
mod container;
mod credential;
mod decide;
mod display;
mod doctor;
mod explain_sign;
mod grant;
mod keyboard;
mod learn;
mod policy;
mod prompt;
mod result;
mod run;
mod runner;
mod sandbox;
mod session;
mod stdio;
mod supervise;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cause::chain;
use crate::control::client::Client;
use crate::control::client::ClientError;
use crate::control::{Reply, Request};
use crate::paths::Paths;
use crate::{daemon, demo};
use args::{Args, Command};

/// Exit codes by the kind of failure; `run` passes its command's own through.
mod exit {
    /// Policy said no, or the user did.
    pub const DENIED: u8 = 3;
    /// The request made no sense.
    pub const INVALID: u8 = 2;
    /// Something that is needed is not there.
    pub const UNAVAILABLE: u8 = 69;
    /// Our own fault.
    pub const INTERNAL: u8 = 70;
}

/// A failure as the user reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: exit::INVALID, message: message.into(), hint: Some(hint.into()) }
    }

    fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: exit::UNAVAILABLE, message: message.into(), hint: Some(hint.into()) }
    }

    fn internal(what: &str, error: &dyn std::error::Error) -> Self {
        Self { code: exit::INTERNAL, message: format!("{what}: {}", chain(error)), hint: None }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let text = chain(&error);
        match error {
            ClientError::Failed { message, hint } => Self { code: exit::DENIED, message, hint },
            ClientError::NotRunning(_) => Self::unavailable(text, "keyhatch run starts one"),
            ClientError::Token(_) => Self::unavailable(text, "run this as the user who runs the broker"),
            ClientError::Incomplete(_) => Self::unavailable(text, runner::BUILT),
            ClientError::Start { .. } => Self::unavailable(text, "keyhatch broker runs it in the foreground"),
            ClientError::Frame(_) => Self::unavailable(text, "the broker's log may say more"),
        }
    }
}

/// Runs the command line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { exit::INVALID } else { 0 };
            // Help or a usage error: clap writes it where it belongs; a closed stream loses only text.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match dispatch(args) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("keyhatch: {}", failure.message);
            if let Some(hint) = failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    if rustix::process::getuid().is_root() && !args.as_root && args.command.acts_as_user() {
        return Err(Failure::invalid(
            "refusing to run as root: keyhatch serves an ordinary user",
            "run it as yourself; --as-root runs it as root all the same",
        ));
    }
    match args.command {
        Command::Run(run) => run::run(&run),
        Command::Container(args) => container::run(&args),
        Command::Pending(pending) => decide::pending(&pending),
        Command::Show(show) => decide::show(&show),
        Command::Approve(approve) => decide::approve(&approve),
        Command::Deny(deny) => decide::deny(&deny),
        Command::Grant(args) => grant::grant(&args),
        Command::Policy(policy) => policy::policy(policy),
        Command::Audit(audit) => audit::audit(&audit),
        Command::Credential(command) => credential::credential(&command),
        Command::Session(args) => session::session(&args),
        Command::Broker { stop: true, .. } => stop(),
        Command::Broker { detached, stop: false, notify_command } => broker(detached, notify_command),
        Command::Demo { yes } => match demo::play(yes) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(demo::DemoError::NoTerminal) => Err(Failure::invalid(
                "there is no terminal to ask on",
                "keyhatch demo --yes approves by itself",
            )),
            Err(error) => Err(Failure::internal("the demo", &error)),
        },
        Command::AgentNotes => {
            print(agent_notes::TEXT)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "keyhatch", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => man(dir.as_deref()),
    }
}

fn man(directory: Option<&std::path::Path>) -> Result<ExitCode, Failure> {
    let written = match directory {
        Some(directory) => clap_mangen::generate_to(Args::command(), directory),
        None => clap_mangen::Man::new(Args::command()).render(&mut std::io::stdout()),
    };
    written.map_err(|e| Failure::internal("cannot write", &e))?;
    Ok(ExitCode::SUCCESS)
}

fn paths() -> Result<Paths, Failure> {
    Paths::of_user().map_err(|error| {
        Failure::unavailable(chain(&error), "keyhatch keeps its files in directories that only you can enter")
    })
}

/// Tells the running broker to stop, and waits until it has.
fn stop() -> Result<ExitCode, Failure> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Ok(Reply::Pong { pid }) = Client::connect(&paths()?)?.ask(Request::Ping) else {
        return Err(Failure::unavailable("the broker answered something else", "stop it by its process id"));
    };
    let gone =
        |error: rustix::io::Errno| Failure::internal("the broker's process", &std::io::Error::from(error));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Err(gone(rustix::io::Errno::SRCH)) };
    // A descriptor of the process, not its number: the number could be another's by now.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(gone)?;
    pidfd_send_signal(&process, Signal::TERM).map_err(gone)?;
    let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    match rustix::event::poll(&mut ended, Some(&patience)).map_err(gone)? {
        0 => {
            Err(Failure::unavailable(format!("the broker {} does not stop", pid.as_raw_nonzero()), "kill it"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn broker(detached: bool, notify_command: Option<String>) -> Result<ExitCode, Failure> {
    if detached {
        // It outlives the command that started it: a pipe of that command's caller would never end.
        crate::sys::close_inherited().map_err(|e| Failure::internal("inherited descriptors", &e))?;
        if let Err(error) = rustix::process::setsid() {
            tracing::debug!(%error, "already leads a session");
        }
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("KEYHATCH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match daemon::run(paths()?, notify_command) {
        Ok(daemon::Ended::AlreadyRunning) => {
            eprintln!("keyhatch: a broker is already running");
            Ok(ExitCode::SUCCESS)
        }
        Ok(daemon::Ended::Stopped) => Ok(ExitCode::SUCCESS),
        Err(error @ daemon::DaemonError::Incomplete(_)) => {
            Err(Failure::unavailable(chain(&error), runner::BUILT))
        }
        Err(error) => Err(Failure::unavailable(chain(&error), "the directory named above must be writable")),
    }
}

/// Prints JSON on one line, for scripts.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::internal("cannot encode", &e))?;
    print(&format!("{text}\n"))
}

/// Prints, and does not die of a closed pipe.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal("cannot write", &error))
        }
        _ => Ok(()),
    }
}
