//! Ref advertisements as they pass: what is added, what is taken out, what is remembered.

use keyhatch_protocol::{ObjectId, RefName};

use crate::pktline::{self, Packet, Packets};

/// Most tips that are remembered of one upstream: more refs cost memory and say nothing new.
const MAX_TIPS: usize = 100_000;

/// Rewrites a receive-pack advertisement: `no-thin` is added, so that the pack is whole. Returns the bytes and the tips that upstream has.
#[must_use]
pub fn of_receive_pack(bytes: &[u8]) -> (Vec<u8>, Vec<ObjectId>) {
    let mut rewritten = Vec::with_capacity(bytes.len() + 16);
    let mut tips = Vec::new();
    let mut packets = Packets::new(bytes);
    while let Ok(Some(packet)) = packets.next_packet() {
        let Packet::Data(line) = packet else {
            write_special(&mut rewritten, packet);
            continue;
        };
        if tips.len() < MAX_TIPS
            && let Some(oid) = tip(line)
        {
            tips.push(oid);
        }
        match line.iter().position(|byte| *byte == 0) {
            Some(nul) => {
                let capabilities = String::from_utf8_lossy(&line[nul + 1..]);
                let kept = capabilities.split_ascii_whitespace().filter(|c| *c != "no-thin");
                let kept: Vec<&str> = kept.chain(["no-thin"]).collect();
                let mut first = line[..=nul].to_vec();
                first.extend_from_slice(kept.join(" ").as_bytes());
                first.push(b'\n');
                pktline::write(&mut rewritten, &first);
            }
            None => pktline::write(&mut rewritten, line),
        }
    }
    rewritten.extend_from_slice(packets.rest());
    (rewritten, tips)
}

/// Rewrites an upload-pack advertisement: what would send the client to another place is taken out.
#[must_use]
pub fn of_upload_pack(bytes: &[u8]) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(bytes.len());
    let mut packets = Packets::new(bytes);
    while let Ok(Some(packet)) = packets.next_packet() {
        match packet {
            Packet::Data(line) if line.starts_with(b"bundle-uri") => {}
            Packet::Data(line) if line.starts_with(b"fetch=") => {
                let features = String::from_utf8_lossy(&line[6..]);
                let kept: Vec<&str> =
                    features.split_ascii_whitespace().filter(|f| *f != "packfile-uris").collect();
                pktline::write(&mut rewritten, format!("fetch={}\n", kept.join(" ")).as_bytes());
            }
            Packet::Data(line) => pktline::write(&mut rewritten, line),
            special => write_special(&mut rewritten, special),
        }
    }
    rewritten.extend_from_slice(packets.rest());
    rewritten
}

/// The refs that an advertisement of any version names, and their values: `ID SP NAME`, then capabilities, attributes
/// or nothing.
#[must_use]
pub fn refs(bytes: &[u8]) -> Vec<(RefName, ObjectId)> {
    let mut refs = Vec::new();
    let mut packets = Packets::new(bytes);
    while let Ok(Some(packet)) = packets.next_packet() {
        if let Packet::Data(line) = packet
            && refs.len() < MAX_TIPS
        {
            refs.extend(named(line));
        }
    }
    refs
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

fn named(line: &[u8]) -> Option<(RefName, ObjectId)> {
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
        let (rewritten, tips) = of_receive_pack(&bytes);
        let text = String::from_utf8(rewritten).expect("text");
        assert!(text.contains("\0report-status push-cert=1-x no-thin\n"), "{text:?}");
        assert_eq!(tips.len(), 2);
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
        let text = String::from_utf8(of_upload_pack(&bytes)).expect("text");
        assert!(!text.contains("uri") && text.contains("fetch=shallow filter\n"), "{text:?}");
    }
}
