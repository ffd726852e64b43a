//! What a session changed in the project that the host runs later, said when it ends: build files and workflows with
//! their diff, executables, links out of the tree, repositories that appeared.
//!
//! Comes in: a tree of hostile names and bytes. Goes out: a section of the report, escaped and bounded. What changed is
//! known by the time of its last change, which no process inside can set.

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyhatch_protocol::ObjectId;
use keyhatch_protocol::text::{shown_line, shown_name};
use serde_json::json;

use super::beneath::Beneath;
use super::host;
use super::state::Record;
use super::touched::Touched;
use crate::session::report::Section;

/// Files that an agent must be able to edit and that the host's tools run or obey.
const NAMES: &[&str] = &[
    "Makefile",
    "makefile",
    "GNUmakefile",
    "Justfile",
    "justfile",
    "CMakeLists.txt",
    "package.json",
    "build.rs",
    "Cargo.toml",
    "pyproject.toml",
    "setup.py",
    "conftest.py",
    "CLAUDE.md",
    "AGENTS.md",
    ".gitattributes",
    ".gitmodules",
    ".gitlab-ci.yml",
];
/// Directories whose every file is one of those, and files that are by their place.
const WITHIN: &[&str] = &[
    ".github/workflows",
    ".circleci",
    ".jj/repo/config.toml",
    ".jj/repo/store/git_target",
    ".jj/workspace-config.toml",
];
/// How long is looked.
const LOOKS: Duration = Duration::from_secs(5);
/// Deepest directory.
const MAX_DEPTH: usize = 40;
/// Most threads that look, and how many directories of one depth are worth one more.
const MAX_THREADS: usize = 8;
const DIRECTORIES_EACH: usize = 16;
/// Most things of one kind that are named.
const MAX_NAMED: usize = 20;
/// Most diffs, most lines of one, and the largest file that gets one.
const MAX_DIFFS: usize = 10;
const MAX_LINES: usize = 60;
const MAX_FILE: u64 = 256 * 1024;

/// What was found, each by its path in the project.
#[derive(Debug, Default)]
struct Found {
    obeyed: Vec<PathBuf>,
    executables: Vec<PathBuf>,
    links: Vec<PathBuf>,
    privileged: Vec<PathBuf>,
    whole: bool,
}

/// Says what changed since the session was opened; none where there is nothing to say. `repositories` are those that
/// are there now. A project where nothing happened is not looked at.
#[must_use]
pub fn section(record: &Record, touched: Touched, repositories: &[PathBuf]) -> Option<Section> {
    let found = match touched {
        Touched::Nothing => Found { whole: true, ..Found::default() },
        Touched::Perhaps => look(&record.project, i64::try_from(record.opened).unwrap_or(i64::MAX)),
    };
    let appeared: Vec<PathBuf> = repositories
        .iter()
        .filter(|path| !record.covered.contains(path))
        .filter_map(|path| path.strip_prefix(&record.project).ok().map(Path::to_owned))
        .collect();
    let mut lines = Vec::new();
    let mut diffs = Vec::new();
    let changed: Vec<(&PathBuf, Comparison)> = found
        .obeyed
        .iter()
        .map(|path| (path, compare(record, path)))
        .filter(|(_, comparison)| !matches!(comparison, Comparison::Same))
        .take(MAX_NAMED)
        .collect();
    for (path, comparison) in &changed {
        lines.push(format!("changed, and run or obeyed on your side: {}", name(path)));
        if let Comparison::Differs(Some(diff)) = comparison
            && diffs.len() < MAX_DIFFS
        {
            lines.extend(diff.lines().take(MAX_LINES).map(|line| format!("  {}", shown_line(line))));
            diffs.push(json!({"path": text(path), "diff": diff}));
        }
    }
    for (what, paths) in [
        ("executable, made or changed", &found.executables),
        ("link out of the project", &found.links),
        ("set-user-id or set-group-id", &found.privileged),
        ("repository of its own, whose configuration your git would obey there", &appeared),
    ] {
        lines.extend(paths.iter().take(MAX_NAMED).map(|path| format!("{what}: {}", name(path))));
        if paths.len() > MAX_NAMED {
            lines.push(format!("{what}: and {} more", paths.len() - MAX_NAMED));
        }
    }
    if !found.whole {
        lines.push("the project is too large to look at all of it: there may be more".into());
    }
    let data = json!({
        "obeyed": changed.iter().map(|(path, _)| text(path)).collect::<Vec<_>>(), "diffs": diffs,
        "executables": texts(&found.executables), "links": texts(&found.links), "privileged": texts(&found.privileged),
        "repositories": texts(&appeared), "whole": found.whole,
    });
    (!lines.is_empty()).then(|| Section { name: "project".into(), lines, data })
}

