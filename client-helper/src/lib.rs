//! What git calls on the agent's side. It holds no secret and decides nothing: it asks, or says who is to be asked.
//!
//! Comes in: git's arguments and standard input. Goes out: what git expects of the role, and one line for people. It
//! trusts nobody and nobody trusts it: the agent owns this program's memory.
#![forbid(unsafe_code)]

mod allowed_signers;
mod broker;
mod credential;
mod forward;
mod git;
mod gpg;
mod hatch;
mod http;
mod image;
mod lfs;
mod sockets;
mod ssh;
mod ssh_keygen;
mod status;
mod verify;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use keyhatch_protocol::SignatureFormat;

/// Exit code for a wrong call.
const USAGE: u8 = 2;

/// Runs the role that the arguments name.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    input: &mut (impl Read + Send),
    output: &mut impl Write,
) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned());
    let role = match name.as_deref() {
        Some("git-credential-keyhatch") => Some("credential".to_owned()),
        Some(role @ ("git" | "ssh" | "ssh-keygen" | "gpg" | "gpgsm")) => Some(role.to_owned()),
        _ => arguments.next().map(|role| role.to_string_lossy().into_owned()),
    };
    let rest: Vec<OsString> = arguments.collect();
    match role.as_deref() {
        Some("credential") => credential::answer(&rest, input, output),
        Some("git") => git::answer(&rest),
        Some("ssh") => ssh::answer(&rest, input, output),
        Some("ssh-keygen") => ssh_keygen::answer(&rest, input, output),
        Some("gpg") => gpg::answer(SignatureFormat::OpenPgp, &rest, input, output),
        Some("gpgsm") => gpg::answer(SignatureFormat::X509, &rest, input, output),
        Some("lfs") => lfs::answer(input, output),
        Some("forward") => forward::answer(&rest, output),
        Some("status") => status::answer(output),
        Some("--version") => say(output, &format!("keyhatch-helper {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "help") => say(output, HELP),
        _ => {
            eprint!("{HELP}");
            ExitCode::from(USAGE)
        }
    }
}

const HELP: &str = "\
keyhatch-helper: what git calls inside a keyhatch session. It holds no key.

usage: keyhatch-helper credential get|store|erase   git's credential protocol: says what is not brokered
       keyhatch-helper ssh [OPTION]… HOST COMMAND   git's ssh: bridged to the session, or says what is not brokered
       keyhatch-helper ssh-keygen -Y sign …         git's ssh signatures, made on the host
       keyhatch-helper ssh-keygen -Y verify …       the same looked at, where the image has no ssh-keygen
       keyhatch-helper gpg|gpgsm -bsau KEY …        git's OpenPGP and X.509 signatures, made on the host
       keyhatch-helper git …                        git, led to the session's git directory where none can be mounted
       keyhatch-helper lfs                          git-lfs's transfers, where it reaches nothing by HTTP
       keyhatch-helper forward                      the session on 127.0.0.1:8417, for tools that run no ssh
       keyhatch-helper status                       what this session may do, and what of it is reached from here
       keyhatch-helper --version | --help
";

fn say(output: &mut impl Write, text: &str) -> ExitCode {
    match output.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
