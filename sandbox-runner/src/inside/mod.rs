//! `keyhatch run --inside`: a command confined in a container that keyhatch did not make.
//!
//! Comes in: a command line, and the rules beside this program, which the broker wrote when the session was opened. Goes
//! out: the command's exit status. Trusted: the rules, and the container's environment as far as the rules keep it: the
//! image's owner and whoever starts this are on the user's side, the command is not. There is no broker here: the
//! command reaches the host through the session that is mounted, as all of the container does.
//!
//! One more process than on a host stands in front of the runner's own ([`watch`]): it ends what takes too long, and
//! removes the directory of temporary files.

mod asked;
mod complete;
mod place;
mod trial;
mod watch;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhatch_sandbox_rules::rules::{INSIDE_FILE, InsideRules, Requirement, SandboxRules};

use crate::error::{RunError, at};
use crate::supervise::announce;
use crate::{failed, outer, sys};
use asked::Asked;
use place::Place;

/// What this program is called here.
pub(crate) const NAME: &str = "keyhatch";
/// The argument with which this program does nothing, and succeeds.
pub(crate) const NOTHING: &str = "--nothing";

/// The exit code for a command line that makes no sense, as `keyhatch` has it.
const USAGE: u8 = 2;

/// Runs the command of a command line.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let asked = match Asked::parse(arguments) {
        Ok(asked) => asked,
        Err(refused) => {
            eprintln!("keyhatch: {refused}");
            return ExitCode::from(USAGE);
        }
    };
    // Ended as it ended only when nothing of ours is left.
    run(asked).map_or_else(|error| failed(&error), outer::mirror)
}

fn run(asked: Asked) -> Result<crate::supervise::Ended, RunError> {
    if rustix::process::getuid().is_root() && !asked.as_root {
        return Err(RunError::RootInside);
    }
    let program = std::env::current_exe().map_err(at("find", "this program's place"))?;
    let given = read(&program)?;
    if given.rules.require.contains(&Requirement::Cgroup) {
        return Err(RunError::NoCgroup);
    }
    not_filtered()?;
    let seconds = given.seconds;
    let place = Place::make(&given.rules)?;
    let (rules, notes) = complete::complete(given, asked.command, place.path());
    let without = trial::namespaces(&rules, &program);
    for note in &notes {
        announce(&rules, note);
    }
    let ended = watch::run(&rules, without, seconds);
    drop(place);
    ended
}

/// Reads the rules of the session whose directory holds this program.
fn read(program: &Path) -> Result<InsideRules, RunError> {
    let directory = program.parent().unwrap_or(Path::new("/")).to_owned();
    let none = |directory: PathBuf| RunError::NoSession { directory: directory.display().to_string() };
    let text = fs::read(directory.join(INSIDE_FILE)).map_err(|_| none(directory))?;
    serde_json::from_slice(&text).map_err(|_| RunError::Rules)
}

/// What the command reads or writes under its own name.
fn shown(rules: &SandboxRules) -> Vec<PathBuf> {
    rules.mounts.iter().map(|mount| &mount.target).chain(&rules.system).cloned().collect()
}

/// Whether a path is in one of these, under this name or behind links: what the command may write holds links of its own,
/// of an earlier run.
fn leads_into(path: &Path, places: &[PathBuf]) -> bool {
    let behind_links = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let real = behind_links(path);
    places.iter().any(|place| path.starts_with(place) || real.starts_with(behind_links(place)))
}

/// Looks whether the calls that the walls are made of are let through, and says whose doing it is where they are not.
fn not_filtered() -> Result<(), RunError> {
    sys::landlock_abi().map(drop).map_err(|answer| refused("landlock_create_ruleset(2)", answer))?;
    sys::asks_seccomp().map_err(|answer| refused("seccomp(2)", answer))
}

fn refused(call: &'static str, answer: std::io::Error) -> RunError {
    // proc_pid_status(5), Seccomp: 2 is a filter.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let filtered = status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    let by = match (answer.raw_os_error(), filtered) {
        (Some(libc::EOPNOTSUPP), _) => {
            "the kernel has it and does not enforce it: landlock is not in its lsm= list"
        }
        (Some(libc::ENOSYS), false) => "the kernel was built without it",
        (Some(libc::ENOSYS), true) => {
            "the container's seccomp profile does not know it, or the kernel was built without it"
        }
        (_, true) => "the container's seccomp profile forbids it",
        (_, false) => "the kernel or a security module forbids it",
    };
    RunError::Filtered { call, answer, by }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_leads_into_a_place_by_its_name_or_by_links_on_either_side() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for name in ["work", "work/sub", "other"] {
            fs::create_dir(at(name)).expect("a directory");
        }
        symlink(at("work"), at("link")).expect("a link");
        for (path, place, into) in [
            ("work/sub", "work", true),
            ("work/none", "work", true),
            ("link/sub", "work", true),
            ("other/../work/sub", "work", true),
            ("work/sub", "link", true),
            ("other", "work", false),
            ("work/../other", "link", false),
        ] {
            assert_eq!(leads_into(&at(path), &[at(place)]), into, "{path} in {place}");
        }
    }
}
