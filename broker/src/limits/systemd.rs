//! The user's systemd: it starts a scope for the runner, in which the user may make cgroups.
//!
//! `org.freedesktop.systemd1(5)`, `StartTransientUnit`. Only systemd can take a process out of a login session's cgroup,
//! which is root's, into the user's own part of the tree.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use keyhatch_protocol::SessionId;
use thiserror::Error;
use zbus::zvariant::{OwnedObjectPath, Value};

/// A scope takes milliseconds; a systemd that is stuck must not keep the session from starting.
const PATIENCE: Duration = Duration::from_secs(3);
const SERVICE: &str = "org.freedesktop.systemd1";

/// systemd gave no scope.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// No bus, or an answer that is an error.
    #[error("the user's bus")]
    Bus(#[from] zbus::Error),
    /// It did not answer.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Silent,
    /// The job ended otherwise.
    #[error("its job ended as {0:?}")]
    Job(String),
}

/// Whether it is worth asking.
pub(super) fn may_be_there() -> bool {
    runtime_directory().is_some_and(|directory| directory.join("systemd/private").exists())
}

fn runtime_directory() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Starts a scope with one process in it. It ends when the last of its processes does.
pub(super) async fn start_scope(session: &SessionId, pid: u32) -> Result<(), SystemdError> {
    match tokio::time::timeout(PATIENCE, start(session, pid)).await {
        Ok(started) => started,
        Err(_) => Err(SystemdError::Silent),
    }
}

async fn start(session: &SessionId, pid: u32) -> Result<(), SystemdError> {
    let connection = zbus::Connection::session().await?;
    let manager = zbus::Proxy::new(
        &connection,
        SERVICE,
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )
    .await?;
    manager.call_method("Subscribe", &()).await?;
    // Before the job exists: its end could otherwise come first.
    let mut ended = manager.receive_signal("JobRemoved").await?;
    let unit = format!("keyhatch-{session}.scope");
    let properties: Vec<(&str, Value<'_>)> = vec![
        ("Description", Value::from(format!("keyhatch session {session}"))),
        ("PIDs", Value::from(vec![pid])),
        ("Delegate", Value::from(true)),
        ("CollectMode", Value::from("inactive-or-failed")),
    ];
    let nothing: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let job: OwnedObjectPath =
        manager.call("StartTransientUnit", &(unit.as_str(), "fail", properties, nothing)).await?;
    while let Some(message) = ended.next().await {
        let (_, removed, _, result): (u32, OwnedObjectPath, String, String) = message.body().deserialize()?;
        if removed == job {
            return if result == "done" { Ok(()) } else { Err(SystemdError::Job(result)) };
        }
    }
    Err(SystemdError::Silent)
}
