//! The user's own git configuration, as git reads it for this project: the system's, the user's, and what they include.
//!
//! Comes in: `git config --list`, run outside of any repository. Conditions of `includeIf` that ask about the repository
//! are judged here (git-config(1), "Conditional includes"): `gitdir`, `gitdir/i` and `hasconfig:remote.*.url`; `onbranch`
//! never holds. An included file that lies in the project is not obeyed: a session can write it.

use std::path::{Path, PathBuf};

use globset::GlobBuilder;

use super::git_config::Setting;
use super::settings::git_config;

/// Deepest chain of includes: git's own limit.
const MAX_DEPTH: usize = 10;
/// Most settings that are taken: people have a few hundred.
const MAX_SETTINGS: usize = 20_000;

/// What conditions ask about.
pub(super) struct Place<'p> {
    /// The project's directory.
    pub(super) project: &'p Path,
    /// The git directory by the names that it has; none without a repository.
    pub(super) git_dirs: Vec<PathBuf>,
    /// The URLs of its remotes, as they are written.
    pub(super) remotes: Vec<String>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct UserConfig {
    /// The settings, in git's order: of several values the last counts.
    pub(super) settings: Vec<Setting>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// A setting, and the file that it stands in.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) setting: Setting,
    pub(super) file: PathBuf,
}

/// Reads `git config --show-origin --list -z`: `file:PATH NUL key LF value NUL`.
pub(super) fn parse(raw: &[u8]) -> Vec<Placed> {
    let mut parts = raw.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let mut placed = Vec::new();
    while let (Some(origin), Some(entry)) = (parts.next(), parts.next()) {
        let Some(file) = origin.strip_prefix("file:") else { continue };
        let (key, value) = entry.split_once('\n').unwrap_or((&entry, "true"));
        placed.push(Placed { setting: Setting { key: key.into(), value: value.into() }, file: file.into() });
    }
    placed
}

/// Adds what conditions include, at the places where they stand.
pub(super) async fn of(listed: Vec<Placed>, place: &Place<'_>) -> UserConfig {
    let mut config = UserConfig::default();
    // A stack of lists, the innermost file last: what it holds comes before what follows its include.
    let mut open = vec![listed.into_iter()];
    while let Some(list) = open.last_mut() {
        let Some(Placed { setting, file }) = list.next() else {
            open.pop();
            continue;
        };
        if config.settings.len() >= MAX_SETTINGS || place.can_write(&file, &mut config.notes) {
            continue;
        }
        let included = place.included(&setting, &file);
        config.settings.push(setting);
        if let Some(path) = included.filter(|_| open.len() < MAX_DEPTH) {
            let path = path.to_string_lossy();
            match git_config(&["--includes", "--show-origin", "--file", &path, "--list"]).await {
                Ok(raw) => open.push(parse(&raw).into_iter()),
                // git passes over an included file that is not there; one that it cannot read is the user's to mend.
                Err(error) => tracing::debug!(%path, %error, "an included file is not read"),
            }
        }
    }
    config
}

impl Place<'_> {
    /// The file that a condition includes, if it holds.
    fn included(&self, setting: &Setting, file: &Path) -> Option<PathBuf> {
        let condition = setting.key.strip_prefix("includeif.")?.strip_suffix(".path")?;
        let holds = if let Some(pattern) = condition.strip_prefix("gitdir:") {
            self.git_dir_matches(pattern, file, false)
        } else if let Some(pattern) = condition.strip_prefix("gitdir/i:") {
            self.git_dir_matches(pattern, file, true)
        } else if let Some(pattern) = condition.strip_prefix("hasconfig:remote.*.url:") {
            self.remotes.iter().any(|url| matches(pattern, url, false))
        } else {
            false
        };
        holds.then(|| beside(file, &setting.value))
    }

    fn git_dir_matches(&self, pattern: &str, file: &Path, any_case: bool) -> bool {
        let mut whole = if pattern.starts_with("~/") || pattern.starts_with("./") {
            beside(file, pattern.strip_prefix("./").unwrap_or(pattern)).display().to_string()
        } else if pattern.starts_with('/') {
            pattern.to_owned()
        } else {
            format!("**/{pattern}")
        };
        if pattern.ends_with('/') {
            whole = format!("{}/**", whole.trim_end_matches('/'));
        }
        self.git_dirs.iter().any(|path| matches(&whole, &path.to_string_lossy(), any_case))
    }

    /// Whether a session can write a file of the user's configuration, whatever its name and whoever names it.
    fn can_write(&self, file: &Path, notes: &mut Vec<String>) -> bool {
        if !file.canonicalize().is_ok_and(|file| file.starts_with(self.project)) {
            return false;
        }
        let name = keyhatch_protocol::text::shown(&file.display().to_string()).to_string();
        let note = format!("{name} is not obeyed: your git includes it, and the agent can write it");
        if !notes.contains(&note) {
            notes.push(note);
        }
        true
    }
}

/// A path of a configuration file: `~/` is the user's home, and what is not absolute lies beside the file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => file.parent().unwrap_or(Path::new("/")).join(path),
    }
}

/// git's wildmatch with `WM_PATHNAME`: `*` stays within a component, `**` does not, and braces are ordinary.
fn matches(pattern: &str, text: &str, any_case: bool) -> bool {
    let pattern = pattern.replace('{', "[{]").replace('}', "[}]");
    let glob = GlobBuilder::new(&pattern).literal_separator(true).case_insensitive(any_case).build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_in_git() {
        let place = Place {
            project: Path::new("/home/a/work/p"),
            git_dirs: vec!["/home/a/work/p/.git".into()],
            remotes: vec!["https://git.example.org/acme/p.git".into()],
        };
        let holds = |condition: &str| {
            let setting = Setting { key: format!("includeif.{condition}.path"), value: "more".into() };
            place.included(&setting, Path::new("/home/a/.gitconfig"))
        };
        for condition in [
            "gitdir:/home/a/work/",
            "gitdir:work/",
            "gitdir:./work/",
            "gitdir:/home/a/*/p/.git",
            "gitdir/i:/HOME/a/Work/",
            "hasconfig:remote.*.url:https://git.example.org/**",
            "hasconfig:remote.*.url:https://*/acme/**",
        ] {
            assert_eq!(holds(condition), Some("/home/a/more".into()), "{condition}");
        }
        for condition in [
            "gitdir:/home/a/play/",
            "gitdir:/home/a/work",
            "gitdir:/HOME/a/work/",
            "gitdir:/home/*/p/.git",
            "hasconfig:remote.*.url:https://other/**",
            "onbranch:main",
            "gitdir:{/home/a/work/,x}",
        ] {
            assert_eq!(holds(condition), None, "{condition}");
        }
    }
}
