//! The head of a push, parsed from bytes that a session sent: commands, capabilities and push options.
//!
//! A pure function on a slice, or on the pieces of one as they come. It returns a claim, never a belief: what the commands do is found out by inspection.
//! Grammar: gitprotocol-pack(5), "Pushing data to a server".

use std::collections::HashSet;

use keyhatch_protocol::signable::{PushCertificate, SignedObject, split_tag};
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName, RefUpdate, RefUpdateError, Remote};
use thiserror::Error;

use crate::pktline::{self, Packet, Packets, PktLineError};
use crate::signer::digest;

/// Most bytes before the pack: 10,000 commands with long names fit.
pub const MAX_HEAD_BYTES: usize = 4 * 1024 * 1024;
/// A packet's length, in digits.
const HEADER: usize = 4;
/// Most commands in one push: nobody reads more, and git's own limits on a server are lower.
const MAX_COMMANDS: usize = 10_000;
/// Most push options; GitLab documents a handful.
const MAX_PUSH_OPTIONS: usize = 64;

/// Capabilities that a client may list for receive-pack; an unknown one may change what the bytes mean.
const CAPABILITIES: &[&str] = &[
    "report-status",
    "report-status-v2",
    "delete-refs",
    "side-band-64k",
    "quiet",
    "atomic",
    "ofs-delta",
    "push-options",
    "no-thin",
];

/// Why the bytes are not a push.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClaimError {
    /// A pkt-line's length is not four hexadecimal digits, or a special packet stands where none may.
    #[error("malformed pkt-line")]
    PktLine,
    /// A command is not `old new ref`.
    #[error("malformed command")]
    Command,
    /// A ref name that git forbids.
    #[error("a command names a ref that git forbids")]
    RefName,
    /// The same ref twice.
    #[error("two commands for one ref")]
    Duplicate,
    /// A capability that this broker does not know.
    #[error("unknown capability")]
    Capability,
    /// Object names of two formats, or of another than was announced.
    #[error("object names of mixed formats")]
    Format,
    /// A push certificate that is none, is not signed, or stands beside other commands.
    #[error("malformed push certificate")]
    Certificate,
    /// A cap was passed.
    #[error("too many commands, options or bytes before the pack")]
    TooMuch,
    /// The request ended before its commands did.
    #[error("the request ended early")]
    Truncated,
    /// No command at all.
    #[error("no command")]
    Empty,
}

/// What a session says it wants to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushClaim {
    /// The commands, in the client's order.
    pub updates: Vec<RefUpdate>,
    /// The options of `git push -o`.
    pub push_options: Vec<String>,
    /// Whether the client understands progress beside the report.
    pub side_band: bool,
    /// Whether the client asked for a report.
    pub report_status: bool,
    /// The hash of the object names.
    pub object_format: ObjectFormat,
    /// The certificate of `git push --signed`: its commands are the push's.
    pub certificate: Option<Certificate>,
    /// Where the pack starts; none when every command is a delete.
    pub pack_offset: Option<u64>,
}

/// A push certificate with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What it promises.
    pub promise: PushCertificate,
    /// SHA-256 of the promise's bytes, and of the signature's.
    pub digests: (String, String),
}

impl Certificate {
    fn parse(bytes: &[u8]) -> Result<Self, ClaimError> {
        let SignedObject { covered, signature, .. } = split_tag(bytes).ok_or(ClaimError::Certificate)?;
        let promise = PushCertificate::parse(&covered).map_err(|_| ClaimError::Certificate)?;
        Ok(Self { promise, digests: (digest(&covered), digest(&signature)) })
    }

    /// Whether it is for this remote. One that names no remote is for none.
    #[must_use]
    pub fn is_for(&self, remote: &Remote) -> bool {
        self.promise.remote().is_some_and(|named| named.same_repository(remote))
    }
}

/// Parses the head of a push. `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// When the bytes cannot become a legal push, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Option<PushClaim>, ClaimError> {
    let mut parser = Parser::default();
    match parser.take(bytes)? {
        None if parser.is_probe() => Err(ClaimError::Empty),
        claim => Ok(claim),
    }
}

