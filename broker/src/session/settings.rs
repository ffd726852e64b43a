//! What git's configuration says: read by git itself, remembered for as long as no file that it was read from changed.
//!
//! Comes in: the user's own files, and configuration files of repositories, which are only parsed (`--no-includes`).
//! Goes out: what `git config --list -z` prints. A git takes milliseconds to start, and a session would start two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::gitdir::Stamp;
use super::project::ProjectError;
use super::user_config::{Placed, beside, parse};

/// A `git config` takes milliseconds; one that hangs waits for a network file system.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(10);
/// Files of repositories that are remembered at once.
const MAX_REMEMBERED: usize = 500;

/// What files looked like when they were read; none for one that was not there.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The user's settings, and the files that they came from.
static USER: Mutex<Option<(Stamps, Vec<Placed>)>> = Mutex::new(None);
/// Listed files of repositories.
static FILES: Mutex<BTreeMap<PathBuf, (Stamp, Vec<u8>)>> = Mutex::new(BTreeMap::new());

/// The system's settings, then the user's, with what they include whatever the repository is.
///
/// # Errors
/// When git cannot be run, or cannot read a file.
pub(super) async fn of_user() -> Result<Vec<Placed>, ProjectError> {
    {
        let known = USER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamps, settings)) = &*known
            && *stamps == looked_at(stamps.keys())
        {
            return Ok(settings.clone());
        }
    }
    let before = places().map(|places| looked_at(places.iter()));
    let settings = parse(&git_config(&["--show-origin", "--list"]).await?);
    let remembered = before.and_then(|before| {
        let stamps = with_included(before, &settings);
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
    let listed = git_config(&["--no-includes", "--file", &file.to_string_lossy(), "--list"]).await?;
    if let Some(stamp) = stamp.filter(|stamp| !stamp.is_fresh()) {
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= MAX_REMEMBERED {
            files.clear();
        }
        files.insert(file.to_owned(), (stamp, listed.clone()));
    }
    Ok(listed)
}

/// The text of a configuration file as git lists it, without what it includes. `file` is for messages.
///
/// # Errors
/// When git cannot be run, or cannot read it.
pub(super) async fn of_text(text: Vec<u8>, file: &Path) -> Result<Vec<u8>, ProjectError> {
    let failed = || ProjectError::Config { file: file.display().to_string() };
    let mut git = command(&["--no-includes", "--file", "-", "--list"]);
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = git.spawn().map_err(ProjectError::Git)?;
    let stdin = child.stdin.take();
    let told = async {
        if let Some(mut stdin) = stdin {
            // A git that ends before it read everything says so by its status.
            drop(stdin.write_all(&text).await);
        }
    };
    let answered = async { tokio::join!(told, child.wait_with_output()).1 };
    let output = tokio::time::timeout(CONFIG_TIMEOUT, answered).await.map_err(|_| failed())?;
    let output = output.map_err(ProjectError::Git)?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed()) }
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

/// Adds the files that others include, whether the condition holds or not.
fn with_included(mut stamps: Stamps, settings: &[Placed]) -> Stamps {
    for Placed { setting, file } in settings {
        let condition = setting.key.starts_with("includeif.") && setting.key.ends_with(".path");
        if condition || setting.key == "include.path" {
            let path = beside(file, &setting.value);
            stamps.entry(path.clone()).or_insert_with(|| stamp_of(&path));
        }
    }
    stamps
}

fn looked_at<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Stamps {
    paths.map(|path| (path.clone(), stamp_of(path))).collect()
}

/// Followed: configuration is often a link into a directory that the user keeps in git.
fn stamp_of(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// Runs `git config -z` with the user's own places and nothing else: no repository is discovered, no variable obeyed.
pub(super) async fn git_config(arguments: &[&str]) -> Result<Vec<u8>, ProjectError> {
    let failed = || {
        let file = arguments.iter().skip_while(|argument| **argument != "--file").nth(1);
        ProjectError::Config { file: file.map_or("the user's configuration", |file| *file).to_owned() }
    };
    let output =
        tokio::time::timeout(CONFIG_TIMEOUT, command(arguments).output()).await.map_err(|_| failed())?;
    let output = output.map_err(ProjectError::Git)?;
    if output.status.success() { Ok(output.stdout) } else { Err(failed()) }
}

fn command(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.current_dir("/").env_clear().env("GIT_DIR", "/nonexistent").kill_on_drop(true);
    git.args(["config", "-z"]).args(arguments);
    for name in ["HOME", "PATH", "XDG_CONFIG_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            git.env(name, value);
        }
    }
    git
}
