//! git's `gpg.program` and `gpg.x509.program`: signing is done on the host, everything else by the image's own program.
//!
//! Argv of git (gpg-interface.c, `sign_buffer_gpg`): `--status-fd=2 -bsau KEY`; the payload is standard input, the
//! armoured signature standard output, and success is a line `[GNUPG:] SIG_CREATED …` on standard error.
//!
//! Where KEY is an ssh key, the signature is one too: git before 2.34 dies of `gpg.format = ssh`, but puts whatever its
//! program made into the commit, and every later git verifies a signature by its own armour.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use keyhatch_protocol::SignatureFormat;
use keyhatch_protocol::message::{SessionRequest, VERSION};
use keyhatch_protocol::signable::MAX_SIGNABLE;
use keyhatch_protocol::stream;

use crate::broker::Asked;
use crate::{image, say, ssh_keygen};

/// What gpg exits with when it could not sign.
const FAILED: u8 = 2;
/// The namespace of git's ssh signatures.
const NAMESPACE: &str = "git";

pub(crate) fn answer(
    format: SignatureFormat,
    arguments: &[OsString],
    input: &mut impl Read,
    output: &mut impl Write,
) -> ExitCode {
    let Some(key) = signing_key(arguments) else {
        let program = if format == SignatureFormat::X509 { "gpgsm" } else { "gpg" };
        return image::become_program(program, arguments);
    };
    let mut payload = Vec::new();
    if let Err(error) = input.take(MAX_SIGNABLE as u64 + 1).read_to_end(&mut payload) {
        eprintln!("keyhatch: cannot read what is to be signed: {error}");
        return ExitCode::from(FAILED);
    }
    let request = match ssh_key(&key).filter(|_| format == SignatureFormat::OpenPgp) {
        Some(key) => {
            let namespace = Some(NAMESPACE.to_owned());
            SessionRequest::Sign { version: VERSION, format: SignatureFormat::Ssh, key, namespace }
        }
        None => SessionRequest::Sign { version: VERSION, format, key, namespace: None },
    };
    let by_ssh = matches!(request, SessionRequest::Sign { format: SignatureFormat::Ssh, .. });
    match Asked::send(&request, &stream::encode_data(&payload)).and_then(Asked::answer) {
        Ok(signature) => {
            if by_ssh {
                // git before 2.39 wants a line before the one that it looks for.
                eprintln!("[GNUPG:] BEGIN_SIGNING\n[GNUPG:] SIG_CREATED ");
            }
            say(output, &String::from_utf8_lossy(&signature))
        }
        Err(error) => {
            error.say();
            ExitCode::from(FAILED)
        }
    }
}

/// The line of an ssh public key that git names: itself, or the file that it is in.
fn ssh_key(named: &str) -> Option<String> {
    let is_key = |text: &str| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| text.starts_with(kind));
    let literal = named.strip_prefix("key::").unwrap_or(named);
    if is_key(literal) {
        return Some(literal.to_owned());
    }
    let line = ssh_keygen::public_key(Path::new(named));
    is_key(&line).then_some(line)
}

/// The key of git's own signing call; none for any other call.
fn signing_key(arguments: &[OsString]) -> Option<String> {
    match arguments {
        [status, flags, key] if status == "--status-fd=2" && flags == "-bsau" => {
            key.to_str().map(str::to_owned)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gits_own_signing_call_is_answered() {
        let key = |words: &[&str]| signing_key(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            key(&["--status-fd=2", "-bsau", "Ada <ada@example.org>"]).as_deref(),
            Some("Ada <ada@example.org>")
        );
        assert_eq!(key(&["--keyid-format=long", "--status-fd=1", "--verify", "x", "-"]), None);
        assert_eq!(key(&["--export-secret-keys"]), None);
    }

    #[test]
    fn an_ssh_key_is_known_by_its_line_or_by_its_file_and_a_person_is_none() {
        let line = "ssh-ed25519 AAAA ada";
        assert_eq!(ssh_key(line).as_deref(), Some(line));
        assert_eq!(ssh_key(&format!("key::{line}")).as_deref(), Some(line));
        assert_eq!(ssh_key("Ada <ada@example.org>"), None);
        assert_eq!(ssh_key("0xABCDEF"), None);
        let directory = std::env::temp_dir().join(format!("keyhatch-gpg-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("signing.pub");
        std::fs::write(&file, format!("{line}\n")).expect("a file");
        assert_eq!(ssh_key(&file.to_string_lossy()).as_deref(), Some(line));
        std::fs::remove_dir_all(&directory).expect("it goes");
    }
}
