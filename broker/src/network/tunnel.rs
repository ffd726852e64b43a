//! A tunnel: bytes both ways between a session and a host, counted, limited, and ended with the session.
//!
//! The kernel moves the bytes from socket to socket (`splice(2)`), so that a tunnel costs little beside a direct
//! connection. What is inside is not looked at, but for the first words of an ssh server that the session's ssh-agent
//! logs in to: its proof of itself, which is in clear.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyhatch_protocol::kex::{self, MAX_PRELUDE, Prelude};
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Served;
use super::door::Open;
use crate::session::Session;

/// What one `splice` moves at most, and how much a pipe of a tunnel holds. A user's pipes may hold 64 MiB together before
/// the kernel gives smaller ones, which only costs speed.
const CHUNK: usize = 256 * 1024;
/// How long the other way may carry nothing once one end is done: a client that is gone looks like one that has only
/// finished sending, and its tunnel would hold one of the session's connections.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// Bytes that a session may still move.
#[derive(Debug)]
pub struct Budget {
    sent: AtomicU64,
    received: AtomicU64,
    most_sent: u64,
    most_received: u64,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub const fn new(most_sent: u64, most_received: u64) -> Self {
        Self { sent: AtomicU64::new(0), received: AtomicU64::new(0), most_sent, most_received }
    }

    /// The name of the limit that is used up; none while there is something left.
    #[must_use]
    pub fn spent(&self) -> Option<&'static str> {
        let over = |used: &AtomicU64, most| used.load(Ordering::Relaxed) >= most;
        match () {
            () if over(&self.sent, self.most_sent) => Some("sent"),
            () if over(&self.received, self.most_received) => Some("received"),
            () => None,
        }
    }

    /// Counts bytes; an error once the limit is passed.
    fn take(&self, way: Way, bytes: usize) -> io::Result<()> {
        let (used, most) = match way {
            Way::Out => (&self.sent, self.most_sent),
            Way::In => (&self.received, self.most_received),
        };
        let bytes = bytes as u64;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > most { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    }
}

/// Moves bytes until both ends are done, nothing moved for too long, or the session ends. `early` are bytes of the
/// session's that were read before the tunnel began.
pub(super) async fn run(served: &Served, (inside, early): (TcpStream, Bytes), open: Open) {
    let Open { mut stream, permit, name } = open;
    let network = served.network();
    let meter = Meter::new(&network.budget);
    let both = async {
        meter.count(Way::Out, early.len())?;
        stream.write_all(&early).await?;
        let incoming = async {
            see_proof(&served.session, &name, (&stream, &inside), &meter).await?;
            pump(&stream, &inside, &meter, Way::In).await
        };
        tokio::try_join!(pump(&inside, &stream, &meter, Way::Out), incoming)
    };
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(%error, destination = %name, "a tunnel broke");
        },
        () = meter.idle(network.rules.limits.idle) => {
            tracing::debug!(destination = %name, "a tunnel was idle for too long");
        }
        () = served.session.ended() => {}
    }
    network.tally.moved(&name, meter.out.load(Ordering::Relaxed), meter.into.load(Ordering::Relaxed));
    drop(permit);
}

/// What one tunnel moved, and when it last did.
pub(super) struct Meter<'b> {
    budget: &'b Budget,
    out: AtomicU64,
    into: AtomicU64,
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    half_closed: AtomicBool,
    closing: Notify,
}

impl<'b> Meter<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            budget,
            out: zero(),
            into: zero(),
            start: Instant::now(),
            last: zero(),
            half_closed: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    fn count(&self, way: Way, bytes: usize) -> io::Result<()> {
        let counter = if way == Way::Out { &self.out } else { &self.into };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        self.budget.take(way, bytes)
    }

    /// Waits until nothing moved for this long.
    async fn idle(&self, patience: Duration) {
        loop {
            let half = self.half_closed.load(Ordering::Relaxed);
            let patience = if half { patience.min(HALF_CLOSED) } else { patience };
            let quiet_until = Duration::from_millis(self.last.load(Ordering::Relaxed)) + patience;
            let left = quiet_until.saturating_sub(self.start.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.closing.notified() => {}
            }
        }
    }
}