fn name(path: &Path) -> String {
    shown_name(&path.to_string_lossy())
}

/// A path for scripts. Names are bytes that a session chose, and JSON is text: what is no UTF-8 has U+FFFD in its place.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| text(path)).collect()
}

/// Breadth first; no link is followed, no git directory is looked into.
fn look(project: &Path, since: i64) -> Found {
    let until = Instant::now() + LOOKS;
    let mut found = Found { whole: true, ..Found::default() };
    let mut level = vec![project.to_owned()];
    for _ in 0..MAX_DEPTH {
        let (whole, next) = look_at(&level, (project, since, until), &mut found);
        if !whole {
            found.whole = false;
            return found;
        }
        if next.is_empty() {
            return found;
        }
        level = next;
    }
    found.whole = false;
    found
}

/// Looks at directories by several threads: whoever ends a session waits for it, and of 300,000 files every one is asked
/// for its time. What is found stays in order. Returns whether there was time for all, and the directories below.
fn look_at(
    level: &[PathBuf],
    (project, since, until): (&Path, i64, Instant),
    found: &mut Found,
) -> (bool, Vec<PathBuf>) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut seen = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(directory) = level.get(at) else { return (true, seen) };
            if Instant::now() > until {
                return (false, seen);
            }
            seen.push((at, entries(project, directory, since)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let threads = threads.min(level.len() / DIRECTORIES_EACH).max(1);
    let looked = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        // One that panicked has printed why, and its part is missing.
        let others = others.into_iter().map(|other| other.join().unwrap_or((false, Vec::new())));
        std::iter::once(own).chain(others.collect::<Vec<_>>()).collect::<Vec<_>>()
    });
    let whole = looked.iter().all(|(whole, _)| *whole);
    let mut seen: Vec<_> = looked.into_iter().flat_map(|(_, seen)| seen).collect();
    seen.sort_by_key(|(at, _)| *at);
    let mut below = Vec::new();
    for (_, (part, directories)) in seen {
        found.obeyed.extend(part.obeyed);
        found.executables.extend(part.executables);
        found.links.extend(part.links);
        found.privileged.extend(part.privileged);
        below.extend(directories);
    }
    (whole, below)
}

/// Looks at one directory. Returns what was found in it, and the directories in it.
fn entries(project: &Path, directory: &Path, since: i64) -> (Found, Vec<PathBuf>) {
    let (mut found, mut below) = (Found::default(), Vec::new());
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if entry.file_name() != ".git" {
                below.push(entry.path());
            }
        } else if metadata.ctime() >= since {
            judge(project, &entry.path(), &metadata, &mut found);
        }
    }
    (found, below)
}

fn judge(project: &Path, path: &Path, metadata: &fs::Metadata, found: &mut Found) {
    let Ok(relative) = path.strip_prefix(project) else { return };
    if metadata.is_symlink() {
        if fs::read_link(path).is_ok_and(|target| leaves(relative, &target, project)) {
            found.links.push(relative.to_owned());
        }
        return;
    }
    let obeyed = path.file_name().is_some_and(|file| NAMES.iter().any(|name| file == *name))
        || WITHIN.iter().any(|directory| relative.starts_with(directory));
    if obeyed {
        found.obeyed.push(relative.to_owned());
    }
    let mode = metadata.permissions().mode();
    if metadata.is_file() && mode & 0o111 != 0 {
        found.executables.push(relative.to_owned());
    }
    if mode & 0o6000 != 0 {
        found.privileged.push(relative.to_owned());
    }
}

/// Whether a link leads out of the project, by its own words: what it leads to may change.
fn leaves(link: &Path, target: &Path, project: &Path) -> bool {
    if target.is_absolute() {
        return !target.starts_with(project) || target.components().any(|part| part == Component::ParentDir);
    }
    let mut depth = i64::try_from(link.components().count()).unwrap_or(0) - 1;
    target.components().any(|part| {
        depth += match part {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            _ => 0,
        };
        depth < 0
    })
}

/// A file beside what it was in the commit that the session began at.
enum Comparison {
    /// The same.
    Same,
    /// Another; with the difference where it can be shown.
    Differs(Option<String>),
}

