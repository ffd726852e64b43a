//! The spool: a push as it arrived, in a file without a name, so that nothing is left when the broker dies.
//!
//! Comes in: a request body, capped. Goes out: the claim from its head, and a sealed file that holds exactly the bytes
//! that will be inspected and forwarded.

mod quota;
mod sealed;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt;
use thiserror::Error;

use crate::claim::{ClaimError, Parser, PushClaim};
use sealed::Spool;

pub use quota::SpoolQuota;
pub(crate) use sealed::Reading;
pub use sealed::{Altered, Integrity, Sealed};

/// How long a client may stall in the middle of a push before its connection is given up.
const STALL: Duration = Duration::from_secs(120);
/// How many times the limit is read and dropped, so that a client that sends too much hears why and not "disconnected".
const DRAIN_FACTOR: u64 = 4;

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
    QuotaExceeded {
        /// What they may take together.
        limit: u64,
    },
    /// The client.
    #[error("the push ended early")]
    Client,
}

/// What arrived.
#[derive(Debug)]
pub enum Arrived {
    /// `0000` alone: git asks whether it may send (it does so before a large push).
    Probe,
    /// A push, whole.
    Push(Sealed),
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

/// Where pushes are kept, and how much of them.
#[derive(Debug, Clone, Copy)]
pub struct SpoolTarget<'a> {
    /// A directory of the broker's own.
    pub directory: &'a Path,
    /// What the session may take of it.
    pub quota: &'a Arc<SpoolQuota>,
    /// Most bytes of one push.
    pub limit: u64,
}

/// Takes a push in. As soon as its commands are known, `early` may refuse it: then nothing more is kept.
///
/// # Errors
/// When it is no push, too large, or cannot be kept.
pub async fn spool_push(
    body: Body,
    target: SpoolTarget<'_>,
    early: impl Fn(&PushClaim) -> bool,
) -> Result<Arrived, SpoolError> {
    let limit = target.limit;
    let mut incoming =
        Incoming { target, spool: None, head: Parser::default(), claim: None, bytes: 0, dropped: None };
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| SpoolError::Client)?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|_| SpoolError::Client)?;
        incoming.bytes += chunk.len() as u64;
        if incoming.bytes > limit.saturating_mul(DRAIN_FACTOR) {
            return Err(SpoolError::TooLarge { limit });
        }
        incoming.take(&chunk, &early).await?;
    }
    incoming.finish().await
}

/// A push on its way in.
struct Incoming<'a> {
    target: SpoolTarget<'a>,
    /// Made when the commands of a legal push are there.
    spool: Option<Spool>,
    /// What came before the claim was whole.
    head: Parser,
    claim: Option<PushClaim>,
    bytes: u64,
    dropped: Option<Dropped>,
}

impl Incoming<'_> {
    async fn take(&mut self, chunk: &[u8], early: &impl Fn(&PushClaim) -> bool) -> Result<(), SpoolError> {
        if self.dropped.is_some() {
            return Ok(());
        }
        if self.claim.is_some() {
            if self.bytes > self.target.limit {
                self.drop_it(SpoolError::TooLarge { limit: self.target.limit });
            } else {
                self.keep(chunk).await;
            }
            return Ok(());
        }
        let Some(claim) = self.head.take(chunk)? else { return Ok(()) };
        if early(&claim) {
            self.dropped = Some(Dropped::Refused);
        } else {
            let head = std::mem::take(&mut self.head).into_bytes();
            self.keep(&head).await;
        }
        self.claim = Some(claim);
        Ok(())
    }

    async fn keep(&mut self, bytes: &[u8]) {
        let kept = match &mut self.spool {
            Some(spool) => spool.write(bytes).await,
            none => match Spool::create(self.target.directory, self.target.quota) {
                Ok(spool) => none.insert(spool).write(bytes).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = kept {
            self.drop_it(error);
        }
    }

    /// What is there of it is given back to the disk at once.
    fn drop_it(&mut self, error: SpoolError) {
        self.spool = None;
        self.dropped = Some(Dropped::Unkept(error));
    }

    async fn finish(self) -> Result<Arrived, SpoolError> {
        match (self.claim, self.dropped, self.spool) {
            // gitprotocol-http(5): a flush alone is git's question whether it may send.
            (None, ..) if self.head.is_probe() => Ok(Arrived::Probe),
            (Some(claim), Some(dropped), _) => Ok(Arrived::Dropped(claim, dropped)),
            (Some(claim), None, Some(spool)) => match spool.seal(claim.clone()).await {
                Ok(sealed) => Ok(Arrived::Push(sealed)),
                Err(error) => Ok(Arrived::Dropped(claim, Dropped::Unkept(error))),
            },
            _ => Err(ClaimError::Truncated.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(bytes: &'static [u8], limit: u64) -> Result<Arrived, SpoolError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = SpoolTarget { directory: dir.path(), quota: &SpoolQuota::of(limit), limit };
        spool_push(Body::from(bytes), target, |_| false).await
    }

    #[tokio::test]
    async fn a_probe_a_cut_push_and_a_large_one_are_told_apart() {
        assert!(matches!(take(b"0000", 100).await, Ok(Arrived::Probe)));
        assert!(matches!(take(b"00", 100).await, Err(SpoolError::Claim(ClaimError::Truncated))));
        assert!(matches!(take(&[b'0'; 30], 5).await, Err(SpoolError::TooLarge { limit: 5 })));
        assert!(matches!(take(b"00000000", 100).await, Err(SpoolError::Claim(ClaimError::Empty))));
    }
}
