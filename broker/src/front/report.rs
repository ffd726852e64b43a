//! What a pushing client reads: progress on band 2, the report on band 1 (gitprotocol-pack(5), report-status).

use bytes::Bytes;
use keyhatch_protocol::RefName;

use crate::claim::PushClaim;
use crate::pktline;

/// Longest reason in a report: agents parse the line, people read it.
const MAX_REASON: usize = 300;

/// Text for people, on band 2; nothing for a client that cannot tell it from the report.
#[must_use]
pub fn progress(claim: &PushClaim, lines: &[String]) -> Bytes {
    let mut bytes = Vec::new();
    if claim.side_band {
        for line in lines {
            pktline::write_band(&mut bytes, 2, format!("{line}\n").as_bytes());
        }
    }
    bytes.into()
}

/// An empty band-2 packet: invisible, and a write that fails when the client is gone.
#[must_use]
pub fn keep_alive(claim: &PushClaim) -> Bytes {
    if claim.side_band { Bytes::from_static(b"0005\x02") } else { Bytes::new() }
}

/// A report that refuses every command: the guilty ones with their reason, the others because of them.
#[must_use]
pub fn refusal(claim: &PushClaim, reason_of: impl Fn(&RefName) -> String) -> Bytes {
    let mut report = Vec::new();
    pktline::write(&mut report, b"unpack ok\n");
    for update in &claim.updates {
        let reason = one_line(&reason_of(&update.ref_name));
        pktline::write(&mut report, format!("ng {} {reason}\n", update.ref_name).as_bytes());
    }
    report.extend_from_slice(b"0000");
    let mut bytes = Vec::new();
    if !claim.report_status {
        return bytes.into();
    }
    if claim.side_band {
        pktline::write_band(&mut bytes, 1, &report);
        bytes.extend_from_slice(b"0000");
    } else {
        bytes = report;
    }
    bytes.into()
}

/// Printable ASCII on one line: git copies a reason to the user's terminal as it is.
fn one_line(reason: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    reason.chars().map(plain).take(MAX_REASON).collect()
}

/// Collects a report from an upstream's answer while it streams past, bounded.
#[derive(Debug, Default)]
pub struct Outcome {
    buffer: Vec<u8>,
    report: Vec<u8>,
    side_band: bool,
}

/// Most report bytes that are looked at; the rest still reaches the client.
const MAX_REPORT: usize = 1024 * 1024;

impl Outcome {
    /// Starts on an answer with or without side band.
    #[must_use]
    pub fn new(claim: &PushClaim) -> Self {
        Self { side_band: claim.side_band, ..Self::default() }
    }

    /// Looks at the next bytes.
    pub fn see(&mut self, bytes: &[u8]) {
        if self.report.len() + self.buffer.len() + bytes.len() > MAX_REPORT {
            return;
        }
        if !self.side_band {
            self.report.extend_from_slice(bytes);
            return;
        }
        self.buffer.extend_from_slice(bytes);
        let mut packets = pktline::Packets::new(&self.buffer);
        while let Ok(Some(packet)) = packets.next_packet() {
            if let pktline::Packet::Data([1, data @ ..]) = packet {
                self.report.extend_from_slice(data);
            }
        }
        self.buffer = packets.rest().to_vec();
    }

    /// Whether upstream's report has ended: gitprotocol-pack(5), a flush. What follows are lines of its hooks.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut packets = pktline::Packets::new(&self.report);
        loop {
            match packets.next_packet() {
                Ok(Some(pktline::Packet::Flush)) => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// What upstream said of each command: `ok`, or `ng` with its reason; none when it said nothing.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut packets = pktline::Packets::new(&self.report);
        while let Ok(Some(pktline::Packet::Data(line))) = packets.next_packet() {
            let line = String::from_utf8_lossy(line);
            if line.starts_with("ok ") || line.starts_with("ng ") || line.starts_with("unpack ") {
                lines.push(one_line(line.trim_end()));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use keyhatch_protocol::{ObjectFormat, ObjectId, RefUpdate};

    use super::*;

    fn claim(side_band: bool) -> PushClaim {
        let zero = ObjectId::zero(ObjectFormat::Sha1);
        let update = |name: &str| RefUpdate {
            old: zero.clone(),
            new: zero.clone(),
            ref_name: RefName::parse(name.as_bytes()).expect("legal"),
        };
        PushClaim {
            updates: vec![update("refs/heads/a"), update("refs/heads/b")],
            push_options: Vec::new(),
            certificate: None,
            side_band,
            report_status: true,
            object_format: ObjectFormat::Sha1,
            pack_offset: None,
        }
    }

    #[test]
    fn a_refusal_is_read_back_as_it_was_meant_with_and_without_side_band() {
        for side_band in [true, false] {
            let claim = claim(side_band);
            let bytes = refusal(&claim, |name| format!("no {}\n\x1b[31m", name.short()));
            let mut outcome = Outcome::new(&claim);
            let (most, end) = bytes.split_at(bytes.len() - 9);
            most.chunks(7).for_each(|part| outcome.see(part));
            assert!(!outcome.is_whole(), "its end is still to come");
            end.chunks(7).for_each(|part| outcome.see(part));
            assert!(outcome.is_whole());
            assert_eq!(
                outcome.lines(),
                ["unpack ok", "ng refs/heads/a no a??[31m", "ng refs/heads/b no b??[31m"]
            );
        }
    }
}
