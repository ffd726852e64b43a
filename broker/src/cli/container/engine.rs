//! `keyhatch container`: a session, the engine with what the session needs added to its command line, and its exit status
//! passed on. The terminal is the engine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};

use super::danger::{self, Machine};
use super::formats;
use super::line::Line;
use super::open::{self, How};
use crate::cli::args::{Container, ForContainer};
use crate::cli::supervise::Signals;
use crate::cli::{Failure, paths, run};
use crate::control::{Known, OpenedContainer};

/// A session that is bound to its command has no other end: this is longer than any.
const LASTS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) fn run(args: &Container) -> Result<ExitCode, Failure> {
    let line = Line::parse(&args.command)?;
    let paths = paths()?;
    refuse(&line, &Machine::of_user(&paths), args)?;
    let around = open::around(&args.container)?;
    let target = args.container.target.clone().or_else(|| project_inside(&line, &around));
    let wanted = ForContainer {
        project: Some(around),
        policy: args.container.policy.clone(),
        target,
        etc_gitconfig: args.container.etc_gitconfig,
    };
    let (client, opened) = open::open(&wanted, How { lasts: LASTS, bound: true, ..How::default() })?;
    for warning in &opened.warnings {
        eprintln!("keyhatch: {warning}");
    }
    let id_file = id_file(&line, &opened);
    let mut more = formats::options(&opened)?;
    if line.values("cidfile").next().is_none() {
        more.extend(["--cidfile".to_owned(), id_file.display().to_string()]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::internal("the runtime", &e))?;
    let status = runtime.block_on(foreground(&line.with(&more)));
    let over = !still_runs(&line, &id_file);
    run::conclude(&paths, &opened.session, Known { is_over: over, ..Known::default() });
    drop(client);
    Ok(run::code_of(status?))
}

/// Refuses what would undo the point, unless it was told otherwise.
fn refuse(line: &Line, machine: &Machine, args: &Container) -> Result<(), Failure> {
    let mut found = danger::find(line, machine);
    found.retain(|found| !args.allow.contains(&found.danger));
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(danger::Found::line).collect();
    let mut words: Vec<String> = found.iter().map(|found| found.danger.word()).collect();
    words.dedup();
    Err(Failure::invalid(
        lines.join("\nkeyhatch: "),
        format!("leave it out; --allow {} has it all the same", words.join(",")),
    ))
}

/// Where the project is inside, as the command line mounts it.
fn project_inside(line: &Line, project: &Path) -> Option<PathBuf> {
    let binds = line.binds();
    let inside = binds.iter().rev().find_map(|bind| {
        let below = project.strip_prefix(danger::real(&bind.source)).ok()?.to_owned();
        Some(if below.as_os_str().is_empty() { bind.target.clone() } else { bind.target.join(below) })
    })?;
    // One that cannot be mounted over is none.
    super::target(inside.to_str()?).ok()
}

/// Where the engine writes the container's id.
fn id_file(line: &Line, opened: &OpenedContainer) -> PathBuf {
    line.values("cidfile").next().map_or_else(|| opened.files.join("container"), PathBuf::from)
}

/// Runs the engine; what comes from the terminal it gets from the terminal, other signals are passed on.
async fn foreground(command: &[String]) -> Result<ExitStatus, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::invalid("there is no command", "keyhatch container -- podman run IMAGE"));
    };
    let mut signals = Signals::listen()?;
    let child = tokio::process::Command::new(program).args(arguments).spawn();
    let mut child = child.map_err(|error| {
        Failure::unavailable(format!("cannot run {program}: {error}"), "install it, or name it with its path")
    })?;
    loop {
        let passed = tokio::select! {
            status = child.wait() => return status.map_err(|e| Failure::internal("the engine", &e)),
            signal = signals.next() => signal,
        };
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let (Some(pid), Some(signal)) = (pid, passed)
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "the engine is gone");
        }
    }
}

/// Whether the container outlived the command that ran it: its terminal was detached, or the command was killed. Where the
/// engine cannot say, it may.
fn still_runs(line: &Line, id_file: &Path) -> bool {
    let Ok(id) = fs::read_to_string(id_file) else { return false };
    let engine = line.engine();
    let Some((program, own)) = engine.split_first() else { return true };
    let listed = std::process::Command::new(program)
        .args(own)
        .args(["ps", "--quiet", "--no-trunc", "--filter", &format!("id={}", id.trim())])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    !listed.is_ok_and(|listed| listed.status.success() && listed.stdout.is_empty())
}
