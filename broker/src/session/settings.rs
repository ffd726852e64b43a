//! What git's configuration says: read by git itself, remembered for as long as no file that it was read from changed.
//!
//! Comes in: the user's own files, and configuration files of repositories, which are only parsed (`--no-includes`).
//! Goes out: what `git config --list -z` prints. A git takes milliseconds to start, and a session would start three.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;

use super::git_config::{Setting, parse_list};
use super::gitdir::Stamp;
use super::project::ProjectError;

/// A `git config` takes milliseconds; one that hangs waits for a network file system.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);
/// Files of repositories that are remembered at once.
const MAX_REMEMBERED: usize = 500;

/// What files looked like when they were read; none for one that was not there.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The user's settings, and the files that they came from.
static USER: Mutex<Option<(Stamps, Vec<Setting>)>> = Mutex::new(None);
/// Listed files of repositories.
static FILES: Mutex<BTreeMap<PathBuf, (Stamp, Vec<u8>)>> = Mutex::new(BTreeMap::new());

/// The system's settings, then the user's: of several values the last counts.
///
/// # Errors
/// When git cannot be run, or cannot read a file.
pub(super) async fn of_user() -> Result<Vec<Setting>, ProjectError> {
    {
        let known = USER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamps, settings)) = &*known
            && *stamps == looked_at(stamps.keys())
        {
            return Ok(settings.clone());
        }
    }
    let before = places().map(|places| looked_at(places.iter()));
    let (system, global) = tokio::try_join!(list_raw(&["--system"]), list_raw(&["--global"]))?;
    let settings = [parse_list(&system), parse_list(&global)].concat();
    let remembered = before.and_then(|before| {
        let stamps = with_included(before, &settings)?;
        let settled = stamps.values().flatten().all(|stamp| !stamp.is_fresh());
        settled.then(|| (stamps, settings.clone()))
    });
    *USER.lock().unwrap_or_else(PoisonError::into_inner) = remembered;
    Ok(settings)
}

/// One file as git lists it, without what it includes.
///
/// # Errors
/// When git cannot be run, or cannot read it.
pub(super) async fn of_file(file: &Path) -> Result<Vec<u8>, ProjectError> {
    let stamp = std::fs::metadata(file).ok().map(|metadata| Stamp::of(&metadata));
    let known = FILES.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
    if let (Some(stamp), Some((then, listed))) = (&stamp, known)
        && *stamp == then
    {
        return Ok(listed);
    }
    let listed = list_raw(&["--no-includes", "--file", &file.to_string_lossy()]).await?;
    if let Some(stamp) = stamp.filter(|stamp| !stamp.is_fresh()) {
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= MAX_REMEMBERED {
            files.clear();
        }
        files.insert(file.to_owned(), (stamp, listed.clone()));
    }
    Ok(listed)
}

/// Every file that the user's settings may come from, git itself among them: which one it is says where the system's
/// are. None where that cannot be known.
fn places() -> Option<BTreeSet<PathBuf>> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let path = std::env::var_os("PATH")?;
    let mut places: BTreeSet<PathBuf> = std::env::split_paths(&path).map(|place| place.join("git")).collect();
    let prefixes =
        places.iter().filter_map(|git| Some(git.canonicalize().ok()?.ancestors().nth(2)?.join("etc")));
    let system: Vec<PathBuf> =
        prefixes.chain([PathBuf::from("/etc")]).map(|etc| etc.join("gitconfig")).collect();
    places.extend(system);
    let own = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    places.extend([home.join(".gitconfig"), own.join("git/config")]);
    Some(places)
}

/// Adds the files that others include, whether the condition holds or not. None where a path cannot be known.
fn with_included(mut stamps: Stamps, settings: &[Setting]) -> Option<Stamps> {
    let includes = settings.iter().filter(|setting| {
        setting.key == "include.path"
            || setting.key.starts_with("includeif.") && setting.key.ends_with(".path")
    });
    let home = PathBuf::from(std::env::var_os("HOME")?);
    for include in includes {
        let path = match include.value.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(&include.value),
        };
        // Relative ones are so to the file that says it, which is not told here.
        if !path.is_absolute() {
            return None;
        }
        stamps.entry(path.clone()).or_insert_with(|| stamp_of(&path));
    }
    Some(stamps)
}

fn looked_at<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Stamps {
    paths.map(|path| (path.clone(), stamp_of(path))).collect()
}

/// Followed: configuration is often a link into a directory that the user keeps in git.
fn stamp_of(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

async fn list_raw(scope: &[&str]) -> Result<Vec<u8>, ProjectError> {
    let failed = || ProjectError::Config { file: scope.last().copied().unwrap_or_default().to_owned() };
    let mut git = Command::new("git");
    // In `/` and with nothing but the user's own places: no repository is discovered, no variable obeyed.
    git.current_dir("/").env_clear().arg("config").args(scope).args(["--list", "-z"]).kill_on_drop(true);
    for name in ["HOME", "PATH", "XDG_CONFIG_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            git.env(name, value);
        }
    }
    let output = tokio::time::timeout(CONFIG_TIMEOUT, git.output()).await.map_err(|_| failed())?;
    let output = output.map_err(ProjectError::Git)?;
    let missing = scope.len() == 1 && output.stdout.is_empty();
    // A scope whose file does not exist is an error to git and an empty list to us.
    if output.status.success() || missing { Ok(output.stdout) } else { Err(failed()) }
}
