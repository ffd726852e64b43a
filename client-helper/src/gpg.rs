//! git's `gpg.program` and `gpg.x509.program`: signing is done on the host, everything else by the image's own program.
//!
//! Argv of git (gpg-interface.c, `sign_buffer_gpg`): `--status-fd=2 -bsau KEY`; the payload is standard input, the
//! armoured signature standard output, and success is a line `[GNUPG:] SIG_CREATED …` on standard error.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use keyhatch_protocol::SignatureFormat;
use keyhatch_protocol::message::{SessionRequest, VERSION};
use keyhatch_protocol::signable::MAX_SIGNABLE;
use keyhatch_protocol::stream;

use crate::broker::Asked;
use crate::{image, say};

/// What gpg exits with when it could not sign.
const FAILED: u8 = 2;

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
    let request = SessionRequest::Sign { version: VERSION, format, key, namespace: None };
    match Asked::send(&request, &stream::encode_data(&payload)).and_then(Asked::answer) {
        Ok(signature) => say(output, &String::from_utf8_lossy(&signature)),
        Err(error) => {
            error.say();
            ExitCode::from(FAILED)
        }
    }
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
}
