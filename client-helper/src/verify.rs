//! `ssh-keygen -Y find-principals|verify|check-novalidate` for images that have none: what git calls to look at an ssh
//! signature (gpg-interface.c, `verify_ssh_signed_buffer`), with OpenSSH's own words and exit codes.
//!
//! Who may sign is read here. Whether a signature fits is a question to the broker: it needs no secret, and this program
//! has no cryptography of its own.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyhatch_protocol::agent;
use keyhatch_protocol::message::{SessionReply, SessionRequest, VERSION};
use keyhatch_protocol::signable::MAX_SIGNABLE;
use keyhatch_protocol::stream;

use crate::allowed_signers::{self, Time, Wanted};
use crate::broker::{AskError, Asked};

/// What `ssh-keygen` exits with when a signature is not good.
const BAD: u8 = 255;
/// What it exits with when an argument is missing.
const TOO_FEW: u8 = 1;
/// Longest armoured signature: an RSA key of 16,384 bits makes one of 6 KiB.
const MAX_SIGNATURE: u64 = 32 * 1024;
/// Longest list of signers, and of revoked keys.
const MAX_LIST: u64 = 8 * 1024 * 1024;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    FindPrincipals,
    Verify,
    CheckNovalidate,
}

impl Verb {
    const ALL: [Self; 3] = [Self::FindPrincipals, Self::Verify, Self::CheckNovalidate];

    const fn word(self) -> &'static str {
        match self {
            Self::FindPrincipals => "find-principals",
            Self::Verify => "verify",
            Self::CheckNovalidate => "check-novalidate",
        }
    }
}

/// git's argv.
#[derive(Debug, Default)]
pub(crate) struct Call {
    verb: Option<Verb>,
    namespace: Option<String>,
    signers: Option<PathBuf>,
    signature: Option<PathBuf>,
    principal: Option<String>,
    revoked: Option<PathBuf>,
    at: Option<String>,
    quiet: bool,
}