fn compare(record: &Record, path: &Path) -> Comparison {
    let project = Beneath::hostile(&record.project);
    let now = project.and_then(|project| project.read(path.to_str().unwrap_or_default(), MAX_FILE));
    // Too large, or no file any more: named, not shown.
    let Ok(Some(now)) = now else { return Comparison::Differs(None) };
    let before = record.repositories.first().and_then(|state| before(state, path));
    if before.as_ref() == Some(&now) {
        return Comparison::Same;
    }
    Comparison::Differs(compared(&before.unwrap_or_default(), &now).ok())
}

fn before(state: &super::State, path: &Path) -> Option<Vec<u8>> {
    let begun: &ObjectId = state.begun.as_ref()?;
    host::Git::of(state).blob(begun, path.to_str()?)
}

/// `git diff` of two files of ours, in a process that holds nothing: the bytes are the session's.
fn compared(before: &[u8], now: &[u8]) -> io::Result<String> {
    let place = tempfile::tempdir()?;
    let (old, new) = (place.path().join("before"), place.path().join("now"));
    fs::write(&old, before)?;
    fs::write(&new, now)?;
    let mut git = host::clean();
    git.args(["diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-color", "--"]).arg(old).arg(new);
    let output = git.stdout(Stdio::piped()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The head names files of ours.
    Ok(text
        .lines()
        .skip_while(|line| !line.starts_with("@@"))
        .take(MAX_LINES)
        .map(|l| format!("{l}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_all_of_it_is_found_in_order() {
        let temp = tempfile::tempdir().expect("a directory");
        let mut expected = Vec::new();
        for number in 100..400 {
            let directory = temp.path().join(format!("d{number}/below"));
            fs::create_dir_all(&directory).expect("a directory");
            fs::create_dir(directory.join(".git")).expect("a directory");
            fs::write(directory.join(".git/Makefile"), "").expect("a file");
            fs::write(directory.join("Makefile"), "").expect("a file");
            fs::write(directory.join("other"), "").expect("a file");
            expected.push(PathBuf::from(format!("d{number}/below/Makefile")));
        }
        let mut found = look(temp.path(), 0);
        assert!(found.whole && found.executables.is_empty());
        let again = look(temp.path(), 0);
        assert_eq!(found.obeyed, again.obeyed);
        found.obeyed.sort();
        assert_eq!(found.obeyed, expected);
        assert!(look(temp.path(), i64::MAX).obeyed.is_empty());
        let none = Instant::now().checked_sub(Duration::from_secs(1)).expect("a time before");
        assert!(!look_at(&[temp.path().to_owned()], (temp.path(), 0, none), &mut found).0);
    }

    #[test]
    fn a_project_where_nothing_happened_is_not_looked_at() {
        let temp = tempfile::tempdir().expect("a directory");
        fs::write(temp.path().join("Makefile"), "").expect("a file");
        let record = Record {
            session: keyhatch_protocol::SessionId::from_random([3; 4]),
            project: temp.path().to_owned(),
            policy: "default".into(),
            opened: 0,
            limits: crate::inspect::Limits { pack_bytes: 0, objects: 0 },
            repositories: Vec::new(),
            blank: None,
            placeholders: Vec::new(),
            covered: Vec::new(),
            container: false,
        };
        let lines = |touched, repositories: &[PathBuf]| {
            section(&record, touched, repositories).map(|section| section.lines).unwrap_or_default()
        };
        let changed = ["changed, and run or obeyed on your side: Makefile"];
        assert_eq!(lines(Touched::Perhaps, &[]), changed);
        assert_eq!(lines(Touched::Nothing, &[]), [""; 0]);
        // Not a change, but that it is there is not known to the session's mounts.
        let named = lines(Touched::Nothing, &[temp.path().join("nested")]);
        assert!(matches!(named.as_slice(), [line] if line.ends_with(": nested")), "{named:?}");
    }

    #[test]
    fn a_link_leaves_the_project_by_its_own_words() {
        let project = Path::new("/home/u/p");
        let leaves = |link: &str, target: &str| leaves(Path::new(link), Path::new(target), project);
        for (link, target) in [
            ("a", "/etc/passwd"),
            ("a", "../x"),
            ("d/a", "../../x"),
            ("a", "b/../../x"),
            ("a", "/home/u/p/../x"),
        ] {
            assert!(leaves(link, target), "{link} {target}");
        }
        for (link, target) in [("a", "b"), ("d/a", "../b"), ("a", "/home/u/p/b")] {
            assert!(!leaves(link, target), "{link} {target}");
        }
    }
}
