//! A push on the host's disk: written once ([`Spool`]), sealed, and from then on only read ([`Sealed`]).
//!
//! The file has no name. Its SHA-256 is taken while it is written and again while it is sent, and its head is parsed
//! again before the first byte leaves. Whoever changed the bytes in between, a confined child that got hold of a writable
//! descriptor among them, stops the push and changes nothing of what is sent.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::Stream;
use ring::digest::{Context, SHA256};
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::SpoolError;
use super::quota::{Reservation, SpoolQuota};
use crate::claim::{self, PushClaim};

/// How large the write buffer is: one system call a MiB.
const BUFFER: usize = 1024 * 1024;
/// One read while it is sent. What is smaller is compared whole before its first byte leaves.
const CHUNK: usize = 256 * 1024;

/// A push that is being written.
pub(super) struct Spool {
    writer: BufWriter<File>,
    sha256: Context,
    bytes: u64,
    reservation: Reservation,
}

impl Spool {
    /// A file that never had a name, in the broker's own directory on a local file system. Nobody may write it but through
    /// the one descriptor that makes it: its mode is 0400 from the start.
    pub(super) fn create(directory: &Path, quota: &Arc<SpoolQuota>) -> Result<Self, SpoolError> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o400)
            .open(directory)
            .map_err(SpoolError::Disk)?;
        let writer = BufWriter::with_capacity(BUFFER, File::from_std(file));
        Ok(Self { writer, sha256: Context::new(&SHA256), bytes: 0, reservation: Reservation::new(quota) })
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.reservation
            .grow(bytes.len() as u64)
            .map_err(|exceeded| SpoolError::QuotaExceeded { limit: exceeded.limit })?;
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.write_all(bytes).await.map_err(SpoolError::Disk)
    }

    /// Gives the only writable descriptor away for one that only reads.
    pub(super) async fn seal(mut self, claim: PushClaim) -> Result<Sealed, SpoolError> {
        self.writer.flush().await.map_err(SpoolError::Disk)?;
        let writable = self.writer.into_inner().into_std().await;
        let file = std::fs::File::open(format!("/proc/self/fd/{}", writable.as_raw_fd()));
        drop(writable);
        Ok(Sealed {
            claim: Arc::new(claim),
            file: Arc::new(file.map_err(SpoolError::Disk)?),
            bytes: self.bytes,
            sha256: self.sha256.finish(),
            _reservation: self.reservation,
        })
    }
}

/// A push on disk that is only read any more.
#[derive(Debug)]
pub struct Sealed {
    claim: Arc<PushClaim>,
    file: Arc<std::fs::File>,
    bytes: u64,
    sha256: ring::digest::Digest,
    /// Held as long as the file.
    _reservation: Reservation,
}

/// The bytes are not those that were taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the push on the host's disk is not the one that was taken in")]
pub struct Altered;

/// Whether a push that is being sent turned out to be another one.
#[derive(Debug, Clone, Default)]
pub struct Integrity(Arc<AtomicBool>);

impl Integrity {
    /// Whether it did. Known for certain once the answer has ended.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn broken(&self) -> io::Error {
        self.0.store(true, Ordering::Release);
        io::Error::new(io::ErrorKind::InvalidData, Altered)
    }
}

impl Sealed {
    /// What its head says.
    #[must_use]
    pub const fn claim(&self) -> &Arc<PushClaim> {
        &self.claim
    }

    /// How many bytes it has, head and pack.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A descriptor that only reads, for the child that inspects it.
    #[must_use]
    pub fn file(&self) -> &std::fs::File {
        &self.file
    }

    /// The bytes from the start, for sending. The head is parsed anew, and is the one that was claimed.
    ///
    /// # Errors
    /// When the head is another one, or the disk fails.
    pub(crate) async fn read(&self) -> io::Result<Reading> {
        let claim = self.claim.clone();
        let head = claim.pack_offset.unwrap_or(self.bytes);
        let first = usize::try_from(head).unwrap_or(usize::MAX).max(CHUNK);
        let integrity = Integrity::default();
        let first = read_at(&self.file, 0, first).await?;
        if claim::parse(&first).ok().flatten().as_ref() != Some(&*claim) {
            return Err(integrity.broken());
        }
        Ok(Reading {
            file: self.file.clone(),
            next: Some(first),
            offset: 0,
            bytes: self.bytes,
            running: Context::new(&SHA256),
            expected: self.sha256,
            integrity,
        })
    }
}

/// A sealed push on its way out.
pub(crate) struct Reading {
    file: Arc<std::fs::File>,
    /// Bytes that were read already.
    next: Option<Bytes>,
    /// How many bytes were given away.
    offset: u64,
    bytes: u64,
    running: Context,
    expected: ring::digest::Digest,
    integrity: Integrity,
}

impl Reading {
    /// Tells later whether the bytes were the same to the end.
    pub(crate) fn integrity(&self) -> Integrity {
        self.integrity.clone()
    }

