//! `keyhatch-helper status`: what this session may do, for an agent to read, and what of it can be reached from here.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;

use keyhatch_protocol::message::{SessionReply, SessionRequest, VERSION};

use crate::broker::{AskError, Asked};
use crate::{forward, sockets};

pub(crate) fn answer(output: &mut impl Write) -> ExitCode {
    let asked = Asked::send(&SessionRequest::Status { version: VERSION }, &[]);
    let lines = match asked.and_then(|mut asked| asked.reply()) {
        Ok(SessionReply::Status { lines }) => lines,
        Ok(_) => return failed(&AskError::Unexpected),
        Err(error) => return failed(&error),
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    super::say(output, &format!("{text}{}\n", reached()))
}

/// One line: the front end's socket, and whether it is on loopback too.
fn reached() -> String {
    let reached = sockets::connect(sockets::HTTP).map(|_| ()).map_err(|error| error.to_string());
    if let Some(hatch) = sockets::hatch() {
        let how = reached.err().unwrap_or_else(|| format!("through the pipes in {}", hatch.display()));
        return format!(
            "git's front end: {how}; this sandbox has no sockets, nor has anything else in it: no network that the policy opens, no ssh-agent"
        );
    }
    let front_end = match reached {
        Ok(()) => sockets::directory().join(sockets::HTTP).display().to_string(),
        Err(error) => error,
    };
    let loopback = if forward::is_there() {
        format!("http://{}/", forward::ADDRESS)
    } else if has_no_network() {
        "this sandbox has no internet sockets, and no network that the policy opens".to_owned()
    } else {
        format!(
            "nobody on {}: keyhatch-helper forward listens there for tools that run no ssh",
            forward::ADDRESS
        )
    };
    format!("git's front end: {front_end}; {loopback}")
}

/// Whether not even a socket of this process's own loopback is to be had: a filter's answer, and no network's.
fn has_no_network() -> bool {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn failed(error: &AskError) -> ExitCode {
    error.say();
    ExitCode::FAILURE
}