/// The same, for a head that comes in pieces: each byte is looked at once, however the pieces are cut, and the answer is
/// that of [`parse`] on the whole.
#[derive(Debug, Default)]
pub struct Parser {
    /// What came so far: at most [`MAX_HEAD_BYTES`] and the piece in which the head ends.
    bytes: Vec<u8>,
    /// How much of it was parsed.
    parsed: usize,
    commands: Commands,
    /// The push options, once the commands have ended.
    push_options: Option<Vec<String>>,
}

impl Parser {
    /// Takes the next piece. `Ok(None)` means that more are needed; after a claim, nothing more is to be taken.
    ///
    /// # Errors
    /// When the bytes cannot become a legal push, whatever follows.
    pub fn take(&mut self, piece: &[u8]) -> Result<Option<PushClaim>, ClaimError> {
        self.bytes.extend_from_slice(piece);
        // gitprotocol-http(5): a flush alone is git's question whether it may send, unless more follows.
        if self.is_probe() {
            return Ok(None);
        }
        loop {
            let rest = &self.bytes[self.parsed..];
            within_limit(self.parsed, rest)?;
            let mut packets = Packets::new(rest);
            let Some(packet) = packets.next_packet()? else { return Ok(None) };
            self.parsed += packets.read();
            let ended = match (packet, &mut self.push_options) {
                (Packet::Flush, None) => {
                    self.commands.end()?;
                    self.push_options = Some(Vec::new());
                    !self.commands.has("push-options")
                }
                (Packet::Flush, Some(_)) => true,
                (Packet::Data(line), None) => self.commands.line(line).map(|()| false)?,
                (Packet::Data(line), Some(options)) => add_option(options, line).map(|()| false)?,
                (Packet::Delimiter | Packet::ResponseEnd, _) => return Err(ClaimError::PktLine),
            };
            if ended {
                return self.claim().map(Some);
            }
        }
    }

    /// Whether nothing but `0000` came.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.bytes == b"0000"
    }

    /// What came, from the start.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn claim(&mut self) -> Result<PushClaim, ClaimError> {
        let commands = std::mem::take(&mut self.commands);
        let push_options = self.push_options.take().unwrap_or_default();
        // A server compares them too: what was promised is what is sent.
        if commands.certificate.as_ref().is_some_and(|one| one.promise.push_options != push_options) {
            return Err(ClaimError::Certificate);
        }
        let only_deletes = commands.updates.iter().all(|update| update.new.is_zero());
        Ok(PushClaim {
            object_format: commands.object_format()?,
            side_band: commands.has("side-band-64k"),
            report_status: commands.has("report-status") || commands.has("report-status-v2"),
            updates: commands.updates,
            certificate: commands.certificate,
            push_options,
            pack_offset: (!only_deletes).then_some(self.parsed as u64),
        })
    }
}

/// Refuses a head that is too long as soon as that is known, which no cut into pieces can delay: the length of the next
/// packet says it.
fn within_limit(parsed: usize, rest: &[u8]) -> Result<(), ClaimError> {
    if parsed + HEADER > MAX_HEAD_BYTES {
        return Err(ClaimError::TooMuch);
    }
    let Some(header) = rest.get(..HEADER) else { return Ok(()) };
    let length = pktline::announced(header)?;
    if parsed + length > MAX_HEAD_BYTES { Err(ClaimError::TooMuch) } else { Ok(()) }
}

fn add_option(options: &mut Vec<String>, line: &[u8]) -> Result<(), ClaimError> {
    options.push(push_option(line)?);
    if options.len() > MAX_PUSH_OPTIONS { Err(ClaimError::TooMuch) } else { Ok(()) }
}

fn push_option(line: &[u8]) -> Result<String, ClaimError> {
    let text = std::str::from_utf8(line).map_err(|_| ClaimError::Command)?;
    if text.contains(['\0', '\n']) { Err(ClaimError::Command) } else { Ok(text.to_owned()) }
}

