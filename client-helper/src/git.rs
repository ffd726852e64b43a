//! git, where nothing can be mounted: the real one, led to the session's own git directory where it would find the project's.
//!
//! Comes in: git's arguments, the directory that it starts in, and what the runner says of git directories. It looks for a
//! repository as git does (setup.c); where that is one of the session's, git is told so by `GIT_DIR` and `GIT_WORK_TREE`. In every
//! other repository, and for one that is made or cloned, git finds its own way. Nothing depends on it: what is closed stays so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use keyhatch_protocol::message::git_directories::{GIT_DIRECTORIES_VARIABLE, Replaced, read};

use crate::image;

/// Options before git's command that take the next word, git(1).
const WITH_VALUE: &[&str] =
    &["-c", "--namespace", "--config-env", "--attr-source", "--super-prefix", "--work-tree"];
/// Options of `git init` that take the next word.
const INIT_WITH_VALUE: &[&str] =
    &["-b", "--initial-branch", "--template", "--separate-git-dir", "--object-format", "--ref-format"];
/// The longest `.git` file that is read: git's own limit is a path.
const MAX_POINTER: usize = 8192;

/// What git is told.
#[derive(Debug, PartialEq, Eq)]
struct Led {
    directory: PathBuf,
    tree: PathBuf,
}

pub(crate) fn answer(arguments: &[OsString]) -> ExitCode {
    let told = std::env::var(GIT_DIRECTORIES_VARIABLE).unwrap_or_default();
    // Whoever names a git directory means it.
    let named = std::env::var_os("GIT_DIR").is_some();
    let led = std::env::current_dir().ok().filter(|_| !named).and_then(|cwd| {
        let start = start(&cwd, arguments)?;
        find(&start, &read(&told))
    });
    let variables = led.map(|led| [("GIT_DIR", led.directory), ("GIT_WORK_TREE", led.tree)]);
    // A work tree that somebody named without a git directory stays theirs.
    let variables = variables.into_iter().flatten().filter(|(name, _)| std::env::var_os(name).is_none());
    image::become_program_with("git", arguments, variables)
}

/// Where git begins to look for a repository; none where it is told, or makes one of its own.
fn start(cwd: &Path, arguments: &[OsString]) -> Option<PathBuf> {
    let mut start = cwd.to_owned();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-C") => start.push(words.next()?),
            Some("--git-dir" | "--bare") => return None,
            Some(option) if option.starts_with("--git-dir=") => return None,
            Some(option) if WITH_VALUE.contains(&option) => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            Some("clone") => return None,
            Some("init" | "init-db") => {
                // There, and nowhere above it: git makes one in whatever directory it is told.
                let made = start.join(initialised(words.as_slice()).unwrap_or(OsStr::new(".")));
                let made = made.canonicalize().ok()?;
                return std::fs::symlink_metadata(made.join(".git")).is_ok().then_some(made);
            }
            _ => break,
        }
    }
    start.canonicalize().ok()
}

/// The directory that `git init` is told.
fn initialised(arguments: &[OsString]) -> Option<&OsStr> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--") => return words.next().map(OsString::as_os_str),
            Some(option) if INIT_WITH_VALUE.contains(&option) => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            _ => return Some(word),
        }
    }
    None
}

/// The first repository from there upwards, if its git directory is one that the session has its own of.
fn find(start: &Path, replaced: &[Replaced]) -> Option<Led> {
    let tree = start
        .ancestors()
        .find(|directory| std::fs::symlink_metadata(directory.join(".git")).is_ok() || is_bare(directory))?;
    let dot_git = tree.join(".git");
    let own = |path: &Path| {
        let around = replaced.iter().filter(|one| path.starts_with(&one.host));
        // A submodule's lies below the one of the repository that it belongs to.
        let one = around.max_by_key(|one| one.host.components().count())?;
        Some(joined(&one.own, path.strip_prefix(&one.host).ok()?))
    };
    let directory = own(&dot_git)
        .or_else(|| own(&dot_git.canonicalize().ok()?))
        .or_else(|| own(&beneath(tree, &pointed(&dot_git)?)))?;
    Some(Led { directory, tree: tree.to_owned() })
}

