//! The daemon: one a user, held by a lock. It serves the control socket until it is told to stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyhatch_cage::ChildError;
use keyhatch_host::random::random;
use keyhatch_protocol::SessionId;
use rustix::fs::FlockOperation;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::approval::seconds;
use crate::audit::{self, AuditError};
use crate::broker::Broker;
use crate::control::server;
use crate::credential::HostGit;
use crate::notify;
use crate::paths::{Paths, PathsError};
use crate::session::gitdir;
use crate::session::report::SessionReport;

/// How long threads that a disk holds up may go on when everything has ended.
const ENDING: Duration = Duration::from_secs(5);

/// The daemon could not start.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// Its directories.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// Its audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A program of ours is missing that it starts.
    #[error("the broker cannot look at what sessions send")]
    Incomplete(#[from] ChildError),
    /// A file or socket of its own.
    #[error("cannot set up {what}")]
    Setup {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a daemon ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// Another one holds the lock.
    AlreadyRunning,
}

/// Runs the daemon until SIGTERM or SIGINT; tells a command of the user's of each request, where there is one.
///
/// # Errors
/// When its directories, its audit log or its socket cannot be had.
pub fn run(paths: Paths, notify_command: Option<String>) -> Result<Ended, DaemonError> {
    let setup = |what| move |source| DaemonError::Setup { what, source };
    let Some(_lock) = lock(&paths).map_err(setup("the lock"))? else { return Ok(Ended::AlreadyRunning) };
    // Kept from here on: a broker that runs on while its programs are replaced asks the one of its own version.
    keyhatch_inspection::open_inspector()?;
    // Secrets will live in this process: no core dump, no ptrace by others of the same user.
    harden().map_err(setup("this process"))?;
    // What sessions ask for, and what the user asks for: neither waits for a thread of the other's.
    let (sessions, control) = (
        runtime("sessions").map_err(setup("the runtime"))?,
        runtime("control").map_err(setup("the runtime"))?,
    );
    let ended = control.block_on(serve(paths, notify_command, sessions.handle().clone()));
    // What blocks for ever, on a disk or a pipe, does not keep the daemon.
    sessions.shutdown_timeout(ENDING);
    control.shutdown_timeout(ENDING);
    ended
}

fn runtime(name: &str) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build()
}

async fn serve(paths: Paths, notify_command: Option<String>, sessions: Handle) -> Result<Ended, DaemonError> {
    let setup = |what| move |source| DaemonError::Setup { what, source };
    clear(&paths.sessions()).map_err(setup("the sessions' directory"))?;
    clear(&paths.files()).map_err(setup("the sessions' files"))?;
    clear(&paths.named()).map_err(setup("the sessions' names"))?;
    clear(&paths.spool()).map_err(setup("the spool"))?;
    let token = write_token(&paths).map_err(setup("the control token"))?;
    let socket = paths.control_socket();
    // The lock is ours and the directory is private: a socket here is one that a dead broker of ours left.
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(setup("the control socket")(e)),
        _ => {}
    }
    let broker = Arc::new(Broker::new(paths, HostGit::of_user(), sessions)?);
    conclude(&broker).await?;
    recover_git_directories(&broker);
    let listener = UnixListener::bind(&socket).map_err(setup("the control socket"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(setup("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(setup("signals"))?;
    if let Some(command) = notify_command {
        tokio::spawn(notify::tell(broker.clone(), command));
    }
    tracing::info!(pid = std::process::id(), "broker started");
    tokio::select! {
        () = server::accept(listener, broker.clone(), token) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    broker.end_all().await;
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::warn!(%error, "cannot remove the control socket");
    }
    Ok(Ended::Stopped)
}

/// Brings what sessions committed that an earlier broker left, and keeps the report that they would have had.
fn recover_git_directories(broker: &Arc<Broker>) {
    let reports = broker.paths.reports();
    gitdir::recover(&broker.paths.git_directories(), move |record, sections| {
        let closed = seconds(std::time::SystemTime::now());
        if let Err(error) = SessionReport::recovered(record, sections, closed).keep(&reports) {
            tracing::warn!(session = %record.session, %error, "a session's report is not kept");
        }
    });
}

/// Says of every push that was being sent when an earlier broker died that its outcome is unknown.
async fn conclude(broker: &Broker) -> Result<(), AuditError> {
    for sending in audit::unanswered(&broker.paths.audit())? {
        let session =
            sending.get("session").and_then(Value::as_str).and_then(|id| id.parse::<SessionId>().ok());
        let Some(session) = session else { continue };
        let kept = ["remote", "digest", "updates"];
        let mut fields: Vec<(&str, Value)> =
            kept.iter().filter_map(|name| Some((*name, sending.get(*name)?.clone()))).collect();
        fields.push((
            "reason",
            "the broker ended while this was sent: whether upstream took it is unknown".into(),
        ));
        broker.record_outcome(&session, "push-unknown", fields).await?;
    }
    broker.concluded().await
}

fn lock(paths: &Paths) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(paths.lock())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn harden() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A tunnel holds six descriptors, and the usual soft limit is 1024: what one session may open must not starve the others.
    let files = rustix::process::getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    Ok(())
}

fn write_token(paths: &Paths) -> io::Result<String> {
    let token: String = random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
    let next = paths.control_token().with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(token.as_bytes())?;
    std::fs::rename(next, paths.control_token())?;
    Ok(token)
}

/// Removes what a broker that died left in a directory of ours.
fn clear(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
