//! Ref advertisements as they pass: what is added, what is taken out, what is remembered.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use keyhatch_protocol::{ObjectId, RefName, Remote};

use super::Front;
use crate::pktline::{self, Packet, Packets, PktLineError};
use crate::session::Session;
use crate::upstream::{Advertised, Answer, Held, Patience, Service};

/// Rewrites an advertisement as it passes, a packet at a time; what is kept is one unfinished packet.
///
/// Of receive-pack's `no-thin` is added, so that the pack is whole. Of upload-pack's, what would send the client to
/// another place is taken out.
#[derive(Debug)]
pub struct Rewriter {
    service: Service,
    unfinished: Vec<u8>,
}

/// What became of some bytes.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// What the client reads.
    pub bytes: Vec<u8>,
    /// The refs in it, of any version of the protocol: `ID SP NAME`, then capabilities, attributes or nothing.
    pub refs: Vec<(RefName, ObjectId)>,
    /// Whether a packet was whole.
    pub moved: bool,
    /// Whether it was the last: the advertisement has ended.
    pub ended: bool,
}

impl Rewriter {
    /// Starts on the advertisement of a service.
    #[must_use]
    pub const fn new(service: Service) -> Self {
        Self { service, unfinished: Vec::new() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are no pkt-lines.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Rewritten, PktLineError> {
        let joined = (!self.unfinished.is_empty()).then(|| {
            self.unfinished.extend_from_slice(bytes);
            std::mem::take(&mut self.unfinished)
        });
        let mut packets = Packets::new(joined.as_deref().unwrap_or(bytes));
        let mut rewritten = Rewritten::default();
        while let Some(packet) = packets.next_packet()? {
            rewritten.moved = true;
            match packet {
                Packet::Data(line) => self.line(line, &mut rewritten),
                special => write_special(&mut rewritten.bytes, special),
            }
            if matches!(packet, Packet::Flush) {
                rewritten.ended = true;
                return Ok(rewritten);
            }
        }
        self.unfinished = packets.rest().to_vec();
        Ok(rewritten)
    }

    fn line(&self, line: &[u8], rewritten: &mut Rewritten) {
        rewritten.refs.extend(named(line));
        let to = &mut rewritten.bytes;
        match self.service {
            Service::ReceivePack => match line.iter().position(|byte| *byte == 0) {
                Some(nul) => {
                    let capabilities = String::from_utf8_lossy(&line[nul + 1..]);
                    let kept = capabilities.split_ascii_whitespace().filter(|c| *c != "no-thin");
                    let kept: Vec<&str> = kept.chain(["no-thin"]).collect();
                    let mut first = line[..=nul].to_vec();
                    first.extend_from_slice(kept.join(" ").as_bytes());
                    first.push(b'\n');
                    write(to, &first);
                }
                None => write(to, line),
            },
            Service::UploadPack if line.starts_with(b"bundle-uri") => {}
            Service::UploadPack if line.starts_with(b"fetch=") => {
                let features = String::from_utf8_lossy(&line[6..]);
                let kept: Vec<&str> =
                    features.split_ascii_whitespace().filter(|f| *f != "packfile-uris").collect();
                write(to, format!("fetch={}\n", kept.join(" ")).as_bytes());
            }
            Service::UploadPack => write(to, line),
        }
    }
}

/// Writes a line that may have become longer than a packet holds: then it is cut, which only a server that means harm has
/// happen.
fn write(to: &mut Vec<u8>, line: &[u8]) {
    pktline::write(to, &line[..line.len().min(pktline::MAX_DATA)]);
}

/// What a client reads of an advertisement, rewritten as it comes. What it names is noted before the client knows.
pub(super) fn body(front: &Front, remote: &Remote, service: Service, advertised: Advertised) -> Body {
    let Advertised { head, rest, held } = advertised;
    let passing = Passing {
        session: front.session.clone(),
        remote: remote.clone(),
        head: Some(head),
        rest,
        held,
        rewriter: Rewriter::new(service),
        patience: Patience::default(),
        ended: false,
    };
    let line = format!("# service=git-{}\n", service.word());
    let mut before = Vec::new();
    pktline::write(&mut before, line.as_bytes());
    before.extend_from_slice(b"0000");
    let before = futures_util::stream::once(std::future::ready(Ok(Bytes::from(before))));
    Body::from_stream(before.chain(futures_util::stream::unfold(passing, Passing::next)))
}

/// An advertisement on its way.
struct Passing {
    session: Arc<Session>,
    remote: Remote,
    head: Option<Bytes>,
    rest: Answer,
    held: Option<Held>,
    rewriter: Rewriter,
    patience: Patience,
    ended: bool,
}

impl Passing {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.ended {
            return None;
        }
        let passed = self.pass().await;
        if let Err(error) = &passed {
            tracing::info!(remote = %self.remote, %error, "an advertisement ended early");
            self.ended = true;
        }
        Some((passed, self))
    }

    async fn pass(&mut self) -> io::Result<Bytes> {
        loop {
            let chunk = match self.head.take() {
                Some(head) => head,
                None => self.patience.next(&mut self.rest).await?.ok_or(io::ErrorKind::UnexpectedEof)?,
            };
            let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let Rewritten { bytes, refs, moved, ended } = self.rewriter.next(&chunk).map_err(malformed)?;
            self.session.upstreams.note(&self.remote, refs);
            if moved {
                self.patience.renew();
            }
            if ended {
                self.end();
            }
            if ended || !bytes.is_empty() {
                return Ok(bytes.into());
            }
        }
    }

    /// All of it is known.
    fn end(&mut self) {
        self.ended = true;
        if let Some(held) = self.held.take() {
            self.session.held.hold(&self.remote, held);
        }
    }
}

/// The answer to `ls-refs`, gitprotocol-v2(5), as it streams past. Anything else that an upstream answers does not begin
/// with a ref, and is not looked at further: what it carries may be a session's own.
#[derive(Debug, Default)]
pub struct Listing {
    buffer: Vec<u8>,
    over: bool,
}

/// Longest unfinished line that is kept: a pkt-line is shorter.
const MAX_LINE: usize = 70_000;

impl Listing {
    /// Looks at the next bytes, and returns the refs that are complete.
    pub fn see(&mut self, bytes: &[u8]) -> Vec<(RefName, ObjectId)> {
        let mut refs = Vec::new();
        if self.over {
            return refs;
        }
        self.buffer.extend_from_slice(bytes);
        let mut packets = Packets::new(&self.buffer);
        loop {
            match packets.next_packet() {
                Ok(Some(Packet::Data(line))) if line.starts_with(b"unborn ") => {}
                Ok(Some(Packet::Data(line))) => match named(line) {
                    Some(found) => refs.push(found),
                    None if is_head(line) => {}
                    None => self.over = true,
                },
                Ok(None) => break,
                _ => self.over = true,
            }
            if self.over {
                break;
            }
        }
        self.buffer = packets.rest().to_vec();
        self.over |= self.buffer.len() > MAX_LINE;
        if self.over {
            self.buffer = Vec::new();
        }
        refs
    }
}

pub(super) fn named(line: &[u8]) -> Option<(RefName, ObjectId)> {
    let id = tip(line)?;
    let rest = &line[id.as_str().len() + 1..];
    let end = rest.iter().position(|byte| matches!(byte, 0 | b' ' | b'\n')).unwrap_or(rest.len());
    RefName::parse(&rest[..end]).ok().map(|name| (name, id))
}

/// `HEAD`, which is no ref's name of ours.
fn is_head(line: &[u8]) -> bool {
    tip(line).is_some_and(|id| line[id.as_str().len() + 1..].starts_with(b"HEAD"))
}

fn write_special(to: &mut Vec<u8>, packet: Packet<'_>) {
    to.extend_from_slice(match packet {
        Packet::Flush => b"0000",
        Packet::Delimiter => b"0001",
        Packet::ResponseEnd => b"0002",
        Packet::Data(_) => b"",
    });
}

fn tip(line: &[u8]) -> Option<ObjectId> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let oid = ObjectId::parse(std::str::from_utf8(&line[..space]).ok()?).ok()?;
    (!oid.is_zero()).then_some(oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thin_is_added_once_and_the_nonce_of_a_signed_push_passes() {
        let oid = "a".repeat(40);
        let mut bytes = Vec::new();
        pktline::write(
            &mut bytes,
            format!("{oid} refs/heads/m\0report-status push-cert=1-x no-thin\n").as_bytes(),
        );
        pktline::write(&mut bytes, format!("{oid} refs/heads/n\n").as_bytes());
        bytes.extend_from_slice(b"0000");
        bytes.extend_from_slice(b"what comes after the end");
        for size in [1, 7, 1000] {
            let (mut rewriter, mut text, mut ended) =
                (Rewriter::new(Service::ReceivePack), Vec::new(), false);
            for chunk in bytes.chunks(size) {
                if ended {
                    break;
                }
                let rewritten = rewriter.next(chunk).expect("pkt-lines");
                text.extend(rewritten.bytes);
                ended = rewritten.ended;
            }
            let text = String::from_utf8(text).expect("text");
            assert!(text.contains("\0report-status push-cert=1-x no-thin\n"), "{text:?}");
            assert!(text.ends_with("refs/heads/n\n0000") && ended, "{text:?}");
        }
    }

    #[test]
    fn a_listing_is_read_in_pieces_and_nothing_else_is_one() {
        let id = "a".repeat(40);
        let mut bytes = Vec::new();
        for line in ["HEAD symref-target:refs/heads/m", "refs/heads/m", "refs/tags/t peeled:bb"] {
            pktline::write(&mut bytes, format!("{id} {line}\n").as_bytes());
        }
        bytes.extend_from_slice(b"0000");
        let mut listing = Listing::default();
        let found: Vec<String> = bytes
            .chunks(7)
            .flat_map(|chunk| listing.see(chunk))
            .map(|(name, id)| format!("{name} {}", id.short()))
            .collect();
        assert_eq!(found, ["refs/heads/m aaaaaaaaaa", "refs/tags/t aaaaaaaaaa"]);
        // After the first line that is none, and after the end, nothing is believed.
        for head in ["packfile\n", "acknowledgments\n"] {
            let mut answer = Vec::new();
            pktline::write(&mut answer, head.as_bytes());
            answer.extend_from_slice(&bytes);
            assert!(Listing::default().see(&answer).is_empty(), "{head}");
        }
        assert!(listing.see(&bytes).is_empty());
    }

    #[test]
    fn a_fetch_is_not_sent_elsewhere() {
        let mut bytes = Vec::new();
        for line in ["version 2\n", "bundle-uri\n", "fetch=shallow packfile-uris filter\n"] {
            pktline::write(&mut bytes, line.as_bytes());
        }
        bytes.extend_from_slice(b"0000");
        let text =
            String::from_utf8(Rewriter::new(Service::UploadPack).next(&bytes).expect("pkt-lines").bytes)
                .expect("text");
        assert!(!text.contains("uri") && text.contains("fetch=shallow filter\n"), "{text:?}");
    }
}
