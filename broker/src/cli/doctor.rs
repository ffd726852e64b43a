//! `keyhatch doctor`: what this machine has of each mechanism, what is missing and how to get it, and whether a sandbox
//! really holds here. The runner asks the kernel; nothing here guesses.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use keyhatch_policies::mechanism::{Mechanism, State};
use serde::Serialize;

use super::args::Doctor;
use super::runner::beside;
use super::{Failure, exit, print, print_json};

/// Everything that is said.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    mechanisms: Vec<Mechanism>,
    proof: Proof,
}

/// Whether the smallest sandbox started: it tries the forbidden acts before anything runs in it.
#[derive(Serialize)]
struct Proof {
    held: bool,
    said: String,
}

pub(super) fn doctor(args: &Doctor) -> Result<ExitCode, Failure> {
    // Each of them must be there; what is not is named, with what to do.
    for program in ["keyhatch-helper", keyhatch_inspection::INSPECTOR] {
        beside(program)?;
    }
    let runner = beside("keyhatch-run")?;
    let report =
        Report { version: env!("CARGO_PKG_VERSION"), mechanisms: ask(&runner)?, proof: prove(&runner)? };
    if args.json {
        print_json(&report)?;
    } else {
        print(&table(&report))?;
    }
    Ok(if report.proof.held { ExitCode::SUCCESS } else { ExitCode::from(exit::UNAVAILABLE) })
}

/// A runner without the user's environment.
fn runner(program: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

fn ask(program: &PathBuf) -> Result<Vec<Mechanism>, Failure> {
    let told = runner(program).arg("--facts").output().map_err(|e| Failure::internal("keyhatch-run", &e))?;
    serde_json::from_slice(&told.stdout).map_err(|error| Failure::internal("what keyhatch-run said", &error))
}

fn prove(program: &PathBuf) -> Result<Proof, Failure> {
    let directory = tempfile::tempdir().map_err(|e| Failure::internal("a directory", &e))?;
    let ran = runner(program).arg("--prove").arg(directory.path()).output();
    let ran = ran.map_err(|e| Failure::internal("keyhatch-run", &e))?;
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Ok(Proof { held: ran.status.success(), said })
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let width = report.mechanisms.iter().map(|mechanism| mechanism.name.len()).max().unwrap_or(0);
    for Mechanism { name, state, detail, remedy } in &report.mechanisms {
        let state = match state {
            State::Absent => "absent".to_owned(),
            State::Disabled => "disabled".to_owned(),
            State::Present { version: None } => "present".to_owned(),
            State::Present { version: Some(version) } => format!("version {version}"),
        };
        text.push_str(&format!("{name:<width$}  {state:<10}  {detail}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:<width$}  {:<10}  -> {remedy}\n", "", ""));
        }
    }
    let proof = if report.proof.held {
        "a sandbox was started, and every forbidden act that it tried failed".to_owned()
    } else {
        format!("no sandbox can be started here: {}", report.proof.said)
    };
    text.push_str(&format!(
        "{:<width$}  {:<10}  {proof}\n",
        "proof",
        if report.proof.held { "held" } else { "failed" }
    ));
    text
}
