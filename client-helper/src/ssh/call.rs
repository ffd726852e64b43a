//! git's call of ssh, parsed: `[OPTION]… HOST COMMAND` (connect.c, variant `ssh`), and what the command asks for.

use std::ffi::OsString;

use keyhatch_protocol::Remote;
use keyhatch_protocol::message::BRIDGE_HOST;

/// Options that take a value.
const WITH_VALUE: &[&str] = &["-o", "-p", "-i", "-l", "-F", "-J"];

/// A service that git asks a server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    UploadPack,
    ReceivePack,
    UploadArchive,
    /// git-lfs asks where a repository's large files are.
    LfsAuthenticate,
    /// It asks whether they go over this connection.
    LfsTransfer,
}

/// A call that git makes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) service: Service,
    pub(super) remote: Remote,
    /// Whether the session's git configuration rewrote it: then its host is one that the policy names.
    pub(super) rewritten: bool,
}

/// Why a call is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotOurs {
    /// It is no call of ssh, or names no host that may be repeated.
    Unreadable,
    /// It names a host, and a command that is none of git's.
    Command {
        /// `[user@]host`.
        destination: String,
    },
    /// It names a host, and a repository that no remote can have.
    Remote {
        /// What is wrong with it.
        why: String,
    },
}

/// Parses git's arguments.
pub(super) fn parse(arguments: &[OsString]) -> Result<Call, NotOurs> {
    let mut words = arguments.iter().map(|word| word.to_str());
    let mut port = None;
    let destination = loop {
        match words.next().flatten() {
            None => return Err(NotOurs::Unreadable),
            Some("-p") => port = words.next().flatten(),
            Some(option) if WITH_VALUE.contains(&option) => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            Some(destination) => break destination,
        }
    };
    // A destination is repeated only where it is a plain one.
    let plain = Remote::parse(&format!("{destination}:x")).map_err(|_| NotOurs::Unreadable)?;
    let not_git = || NotOurs::Command { destination: plain.authority() };
    let command = words.map(|word| word.ok_or_else(not_git)).collect::<Result<Vec<_>, _>>()?.join(" ");
    let (service, path) = service(&command).ok_or_else(not_git)?;
    let rewritten = destination == BRIDGE_HOST;
    let remote = match (rewritten, port) {
        (true, _) => Remote::from_front_end(path.trim_start_matches('/')),
        (false, Some(port)) => {
            Remote::parse(&format!("ssh://{destination}:{port}/{}", path.trim_start_matches('/')))
        }
        (false, None) => Remote::parse(&format!("{destination}:{path}")),
    };
    let remote = remote.map_err(|error| NotOurs::Remote { why: error.to_string() })?;
    Ok(Call { service, remote, rewritten })
}

/// The service and the repository that a command names: `git-upload-pack 'PATH'`, quoted as git quotes.
fn service(command: &str) -> Option<(Service, String)> {
    let (program, rest) = command.split_once(' ')?;
    let (program, rest) = match program {
        "git" => {
            let (verb, rest) = rest.split_once(' ')?;
            (format!("git-{verb}"), rest)
        }
        _ => (program.to_owned(), rest),
    };
    let service = match program.as_str() {
        "git-upload-pack" => Service::UploadPack,
        "git-receive-pack" => Service::ReceivePack,
        "git-upload-archive" => Service::UploadArchive,
        "git-lfs-authenticate" => Service::LfsAuthenticate,
        "git-lfs-transfer" => Service::LfsTransfer,
        _ => return None,
    };
    let (path, after) = unquote(rest)?;
    // What follows the path is an operation of git-lfs, and of nothing else.
    (after.is_empty() || matches!(service, Service::LfsAuthenticate | Service::LfsTransfer))
        .then_some((service, path))
}

/// The first word of a shell's line, as git's `sq_quote` writes it, or bare; and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let end = quoted.find('\'')?;
            word.push_str(&quoted[..end]);
            rest = &quoted[end + 1..];
        } else if let Some(escaped) = rest.strip_prefix('\\') {
            let mark = escaped.chars().next().filter(|mark| matches!(mark, '\'' | '!'))?;
            word.push(mark);
            rest = &escaped[1..];
        } else {
            let end = rest.find([' ', '\'', '\\']).unwrap_or(rest.len());
            word.push_str(&rest[..end]);
            rest = &rest[end..];
            if rest.is_empty() || rest.starts_with(' ') {
                return Some((word, rest.trim_start()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Result<Call, NotOurs> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn remote(words: &[&str]) -> String {
        called(words).expect("a call").remote.to_string()
    }

    #[test]
    fn gits_calls_name_a_service_and_a_remote() {
        let bridged =
            ["-o", "SendEnv=GIT_PROTOCOL", "keyhatch", "git-upload-pack '/https/h.example/a/b.git'"];
        let call = called(&bridged).expect("a call");
        assert_eq!((call.service, call.rewritten), (Service::UploadPack, true));
        assert_eq!(call.remote.to_string(), "https://h.example/a/b.git");
        assert_eq!(
            remote(&["keyhatch", "git-receive-pack '/scp/git@h//srv/it'\\''s.git'"]),
            "git@h:/srv/it's.git"
        );
        assert_eq!(remote(&["git@h.example", "git-upload-pack 'a/b.git'"]), "git@h.example:a/b.git");
        assert_eq!(remote(&["-p", "2222", "git@h", "git-receive-pack '/a'"]), "ssh://git@h:2222/a");
        // The usual port is none.
        assert_eq!(remote(&["-p", "22", "git@h", "git-receive-pack '/a'"]), "ssh://git@h/a");
        assert_eq!(
            called(&["keyhatch", "git-lfs-authenticate /https/h/a.git upload"]).expect("lfs").service,
            Service::LfsAuthenticate
        );
        assert_eq!(
            called(&["h", "git upload-archive 'a'"]).expect("archive").service,
            Service::UploadArchive
        );
    }

    #[test]
    fn anything_else_is_not_answered_and_a_hostile_destination_is_not_repeated() {
        assert_eq!(called(&["git@h", "rm -rf /"]), Err(NotOurs::Command { destination: "git@h".into() }));
        assert_eq!(called(&["git@h"]), Err(NotOurs::Command { destination: "git@h".into() }));
        assert_eq!(
            called(&["keyhatch", "git-upload-pack '/a' '; id'"]),
            Err(NotOurs::Command { destination: "keyhatch".into() })
        );
        assert!(matches!(called(&["keyhatch", "git-upload-pack '/ftp/h/a'"]), Err(NotOurs::Remote { .. })));
        assert!(matches!(
            called(&["keyhatch", "git-upload-pack '/https/h/../a'"]),
            Err(NotOurs::Remote { .. })
        ));
        for bad in [&["-oProxyCommand=x"][..], &["a\x1b[2J", "cmd"], &["-p", "22"], &[]] {
            assert_eq!(called(bad), Err(NotOurs::Unreadable), "{bad:?}");
        }
    }
}
