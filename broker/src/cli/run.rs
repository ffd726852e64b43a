//! `keyhatch run`: a session, a sandbox, a command in it, and its exit status passed on.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;

use keyhatch_policies::rules::{Foundation, Observe};
use keyhatch_policies::{Policy, ProjectAccess};
use keyhatch_protocol::SessionId;
use keyhatch_protocol::message::SOCKETS_INSIDE;

use super::args::Run;
use super::bounds::Held;
use super::result::{RunResult, Used};
use super::runner::{NOT_STARTED, Waiting, beside};
use super::sandbox::Plan;
use super::stdio::{Kept, Outputs, Relayed, relay};
use super::supervise::{Ended, Signals, wait};
use super::{Failure, bounds, display, paths, policy, print_json, prompt, sandbox};
use crate::cause::chain;
use crate::control::client::Client;
use crate::control::{Known, OpenedSession, Reply, Request};
use crate::inside::{Host, Inside, InsideError};
use crate::limits::cgroup::Place;
use crate::limits::watch::{Traffic, Watch, Watched};
use crate::limits::{self, Hit, room};
use crate::observe::{self, Observation, Seen, View};
use crate::paths::Paths;
use crate::session::gitdir;
use crate::session::report::SessionReport;
use crate::{inside, registries, surface, sys};

pub(super) fn run(args: &Run) -> Result<ExitCode, Failure> {
    run_reported(args).map(|(code, _)| code)
}

/// The same, with the session's report.
pub(super) fn run_reported(args: &Run) -> Result<(ExitCode, Option<SessionReport>), Failure> {
    if args.inside {
        return Err(Failure::invalid(
            "this keyhatch is the host's: run --inside is for a container with a session mounted",
            format!("there: {SOCKETS_INSIDE}/keyhatch run --inside -- CMD"),
        ));
    }
    let cwd = std::env::current_dir().map_err(|e| Failure::internal("the current directory", &e))?;
    let around = around(args.project.as_deref(), &cwd)?;
    let (source, policy) = policy_for(&args.policy, &around)?;
    let project = project_of(&policy, around)?;
    let paths = paths()?;
    // Before the connection: a tool may take long to answer, and the broker waits only so long for a request.
    let registries = registries::ask(&policy.network().registries, paths.state(), project.as_deref());
    let place = bounds::place(&policy)?;
    let observe = if args.explain { Observe::Paths } else { Observe::Refused };
    let foundation = sandbox::foundation(&policy, place.is_some(), observe);
    let mut session = Client::connect_or_start(&paths)?;
    let request = Request::OpenSession {
        project: project.clone(),
        policy_origin: source.origin.clone(),
        policy: source.text,
        registries,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::internal("the runtime", &e))?;
    session.send(request)?;
    // Meanwhile: what every session of this policy has is built by the time this one is open.
    let waiting = Waiting::start(&runtime, &foundation)?;
    let host =
        Host { paths: &paths, home: &sandbox::home(), project: project.as_deref(), origin: &source.origin };
    let unfit = |error: InsideError| {
        Failure::invalid(chain(&error), "keyhatch policy show NAME says what the policy wants inside")
    };
    let mut inside = inside::furnish(&policy, &host).map_err(unfit)?;
    let opened = match session.reply()? {
        Reply::Opened(opened) => opened,
        _ => return Err(Failure::unavailable("the broker answered something else", "stop the old broker")),
    };
    // Held while the sandbox lives, which is no longer than this process: should the broker die, the next one knows.
    let _alive = gitdir::hold(&paths.git_directories().join(opened.session.as_str())).ok();
    inside.cover(&paths.files().join(opened.session.as_str())).map_err(unfit)?;
    for note in opened.notes.iter().chain(&inside.notes) {
        eprintln!("keyhatch: {note}");
    }
    let start = project.clone().map(|project| if cwd.starts_with(&project) { cwd } else { project });
    let command = command(&args.command);
    let kept = args.json.then(|| Kept::of(&policy));
    let made =
        Made { foundation, opened: &opened, policy: &policy, inside: &inside, project: project.as_deref() };
    let outcome = runtime.block_on(confined(&paths, (made, waiting, place), (start, command), kept.clone()));
    // The session ends with the connection that opened it at the latest, however this process dies.
    let hits = outcome.as_ref().map(|(outcome, _)| outcome.hits.clone()).unwrap_or_default();
    let enclosed = outcome.as_ref().is_ok_and(|(outcome, _)| outcome.enclosed);
    let (outcome, seen) = match outcome {
        Ok((outcome, seen)) => (Ok(outcome), seen),
        Err(failure) => (Err(failure), Seen::default()),
    };
    let failed = outcome.as_ref().is_ok_and(|outcome| !outcome.ended.status.success());
    let denials = observe::section(&seen.denials, failed || args.explain);
    let sections = limits::section(&hits).into_iter().chain(denials).collect();
    let report = conclude(
        &paths,
        &opened.session,
        Known { sections, attempts: seen.attempts.into_vec(), is_over: true, enclosed },
    );
    drop(session);
    let outcome = outcome?;
    advise(args.explain, seen.looked, outcome.ended.status);
    if let Some(kept) = &kept {
        print_json(&RunResult::new(&opened.session, &outcome.ended, &hits, kept, outcome.used))?;
    }
    Ok((code_of(outcome.ended.status), report))
}