impl Call {
    /// Reads a call that this program can answer; none for any other.
    pub(crate) fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut call = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let (option, attached) = word.to_str()?.split_at_checked(2)?;
            if option == "-q" && attached.is_empty() {
                call.quiet = true;
                continue;
            }
            let value = if attached.is_empty() { words.next()?.to_str()? } else { attached };
            match option {
                "-Y" => call.verb = Some(Verb::ALL.into_iter().find(|verb| verb.word() == value)?),
                "-n" => call.namespace = Some(value.to_owned()),
                "-f" => call.signers = Some(value.into()),
                "-s" => call.signature = Some(value.into()),
                "-I" => call.principal = Some(value.to_owned()),
                "-r" => call.revoked = Some(value.into()),
                "-O" => call.at = Some(value.strip_prefix("verify-time=")?.to_owned()),
                _ => return None,
            }
        }
        call.verb.is_some().then_some(call)
    }

    /// What OpenSSH asks for, in its order.
    fn missing(&self, verb: Verb) -> Option<&'static str> {
        let wants = |verbs: &[Verb], there: bool, what| (verbs.contains(&verb) && !there).then_some(what);
        wants(&[Verb::Verify, Verb::CheckNovalidate], self.namespace.is_some(), "namespace")
            .or(wants(&Verb::ALL, self.signature.is_some(), "signature file"))
            .or(wants(&[Verb::Verify, Verb::FindPrincipals], self.signers.is_some(), "allowed keys file"))
            .or(wants(&[Verb::Verify], self.principal.is_some(), "principal identity"))
    }

    /// Answers as OpenSSH does.
    pub(crate) fn answer(&self, input: &mut impl Read, output: &mut impl Write) -> ExitCode {
        let Some(verb) = self.verb else { return ExitCode::from(TOO_FEW) };
        if let Some(missing) = self.missing(verb) {
            complain(&format!("Too few arguments for {}: missing {missing}", verb.word()));
            return ExitCode::from(TOO_FEW);
        }
        let found = match verb {
            Verb::FindPrincipals => self.principals(),
            Verb::Verify | Verb::CheckNovalidate => self.verified(verb, input),
        };
        let (code, text) = match (found, verb) {
            (Ok(text), _) => (0, text),
            (Err(why), Verb::FindPrincipals) => {
                why.iter().for_each(|why| complain(why));
                eprintln!("No principal matched.");
                (BAD, String::new())
            }
            (Err(why), _) => {
                why.iter().for_each(|why| complain(why));
                (BAD, "Could not verify signature.\n".to_owned())
            }
        };
        let text = if self.quiet && verb != Verb::FindPrincipals { "" } else { &text };
        match output.write_all(text.as_bytes()) {
            Ok(()) => ExitCode::from(code),
            Err(_) => ExitCode::from(BAD),
        }
    }

    fn principals(&self) -> Result<String, Option<String>> {
        let at = self.time()?;
        let signature = self.signature(Verb::FindPrincipals)?;
        let found = self.find(&signature, (&at, None))?;
        Ok(found.split(',').take_while(|one| !one.is_empty()).map(|one| format!("{one}\n")).collect())
    }

    fn verified(&self, verb: Verb, input: &mut impl Read) -> Result<String, Option<String>> {
        let at = self.time()?;
        let signature = self.signature(verb)?;
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let mut payload = Vec::new();
        let read = input.take(MAX_SIGNABLE as u64 + 1).read_to_end(&mut payload);
        read.map_err(|error| Some(format!("Couldn't read what is signed: {error}")))?;
        let request = SessionRequest::Verify {
            version: VERSION,
            namespace: namespace.to_owned(),
            signature: signature.armoured.clone(),
        };
        let asked = Asked::send(&request, &stream::encode_data(&payload)).and_then(|mut asked| asked.reply());
        let (kind, fingerprint) = match asked {
            Ok(SessionReply::Verified { kind, fingerprint }) => (kind, fingerprint),
            Ok(SessionReply::Unverified { reason }) => return Err(Some(reason)),
            Ok(_) => return Err(unasked(&AskError::Unexpected)),
            Err(error) => return Err(unasked(&error)),
        };
        if verb == Verb::CheckNovalidate {
            return Ok(format!("Good \"{namespace}\" signature with {kind} key {fingerprint}\n"));
        }
        if self.is_revoked(&signature.key)? {
            return Err(None);
        }
        let principal = self.principal.as_deref().unwrap_or_default();
        self.find(&signature, (&at, Some((principal, namespace))))?;
        Ok(format!("Good \"{namespace}\" signature for {principal} with {kind} key {fingerprint}\n"))
    }

    /// The moment at which the signer must have been allowed.
    fn time(&self) -> Result<Time, Option<String>> {
        match &self.at {
            Some(text) => Time::parse(text).ok_or_else(|| Some("Invalid \"verify-time\" option".to_owned())),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                Ok(Time::of_epoch(now))
            }
        }
    }

    fn signature(&self, verb: Verb) -> Result<Signature, Option<String>> {
        let path = self.signature.clone().unwrap_or_default();
        let text = read(&path, MAX_SIGNATURE)
            .map_err(|error| Some(format!("Couldn't read signature file: {error}")))?;
        let (step, of_blob) = match verb {
            Verb::FindPrincipals => {
                ("sig_find_principals", "\nsig_find_principals: sshsig_get_pubkey: invalid format")
            }
            Verb::Verify | Verb::CheckNovalidate => ("sig_verify", ""),
        };
        Signature::parse(&text).map_err(|odd| {
            Some(match odd {
                Odd::Armour(part) => {
                    format!(
                        "Couldn't parse signature: missing {part}\n{step}: sshsig_armor: incomplete message"
                    )
                }
                Odd::Base64 => {
                    format!(
                        "sshsig_dearmor: decode base64: invalid format\n{step}: sshsig_armor: invalid format"
                    )
                }
                Odd::Blob => format!("Couldn't verify signature: invalid format{of_blob}"),
            })
        })
    }

    fn find(
        &self,
        signature: &Signature,
        (at, whom): (&Time, Option<(&str, &str)>),
    ) -> Result<String, Option<String>> {
        let path = self.signers.clone().unwrap_or_default();
        let text = read(&path, MAX_LIST).map_err(|error| {
            let step = if whom.is_none() {
                format!("\nsig_find_principals: sshsig_find_principal: {error}")
            } else {
                String::new()
            };
            Some(format!("Unable to open allowed keys file \"{}\": {error}{step}", path.display()))
        })?;
        let wanted = Wanted {
            key: &signature.key,
            principal: whom.map(|(principal, _)| principal),
            namespace: whom.map(|(_, namespace)| namespace),
            at,
        };
        allowed_signers::find(&text, &path, &wanted, &mut |line| complain(&line)).ok_or(None)
    }

    /// Whether the key stands in the list of revoked ones. A list that cannot be read revokes everything, as in OpenSSH.
    fn is_revoked(&self, key: &[u8]) -> Result<bool, Option<String>> {
        let Some(path) = &self.revoked else { return Ok(false) };
        let bytes = fs::read(path).map_err(|_| None)?;
        if bytes.starts_with(b"SSHKRL\n") {
            return Err(Some("keyhatch: a binary revocation list needs ssh-keygen in the image".to_owned()));
        }
        let text = String::from_utf8_lossy(&bytes);
        let keys = text.lines().filter_map(|line| BASE64.decode(line.split([' ', '\t']).nth(1)?).ok());
        Ok(keys.into_iter().any(|revoked| revoked == key))
    }
}

