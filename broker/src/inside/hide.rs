//! Project files that are shown empty: settings with secrets, and keys.
//!
//! A mount over each holds under every name that leads to it. Nothing before the start may walk a large project, so the
//! search is bounded: what it did not look at is said.

use std::fs;
use std::path::{Path, PathBuf};

use keyhatch_policies::HidePatterns;

/// How far a search goes: a few hundred microseconds.
const DEPTH: usize = 4;
const DIRECTORIES: usize = 128;
const ENTRIES: usize = 4096;
/// Most mounts for hidden files: each costs time at the start.
const MOST: usize = 200;
/// Directories that tools fill, by the ten thousand.
const FILLED_BY_TOOLS: &[&str] = &[".git", "node_modules", "target", ".venv", "venv", ".tox", "__pycache__"];
/// Names in the line at the start.
const NAMED: usize = 6;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// Absolute paths.
    pub(super) files: Vec<PathBuf>,
    /// Whether the search stopped before it had looked everywhere.
    cut: bool,
}

impl Hidden {
    /// What the user should know.
    pub(super) fn note(&self, project: &Path) -> Vec<String> {
        let name = |file: &PathBuf| {
            let shown = file.strip_prefix(project).unwrap_or(file).display().to_string();
            // The project's names are an earlier session's choice: nothing of theirs reaches the terminal as it is.
            shown.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect::<String>()
        };
        let mut notes = Vec::new();
        if !self.files.is_empty() {
            let names: Vec<String> = self.files.iter().take(NAMED).map(name).collect();
            let more = self.files.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            notes.push(format!("hidden inside (shown empty): {}{more}", names.join(", ")));
        }
        if self.cut {
            notes.push(format!(
                "hidden files were looked for {DEPTH} levels deep in the first {DIRECTORIES} directories; \
                 `hide` in the policy can name a deeper one by its path"
            ));
        }
        notes
    }
}

/// Looks for the files that a policy hides, breadth first.
pub(super) fn find(project: &Path, patterns: &HidePatterns) -> Hidden {
    let mut hidden = Hidden::default();
    if patterns.is_empty() {
        return hidden;
    }
    let exact = patterns.exact_paths().map(|path| project.join(path));
    hidden.files.extend(exact.filter_map(|path| regular(project, &path)));
    let (mut level, mut directories, mut entries) = (vec![project.to_owned()], 0, 0);
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for directory in &level {
            directories += 1;
            if directories > DIRECTORIES {
                hidden.cut = true;
                return hidden.sorted();
            }
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                entries += 1;
                if entries > ENTRIES || hidden.files.len() >= MOST {
                    hidden.cut = true;
                    return hidden.sorted();
                }
                let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
                if kind.is_dir() {
                    if !FILLED_BY_TOOLS.iter().any(|name| entry.file_name() == *name) {
                        next.push(path);
                    }
                    continue;
                }
                let below = path.strip_prefix(project).ok().and_then(Path::to_str);
                if below.is_some_and(|below| patterns.hides(below)) {
                    hidden.files.extend(regular(project, &path));
                }
            }
        }
        level = next;
    }
    hidden.cut |= !level.is_empty();
    hidden.sorted()
}

impl Hidden {
    fn sorted(mut self) -> Self {
        self.files.sort();
        self.files.dedup();
        self
    }
}

/// The file that a mount can cover: a link in the project stands for what it leads to, if that is in the project too.
/// What it leads to outside is not there inside.
fn regular(project: &Path, path: &Path) -> Option<PathBuf> {
    let resolved = path.canonicalize().ok()?;
    (resolved.is_file() && resolved.starts_with(project)).then_some(resolved)
}

#[cfg(test)]
mod tests {
    use keyhatch_policies::Policy;

    use super::*;

    fn policy(sandbox: &str) -> Policy {
        let text = format!("name = \"t\"\ndescription = \"d\"\n[sandbox]\n{sandbox}\n");
        Policy::parse(&text, "t").expect("parses")
    }

    fn make(project: &Path, file: &str) -> PathBuf {
        let path = project.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, "canary").expect("a file");
        path
    }

    fn found(project: &Path, sandbox: &str) -> Vec<PathBuf> {
        find(project, &policy(sandbox).sandbox().hide).files
    }

    #[test]
    fn env_files_and_keys_are_found_also_behind_links_and_not_among_packages() {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path().canonicalize().expect("a path");
        let mut expected =
            vec![make(&project, ".env"), make(&project, "a/b/server.pem"), make(&project, "real")];
        for other in ["node_modules/x/.env", ".env.example", "README"] {
            make(&project, other);
        }
        std::os::unix::fs::symlink("real", project.join(".env.local")).expect("a link");
        std::os::unix::fs::symlink("/etc/hostname", project.join(".env.out")).expect("a link");
        expected.sort();
        assert_eq!(found(&project, ""), expected);
    }

    #[test]
    fn a_search_that_stops_says_so_and_a_named_path_is_found_however_deep() {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path().canonicalize().expect("a path");
        let deep = make(&project, "1/2/3/4/5/secret.yml");
        let hidden = find(&project, &policy("hide = [\"1/2/3/4/5/secret.yml\"]").sandbox().hide);
        assert_eq!(hidden.files, [deep]);
        assert!(hidden.note(&project).iter().any(|note| note.contains("4 levels deep")));
        assert!(found(&project, "hide = [\"secret.yml\"]").is_empty());
    }
}