impl From<PktLineError> for ClaimError {
    fn from(PktLineError: PktLineError) -> Self {
        Self::PktLine
    }
}

#[derive(Debug, Default)]
struct Commands {
    updates: Vec<RefUpdate>,
    names: HashSet<RefName>,
    capabilities: Option<Vec<String>>,
    /// The lines of a certificate that has begun and not ended.
    open: Option<Vec<u8>>,
    certificate: Option<Certificate>,
}

impl Commands {
    fn line(&mut self, line: &[u8]) -> Result<(), ClaimError> {
        if let Some(mut open) = self.open.take() {
            if line == b"push-cert-end\n" {
                return self.certified(&open);
            }
            open.extend_from_slice(line);
            self.open = Some(open);
            return Ok(());
        }
        if let Some(capabilities_after) = line.strip_prefix(b"push-cert\0") {
            // The certificate stands for all commands: none may come before it.
            if self.capabilities.is_some() {
                return Err(ClaimError::Certificate);
            }
            self.capabilities = Some(capabilities(capabilities_after)?);
            self.open = Some(Vec::new());
            return Ok(());
        }
        if self.certificate.is_some() {
            return Err(ClaimError::Certificate);
        }
        if self.updates.is_empty() && self.capabilities.is_none() && line.starts_with(b"shallow ") {
            let oid = std::str::from_utf8(&line[8..]).map_err(|_| ClaimError::Command)?;
            ObjectId::parse(oid.trim_end_matches('\n')).map_err(|_| ClaimError::Command)?;
            return Ok(());
        }
        let command = match (line.iter().position(|b| *b == 0), &self.capabilities) {
            (Some(nul), None) => {
                self.capabilities = Some(capabilities(&line[nul + 1..])?);
                &line[..nul]
            }
            (None, Some(_)) => line,
            // The first command carries the capabilities, and only the first.
            (Some(_), Some(_)) | (None, None) => return Err(ClaimError::Command),
        };
        let update = RefUpdate::parse(command.strip_suffix(b"\n").unwrap_or(command))?;
        if !self.names.insert(update.ref_name.clone()) {
            return Err(ClaimError::Duplicate);
        }
        self.updates.push(update);
        if self.updates.len() > MAX_COMMANDS { Err(ClaimError::TooMuch) } else { Ok(()) }
    }

    fn certified(&mut self, bytes: &[u8]) -> Result<(), ClaimError> {
        let certificate = Certificate::parse(bytes)?;
        // Unique refs and one object format are what a certificate's own parser demands.
        self.updates.clone_from(&certificate.promise.updates);
        self.certificate = Some(certificate);
        Ok(())
    }

    fn end(&self) -> Result<(), ClaimError> {
        if self.open.is_some() {
            return Err(ClaimError::Certificate);
        }
        self.object_format().map(|_| ())
    }

    fn has(&self, name: &str) -> bool {
        self.capabilities.as_ref().is_some_and(|list| list.iter().any(|c| c == name))
    }

    fn object_format(&self) -> Result<ObjectFormat, ClaimError> {
        let first = self.updates.first().ok_or(ClaimError::Empty)?.new.format();
        let agree = self.updates.iter().all(|u| u.new.format() == first && u.old.format() == first);
        let announced = self.capabilities.iter().flatten().find_map(|c| c.strip_prefix("object-format="));
        if agree && announced.unwrap_or("sha1") == first.name() { Ok(first) } else { Err(ClaimError::Format) }
    }
}

fn capabilities(bytes: &[u8]) -> Result<Vec<String>, ClaimError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ClaimError::Capability)?;
    let known = |word: &str| {
        CAPABILITIES.contains(&word)
            || ["agent=", "object-format=", "session-id="].iter().any(|prefix| word.starts_with(prefix))
    };
    let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    if words.iter().all(|word| known(word)) { Ok(words) } else { Err(ClaimError::Capability) }
}

