//! `git credential-keyhatch`: git's credential protocol (gitcredentials(7)), answered without a secret.
//!
//! A host that reaches this helper is one that the session's policy does not broker. It says so in one line, and tells
//! git to stop asking: an agent must not hang at a prompt.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use keyhatch_protocol::Host;

/// Longest request that is read, in bytes: git's lines are bounded by 64 KiB, and the host stands first.
const MAX_REQUEST: u64 = 64 * 1024;

pub(crate) fn answer(arguments: &[OsString], input: &mut impl Read, output: &mut impl Write) -> ExitCode {
    match arguments.first().and_then(|verb| verb.to_str()) {
        Some("get") => {}
        // Nothing is ever kept, and verbs to come are to be ignored (gitcredentials(7)).
        Some(_) => return ExitCode::SUCCESS,
        None => return ExitCode::from(super::USAGE),
    }
    let mut request = Vec::new();
    if input.take(MAX_REQUEST).read_to_end(&mut request).is_err() {
        return ExitCode::FAILURE;
    }
    let host = host(&request).unwrap_or_else(|| "this host".to_owned());
    eprintln!("keyhatch: no credential for {host}: it is not brokered in this session");
    eprintln!("hint: the user can allow it with a rule for it in the session's policy");
    super::say(output, "quit=1\n")
}

/// The host that git asks about, if it is one: anything else is not repeated.
fn host(request: &[u8]) -> Option<String> {
    let line = request.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"host="))?;
    let text = std::str::from_utf8(line).ok()?;
    let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
    Host::parse(name).ok().map(|host| host.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(verb: &str, request: &[u8]) -> String {
        let mut output = Vec::new();
        let mut input = request;
        let code = answer(&[verb.into()], &mut input, &mut output);
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn get_tells_git_to_stop_and_nothing_is_kept() {
        assert_eq!(ask("get", b"protocol=https\nhost=example.org\n\n"), "quit=1\n");
        assert_eq!(ask("store", b"password=x\n\n"), "");
        assert_eq!(ask("get", b"\xff\xff"), "quit=1\n");
    }

    #[test]
    fn a_hostile_host_is_not_repeated() {
        assert_eq!(host(b"protocol=https\nhost=h.example:8443\n").as_deref(), Some("h.example"));
        assert_eq!(host(b"host=a\x1b[31m\n"), None);
        assert_eq!(host(b"nothing"), None);
    }
}