/// What was made for a run before it started.
#[derive(Debug)]
struct Made<'m> {
    foundation: Foundation,
    opened: &'m OpenedSession,
    policy: &'m Policy,
    inside: &'m Inside,
    project: Option<&'m Path>,
}

/// What became of it.
#[derive(Debug)]
struct Outcome {
    ended: Ended,
    hits: Vec<Hit>,
    used: Used,
    /// Whether it could write nothing of the host but what the session mounted.
    enclosed: bool,
}

/// The command's own code, or a shell's number for the signal that ended it.
pub(super) fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        (None, Some(number)) => ExitCode::from(u8::try_from(128 + number).unwrap_or(1)),
        (None, None) => ExitCode::FAILURE,
    }
}

/// Says how to learn more of a failure, or why nothing can be learned.
fn advise(explain: bool, looked: bool, status: ExitStatus) {
    if explain && !looked {
        eprintln!(
            "keyhatch: nothing could be explained: the kernel gave no observer, as in containers that have one"
        );
    } else if !explain
        && rustix::termios::isatty(io::stderr())
        && status.code().is_some_and(|code| code != 0 && code != NOT_STARTED)
    {
        // A person reads it; a program that reads standard error is left alone.
        eprintln!(
            "keyhatch: it failed; keyhatch run --explain -- CMD also says which files it missed inside"
        );
    }
}

/// Ends the session and says what it did, where there is something to say.
pub(super) fn conclude(paths: &Paths, session: &SessionId, known: Known) -> Option<SessionReport> {
    let request = Request::CloseSession { session: session.clone(), known };
    match Client::connect(paths).and_then(|mut client| client.ask(request)) {
        Ok(Reply::Report(report)) if report.sections.is_empty() => Some(*report),
        Ok(Reply::Report(report)) => {
            for line in surface::report(&report).lines() {
                eprintln!("keyhatch: {line}");
            }
            Some(*report)
        }
        // A broker that died has said so in its log, and the next one says what is unknown.
        other => {
            tracing::debug!(?other, "no report");
            None
        }
    }
}

/// The directory that the user means: named, or the repository around the current one, or that.
pub(super) fn around(named: Option<&Path>, cwd: &Path) -> Result<PathBuf, Failure> {
    let start = named.unwrap_or(cwd);
    let resolved = start.canonicalize().map_err(|error| {
        Failure::invalid(format!("cannot use the project {}: {error}", start.display()), "name a directory")
    })?;
    Ok(match named {
        Some(_) => resolved,
        None => resolved.ancestors().find(|dir| dir.join(".git").exists()).unwrap_or(&resolved).to_owned(),
    })
}

/// The policy of a name. Whether there is a project is the policy's word; a policy is not read from a project in any case.
pub(super) fn policy_for(name: &str, around: &Path) -> Result<(policy::Source, Policy), Failure> {
    let source = policy::find(name, Some(around).filter(|dir| !is_too_much(dir)))?;
    let policy = policy::parsed(&source)?;
    Ok((source, policy))
}

/// The project that a session of this policy has.
pub(super) fn project_of(policy: &Policy, around: PathBuf) -> Result<Option<PathBuf>, Failure> {
    match policy.sandbox().project {
        ProjectAccess::None => Ok(None),
        ProjectAccess::Read | ProjectAccess::Write => project(around).map(Some),
    }
}