impl From<RefUpdateError> for ClaimError {
    fn from(error: RefUpdateError) -> Self {
        match error {
            RefUpdateError::Form => Self::Command,
            RefUpdateError::RefName => Self::RefName,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const Z: &str = "0000000000000000000000000000000000000000";

    fn pkt(text: &str) -> Vec<u8> {
        format!("{:04x}{text}", text.len() + 4).into_bytes()
    }

    fn push(lines: &[String], tail: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = lines.iter().flat_map(|line| pkt(line)).collect();
        bytes.extend_from_slice(b"0000");
        bytes.extend_from_slice(tail);
        bytes
    }

    #[test]
    fn commands_options_and_the_start_of_the_pack_are_found() {
        let caps = "report-status side-band-64k push-options object-format=sha1 agent=git/2.47";
        let lines = [format!("{Z} {A} refs/heads/main\0 {caps}"), format!("{A} {Z} refs/tags/v1")];
        let mut bytes = push(&lines, &pkt("ci.skip"));
        bytes.extend_from_slice(b"0000PACK");
        let claim = parse(&bytes).expect("legal").expect("whole");
        assert_eq!(claim.updates.len(), 2);
        assert_eq!(claim.push_options, ["ci.skip"]);
        assert_eq!(&bytes[claim.pack_offset.expect("a pack") as usize..], b"PACK");
        for end in 0..bytes.len() - 4 {
            assert_eq!(parse(&bytes[..end]), Ok(None), "cut at {end}");
        }
    }

    #[test]
    fn a_delete_alone_has_no_pack() {
        let bytes = push(&[format!("{A} {Z} refs/heads/x\0delete-refs report-status")], b"");
        assert_eq!(parse(&bytes).expect("legal").expect("whole").pack_offset, None);
    }

    #[test]
    fn what_is_not_a_legal_push_is_named() {
        let one = |line: String| parse(&push(&[line], b"PACK"));
        assert_eq!(parse(b"zzzz"), Err(ClaimError::PktLine));
        assert_eq!(parse(b"0001"), Err(ClaimError::PktLine));
        assert_eq!(parse(b"+123"), Err(ClaimError::PktLine));
        assert_eq!(parse(b"0000"), Err(ClaimError::Empty));
        assert_eq!(one(format!("{Z} {A} refs/heads/main")), Err(ClaimError::Command));
        assert_eq!(one(format!("{Z} {Z} refs/heads/main\0")), Err(ClaimError::Command));
        assert_eq!(one(format!("{Z} {A} main\0")), Err(ClaimError::RefName));
        assert_eq!(one(format!("{Z} {A} refs/heads/a..b\0")), Err(ClaimError::RefName));
        assert_eq!(one(format!("{Z} {A} refs/heads/m\0teleport")), Err(ClaimError::Capability));
        assert_eq!(one(format!("{Z} {A} refs/heads/m\0object-format=sha256")), Err(ClaimError::Format));
        assert_eq!(one("push-cert\0report-status".into()), Err(ClaimError::Certificate));
        let twice = [format!("{Z} {A} refs/heads/m\0"), format!("{Z} {A} refs/heads/m")];
        assert_eq!(parse(&push(&twice, b"")), Err(ClaimError::Duplicate));
        assert_eq!(parse(b""), Ok(None));
    }

    fn certified(certificate: &str, options: &str) -> Result<Option<PushClaim>, ClaimError> {
        let lines: Vec<String> = ["push-cert\0report-status push-options".to_owned()]
            .into_iter()
            .chain(certificate.split_inclusive('\n').map(str::to_owned))
            .chain(["push-cert-end\n".to_owned()])
            .collect();
        parse(&push(&lines, format!("{options}0000PACK").as_bytes()))
    }

    #[test]
    fn a_certificates_commands_are_the_pushs_and_nothing_stands_beside_it() {
        let certificate = format!(
            "certificate version 0.1\npusher SHA256:x 1 +0000\npushee http://127.0.0.1:8417/https/h/r.git\n\
             nonce 1-x\npush-option ci.skip\n\n{Z} {A} refs/heads/main\n-----BEGIN SSH SIGNATURE-----\nabc\n"
        );
        let option = String::from_utf8(pkt("ci.skip")).expect("text");
        let claim = certified(&certificate, &option).expect("legal").expect("whole");
        assert_eq!(claim.updates[0].ref_name.as_str(), "refs/heads/main");
        let found = claim.certificate.expect("a certificate");
        assert!(found.is_for(&Remote::parse("https://h/r").expect("a remote")));
        assert!(!found.is_for(&Remote::parse("https://h/other").expect("a remote")));
        let for_nobody = certificate.replace("pushee http://127.0.0.1:8417/https/h/r.git\n", "");
        let found = certified(&for_nobody, &option).expect("legal").expect("whole").certificate;
        assert!(!found.expect("a certificate").is_for(&Remote::parse("https://h/r").expect("a remote")));
        assert_eq!(certified(&certificate, ""), Err(ClaimError::Certificate), "options differ");
        let unsigned = certificate.replace("-----BEGIN SSH SIGNATURE-----\nabc\n", "");
        assert_eq!(certified(&unsigned, &option), Err(ClaimError::Certificate));
        let beside = [format!("{Z} {A} refs/heads/x\0report-status"), "push-cert\0".to_owned()];
        assert_eq!(parse(&push(&beside, b"")), Err(ClaimError::Certificate));
    }

    /// What came of a head that was taken in pieces: the claim and the bytes before the pack, or why there is none.
    fn in_pieces<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Result<Option<PushClaim>, ClaimError> {
        let mut parser = Parser::default();
        for piece in pieces {
            if let Some(claim) = parser.take(piece)? {
                return Ok(Some(claim));
            }
        }
        if parser.is_probe() { Err(ClaimError::Empty) } else { Ok(None) }
    }

    /// Heads that are nearly legal, so that every way out of the parser is taken.
    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            6 => (0..4u8, 0..3usize).prop_map(|(name, caps)| {
                let caps = ["", "\0report-status push-options", "\0teleport"][caps];
                pkt(&format!("{Z} {A} refs/heads/{name}{caps}"))
            }),
            2 => Just(b"0000".to_vec()),
            1 => Just(pkt("ci.skip")),
            1 => Just(pkt("push-cert\0report-status")),
            1 => Just(pkt("push-cert-end\n")),
            1 => prop::collection::vec(any::<u8>(), 0..12),
        ];
        prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn a_head_in_pieces_is_the_same_head(bytes in heads(), cuts in prop::collection::vec(0..4096usize, 0..12)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
            prop_assert_eq!(in_pieces(pieces), parse(&bytes));
            prop_assert_eq!(in_pieces(bytes.chunks(1)), parse(&bytes));
        }
    }

