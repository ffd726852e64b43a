//! Files of the project that the host executes later, by itself: editors' tasks, agents' hooks, tools' settings. They are read-only inside, also where they do not exist yet: who protects only what is there lets a
//! session make the rest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;
use keyhatch_protocol::SessionId;

use super::placeholder::{self, Placed, Placeholder, place};

/// Directories whose content is obeyed by an editor or another agent as soon as the project is opened.
const DIRECTORIES: &[&str] =
    &[".vscode", ".idea", ".claude", ".cursor", ".codex", ".gemini", ".devcontainer", ".husky"];
/// Files that a shell, a tool or an agent obeys by itself.
const FILES: &[&str] = &[
    ".envrc",
    ".mcp.json",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".bazelrc",
    ".pre-commit-config.yaml",
    ".tool-versions",
    "mise.toml",
    ".mise.toml",
    ".cargo/config",
    ".cargo/config.toml",
];

/// What jj obeys of a repository of its own: settings, which name programs, and the git repository that it hands to the
/// host's git. Where one is missing nothing is made: jj takes an empty one for a broken repository, or tries to replace
/// it. One that appears is named at the session's end.
const JJ: &[&str] = &[
    ".jj/repo/config-id",
    ".jj/repo/config.toml",
    ".jj/repo/store/git_target",
    ".jj/workspace-config-id",
    ".jj/workspace-config.toml",
];

/// What is protected in one project.
#[derive(Debug, Default)]
pub struct Protected {
    /// Read-only mounts, and mounts that keep their parents in place; parents first.
    pub mounts: Vec<Mount>,
    /// What was made to mount on.
    pub placeholders: Vec<Placeholder>,
}

/// Protects the built-in paths and the policy's own.
///
/// # Errors
/// When a placeholder cannot be made. What was made until then is in the error's place: nothing is left.
pub fn protect(project: &Path, more: &[String], session: &SessionId) -> io::Result<Protected> {
    let mut protected = Protected::default();
    let files = FILES.iter().copied().map(|path| (path, false));
    let directories = DIRECTORIES.iter().copied().map(|path| (path, true));
    let own = more.iter().map(|path| (path.as_str(), false));
    let is_there = |path: &&str| fs::symlink_metadata(project.join(path)).is_ok();
    let jj = JJ.iter().copied().filter(is_there).map(|path| (path, false));
    let all: io::Result<()> = files
        .chain(directories)
        .chain(jj)
        .chain(own)
        .try_for_each(|(path, directory)| protected.add(project, (path, directory), session));
    if let Err(error) = all {
        drop(placeholder::remove(&protected.placeholders, session));
        return Err(error);
    }
    protected.mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(protected)
}

impl Protected {
    fn add(
        &mut self,
        project: &Path,
        (path, directory): (&str, bool),
        session: &SessionId,
    ) -> io::Result<()> {
        let mut at = project.to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        for parent in parts.iter().take(parts.len() - 1) {
            at.push(parent);
            // Two files in one directory that is made for them.
            let made = self.placeholders.iter().any(|made| made.path == at);
            if !made && self.is_link(&at, true, session)? {
                self.through_link(project, &at);
                return Ok(());
            }
            // Renamed away, its content would not be what is protected here.
            self.mount(&at, false);
        }
        at.push(parts.last().copied().unwrap_or_default());
        if self.is_link(&at, directory, session)? {
            self.through_link(project, &at);
        } else {
            self.mount(&at, true);
        }
        Ok(())
    }

    /// Makes sure that something is there. Returns whether it is a link of the user's.
    fn is_link(&mut self, path: &Path, directory: bool, session: &SessionId) -> io::Result<bool> {
        let placed = place(path, directory, session)?;
        let link = placed == Placed::Link;
        self.placeholders.extend(placed.ours());
        Ok(link)
    }

    /// Protects a link, and what it leads to in the project.
    fn through_link(&mut self, project: &Path, path: &Path) {
        self.mount(path, true);
        if let Ok(target) = path.canonicalize()
            && target.starts_with(project)
            && target != project
        {
            self.mount(&target, true);
        }
    }

    fn mount(&mut self, path: &Path, read_only: bool) {
        if !self.mounts.iter().any(|mount| mount.target == path && mount.read_only >= read_only) {
            self.mounts.push(Mount { source: path.to_owned(), target: path.to_owned(), read_only });
        }
    }

    /// Lines for `info/exclude`, so that `git add -A` inside never takes a placeholder.
    #[must_use]
    pub fn excluded(&self, worktree: &Path) -> String {
        let lines =
            self.placeholders.iter().filter_map(|placeholder| placeholder.path.strip_prefix(worktree).ok());
        lines.map(|path| format!("/{}\n", path.display())).collect()
    }
}

/// Every directory between the project and a path in it: kept in place, so that what is mounted below stays where the
/// host looks for it.
#[must_use]
pub fn pins(project: &Path, path: &Path) -> Vec<Mount> {
    let above: Vec<&Path> = path.ancestors().take_while(|ancestor| *ancestor != project).collect();
    let pin =
        |path: &&Path| Mount { source: PathBuf::from(path), target: PathBuf::from(path), read_only: false };
    above.iter().rev().map(pin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_made_once_and_what_is_there_stays() {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path();
        fs::write(project.join(".envrc"), "x").expect("writes");
        fs::create_dir(project.join("real")).expect("mkdir");
        std::os::unix::fs::symlink("real", project.join(".vscode")).expect("links");
        let session = SessionId::from_random([7, 9, 9, 1]);
        let protected = protect(project, &[], &session).expect("protects");
        let mut made: Vec<&PathBuf> = protected.placeholders.iter().map(|made| &made.path).collect();
        made.sort();
        let count = made.len();
        made.dedup();
        assert_eq!(made.len(), count, "{made:?}");
        assert_eq!(count, FILES.len() + DIRECTORIES.len() + 1 - 2, "with .cargo, without what is the user's");
        let read_only = |path: &str| {
            let mut mounts = protected.mounts.iter().filter(|mount| mount.target == project.join(path));
            mounts.next().is_some_and(|mount| mount.read_only)
        };
        assert!([".envrc", ".vscode", "real", ".cargo/config", ".idea"].iter().all(|path| read_only(path)));
        assert!(!read_only(".cargo") && project.join(".cargo/config.toml").exists());
        drop(placeholder::remove(&protected.placeholders, &session));
        let mut left: Vec<_> =
            fs::read_dir(project).expect("a directory").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, [".envrc", ".vscode", "real"]);
    }
}
