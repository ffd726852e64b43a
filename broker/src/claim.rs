//! The head of a push, parsed from bytes that a session sent: commands, capabilities and push options.
//!
//! A pure function on a slice. It returns a claim, never a belief: what the commands do is found out by inspection.
//! Grammar: gitprotocol-pack(5), "Pushing data to a server".

use std::collections::HashSet;

use keyhatch_protocol::signable::{PushCertificate, SignedObject, split_tag};
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName, RefUpdate, RefUpdateError, Remote};
use thiserror::Error;

use crate::pktline::{Packet, Packets, PktLineError};
use crate::signer::digest;

/// Most bytes before the pack: 10,000 commands with long names fit.
pub const MAX_HEAD_BYTES: usize = 4 * 1024 * 1024;
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
    let mut packets = Packets::new(bytes);
    let mut commands = Commands::default();
    loop {
        match packets.next_packet()? {
            None => return incomplete(bytes),
            Some(Packet::Flush) => break,
            Some(Packet::Data(line)) => commands.line(line)?,
            Some(Packet::Delimiter | Packet::ResponseEnd) => return Err(ClaimError::PktLine),
        }
    }
    commands.end_of_certificate()?;
    let object_format = commands.object_format()?;
    let mut push_options = Vec::new();
    if commands.has("push-options") {
        loop {
            match packets.next_packet()? {
                None => return incomplete(bytes),
                Some(Packet::Flush) => break,
                Some(Packet::Data(line)) => push_options.push(push_option(line)?),
                Some(Packet::Delimiter | Packet::ResponseEnd) => return Err(ClaimError::PktLine),
            }
            if push_options.len() > MAX_PUSH_OPTIONS {
                return Err(ClaimError::TooMuch);
            }
        }
    }
    // A server compares them too: what was promised is what is sent.
    if commands.certificate.as_ref().is_some_and(|one| one.promise.push_options != push_options) {
        return Err(ClaimError::Certificate);
    }
    let only_deletes = commands.updates.iter().all(|update| update.new.is_zero());
    Ok(Some(PushClaim {
        side_band: commands.has("side-band-64k"),
        report_status: commands.has("report-status") || commands.has("report-status-v2"),
        updates: commands.updates,
        certificate: commands.certificate,
        push_options,
        object_format,
        pack_offset: (!only_deletes).then_some(packets.read() as u64),
    }))
}

fn incomplete(bytes: &[u8]) -> Result<Option<PushClaim>, ClaimError> {
    if bytes.len() > MAX_HEAD_BYTES { Err(ClaimError::TooMuch) } else { Ok(None) }
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

#[derive(Default)]
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

    fn end_of_certificate(&self) -> Result<(), ClaimError> {
        if self.open.is_some() { Err(ClaimError::Certificate) } else { Ok(()) }
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
}
