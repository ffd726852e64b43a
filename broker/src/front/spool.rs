//! The spool: a push as it arrived, in a file without a name, so that nothing is left when the broker dies.
//!
//! Comes in: a request body, capped. Goes out: the claim from its head, and a file that holds exactly the bytes that
//! will be inspected and forwarded.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::claim::{self, ClaimError, PushClaim};

/// How long a client may stall in the middle of a push before its connection is given up.
const STALL: Duration = Duration::from_secs(120);
/// How large the write buffer is: one system call a MiB.
const BUFFER: usize = 1024 * 1024;

/// A push could not be taken in.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The head is not a push.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// More bytes than the policy's limit.
    #[error("the push is larger than {limit} bytes")]
    TooLarge {
        /// The limit in force.
        limit: u64,
    },
    /// The disk.
    #[error("the push cannot be kept on the host's disk")]
    Disk(#[source] io::Error),
    /// The client.
    #[error("the push ended early")]
    Client,
}

/// A push on disk.
#[derive(Debug)]
pub struct Spooled {
    /// What its head says.
    pub claim: PushClaim,
    /// All its bytes.
    pub file: std::fs::File,
    /// How many.
    pub bytes: u64,
}

/// What arrived.
#[derive(Debug)]
pub enum Arrived {
    /// `0000` alone: git asks whether it may send (it does so before a large push).
    Probe,
    /// A push, whole.
    Push(Spooled),
    /// A push that `early` refused: its bytes were read and dropped.
    Refused(PushClaim),
}

/// Takes a push in. As soon as its commands are known, `early` may refuse it: then nothing more is kept.
///
/// # Errors
/// When it is no push, too large, or cannot be kept.
pub async fn take_in(
    body: Body,
    directory: &Path,
    limit: u64,
    early: impl Fn(&PushClaim) -> bool,
) -> Result<Arrived, SpoolError> {
    let file = nameless(directory).map_err(SpoolError::Disk)?;
    let mut writer = tokio::io::BufWriter::with_capacity(BUFFER, File::from_std(file));
    let mut stream = body.into_data_stream();
    let (mut head, mut claim, mut bytes, mut refused) = (Vec::new(), None, 0u64, false);
    loop {
        let next = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| SpoolError::Client)?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|_| SpoolError::Client)?;
        bytes += chunk.len() as u64;
        if bytes > limit {
            return Err(SpoolError::TooLarge { limit });
        }
        if claim.is_none() {
            head.extend_from_slice(&chunk);
            if head == b"0000" {
                continue;
            }
            claim = claim::parse(&head)?;
            refused = claim.as_ref().is_some_and(&early);
            if claim.is_some() && !refused {
                writer.write_all(&head).await.map_err(SpoolError::Disk)?;
                head = Vec::new();
            }
        } else if !refused {
            writer.write_all(&chunk).await.map_err(SpoolError::Disk)?;
        }
    }
    match claim {
        None if head == b"0000" => Ok(Arrived::Probe),
        None => Err(ClaimError::Truncated.into()),
        Some(claim) if refused => Ok(Arrived::Refused(claim)),
        Some(claim) => {
            writer.flush().await.map_err(SpoolError::Disk)?;
            let file = writer.into_inner().into_std().await;
            Ok(Arrived::Push(Spooled { claim, file, bytes }))
        }
    }
}

/// A file that never had a name. The spool's directory is the broker's own, on a local file system.
fn nameless(directory: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(bytes: &'static [u8], limit: u64) -> Result<Arrived, SpoolError> {
        let dir = tempfile::tempdir().expect("tempdir");
        take_in(Body::from(bytes), dir.path(), limit, |_| false).await
    }

    #[tokio::test]
    async fn a_probe_a_cut_push_and_a_large_one_are_told_apart() {
        assert!(matches!(take(b"0000", 100).await, Ok(Arrived::Probe)));
        assert!(matches!(take(b"00", 100).await, Err(SpoolError::Claim(ClaimError::Truncated))));
        assert!(matches!(take(b"0000000000", 5).await, Err(SpoolError::TooLarge { limit: 5 })));
        assert!(matches!(take(b"00000000", 100).await, Err(SpoolError::Claim(ClaimError::Empty))));
    }
}
