//! A ref advertisement as it comes: what is in memory of it is one chunk, however many refs a server has, and whether or
//! not anybody reads it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use keyhatch_protocol::Scheme;
use tokio::time::{Instant, timeout};

use super::{Advertisement, Answer, Held, MAX_ADVERTISEMENT, Service, Upstream, UpstreamError, http};
use crate::pktline::{Packet, Packets};

/// How long a server may take for one packet: it has its refs at hand.
const STALLS: Duration = Duration::from_secs(60);
/// One piece of an advertisement that lies in memory whole.
const CHUNK: usize = 64 * 1024;

/// What a service says first: pkt-lines, after the `# service=` packet of smart HTTP, up to a flush.
pub struct Advertised {
    /// Its first packets, whole: the line with the capabilities is among them.
    pub head: Bytes,
    /// What follows, as it comes. Ends early, with an error, where the server stalls or sends too much.
    pub rest: Answer,
    /// The connection that waits for a signed push, where the server gave a nonce on it.
    pub(crate) held: Option<Held>,
}

impl Upstream {
    /// Asks for the ref advertisement, to pass it on.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is no git server.
    pub async fn advertised(
        &self,
        service: Service,
        git_protocol: Option<&str>,
    ) -> Result<Advertised, UpstreamError> {
        if self.named_key()?.is_none() && self.remote.scheme() == Scheme::Https {
            let stream = http::advertised(self, service, git_protocol).await?;
            return of_stream(self, service, bounded(stream)).await;
        }
        // Over ssh it lies in memory until it is read: one at once of a session.
        let turn = self.session.advertisements.clone().acquire_owned().await;
        let Advertisement { bytes, held } = self.advertisement(service, git_protocol).await?;
        let mut head = Bytes::from(bytes);
        let rest = head.split_off(head.len().min(2 * CHUNK));
        let rest = futures_util::stream::unfold((rest, turn), |(mut rest, turn)| async move {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            (!chunk.is_empty()).then_some((Ok(chunk), (rest, turn)))
        });
        Ok(Advertised { head, rest: Box::pin(rest), held })
    }
}

/// Reads up to the line with the capabilities, and takes the `# service=…` packet and its flush away, which smart HTTP puts
/// before an advertisement. A server that speaks protocol v2 may leave them out.
async fn of_stream(
    upstream: &Upstream,
    service: Service,
    mut stream: Answer,
) -> Result<Advertised, UpstreamError> {
    let not_git = || http::not_git(&upstream.remote);
    let mut bytes = Vec::new();
    loop {
        if let Some(start) = head_begins(&bytes, service).map_err(|()| not_git())? {
            let head = Bytes::from(bytes).split_off(start);
            return Ok(Advertised { head, rest: stream, held: None });
        }
        let chunk = timeout(STALLS, stream.next()).await.map_err(|_| not_git())?;
        bytes.extend_from_slice(&chunk.ok_or_else(not_git)?.map_err(|_| not_git())?);
    }
}

/// Where the advertisement begins, once its first line is there whole; none while more must be read.
fn head_begins(bytes: &[u8], service: Service) -> Result<Option<usize>, ()> {
    let mut packets = Packets::new(bytes);
    let mut next =
        || packets.next_packet().map(|packet| packet.map(|it| (it, packets.read()))).map_err(|_| ());
    let expected = format!("# service=git-{}", service.word());
    let start = match next()? {
        None => return Ok(None),
        Some((Packet::Data(line), _)) if line.starts_with(b"version ") => return Ok(Some(0)),
        Some((Packet::Data(line), _)) if line.trim_ascii_end() == expected.as_bytes() => match next()? {
            None => return Ok(None),
            Some((Packet::Flush, at)) => at,
            Some(_) => return Err(()),
        },
        Some(_) => return Err(()),
    };
    // The capabilities stand after a NUL; `version 1` may stand before them.
    loop {
        match next()? {
            None => return Ok(None),
            Some((Packet::Data(line), _)) if line.starts_with(b"version 1") => {}
            Some(_) => return Ok(Some(start)),
        }
    }
}

/// Ends a stream that is too long, or that stalls.
fn bounded(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Answer {
    struct State<S> {
        stream: S,
        left: usize,
        over: bool,
    }
    let state = State { stream: Box::pin(stream), left: MAX_ADVERTISEMENT, over: false };
    Box::pin(futures_util::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        let chunk = match timeout(STALLS, state.stream.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let chunk = chunk.and_then(|chunk| match state.left.checked_sub(chunk.len()) {
            Some(left) => {
                state.left = left;
                Ok(chunk)
            }
            None => Err(io::ErrorKind::FileTooLarge.into()),
        });
        state.over = chunk.is_err();
        Some((chunk, state))
    }))
}

/// Counts the time that a server takes for one packet, over as many chunks as it likes.
#[derive(Debug, Default)]
pub struct Patience {
    waited: Duration,
}

impl Patience {
    /// Waits for the next chunk of a packet.
    ///
    /// # Errors
    /// When the packet has taken too long altogether.
    pub async fn next(&mut self, stream: &mut Answer) -> io::Result<Option<Bytes>> {
        let begun = Instant::now();
        let left = STALLS.saturating_sub(self.waited);
        let chunk = timeout(left, stream.next()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        self.waited += begun.elapsed();
        chunk.transpose()
    }

    /// Takes note that a packet was whole.
    pub fn renew(&mut self) {
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktline;

    #[test]
    fn an_advertisement_begins_after_its_service_and_not_before_its_first_line_is_whole() {
        let mut bytes = Vec::new();
        pktline::write(&mut bytes, b"# service=git-receive-pack\n");
        bytes.extend_from_slice(b"0000");
        let start = bytes.len();
        pktline::write(&mut bytes, b"version 1\n");
        pktline::write(&mut bytes, format!("{} refs/heads/m\0report-status\n", "a".repeat(40)).as_bytes());
        for length in 0..bytes.len() {
            assert_eq!(head_begins(&bytes[..length], Service::ReceivePack), Ok(None), "{length}");
        }
        assert_eq!(head_begins(&bytes, Service::ReceivePack), Ok(Some(start)));
        assert!(head_begins(&bytes, Service::UploadPack).is_err());
        assert_eq!(head_begins(b"000eversion 2\n0000", Service::UploadPack), Ok(Some(0)));
        assert!(head_begins(b"zzzzzzzz", Service::UploadPack).is_err());
    }
}