/// Whether a directory is more than a project.
fn is_too_much(directory: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from).and_then(|home| home.canonicalize().ok());
    home.is_some_and(|home| home.starts_with(directory)) || directory == Path::new("/")
}

/// The directory that the agent may write: fixed by the user before anything of the agent's runs.
fn project(directory: PathBuf) -> Result<PathBuf, Failure> {
    if is_too_much(&directory) {
        return Err(Failure::invalid(
            format!("{} holds your home directory: the agent would have it all", directory.display()),
            "run this in one project's directory, or name it with --project",
        ));
    }
    Ok(directory)
}

fn command(given: &[OsString]) -> Vec<OsString> {
    if given.is_empty() {
        return vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    }
    given.to_vec()
}

async fn confined(
    paths: &Paths,
    (made, mut waiting, place): (Made<'_>, Waiting, Option<Place>),
    (cwd, command): (Option<PathBuf>, Vec<OsString>),
    kept: Option<Arc<Kept>>,
) -> Result<(Outcome, Seen), Failure> {
    let internal = |what: &'static str| move |error: io::Error| Failure::internal(what, &error);
    let Made { foundation, opened, policy, inside, project } = made;
    let helper = beside("keyhatch-helper")?;
    let (traffic, limits) = (Arc::new(Traffic::default()), policy.session_limits());
    let outputs = match kept {
        Some(kept) => Outputs::Keep(traffic.clone(), kept),
        None if limits.output.is_some() || limits.idle.is_some() => Outputs::Count(traffic.clone()),
        None => Outputs::PassOn(traffic.clone()),
    };
    let signals = Signals::listen()?;
    // It takes its rules where its cgroup is: rules can be longer than what a socket holds.
    let held = match &place {
        Some(place) => bounds::admit(place, policy, &opened.session, waiting.at_the_door()).await?,
        None => None,
    };
    let attaching = waiting.attach(paths, &opened.session).await?;
    let relayed = relay(&outputs, display::passes(policy)).map_err(internal("the terminal"))?;
    let rules = sandbox::rules(Plan {
        opened,
        policy,
        inside,
        helper: &helper,
        cwd,
        command: &command,
        terminal: relayed.terminal.is_some() && rustix::termios::isatty(io::stdin()),
        foundation,
    })?;
    let Relayed { stdio, terminal, outputs } = relayed;
    // Nothing runs inside before the broker answers there.
    let is_apart = attaching.finish()?;
    let (mut runner, observer) = waiting.give(&rules, &stdio)?;
    drop(stdio);
    let pid = runner.id().unwrap_or(0);
    let reads = project.filter(|_| policy.sandbox().project == ProjectAccess::Read);
    let observation =
        Observation::start(observer, View::of(&rules, reads)).map_err(internal("the observer"))?;
    let held = held.map(Held::listen).transpose().map_err(internal("the hand-off socket"))?;
    let mut watch = Watch::start(
        policy,
        Watched {
            runner: pid,
            home: rules.home,
            kept_home: inside.home.clone(),
            project: project.map(Path::to_owned),
            git_directories: room::git_directories(
                &opened.mounts,
                &paths.git_directories().join(opened.session.as_str()),
            ),
            traffic,
            cgroup: held.is_some(),
        },
    );
    let prompting = terminal.as_ref().filter(|_| prompt::is_possible()).map(|terminal| {
        prompt::Prompting::start(paths.clone(), opened.session.clone(), Arc::clone(&terminal.gate))
    });
    let resized = || {
        if let Some(terminal) = &terminal {
            terminal.copy_size();
        }
    };
    let ended = wait(&mut runner, &mut watch, held, (signals, resized)).await?;
    let wall = watch.lasted();
    if let Some(prompting) = prompting {
        prompting.stop();
    }
    for output in outputs {
        // A relay that panicked has printed why.
        drop(output.join());
    }
    drop(terminal);
    let hits: Vec<Hit> =
        ended.killed.iter().chain(&ended.told.hits).chain(watch.reached()).copied().collect();
    let children = sys::children_usage();
    let peak = ended.told.peak.unwrap_or_else(|| watch.peak().max(children.largest));
    let used = Used { peak, wall, children };
    // A file of the project may have another name in a home that is kept. Standard descriptors are never files.
    let enclosed = is_apart && inside.home.is_none() && inside.mounts.iter().all(|mount| mount.read_only);
    Ok((Outcome { ended, hits, used, enclosed }, observation.finish()))
}