    #[test]
    fn a_head_of_twelve_megabytes_is_refused_by_its_length_and_a_long_legal_one_is_read_once() {
        let names = (0..9_999u32).map(|n| format!("{A} {Z} refs/heads/{n:0>200}"));
        let lines: Vec<String> =
            [format!("{A} {Z} refs/heads/first\0report-status")].into_iter().chain(names).collect();
        let bytes = push(&lines, b"");
        let start = std::time::Instant::now();
        let claim = in_pieces(bytes.chunks(16)).expect("legal").expect("whole");
        assert_eq!(claim.updates.len(), 10_000);
        // A parser that starts anew at each of 190,000 pieces takes hours.
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
        let many = [bytes[..bytes.len() - 4].repeat(5), b"0000".to_vec()].concat();
        for size in [1 << 16, many.len()] {
            assert!(matches!(in_pieces(many.chunks(size)), Err(ClaimError::TooMuch | ClaimError::Command)));
        }
        let option = [
            push(&[format!("{A} {Z} refs/heads/x\0push-options")], b""),
            pkt(&"x".repeat(60_000)).repeat(80),
        ];
        for size in [7, 1 << 16, usize::MAX] {
            assert_eq!(in_pieces(option.concat().chunks(size)), Err(ClaimError::TooMuch));
        }
    }
}