fn unasked(error: &AskError) -> Option<String> {
    error.say();
    None
}

/// What is wrong with the form of a signature.
enum Odd {
    Armour(&'static str),
    Base64,
    Blob,
}

/// Says lines as OpenSSH does: in a terminal in raw mode they stand at the left.
fn complain(text: &str) {
    text.lines().for_each(|line| eprint!("{line}\r\n"));
}

/// An armoured signature and the key that it names (PROTOCOL.sshsig).
struct Signature {
    armoured: String,
    key: Vec<u8>,
}

impl Signature {
    fn parse(text: &str) -> Result<Self, Odd> {
        let body = text.strip_prefix(BEGIN).ok_or(Odd::Armour("header"))?;
        let (body, _) = body.split_once(END).ok_or(Odd::Armour("footer"))?;
        let joined: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let blob = BASE64.decode(joined).map_err(|_| Odd::Base64)?;
        let rest = blob.strip_prefix(b"SSHSIG\0\0\0\x01").ok_or(Odd::Blob)?;
        let (key, _) = agent::take(rest).ok_or(Odd::Blob)?;
        Ok(Self { armoured: text.to_owned(), key: key.to_vec() })
    }
}

fn read(path: &std::path::Path, limit: u64) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| said(&error))?;
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text).map_err(|error| said(&error))?;
    Ok(text)
}

/// The system's words without the number that Rust adds.
fn said(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Option<Call> {
        Call::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn gits_calls_of_every_version_are_understood_and_others_are_not() {
        let verify =
            call("-Y verify -n git -f a -I p@x -s s -Overify-time=20250101000000 -r krl").expect("git's");
        assert_eq!((verify.verb, verify.at.as_deref()), (Some(Verb::Verify), Some("20250101000000")));
        assert_eq!(verify.missing(Verb::Verify), None);
        assert!(call("-Y find-principals -f a -s s").is_some(), "git 2.34");
        assert!(call("-Y check-novalidate -n git -s s -O verify-time=20250101").is_some());
        assert_eq!(call("-Y verify -s s").expect("a call").missing(Verb::Verify), Some("namespace"));
        for other in
            ["-lf k", "-Y match-principals -I a -f b", "-Y verify -n git -O print-pubkey", "-t ed25519"]
        {
            assert!(call(other).is_none(), "{other}");
        }
    }
}
