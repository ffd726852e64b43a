//! What a pushing client reads: progress on band 2, the report on band 1 (gitprotocol-pack(5), report-status).

use std::collections::HashMap;

use bytes::Bytes;
use keyhatch_protocol::RefName;

use crate::claim::PushClaim;
use crate::pktline::{self, Packet, Packets};

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

/// Most lines of a report that are kept for the record, and most bytes of it that are looked at: a server says one line
/// of each command, and a claim's limits bound those.
const MAX_LINES: usize = 10_000;
const MAX_REPORT: usize = 8 * 1024 * 1024;

/// Reads a report off an upstream's answer while it streams past, each byte once.
#[derive(Debug)]
pub struct Outcome {
    side_band: bool,
    /// Packets of the answer, where the report is on a band of it.
    bands: PacketCutter,
    /// Packets of the report itself.
    report: PacketCutter,
    read: Read,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Read {
    /// The claim's commands that upstream has not spoken of, by their ref: where each stands in the claim.
    open: HashMap<Vec<u8>, usize>,
    bytes: usize,
    lines: Vec<String>,
    left_out: u64,
    is_whole: bool,
}

/// Cuts bytes into packets as they come. Only a packet that is not whole yet is kept.
#[derive(Debug, Default)]
struct PacketCutter {
    partial: Vec<u8>,
    /// The bytes are no packets: nothing more is looked at.
    is_lost: bool,
}

impl PacketCutter {
    fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Packet<'_>)) {
        while !bytes.is_empty() && !self.is_lost {
            if self.partial.is_empty() {
                let mut packets = Packets::new(bytes);
                self.is_lost = loop {
                    match packets.next_packet() {
                        Ok(Some(packet)) => each(packet),
                        Ok(None) => break false,
                        Err(_) => break true,
                    }
                };
                self.partial.extend_from_slice(packets.rest());
                return;
            }
            // First the length, then what it announces.
            let wanted = match self.partial.get(..4).map(pktline::announced) {
                None => 4,
                Some(Ok(length)) => length.max(4),
                Some(Err(_)) => return self.is_lost = true,
            };
            let (own, rest) = bytes.split_at(bytes.len().min(wanted - self.partial.len()));
            self.partial.extend_from_slice(own);
            bytes = rest;
            match Packets::new(&self.partial).next_packet() {
                Ok(Some(packet)) => each(packet),
                Ok(None) => continue,
                Err(_) => self.is_lost = true,
            }
            self.partial.clear();
        }
    }
}

impl Outcome {
    /// Starts on the answer to a claim.
    #[must_use]
    pub fn new(claim: &PushClaim) -> Self {
        let open = claim.updates.iter().enumerate();
        let open = open.map(|(at, update)| (update.ref_name.as_str().as_bytes().to_vec(), at)).collect();
        let read = Read { open, ..Read::default() };
        Self {
            side_band: claim.side_band,
            bands: PacketCutter::default(),
            report: PacketCutter::default(),
            read,
        }
    }

    /// Looks at the next bytes. Says which of the claim's commands, by their place in it, upstream has taken by them.
    pub fn see(&mut self, bytes: &[u8]) -> Vec<usize> {
        let mut taken = Vec::new();
        let Self { side_band, bands, report, read } = self;
        if *side_band {
            bands.take(bytes, |packet| {
                if let Packet::Data([1, data @ ..]) = packet {
                    read.take(report, data, &mut taken);
                }
            });
        } else {
            read.take(report, bytes, &mut taken);
        }
        taken
    }

    /// Whether upstream's report has ended: gitprotocol-pack(5), a flush. What follows are lines of its hooks.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.read.is_whole
    }

    /// What upstream said of each command: `ok`, or `ng` with its reason; none when it said nothing.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.read.lines
    }

    /// How many lines were too many to keep.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.read.left_out
    }
}

impl Read {
    fn take(&mut self, report: &mut PacketCutter, bytes: &[u8], taken: &mut Vec<usize>) {
        self.bytes += bytes.len();
        if self.bytes > MAX_REPORT {
            return;
        }
        report.take(bytes, |packet| match packet {
            Packet::Flush => self.is_whole = true,
            Packet::Data(line) if !self.is_whole => self.line(line, taken),
            _ => {}
        });
    }

