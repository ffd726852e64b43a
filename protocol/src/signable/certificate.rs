//! A push certificate: gitprotocol-pack(5), "Push Certificate".
//!
//! ```text
//! "certificate version 0.1" LF  "pusher" SP who SP seconds SP zone LF  ["pushee" SP url LF]  ["nonce" SP nonce LF]
//! *("push-option" SP option LF)  LF  1*(old SP new SP ref LF)
//! ```

use std::collections::HashSet;

use super::lines::{self, Lines};
use super::{Person, SignableError, person, refuse_signature};
use crate::message::BRIDGE_BASE;
use crate::{Identity, RefUpdate, Remote};

const EXPECTED: &str = "certificate version 0.1, pusher, pushee, nonce and push-options";
/// Most commands, as in a push without a certificate.
const MAX_COMMANDS: usize = 10_000;
/// Most push options.
const MAX_OPTIONS: usize = 64;

/// What a signed push promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushCertificate {
    /// Who pushes: a person, or a key's name or fingerprint.
    pub pusher: String,
    /// Seconds since the epoch, as they were written.
    pub seconds: String,
    /// `+hhmm` or `-hhmm`.
    pub zone: String,
    /// The remote, as the pushing git calls it.
    pub pushee: Option<String>,
    /// The server's nonce.
    pub nonce: Option<String>,
    /// The options of `git push -o`.
    pub push_options: Vec<String>,
    /// The commands.
    pub updates: Vec<RefUpdate>,
}

impl PushCertificate {
    /// Parses a certificate.
    ///
    /// # Errors
    /// When it is not exactly what git hands to a signer.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignableError> {
        let headers = || SignableError::Headers { expected: EXPECTED };
        let text = |value: &[u8]| {
            let text = std::str::from_utf8(value).map_err(|_| SignableError::Encoding)?;
            if text.chars().any(char::is_control) { Err(SignableError::Control) } else { Ok(text.to_owned()) }
        };
        let mut lines = Lines::new(bytes);
        if lines.header("certificate")? != Some(b"version 0.1") {
            return Err(headers());
        }
        let pusher = text(lines.header("pusher")?.ok_or_else(headers)?)?;
        let mut words = pusher.rsplitn(3, ' ');
        let (zone, seconds, who) = (words.next(), words.next(), words.next());
        let (Some(zone), Some(seconds), Some(who)) = (zone, seconds, who) else {
            return Err(SignableError::Person);
        };
        let (seconds, zone) = person::time(format!("{seconds} {zone}").as_bytes())?;
        let pushee = lines.header("pushee")?.map(text).transpose()?;
        let nonce = lines.header("nonce")?.map(text).transpose()?;
        let mut push_options = Vec::new();
        while let Some(option) = lines.header("push-option")? {
            push_options.push(text(option)?);
            if push_options.len() > MAX_OPTIONS {
                return Err(SignableError::Commands);
            }
        }
        let body = lines.body().ok_or_else(headers)?;
        refuse_signature(body)?;
        let updates = commands(body)?;
        Ok(Self { pusher: who.to_owned(), seconds, zone, pushee, nonce, push_options, updates })
    }

    /// The bytes that it was parsed from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { pusher, seconds, zone, pushee, nonce, push_options, updates } = self;
        let mut bytes = Vec::new();
        lines::write(&mut bytes, "certificate", b"version 0.1");
        lines::write(&mut bytes, "pusher", format!("{pusher} {seconds} {zone}").as_bytes());
        pushee.iter().for_each(|url| lines::write(&mut bytes, "pushee", url.as_bytes()));
        nonce.iter().for_each(|nonce| lines::write(&mut bytes, "nonce", nonce.as_bytes()));
        push_options.iter().for_each(|option| lines::write(&mut bytes, "push-option", option.as_bytes()));
        bytes.push(b'\n');
        for RefUpdate { old, new, ref_name } in updates {
            bytes.extend_from_slice(format!("{old} {new} {ref_name}\n").as_bytes());
        }
        bytes
    }

    /// The remote that it is for: the session's git calls it by its front end's address, or as it is. None where the
    /// certificate names none, or nothing that is a remote.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        let pushee = self.pushee.as_ref()?;
        let by_port = pushee.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split_once('/'));
        let by_bridge =
            pushee.strip_prefix(BRIDGE_BASE).and_then(|rest| rest.strip_prefix('/')).map(|path| ("", path));
        let named = match by_port.or(by_bridge) {
            Some((_, path)) => Remote::from_front_end(path),
            None => Remote::parse(pushee),
        };
        named.ok()
    }

    /// The pusher, where a person is named and not a key.
    #[must_use]
    pub fn pusher_identity(&self) -> Option<Identity> {
        let with_time = format!("{} {} {}", self.pusher, self.seconds, self.zone);
        Person::parse(with_time.as_bytes()).ok().map(|person| person.identity())
    }
}

fn commands(body: &[u8]) -> Result<Vec<RefUpdate>, SignableError> {
    let mut names = HashSet::new();
    let mut updates: Vec<RefUpdate> = Vec::new();
    let body = body.strip_suffix(b"\n").ok_or(SignableError::Commands)?;
    for line in body.split(|byte| *byte == b'\n') {
        let update = RefUpdate::parse(line).map_err(|_| SignableError::Commands)?;
        let format = updates.first().map_or(update.new.format(), |first| first.new.format());
        let agree = update.new.format() == format && update.old.format() == format;
        if !agree || !names.insert(update.ref_name.clone()) || updates.len() >= MAX_COMMANDS {
            return Err(SignableError::Commands);
        }
        updates.push(update);
    }
    Ok(updates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> String {
        let (zero, a) = ("0".repeat(40), "a".repeat(40));
        format!(
            "certificate version 0.1\npusher Ada <ada@example.org> 1 +0000\npushee https://h/r\nnonce 1-x\n\
             push-option ci.skip\n\n{zero} {a} refs/heads/main\n{a} {zero} refs/heads/old\n"
        )
    }

    #[test]
    fn a_certificate_is_read_and_written_back() {
        let by_key = sound().replace("Ada <ada@example.org>", "SHA256:abc");
        for text in [sound(), by_key.clone(), sound().replace("pushee https://h/r\nnonce 1-x\n", "")] {
            let certificate = PushCertificate::parse(text.as_bytes()).expect("a certificate");
            assert_eq!(String::from_utf8(certificate.encode()).expect("text"), text);
        }
        let identity = |text: &str| PushCertificate::parse(text.as_bytes()).expect("sound").pusher_identity();
        assert_eq!(identity(&sound()).expect("a person").email, "ada@example.org");
        assert_eq!(identity(&by_key), None);
    }

    #[test]
    fn what_is_not_exactly_a_certificate_is_refused() {
        let parse = |text: String| PushCertificate::parse(text.as_bytes()).expect_err("refused");
        let headers = SignableError::Headers { expected: EXPECTED };
        assert_eq!(parse(sound().replace("0.1", "0.2")), headers);
        assert_eq!(parse(sound().replace("nonce 1-x\n", "nonce 1-x\nnonce 2-x\n")), headers);
        assert_eq!(parse(sound().replace("refs/heads/old", "refs/heads/main")), SignableError::Commands);
        assert_eq!(parse(sound().replace("refs/heads/old", "main")), SignableError::Commands);
        assert_eq!(parse(format!("{}x", sound())), SignableError::Commands);
        assert_eq!(parse(sound().replace("1 +0000", "now")), SignableError::Person);
        assert_eq!(parse(sound().replace("https", "\x1bhttps")), SignableError::Control);
    }
}
