//! What a push builds on, from upstream itself: where the host lacks an object that the facts need.
//!
//! Comes in: names of objects, and tips that are at hand. Goes out: one pack in a file, not looked into here: the
//! inspector indexes it. One fetch request of protocol v2 (gitprotocol-v2(5), "fetch"), with the credential of the push.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use futures_util::StreamExt;
use keyhatch_protocol::ObjectFormat;

use super::{Service, Upstream, UpstreamError};
use crate::inspect::Missing;
use crate::pktline::{self, Packet, Packets};

/// Protocol v2 is asked for; a server that answers in another is left alone.
const VERSION: &str = "version=2";
/// Most bytes that are kept of a packet that is not whole yet: one packet.
const MAX_PARTIAL: usize = pktline::MAX_DATA + 4;

impl Upstream {
    /// Where packs that upstream sent are kept for the next push to it, apart for every credential.
    #[must_use]
    pub fn base_store(&self) -> PathBuf {
        self.broker.paths.cache().join(format!("{}.objects", self.cache_name()))
    }

    /// Fetches what is missing into a file, at most `limit` bytes. `Ok(false)` means that the server cannot be asked so.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses, sends too much, or the file cannot be written.
    pub async fn fetch_bases(
        &self,
        missing: &Missing,
        object_format: ObjectFormat,
        (to, limit): (&mut File, u64),
    ) -> Result<bool, UpstreamError> {
        let advertised = self.advertisement(Service::UploadPack, Some(VERSION)).await?;
        let Some(features) = features(&advertised.bytes) else { return Ok(false) };
        let request = request(missing, object_format, &features);
        let body = futures_util::stream::once(std::future::ready(Ok(request.into())));
        let mut answer = self.upload_pack(Some(VERSION), None, body).await?;
        let mut pack = PackIn { to, limit, written: 0, partial: Vec::new(), state: State::Before };
        let broken = |source| UpstreamError::Host { what: "keep what upstream sent", source };
        while let Some(chunk) = answer.next().await {
            pack.take(&chunk.map_err(broken)?).map_err(broken)?;
        }
        Ok(pack.written > 0)
    }
}

/// The features of the server's `fetch` command; none where it does not speak protocol v2.
fn features(advertisement: &[u8]) -> Option<Vec<String>> {
    let mut packets = Packets::new(advertisement);
    let mut is_v2 = false;
    while let Ok(Some(Packet::Data(line))) = packets.next_packet() {
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        is_v2 |= line == "version 2";
        if let Some(features) = line.strip_prefix("fetch") {
            let features = features.trim_start_matches('=').split_ascii_whitespace();
            return is_v2.then(|| features.map(str::to_owned).collect());
        }
    }
    None
}

fn request(missing: &Missing, object_format: ObjectFormat, features: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut line = |text: String| pktline::write(&mut bytes, format!("{text}\n").as_bytes());
    line("command=fetch".into());
    if object_format == ObjectFormat::Sha256 {
        line("object-format=sha256".into());
    }
    let mut arguments = Vec::new();
    let mut line = |text: String| pktline::write(&mut arguments, format!("{text}\n").as_bytes());
    line("no-progress".into());
    line("ofs-delta".into());
    // Files are fetched one by one, where the diff shows them; what is wanted by name passes every filter.
    if features.iter().any(|feature| feature == "filter") {
        line("filter blob:none".into());
    }
    missing.history.iter().chain(&missing.blobs).for_each(|oid| line(format!("want {oid}")));
    missing.known.iter().for_each(|oid| line(format!("have {oid}")));
    line("done".into());
    bytes.extend_from_slice(b"0001");
    bytes.extend(arguments);
    bytes.extend_from_slice(b"0000");
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Sections that say nothing here.
    Before,
    /// Side band: the pack is on band 1.
    Pack,
}

/// The pack on its way from a side-band stream to a file.
struct PackIn<'f> {
    to: &'f mut File,
    limit: u64,
    written: u64,
    partial: Vec<u8>,
    state: State,
}

impl PackIn<'_> {
    fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.partial.extend_from_slice(chunk);
        let bytes = std::mem::take(&mut self.partial);
        let mut packets = Packets::new(&bytes);
        while let Some(packet) = packets.next_packet().map_err(io::Error::other)? {
            let Packet::Data(line) = packet else { continue };
            match (&self.state, line) {
                (State::Before, b"packfile\n") => self.state = State::Pack,
                (State::Pack, [1, data @ ..]) => {
                    self.written += data.len() as u64;
                    if self.written > self.limit {
                        return Err(io::Error::other("upstream sent more than the policy's limit of a pack"));
                    }
                    self.to.write_all(data)?;
                }
                (State::Pack, [3, ..]) => return Err(io::Error::other("upstream reported an error")),
                _ => {}
            }
        }
        self.partial = packets.rest().to_vec();
        if self.partial.len() > MAX_PARTIAL { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use keyhatch_protocol::ObjectId;

    use super::*;

    #[test]
    fn only_a_v2_server_is_asked_and_its_filter_is_used_where_it_has_one() {
        let mut v2 = Vec::new();
        for line in ["version 2\n", "agent=git/2\n", "fetch=shallow filter\n"] {
            pktline::write(&mut v2, line.as_bytes());
        }
        let features = features(&v2).expect("protocol v2");
        let missing = Missing {
            history: [ObjectId::parse(&"a".repeat(40)).expect("a name")].into(),
            ..Missing::default()
        };
        let text = String::from_utf8(request(&missing, ObjectFormat::Sha1, &features)).expect("text");
        assert!(text.starts_with("0012command=fetch\n0001"), "{text}");
        assert!(
            text.contains("filter blob:none\n") && text.contains(&format!("want {}\n", "a".repeat(40))),
            "{text}"
        );
        assert!(text.ends_with("0009done\n0000"), "{text}");
        let mut v0 = Vec::new();
        pktline::write(&mut v0, format!("{} HEAD\0multi_ack\n", "a".repeat(40)).as_bytes());
        assert_eq!(super::features(&v0), None);
    }

    #[test]
    fn the_pack_is_band_one_of_its_section_however_the_stream_is_cut_and_is_capped() {
        let mut stream = Vec::new();
        pktline::write(&mut stream, b"shallow-info\n");
        stream.extend_from_slice(b"0001");
        pktline::write(&mut stream, b"packfile\n");
        pktline::write(&mut stream, b"\x02progress");
        pktline::write(&mut stream, b"\x01PACK");
        pktline::write(&mut stream, b"\x01rest");
        stream.extend_from_slice(b"0000");
        for (limit, fits) in [(8, true), (7, false)] {
            let mut file = tempfile::tempfile().expect("a file");
            let mut pack =
                PackIn { to: &mut file, limit, written: 0, partial: Vec::new(), state: State::Before };
            let taken = stream.chunks(3).try_for_each(|chunk| pack.take(chunk));
            assert_eq!(taken.is_ok(), fits);
            if fits {
                let mut text = String::new();
                file.rewind().expect("rewinds");
                file.read_to_string(&mut text).expect("reads");
                assert_eq!(text, "PACKrest");
            }
        }
    }
}