    fn line(&mut self, line: &[u8], taken: &mut Vec<usize>) {
        let line = line.trim_ascii_end();
        if let Some(name) = line.strip_prefix(b"ok ") {
            taken.extend(self.open.remove(name));
        } else if !line.starts_with(b"ng ") && !line.starts_with(b"unpack ") {
            return;
        }
        if self.lines.len() < MAX_LINES {
            self.lines.push(one_line(&String::from_utf8_lossy(line)));
        } else {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use keyhatch_protocol::{ObjectFormat, ObjectId, RefUpdate};
    use proptest::prelude::*;

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
            most.chunks(7).for_each(|part| assert!(outcome.see(part).is_empty()));
            assert!(!outcome.is_whole(), "its end is still to come");
            end.chunks(7).for_each(|part| assert!(outcome.see(part).is_empty()));
            assert!(outcome.is_whole());
            assert_eq!(
                outcome.lines(),
                ["unpack ok", "ng refs/heads/a no a??[31m", "ng refs/heads/b no b??[31m"]
            );
        }
    }

    /// A report of `ok` for some of the claim's refs, with lines of hooks between its packets.
    fn answer(claim: &PushClaim, taken: &[bool]) -> Vec<u8> {
        let mut report = Vec::new();
        pktline::write(&mut report, b"unpack ok\n");
        for (update, taken) in claim.updates.iter().zip(taken) {
            let line = if *taken {
                format!("ok {}\n", update.ref_name)
            } else {
                format!("ng {} no\n", update.ref_name)
            };
            pktline::write(&mut report, line.as_bytes());
        }
        report.extend_from_slice(b"0000");
        if !claim.side_band {
            return report;
        }
        let mut bytes = Vec::new();
        for part in report.chunks(50) {
            pktline::write_band(&mut bytes, 2, b"hook\n");
            pktline::write_band(&mut bytes, 1, part);
        }
        bytes.extend_from_slice(b"0000");
        bytes
    }

    proptest! {
        #[test]
        fn a_report_in_pieces_is_the_same_report(
            taken in prop::collection::vec(any::<bool>(), 2),
            side_band in any::<bool>(),
            size in 1..70usize,
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let claim = claim(side_band);
            for bytes in [answer(&claim, &taken), [junk.clone(), answer(&claim, &taken)].concat(), junk] {
                let (mut whole, mut pieces) = (Outcome::new(&claim), Outcome::new(&claim));
                let at_once = whole.see(&bytes);
                let one_by_one: Vec<usize> = bytes.chunks(size).flat_map(|piece| pieces.see(piece)).collect();
                prop_assert_eq!(at_once, one_by_one);
                prop_assert_eq!((whole.lines(), whole.is_whole()), (pieces.lines(), pieces.is_whole()));
            }
            let mut outcome = Outcome::new(&claim);
            let expected: Vec<usize> = (0..2).filter(|at| taken[*at]).collect();
            prop_assert_eq!(outcome.see(&answer(&claim, &taken)), expected);
            prop_assert!(outcome.is_whole());
        }
    }

    #[test]
    fn a_report_of_ten_thousand_refs_is_read_once_in_however_many_pieces() {
        let mut claim = claim(true);
        let update = claim.updates[0].clone();
        let name = |n: u32| RefName::parse(format!("refs/heads/{n}").as_bytes()).expect("legal");
        claim.updates = (0..10_000).map(|n| RefUpdate { ref_name: name(n), ..update.clone() }).collect();
        let bytes = answer(&claim, &vec![true; 10_000]);
        let start = std::time::Instant::now();
        let mut outcome = Outcome::new(&claim);
        let taken: usize = bytes.chunks(3).map(|piece| outcome.see(piece).len()).sum();
        assert_eq!((taken, outcome.is_whole()), (10_000, true));
        assert_eq!((outcome.lines().len() as u64 + outcome.left_out()), 10_001);
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
    }
}
