//! The spool: a push as it arrived, in a file without a name, so that nothing is left when the broker dies.
//!
//! Comes in: a request body, capped. Goes out: the claim from its head, and a file that holds exactly the bytes that
//! will be inspected and forwarded.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::claim::{self, ClaimError, PushClaim};

/// How long a client may stall in the middle of a push before its connection is given up.
const STALL: Duration = Duration::from_secs(120);
/// How large the write buffer is: one system call a MiB.
const BUFFER: usize = 1024 * 1024;
/// How many times the limit is read and dropped, so that a client that sends too much hears why and not "disconnected".
const PATIENT: u64 = 4;

/// How many pushes of the largest size a session's disk has room for: one that waits for a person, and others meanwhile.
const AT_ONCE: u64 = 4;

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
    /// This session's other pushes fill what it may take.
    #[error("this session's pushes that wait take {limit} bytes already: decide or withdraw one first")]
    Crowded {
        /// What they may take together.
        limit: u64,
    },
    /// The client.
    #[error("the push ended early")]
    Client,
}

/// What of the host's disk a session's pushes may take together, while they wait or are sent.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    used: AtomicU64,
}

impl Room {
    /// Room for a few pushes of the size that the policy allows.
    #[must_use]
    pub fn of(largest: u64) -> Arc<Self> {
        Arc::new(Self { limit: largest.saturating_mul(AT_ONCE), used: AtomicU64::new(0) })
    }
}

/// What one push takes of it; given back when dropped.
#[derive(Debug)]
struct Share {
    room: Arc<Room>,
    bytes: u64,
}

impl Share {
    fn grow(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let limit = self.room.limit;
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.room.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(SpoolError::Crowded { limit }),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
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
    /// Held as long as the file.
    _share: Share,
}

/// What arrived.
#[derive(Debug)]
pub enum Arrived {
    /// `0000` alone: git asks whether it may send (it does so before a large push).
    Probe,
    /// A push, whole.
    Push(Spooled),
    /// A push that is not kept: its bytes were read and dropped, so that the client hears why.
    Dropped(PushClaim, Dropped),
}

/// Why a push is not kept.
#[derive(Debug)]
pub enum Dropped {
    /// `early` refused it.
    Refused,
    /// It is too large, or the disk is full.
    Unkept(SpoolError),
}

/// Takes a push in. As soon as its commands are known, `early` may refuse it: then nothing more is kept.
///
/// # Errors
/// When it is no push, too large, or cannot be kept.
pub async fn take_in(
    body: Body,
    (directory, room): (&Path, &Arc<Room>),
    limit: u64,
    early: impl Fn(&PushClaim) -> bool,
) -> Result<Arrived, SpoolError> {
    let share = Share { room: room.clone(), bytes: 0 };
    let mut taking = Taking { writer: None, head: Vec::new(), claim: None, bytes: 0, dropped: None, share };
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| SpoolError::Client)?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|_| SpoolError::Client)?;
        taking.bytes += chunk.len() as u64;
        if taking.bytes > limit.saturating_mul(PATIENT) {
            return Err(SpoolError::TooLarge { limit });
        }
        taking.take(&chunk, (directory, limit), &early).await?;
    }
    taking.finish().await
}

/// A push on its way in.
struct Taking {
    /// Made when the first bytes of a legal push are there.
    writer: Option<BufWriter<File>>,
    /// What came before the claim was whole.
    head: Vec<u8>,
    claim: Option<PushClaim>,
    bytes: u64,
    dropped: Option<Dropped>,
    share: Share,
}

impl Taking {
    async fn take(
        &mut self,
        chunk: &[u8],
        (directory, limit): (&Path, u64),
        early: &impl Fn(&PushClaim) -> bool,
    ) -> Result<(), SpoolError> {
        if self.dropped.is_some() {
            return Ok(());
        }
        if self.claim.is_some() {
            if self.bytes > limit {
                self.writer = None;
                self.dropped = Some(Dropped::Unkept(SpoolError::TooLarge { limit }));
            } else {
                self.keep(chunk, directory).await;
            }
            return Ok(());
        }
        self.head.extend_from_slice(chunk);
        // gitprotocol-http(5): a flush alone is git's question whether it may send.
        if self.head == b"0000" {
            return Ok(());
        }
        self.claim = claim::parse(&self.head)?;
        if let Some(claim) = &self.claim {
            if early(claim) {
                self.dropped = Some(Dropped::Refused);
            } else {
                let head = std::mem::take(&mut self.head);
                self.keep(&head, directory).await;
            }
        }
        Ok(())
    }

    async fn keep(&mut self, bytes: &[u8], directory: &Path) {
        let kept = match self.share.grow(bytes.len() as u64) {
            Ok(()) => self.write(bytes, directory).await.map_err(SpoolError::Disk),
            Err(crowded) => Err(crowded),
        };
        if let Err(error) = kept {
            // What is there of it is given back to the disk at once.
            self.writer = None;
            self.dropped = Some(Dropped::Unkept(error));
        }
    }

    async fn write(&mut self, bytes: &[u8], directory: &Path) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(BufWriter::with_capacity(BUFFER, File::from_std(nameless(directory)?))),
        };
        writer.write_all(bytes).await
    }

    async fn finish(mut self) -> Result<Arrived, SpoolError> {
        let flushed = match &mut self.writer {
            Some(writer) => writer.flush().await,
            None => Ok(()),
        };
        match (self.claim, self.dropped, self.writer) {
            (None, ..) if self.head == b"0000" => Ok(Arrived::Probe),
            (Some(claim), Some(dropped), _) => Ok(Arrived::Dropped(claim, dropped)),
            (Some(claim), None, Some(writer)) => match flushed {
                Ok(()) => {
                    let file = writer.into_inner().into_std().await;
                    Ok(Arrived::Push(Spooled { claim, file, bytes: self.bytes, _share: self.share }))
                }
                Err(error) => Ok(Arrived::Dropped(claim, Dropped::Unkept(SpoolError::Disk(error)))),
            },
            _ => Err(ClaimError::Truncated.into()),
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
        take_in(Body::from(bytes), (dir.path(), &Room::of(limit)), limit, |_| false).await
    }

    #[tokio::test]
    async fn a_probe_a_cut_push_and_a_large_one_are_told_apart() {
        assert!(matches!(take(b"0000", 100).await, Ok(Arrived::Probe)));
        assert!(matches!(take(b"00", 100).await, Err(SpoolError::Claim(ClaimError::Truncated))));
        assert!(matches!(take(&[b'0'; 30], 5).await, Err(SpoolError::TooLarge { limit: 5 })));
        assert!(matches!(take(b"00000000", 100).await, Err(SpoolError::Claim(ClaimError::Empty))));
    }
}
