//! Answers of tools, kept for a while: a tool takes half a second to say what it said this morning.
//!
//! An answer is for the settings that it was given with: other variables, or a configuration file that changed since, ask
//! again.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use keyhatch_policies::network::Registry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Answer, Tools, fresh};

/// How long an answer lasts: a working day's.
const LASTS: Duration = Duration::from_secs(12 * 3600);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    settings: String,
    answer: Answer,
}

/// The answer that is kept, else a new one.
pub(super) fn answer(tools: &Tools, registry: Registry, directory: &Path) -> Answer {
    let file = directory.join(format!("{}.json", registry.word()));
    let settings = settings(tools, registry);
    if let Some(kept) = read(&file)
        && kept.settings == settings
    {
        return kept.answer;
    }
    let answer = fresh(tools, registry);
    // What could not be told may be told next time: the network was down, or the tool is installed meanwhile.
    if answer.note.is_none()
        && !answer.hosts.is_empty()
        && let Err(error) = keep(&file, &Kept { settings, answer: answer.clone() })
    {
        tracing::debug!(%error, "a tool's answer is not kept");
    }
    answer
}

fn read(file: &Path) -> Option<Kept> {
    let age = SystemTime::now().duration_since(fs::metadata(file).ok()?.modified().ok()?).ok()?;
    let text = (age < LASTS).then(|| fs::read(file).ok()).flatten()?;
    serde_json::from_slice(&text).ok()
}

fn keep(file: &Path, kept: &Kept) -> std::io::Result<()> {
    // Written beside and renamed: two sessions may start at once.
    let next = file.with_extension(std::process::id().to_string());
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    serde_json::to_writer(opened, kept)?;
    fs::rename(next, file)
}

/// A digest of the variables, and of which configuration files there are and when they changed. A digest, because
/// variables can hold logins.
fn settings(tools: &Tools, registry: Registry) -> String {
    let mut digest = Sha256::new();
    for (name, value) in tools.environment() {
        digest.update(name.as_encoded_bytes());
        digest.update([0]);
        digest.update(value.as_encoded_bytes());
        digest.update([0]);
    }
    for file in files(tools, registry) {
        let state = fs::metadata(&file).map(|meta| (meta.size(), meta.mtime(), meta.mtime_nsec()));
        digest.update(format!("{}:{:?}\n", file.display(), state.ok()));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a tool's configuration usually is.
fn files(tools: &Tools, registry: Registry) -> Vec<PathBuf> {
    let home = tools.home();
    let config = tools.path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    match registry {
        Registry::Npm => vec![home.join(".npmrc"), "/etc/npmrc".into(), "/usr/etc/npmrc".into()],
        Registry::Pip => {
            vec![config.join("pip/pip.conf"), home.join(".pip/pip.conf"), "/etc/pip.conf".into()]
        }
        Registry::Cargo => {
            let cargo = tools.path("CARGO_HOME").unwrap_or_else(|| home.join(".cargo"));
            vec![cargo.join("config.toml"), cargo.join("config")]
        }
        Registry::Go => vec![config.join("go/env")],
    }
}
