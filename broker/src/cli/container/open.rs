//! Opening a container's session: what the user asked for becomes a request, and the answer is completed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cause::chain;
use crate::cli::args::ForContainer;
use crate::cli::decide::unexpected;
use crate::cli::{Failure, paths, run, runner};
use crate::control::client::Client;
use crate::control::{OpenedContainer, Reply, Request};
use crate::inside;
use crate::session::container::{Container, SessionName};

/// How a session is opened beyond what both commands can be told.
#[derive(Debug, Default)]
pub(super) struct How {
    /// How long it lasts at most.
    pub(super) lasts: Duration,
    /// What the user calls it.
    pub(super) name: Option<SessionName>,
    /// Whether it ends with this process.
    pub(super) bound: bool,
    /// Whether its directory is reached at its own path.
    pub(super) in_place: bool,
}

/// The project that a session would be for: what the user named, or the repository around the current directory.
pub(super) fn around(args: &ForContainer) -> Result<PathBuf, Failure> {
    let cwd = std::env::current_dir().map_err(|e| Failure::internal("the current directory", &e))?;
    run::around(args.project.as_deref(), &cwd)
}

/// Opens a session; it lasts at least as long as the connection is held.
pub(super) fn open(args: &ForContainer, how: How) -> Result<(Client, OpenedContainer), Failure> {
    let around = around(args)?;
    let (source, policy) = run::policy_for(args.policy.as_deref().unwrap_or("default"), &around)?;
    let project = run::project_of(&policy, around)?;
    let lasts = policy.session_limits().time.map_or(how.lasts, |time| time.min(how.lasts));
    let container = Container {
        target: args.target.clone(),
        helper: runner::beside("keyhatch-helper")?,
        // Where it was not built, there is no `run --inside`, and everything else.
        runner: runner::beside("keyhatch-run-static").ok(),
        over_etc: args.etc_gitconfig,
        in_place: how.in_place,
        name: how.name,
        lasts: lasts.as_secs(),
        bound: how.bound,
    };
    let mut client = Client::connect_or_start(&paths()?)?;
    let request = Request::OpenForContainer {
        project: project.clone(),
        policy_origin: source.origin,
        policy: source.text,
        container,
    };
    let mut opened = match client.ask(request)? {
        Reply::OpenedForContainer(opened) => *opened,
        other => return Err(unexpected(&other)),
    };
    is_as_asked(args, policy.name(), &opened)?;
    if let (Some(project), Some(target)) = (project, &args.target) {
        let hidden = inside::over_hidden(&policy, &project, &opened.files);
        let (mounts, notes) = hidden.map_err(|error| {
            Failure::unavailable(chain(&error), "check that the runtime directory has room")
        })?;
        opened.mounts.extend(mounts.into_iter().map(|mut mount| {
            mount.target = moved(&mount.target, &project, target);
            mount
        }));
        opened.warnings.extend(notes);
    }
    Ok((client, opened))
}

/// An open session of the same name keeps the rules that it was opened with: whoever asks for others must not believe that
/// they hold.
fn is_as_asked(args: &ForContainer, policy: &str, opened: &OpenedContainer) -> Result<(), Failure> {
    let differs = if args.policy.is_some() && policy != opened.policy {
        format!("with the policy {}", opened.policy)
    } else if args.target.is_some() && args.target != opened.target {
        let target = opened.target.as_ref();
        target
            .map_or_else(|| "without --target".into(), |target| format!("with --target {}", target.display()))
    } else {
        return Ok(());
    };
    Err(Failure::invalid(
        format!("a session of that name is open {differs}"),
        format!("keyhatch session close {} ends it; or choose another name", opened.session),
    ))
}

fn moved(path: &Path, project: &Path, target: &Path) -> PathBuf {
    path.strip_prefix(project).map_or_else(|_| path.to_owned(), |rest| target.join(rest))
}
