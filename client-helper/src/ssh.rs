//! git's ssh, for a remote that no rewriting caught. There is no route to it: say which remote, and what to do.

use std::ffi::OsString;
use std::process::ExitCode;

use keyhatch_protocol::{Remote, Scheme};

/// What ssh exits with when it could not connect.
const SSH_FAILED: u8 = 255;

/// Options of git's own that take no value, and that take one (ssh variant `ssh`).
const WITH_VALUE: &[&str] = &["-o", "-p", "-i", "-l", "-F", "-J"];

pub(crate) fn answer(arguments: &[OsString]) -> ExitCode {
    let destination = destination(arguments).unwrap_or_else(|| "this remote".to_owned());
    eprintln!("keyhatch: {destination} is not brokered in this session, and the sandbox has no network");
    eprintln!(
        "hint: the user can add the remote to the project, or a rule for it to the policy, and start again"
    );
    ExitCode::from(SSH_FAILED)
}

/// `[user@]host` of git's call, if it is one.
fn destination(arguments: &[OsString]) -> Option<String> {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with('-') {
            let remote = Remote::parse(&format!("{word}:x")).ok()?;
            return (remote.scheme() == Scheme::Scp).then(|| remote.authority());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_found_behind_gits_options_and_a_hostile_one_is_not_repeated() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let found = destination(&words("-o SendEnv=GIT_PROTOCOL -p 22 git@h.example git-upload-pack"));
        assert_eq!(found.as_deref(), Some("git@h.example"));
        assert_eq!(destination(&words("-oProxyCommand=x")), None);
        assert_eq!(destination(&words("a\x1b[2J cmd")), None);
    }
}
