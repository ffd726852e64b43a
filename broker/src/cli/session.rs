//! `keyhatch session`: the open sessions, and what a session did.

use std::process::ExitCode;

use keyhatch_protocol::SessionId;

use super::args::{Session, ShowSession};
use super::decide::unexpected;
use super::{Failure, container, paths, print, print_json};
use crate::control::client::{Client, ClientError};
use crate::control::{Known, Reply, Request};
use crate::session::report::{SessionReport, shown_project};
use crate::{observe, surface};

pub(super) fn session(args: &Session) -> Result<ExitCode, Failure> {
    match args {
        Session::Open(args) => container::open(args),
        Session::Close { id, container_ended } => close(id, *container_ended),
        Session::List { json } => list(*json),
        Session::Show(args) => show(args),
    }
}

fn list(json: bool) -> Result<ExitCode, Failure> {
    let sessions = match Client::connect(&paths()?) {
        Err(ClientError::NotRunning(_)) => Vec::new(),
        client => match client?.ask(Request::Sessions)? {
            Reply::Sessions { sessions } => sessions,
            other => return Err(unexpected(&other)),
        },
    };
    if json {
        print_json(&sessions)?;
    } else if sessions.is_empty() {
        print("no session is open\n")?;
    } else {
        for session in sessions {
            let until = session.expires.map(|at| format!("  until {}", clock(at))).unwrap_or_default();
            let name = session.name.map(|name| format!("  {name}")).unwrap_or_default();
            let project = shown_project(&session.id, &session.project);
            print(&format!("{}  {}  {project}{until}{name}\n", session.id, session.policy))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A time of the clock that people read.
pub(super) fn clock(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Ends a session and says what it did.
fn close(id: &SessionId, container_ended: bool) -> Result<ExitCode, Failure> {
    let known = Known { is_over: container_ended, ..Known::default() };
    let request = Request::CloseSession { session: id.clone(), known };
    match Client::connect_or_start(&paths()?)?.ask(request)? {
        Reply::Report(report) => {
            print(&surface::report(&report))?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(unexpected(&other)),
    }
}

fn show(args: &ShowSession) -> Result<ExitCode, Failure> {
    let paths = paths()?;
    let report = match Client::connect(&paths) {
        // An ended session's report is a file of the user's: no broker is needed to read it.
        Err(ClientError::NotRunning(_)) => {
            SessionReport::read(&paths.reports(), &args.id).map_err(|error| {
                Failure::invalid(error.to_string(), "keyhatch audit log has what older sessions did")
            })?
        }
        client => match client?.ask(Request::ShowSession { session: args.id.clone() })? {
            Reply::Report(report) => *report,
            other => return Err(unexpected(&other)),
        },
    };
    let mut report = report;
    if args.denials {
        let about = [observe::SECTION, "network", "limits"];
        report.sections.retain(|section| about.contains(&section.name.as_str()));
    }
    if args.denials {
        for section in &mut report.sections {
            if section.name == observe::SECTION {
                section.lines = observe::whole(section);
            }
        }
    }
    match (args.json, args.network) {
        (true, _) => print_json(&report)?,
        (false, true) => print(&network(&report))?,
        (false, false) => print(&surface::report(&report))?,
    }
    if args.denials && !args.json && report.sections.is_empty() {
        let hint = "keyhatch run --explain looks at paths too";
        print(&format!(
            "  nothing was seen to be refused; {hint}
"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a session connected to and what was refused, all of it.
fn network(report: &SessionReport) -> String {
    let section = report.sections.iter().find(|section| section.name == crate::network::report::NAME);
    let lines =
        section.map_or_else(|| vec!["it connected to nothing".to_owned()], crate::network::report::whole);
    lines.iter().map(|line| format!("{line}\n")).collect()
}
