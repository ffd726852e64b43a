//! Where a repository's parts lie on the host: `gitrepository-layout(5)`, in every shape that git has for it.
//!
//! Comes in: paths of the user's own files, read before the session starts. Nothing is run, and no configuration is
//! obeyed beyond what names the format.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use keyhatch_protocol::ObjectFormat;

/// Deepest chain of borrowed object stores: git's own limit.
const MAX_ALTERNATES: usize = 5;
/// Longest file that names a directory.
const MAX_POINTER: u64 = 16 * 1024;

/// What stands at `.git`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DotGit {
    /// The git directory itself.
    Directory,
    /// A file that names it: a linked worktree, a submodule, `--separate-git-dir`.
    File,
    /// A symbolic link to it.
    Link,
    /// The directory is a bare repository, without a worktree.
    Bare,
}

/// A repository on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The worktree; of a bare repository, itself.
    pub worktree: PathBuf,
    /// What stands at its `.git`.
    pub dot_git: DotGit,
    /// The worktree's own git directory, resolved.
    pub git_dir: PathBuf,
    /// The directory that all its worktrees share, resolved.
    pub common: PathBuf,
    /// Its object stores, its own first, then those that it borrows from.
    pub stores: Vec<PathBuf>,
    /// Its hash.
    pub format: ObjectFormat,
    /// Whether its refs are in the reftable format.
    pub reftable: bool,
    /// Whether a remote has promised objects that it lacks.
    pub partial: bool,
}

impl Repository {
    /// Finds the repository whose worktree this directory is; none where it is none.
    ///
    /// # Errors
    /// When something stands at `.git` that cannot be followed.
    pub fn of(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(".git");
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::bare(directory),
            Err(error) => return Err(error),
        };
        let (dot_git, git_dir) = if kind.is_symlink() {
            let Ok(target) = path.canonicalize() else { return Ok(None) };
            let through = if target.is_file() { pointer(&target)? } else { Some(target) };
            (DotGit::Link, through)
        } else if kind.is_dir() {
            (DotGit::Directory, Some(path.canonicalize()?))
        } else if kind.is_file() {
            (DotGit::File, pointer(&path)?)
        } else if kind.is_fifo() || kind.is_socket() {
            return Err(io::ErrorKind::InvalidInput.into());
        } else {
            (DotGit::File, None)
        };
        let Some(git_dir) = git_dir.filter(|dir| is_git_directory(dir)) else { return Ok(None) };
        Self::read(directory, dot_git, git_dir).map(Some)
    }

    /// A directory that is a bare repository.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bare(directory: &Path) -> io::Result<Option<Self>> {
        if !is_git_directory(directory) || !directory.join("config").is_file() {
            return Ok(None);
        }
        Self::read(directory, DotGit::Bare, directory.canonicalize()?).map(Some)
    }

    fn read(worktree: &Path, dot_git: DotGit, git_dir: PathBuf) -> io::Result<Self> {
        let common = match fs::read_to_string(git_dir.join("commondir")) {
            Ok(path) => git_dir.join(path.trim_end_matches('\n')).canonicalize()?,
            Err(_) => git_dir.clone(),
        };
        let config = fs::read_to_string(common.join("config")).unwrap_or_default().to_ascii_lowercase();
        let says = |key: &str, value: &str| {
            config.lines().any(|line| {
                let mut sides = line.splitn(2, '=').map(|side| side.trim().trim_matches('"'));
                sides.next() == Some(key) && sides.next() == Some(value)
            })
        };
        let format = if says("objectformat", "sha256") { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 };
        let stores = stores(&common.join("objects"));
        let partial = config.contains("partialclone") || config.contains("promisor");
        let reftable = says("refstorage", "reftable");
        Ok(Self {
            worktree: worktree.to_owned(),
            dot_git,
            git_dir,
            common,
            stores,
            format,
            reftable,
            partial,
        })
    }

    /// The name of this worktree among the repository's; none for the main one.
    #[must_use]
    pub fn linked_name(&self) -> Option<String> {
        let relative = self.git_dir.strip_prefix(self.common.join("worktrees")).ok()?;
        relative.to_str().filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned)
    }
}

/// Whether git would take it for a git directory: `HEAD`, and objects and refs, which a linked worktree borrows.
#[must_use]
pub fn is_git_directory(path: &Path) -> bool {
    let head = fs::symlink_metadata(path.join("HEAD")).is_ok();
    head && ((path.join("objects").is_dir() && path.join("refs").is_dir())
        || path.join("commondir").is_file())
}

/// The directory that a `gitdir: PATH` file names.
fn pointer(file: &Path) -> io::Result<Option<PathBuf>> {
    if fs::metadata(file)?.len() > MAX_POINTER {
        return Ok(None);
    }
    let Ok(text) = fs::read_to_string(file) else { return Ok(None) };
    let Some(path) = text.strip_prefix("gitdir:") else { return Ok(None) };
    let from = file.parent().unwrap_or(Path::new("/"));
    Ok(from.join(path.trim_start().trim_end_matches(['\n', '\r'])).canonicalize().ok())
}

/// A store and what it borrows from, `objects/info/alternates`, each once.
fn stores(own: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut waiting = vec![(own.to_owned(), 0)];
    while let Some((store, depth)) = waiting.pop() {
        let Ok(store) = store.canonicalize() else { continue };
        if found.contains(&store) {
            continue;
        }
        let borrowed = fs::read_to_string(store.join("info/alternates")).unwrap_or_default();
        found.push(store.clone());
        if depth < MAX_ALTERNATES {
            let lines = borrowed.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            waiting.extend(lines.map(|line| (store.join(line), depth + 1)));
        }
    }
    found
}