    /// The bytes. Ends with an error in the place of the last ones where they are not those that were taken in.
    pub(crate) fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(Some(self), |state| async move {
            let mut reading = state?;
            match reading.chunk().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.offset == self.bytes {
            return Ok(None);
        }
        let bytes = match self.next.take() {
            Some(bytes) => bytes,
            None => read_at(&self.file, self.offset, CHUNK).await?,
        };
        self.running.update(&bytes);
        self.offset += bytes.len() as u64;
        let is_last = self.offset >= self.bytes || bytes.is_empty();
        let is_same = || self.running.clone().finish().as_ref() == self.expected.as_ref();
        if is_last && (self.offset != self.bytes || !is_same()) {
            return Err(self.integrity.broken());
        }
        Ok(Some(bytes))
    }
}

/// Reads up to so many bytes, beside the workers that serve others.
async fn read_at(file: &Arc<std::fs::File>, offset: u64, most: usize) -> io::Result<Bytes> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; most];
        let mut filled = 0;
        while filled < most {
            match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    });
    read.await?
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::unix::fs::PermissionsExt;

    use futures_util::{StreamExt, TryStreamExt};

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const Z: &str = "0000000000000000000000000000000000000000";

    /// A push to `agent/x` with a pack of so many bytes.
    fn push(pack: usize) -> Vec<u8> {
        let line = format!("{Z} {A} refs/heads/agent/x\0report-status");
        let head = format!("{:04x}{line}0000PACK", line.len() + 4);
        [head.as_bytes(), &vec![7; pack]].concat()
    }

    async fn sealed(bytes: &[u8]) -> Sealed {
        let directory = tempfile::tempdir().expect("a directory");
        let quota = SpoolQuota::of(1 << 30);
        let mut spool = Spool::create(directory.path(), &quota).expect("a spool");
        for piece in bytes.chunks(1000) {
            spool.write(piece).await.expect("it is written");
        }
        spool.seal(claim::parse(bytes).expect("legal").expect("whole")).await.expect("it is sealed")
    }

    /// What is sent before the stream ends, and whether it ends well.
    async fn sent(sealed: &Sealed) -> (Vec<u8>, bool) {
        let Ok(reading) = sealed.read().await else { return (Vec::new(), false) };
        let integrity = reading.integrity();
        let mut stream = Box::pin(reading.stream());
        let (mut bytes, mut well) = (Vec::new(), true);
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(_) => well = false,
            }
        }
        assert_eq!(integrity.is_broken(), !well);
        (bytes, well)
    }

    /// What a process of the same user can do that is not confined: make the file writable, and write.
    fn write_at(sealed: &Sealed, offset: u64, bytes: &[u8]) {
        let path = format!("/proc/self/fd/{}", sealed.file().as_raw_fd());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("the owner may");
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("it opens now");
        file.seek(io::SeekFrom::Start(offset)).expect("it seeks");
        file.write_all(bytes).expect("it is written");
    }

    #[tokio::test]
    async fn what_was_sealed_is_sent_to_the_last_byte_and_again() {
        for size in [0, 5000, CHUNK, CHUNK * 2, CHUNK * 3 + 1] {
            let bytes = push(size);
            let sealed = sealed(&bytes).await;
            for _ in 0..2 {
                let reading = sealed.read().await.expect("it is the same");
                let sent: Vec<Bytes> = reading.stream().try_collect().await.expect("it is sent");
                assert!(sent.concat() == bytes, "{size}");
            }
        }
    }

    #[tokio::test]
    async fn a_sealed_push_has_no_descriptor_that_writes_and_no_mode_that_lets_one_open() {
        let sealed = sealed(&push(5000)).await;
        let mut file = sealed.file();
        assert_eq!(file.write(b"x").map_err(|e| e.raw_os_error()), Err(Some(libc::EBADF)));
        assert_eq!(file.metadata().expect("its state").permissions().mode() & 0o777, 0o400);
        let copy = sealed.file().try_clone().expect("as for a child");
        assert_eq!((&copy).write(b"x").map_err(|e| e.raw_os_error()), Err(Some(libc::EBADF)));
        assert!(copy.set_len(0).is_err());
    }

    #[tokio::test]
    async fn of_a_push_whose_head_was_changed_nothing_is_sent() {
        let bytes = push(CHUNK * 4);
        let at = bytes.windows(7).position(|part| part == b"agent/x").expect("the ref");
        for (offset, new) in [(at, &b"release"[..]), (0, b"0000"), (at + 8, b"quiet")] {
            let sealed = sealed(&bytes).await;
            write_at(&sealed, offset as u64, new);
            assert_eq!(sent(&sealed).await, (Vec::new(), false), "at {offset}");
        }
    }

    #[tokio::test]
    async fn a_push_whose_pack_was_changed_grew_or_shrank_never_reaches_its_last_byte() {
        let bytes = push(CHUNK * 4);
        let last = bytes.len() as u64 - 1;
        for offset in [200, CHUNK as u64 + 9, CHUNK as u64 * 3, last] {
            let sealed = sealed(&bytes).await;
            write_at(&sealed, offset, b"!");
            let (sent, well) = sent(&sealed).await;
            assert!(!well && (sent.len() as u64) < last, "at {offset}: {} bytes", sent.len());
        }
        let small = sealed(&push(5000)).await;
        write_at(&small, 3000, b"!");
        assert_eq!(
            sent(&small).await,
            (Vec::new(), false),
            "a small one is compared before its first byte leaves"
        );
        let grown = sealed(&bytes).await;
        write_at(&grown, last + 1, b"0000");
        let (sent_of_grown, well) = sent(&grown).await;
        assert!(!well && (sent_of_grown.len() as u64) < last);
        let cut = sealed(&bytes).await;
        write_at(&cut, 0, b"");
        std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", cut.file().as_raw_fd()))
            .and_then(|file| file.set_len(last - 10))
            .expect("it shrinks");
        assert!(!sent(&cut).await.1);
    }
}