/// Moves bytes between two connections: a published port, or a service of the host, which has a name.
pub(super) async fn join(
    session: &Session,
    name: &str,
    (inside, outside): (&TcpStream, &TcpStream),
    idle: Duration,
) {
    // What the user opened on purpose does not count against what the agent may fetch.
    let budget = Budget::new(u64::MAX, u64::MAX);
    let meter = Meter::new(&budget);
    let both = async {
        let incoming = async {
            see_proof(session, name, (outside, inside), &meter).await?;
            pump(outside, inside, &meter, Way::In).await
        };
        tokio::try_join!(pump(inside, outside, &meter, Way::Out), incoming)
    };
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(%error, "a local connection broke");
        },
        () = meter.idle(idle) => {}
        () = session.ended() => {}
    }
}

/// Passes on what an ssh server says until it has proved itself, where the session's ssh-agent logs in to it.
async fn see_proof(
    session: &Session,
    name: &str,
    (from, to): (&TcpStream, &TcpStream),
    meter: &Meter<'_>,
) -> io::Result<()> {
    if !session.logs_in_at(name) {
        return Ok(());
    }
    let mut seen = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while seen.len() < MAX_PRELUDE {
        from.readable().await?;
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        meter.count(Way::In, read)?;
        seen.extend_from_slice(&buffer[..read]);
        // Kept before it is passed on: the client's login may come at once.
        let prelude = kex::read(&seen);
        let more = prelude == Prelude::More;
        if let Prelude::Proved(proof) = prelude {
            session.proofs.keep(proof);
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            to.writable().await?;
            match to.try_write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !more {
            return Ok(());
        }
    }
    Ok(())
}

/// Moves bytes one way until the sender is done, and says so to the receiver.
async fn pump(from: &TcpStream, to: &TcpStream, meter: &Meter<'_>, way: Way) -> io::Result<()> {
    let (read_end, write_end) = pipe()?;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        // The pipe is empty here, so "would block" is the sender's word.
        let filled = from
            .async_io(Interest::READABLE, || Ok(splice(from, None, &write_end, None, CHUNK, flags)?))
            .await?;
        if filled == 0 {
            // Half closed: the other way may go on. A receiver that is gone needs no word.
            rustix::net::shutdown(to, Shutdown::Write).ok();
            meter.half_closed.store(true, Ordering::Relaxed);
            meter.closing.notify_one();
            return Ok(());
        }
        meter.count(way, filled)?;
        let mut left = filled;
        while left > 0 {
            left -= to
                .async_io(Interest::WRITABLE, || Ok(splice(&read_end, None, to, None, left, flags)?))
                .await?;
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Refused above the user's soft limit: the usual size does.
    fcntl_setpipe_size(&write_end, CHUNK).ok();
    Ok((read_end, write_end))
}

/// A connection to a host whose bytes are counted and limited as they pass: for plain HTTP, which is parsed.
pub(super) struct Metered {
    stream: TcpStream,
    session: Arc<Session>,
    name: String,
    sent: u64,
    received: u64,
    _permit: OwnedSemaphorePermit,
}

impl Metered {
    pub(super) const fn new(
        stream: TcpStream,
        session: Arc<Session>,
        name: String,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, session, name, sent: 0, received: 0, _permit: permit }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.session.network.tally.moved(&self.name, self.sent, self.received);
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        this.received += read as u64;
        Poll::Ready(this.session.network.budget.take(Way::In, read))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.sent += written as u64;
        Poll::Ready(this.session.network.budget.take(Way::Out, written).map(|()| written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_with_the_byte_after_its_last() {
        let budget = Budget::new(10, 5);
        assert!(budget.take(Way::Out, 10).is_ok());
        assert_eq!(budget.spent(), Some("sent"));
        assert!(budget.take(Way::Out, 1).is_err());
        assert!(budget.take(Way::In, 6).is_err());
    }
}
