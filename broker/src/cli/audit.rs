//! `keyhatch audit`: reads the log that the broker writes.

use std::process::ExitCode;

use keyhatch_protocol::text::shown;
use serde_json::{Map, Value};

use super::args::Audit;
use super::{Failure, exit, paths, print};
use crate::audit::{self, Verified};

pub(super) fn audit(command: &Audit) -> Result<ExitCode, Failure> {
    let path = paths()?.audit();
    match command {
        Audit::Path => print(&format!("{}\n", path.display()))?,
        Audit::Verify => match audit::verify(&path) {
            Ok(Verified { records, torn }) => {
                let torn: String = torn
                    .iter()
                    .map(|line| {
                        format!("line {line} was torn when a broker died; the line after it says so\n")
                    })
                    .collect();
                print(&format!("{records} lines, each follows from the one before\n{torn}"))?;
            }
            Err(error) => {
                let message = format!("the audit log does not verify: {}", crate::cause::chain(&error));
                let hint = "the lines before it are sound; compare with a copy".to_owned();
                return Err(Failure { code: exit::DENIED, message, hint: Some(hint) });
            }
        },
        Audit::Log { json } => {
            let text = match std::fs::read_to_string(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                text => text.map_err(|e| Failure::internal("cannot read the audit log", &e))?,
            };
            if *json {
                print(&text)?;
            } else {
                let lines: String = text.lines().map(|line| readable(line) + "\n").collect();
                print(&lines)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One record for people: time, session, event, then what it names.
fn readable(line: &str) -> String {
    let Ok(mut record) = serde_json::from_str::<Map<String, Value>>(line) else {
        return format!("(not a record) {}", shown(line));
    };
    let mut take = |key: &str| match record.remove(key) {
        Some(Value::String(text)) => shown(&text),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (time, session, event) = (take("time"), take("session"), take("event"));
    take("prev");
    take("seq");
    let rest: Vec<String> = record
        .iter()
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}={}", shown(text)),
            other => format!("{key}={}", shown(&other.to_string())),
        })
        .collect();
    format!("{time}  {session}  {event}  {}", rest.join("  "))
}
