//! `keyhatch-helper status`: what this session may do, for an agent to read.

use std::io::Write;
use std::process::ExitCode;

use keyhatch_protocol::message::{SessionReply, SessionRequest, VERSION};

use crate::broker::{AskError, Asked};

pub(crate) fn answer(output: &mut impl Write) -> ExitCode {
    let asked = Asked::send(&SessionRequest::Status { version: VERSION }, &[]);
    match asked.and_then(|mut asked| asked.reply()) {
        Ok(SessionReply::Status { lines }) => {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            super::say(output, &text)
        }
        Ok(_) => failed(&AskError::Unexpected),
        Err(error) => failed(&error),
    }
}

fn failed(error: &AskError) -> ExitCode {
    error.say();
    ExitCode::FAILURE
}