/// Joined with nothing, a path would get a slash at its end.
fn joined(directory: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { directory.to_owned() } else { directory.join(below) }
}

/// Whether a directory is a repository without a work tree: gitrepository-layout(5).
fn is_bare(directory: &Path) -> bool {
    directory.join("HEAD").exists() && directory.join("objects").is_dir() && directory.join("refs").is_dir()
}

/// What a `.git` file names: `gitdir: PATH`.
fn pointed(dot_git: &Path) -> Option<PathBuf> {
    let text = std::fs::read(dot_git).ok().filter(|text| text.len() <= MAX_POINTER)?;
    let path = text.strip_prefix(b"gitdir: ")?.trim_ascii_end();
    Some(OsStr::from_bytes(path).into())
}

/// A path from a directory, by its letters alone: what it leads to is closed.
fn beneath(directory: &Path, path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for component in directory.join(path).components() {
        match component {
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir => {}
            other => whole.push(other),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project whose `.git` is closed, with a repository, a submodule, a worktree and a bare repository inside.
    fn scene() -> (tempfile::TempDir, PathBuf, Vec<Replaced>) {
        let directory = tempfile::tempdir().expect("a directory");
        let project = directory.path().canonicalize().expect("a path").join("p");
        for name in [
            ".git",
            "src/deep",
            "own/.git",
            "sub/x",
            "tree",
            "bare.git/objects",
            "bare.git/refs",
            "../elsewhere",
        ] {
            std::fs::create_dir_all(project.join(name)).expect("a directory");
        }
        for (name, text) in [
            ("sub/.git", "gitdir: ../.git/modules/sub\n".to_owned()),
            ("tree/.git", format!("gitdir: {}/.git/worktrees/tree\n", project.display())),
            ("bare.git/HEAD", "ref: refs/heads/main\n".to_owned()),
        ] {
            std::fs::write(project.join(name), text).expect("a file");
        }
        let one = |host: &str, own: &str| Replaced { host: project.join(host), own: own.into() };
        let replaced = vec![one(".git", "/s/0/git"), one(".git/modules/sub", "/s/1/git")];
        (directory, project, replaced)
    }

    #[test]
    fn git_is_led_where_it_would_find_a_closed_directory_and_nowhere_else() {
        let (_kept, project, replaced) = scene();
        let led = |from: &str, words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let led = start(&project.join(from), &words).and_then(|start| find(&start, &replaced))?;
            let tree = led.tree.strip_prefix(&project).expect("inside").to_string_lossy().into_owned();
            Some((led.directory.to_string_lossy().into_owned(), tree))
        };
        let own = |directory: &str, tree: &str| Some((directory.to_owned(), tree.to_owned()));
        let project_own = own("/s/0/git", "");
        assert_eq!(led("", &["status"]), project_own);
        assert_eq!(led("src/deep", &["-c", "clone=x", "--no-pager", "log"]), project_own);
        assert_eq!(led("../elsewhere", &["-C", "..", "-C", "p/src", "status"]), project_own);
        assert_eq!(led("", &["init"]), project_own);
        assert_eq!(led("src", &["init", "-q", "-b", "main", ".."]), project_own);
        assert_eq!(led("sub/x", &["status"]), own("/s/1/git", "sub"));
        assert_eq!(led("tree", &["status"]), own("/s/0/git/worktrees/tree", "tree"));
        for (from, words) in [
            ("own", &["status"][..]),
            ("", &["-C", "own", "status"]),
            ("bare.git", &["log"]),
            ("../elsewhere", &["status"]),
            ("", &["clone", "x"]),
            ("", &["--git-dir=own/.git", "log"]),
            ("", &["--git-dir", "own/.git", "log"]),
            ("src", &["init"]),
            ("", &["init", "-b", "main", "src"]),
            ("", &["init", "src/new"]),
            ("missing", &["status"]),
        ] {
            assert_eq!(led(from, words), None, "{from} {words:?}");
        }
    }
}
