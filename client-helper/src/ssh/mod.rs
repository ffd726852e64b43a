//! git's ssh: bridges git's dialogue with a server to the session's front end, which speaks smart HTTP.
//!
//! Comes in: git's arguments, and its packets on standard input. Goes out: the server's packets, as the broker passes
//! them, and lines for people. git's own commands are answered and no other: this is no ssh.

mod call;
mod fetch;
mod push;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use keyhatch_protocol::Remote;
use rustix::event::{PollFd, PollFlags, poll};
use thiserror::Error;

use crate::forward;
use crate::http::{Body, Exchange, HttpError};
use call::{Call, NotOurs, Service};

/// What ssh exits with when it could not connect.
const SSH_FAILED: u8 = 255;
/// What git's own programs on a server exit with when they refuse.
const GIT_FAILED: u8 = 128;

/// A call was not answered.
#[derive(Debug, Error)]
enum BridgeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The client or the server speaks the dialogue that came before protocol v2.
    #[error("{who} speaks git's protocol v0 for a fetch, which is not bridged")]
    Version {
        /// Which end.
        who: &'static str,
    },
    /// git's end of the pipe.
    #[error("git's end of the connection broke")]
    Git(#[source] std::io::Error),
}

pub(crate) fn answer(
    arguments: &[OsString],
    input: &mut (impl Read + Send),
    output: &mut impl Write,
) -> ExitCode {
    let call = match call::parse(arguments) {
        Ok(call) => call,
        Err(not_ours) => return refuse(&not_ours),
    };
    forward::start_if_wanted();
    end_with_client();
    let done = match call.service {
        Service::UploadPack => fetch::bridge(&call.remote, input, output),
        Service::ReceivePack => push::bridge(&call.remote, input, output),
        Service::UploadArchive => {
            return unbrokered("git archive --remote is not brokered", "fetch, then git archive here");
        }
        Service::LfsAuthenticate => return large_files(&call.remote, output),
        Service::LfsTransfer => {
            // It then asks for a place to reach them by HTTP.
            return unbrokered("git-lfs over ssh itself is not brokered", "git-lfs goes on over HTTP");
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&call, &error),
    }
}

fn failed(call: &Call, error: &BridgeError) -> ExitCode {
    match error {
        BridgeError::Http(HttpError::Refused { text }) if call.rewritten => eprintln!("keyhatch: {text}"),
        BridgeError::Http(HttpError::Refused { text }) => {
            eprintln!("keyhatch: {} is not brokered in this session: {text}", call.remote);
        }
        BridgeError::Http(HttpError::Unreachable(unreachable)) => {
            eprintln!("keyhatch: {unreachable}\nhint: {}", unreachable.hint());
            return ExitCode::from(SSH_FAILED);
        }
        BridgeError::Version { .. } => {
            eprintln!(
                "keyhatch: {error}\nhint: git config protocol.version 2 (git's default since 2.26), or keyhatch-helper forward"
            );
        }
        BridgeError::Http(_) | BridgeError::Git(_) => eprintln!("keyhatch: {error}"),
    }
    ExitCode::from(GIT_FAILED)
}

fn refuse(why: &NotOurs) -> ExitCode {
    match why {
        NotOurs::Remote { why } => eprintln!("keyhatch: this remote is not brokered: {why}"),
        NotOurs::Unreadable => say_unbrokered("this remote"),
        NotOurs::Command { destination } => say_unbrokered(destination),
    }
    ExitCode::from(SSH_FAILED)
}

fn say_unbrokered(destination: &str) {
    eprintln!("keyhatch: {destination} is not brokered in this session, and the sandbox has no network");
    eprintln!(
        "hint: the user can add the remote to the project, or a rule for it to the policy, and start again"
    );
}

/// Says where git-lfs reaches a repository's large files: it speaks HTTP, which this container has where the front end is
/// on its loopback. No token goes with it.
///
/// Source: git-lfs, docs/api/server-discovery.md.
fn large_files(remote: &Remote, output: &mut impl Write) -> ExitCode {
    if !forward::is_there() {
        return unbrokered(
            "git-lfs speaks HTTP, and the session's front end is not on this container's loopback",
            "keyhatch-helper forward puts it there, for every process of the container; KEYHATCH_FORWARD=1 does it by itself",
        );
    }
    let href = format!("http://{}/{}/info/lfs", forward::ADDRESS, remote.front_end());
    super::say(output, &format!("{}\n", serde_json::json!({ "href": href })))
}

fn unbrokered(what: &str, hint: &str) -> ExitCode {
    eprintln!("keyhatch: {what}\nhint: {hint}");
    ExitCode::from(GIT_FAILED)
}

/// Ends with git: a request that is held while a person thinks says nothing for minutes, and a connection that stays open
/// would keep it from being withdrawn.
fn end_with_client() {
    std::thread::spawn(|| {
        let output = std::io::stdout();
        loop {
            // No event is asked for: the kernel says by itself when nobody reads any more.
            let mut watched = [PollFd::new(&output, PollFlags::empty())];
            if poll(&mut watched, None).is_ok_and(|ready| ready > 0) {
                // git has what it wanted, and looks at this status; or it is gone, and nobody does.
                std::process::exit(0);
            }
        }
    });
}

/// The server's advertisement, without what smart HTTP puts before it: a packet that names the service, and a flush.
fn advertisement(remote: &Remote, service: &str, headers: &str) -> Result<(Vec<u8>, Body), BridgeError> {
    let path = format!("{}/info/refs?service={service}", remote.front_end());
    let mut body = Exchange::get(&path, headers)?.answer()?;
    for expected in [format!("# service={service}\n"), String::new()] {
        let packet = packet(&mut body)?;
        if packet.get(4..) != Some(expected.as_bytes()) {
            return Err(HttpError::Malformed.into());
        }
    }
    Ok((packet(&mut body)?, body))
}

/// One packet of the broker's.
fn packet(body: &mut Body) -> Result<Vec<u8>, BridgeError> {
    keyhatch_protocol::pktline::read_raw(body).map_err(|error| HttpError::Io(error).into())
}
