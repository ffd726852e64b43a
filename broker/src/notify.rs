//! `keyhatch broker --notify-command`: tells a program of the user's of each request that waits.
//!
//! It is told and not asked: its exit code decides nothing. What a session chose (names, messages) reaches it as JSON on
//! standard input and never as a part of its command line.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keyhatch_protocol::RequestId;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::broker::Broker;
use crate::control::RequestView;

/// How long a program may take to pass a message on; then it is killed, and the next request is told of.
const PATIENCE: Duration = Duration::from_secs(30);
/// Names the request for the program.
const REQUEST: &str = "KEYHATCH_REQUEST";

/// Tells of each new request, one after the other, for ever.
pub async fn tell(broker: Arc<Broker>, command: String) {
    let mut changes = broker.queue.changes();
    let mut told: HashSet<RequestId> = HashSet::new();
    loop {
        changes.borrow_and_update();
        let pending = broker.queue.pending();
        told.retain(|id| pending.iter().any(|asked| asked.id == *id));
        for asked in &pending {
            if told.insert(asked.id.clone()) {
                one(&command, &RequestView::of(asked, broker.queue.now())).await;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn one(command: &str, request: &RequestView) {
    let id = &request.id;
    match tokio::time::timeout(PATIENCE, run(command, request)).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::warn!(%id, %status, "the notify command failed"),
        Ok(Err(error)) => tracing::warn!(%id, %error, "the notify command could not be run"),
        Err(_) => tracing::warn!(%id, "the notify command took too long"),
    }
}

async fn run(command: &str, request: &RequestView) -> std::io::Result<std::process::ExitStatus> {
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).env(REQUEST, request.id.as_str()).current_dir("/").kill_on_drop(true);
    // Its output would stand between the broker's own lines, and a session can have words in it.
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if let Some(mut input) = child.stdin.take()
        && let Err(error) = input.write_all(&text).await
    {
        // A program that does not read what it is told is its own affair.
        tracing::debug!(%error, "the notify command did not read the request");
    }
    child.wait().await
}
