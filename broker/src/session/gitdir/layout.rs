//! Where a repository's parts lie on the host: `gitrepository-layout(5)`, in every shape that git has for it.
//!
//! Comes in: the project's own git directory, which is the user's, and repositories below the project, which are data:
//! the project brought them, or a session made them. Nothing is run, and no configuration is obeyed beyond what names
//! the format.
//!
//! A pointer (`.git` file or link, `commondir`, `info/alternates`) is followed where the user's own git directory confirms
//! it: it lies in there, and names the place that pointed to it. Any other is not followed, whatever it names.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use keyhatch_protocol::ObjectFormat;
use rustix::fs::FileType;
use thiserror::Error;

use super::beneath::Beneath;

/// Deepest chain of borrowed object stores: git's own limit.
const MAX_ALTERNATES: usize = 5;
/// Longest file that names a directory.
const MAX_POINTER: u64 = 16 * 1024;
/// Longest configuration of a repository: people's have some kilobytes.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Whose word a repository's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The user's: no session writes it, and no project brought it.
    User,
    /// The project's, or a session's: data.
    Project,
}

/// A repository that is not used.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Its `.git` leads to a git directory that does not know it.
    #[error("{git} leads to {target}, which is the git directory of another place")]
    Foreign {
        /// The pointer.
        git: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// It takes a part of itself from outside, and nothing of the user's says that it may.
    #[error("{git} takes {what} from outside of the project")]
    Outside {
        /// The repository.
        git: PathBuf,
        /// Which part: `gitdir`, `commondir`.
        what: &'static str,
    },
    /// Its configuration cannot be read.
    #[error("{file} cannot be read")]
    Config {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
}

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
    /// Whose it is.
    pub origin: Origin,
}

impl Repository {
    /// Finds the repository whose worktree a project is; none where it is none.
    ///
    /// # Errors
    /// When something stands at `.git` that cannot be followed, or leads to another place's git directory.
    pub fn of(directory: &Path) -> Result<Option<Self>, LayoutError> {
        let path = directory.join(".git");
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::bare(directory),
            Err(error) => return Err(error.into()),
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
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        } else {
            (DotGit::File, None)
        };
        let Some(git_dir) = git_dir.filter(|dir| is_git_directory(dir)) else { return Ok(None) };
        if dot_git != DotGit::Directory && !knows(&git_dir, directory) {
            return Err(LayoutError::Foreign { git: path, target: git_dir });
        }
        Self::read(directory, dot_git, git_dir).map(Some)
    }

    /// A project that is a bare repository itself.
    fn bare(directory: &Path) -> Result<Option<Self>, LayoutError> {
        if !is_git_directory(directory) || !directory.join("config").is_file() {
            return Ok(None);
        }
        Self::read(directory, DotGit::Bare, directory.canonicalize()?).map(Some)
    }

    /// The user's own: its pointers are meant.
    fn read(worktree: &Path, dot_git: DotGit, git_dir: PathBuf) -> Result<Self, LayoutError> {
        let common = match Beneath::own(&git_dir)?.read("commondir", MAX_POINTER)? {
            Some(path) => git_dir.join(text(&path).trim_end_matches('\n')).canonicalize()?,
            None => git_dir.clone(),
        };
        let config = Beneath::own(&common)?.read("config", MAX_CONFIG);
        let file = common.join("config");
        let config = config.map_err(|source| LayoutError::Config { file, source })?.unwrap_or_default();
        let stores = stores(&common.join("objects"))?;
        Ok(Self::configured(
            &text(&config),
            Self {
                worktree: worktree.to_owned(),
                dot_git,
                git_dir,
                common,
                stores,
                format: ObjectFormat::Sha1,
                reftable: false,
                partial: false,
                origin: Origin::User,
            },
        ))
    }

    /// Finds the repository whose worktree a directory below the project is; none where it is none. `own` is the project's
    /// own repository.
    ///
    /// # Errors
    /// When it takes a part of itself from a place that does not know it, or cannot be read.
    pub fn within(project: &Path, own: Option<&Self>, directory: &Path) -> Result<Option<Self>, LayoutError> {
        let Ok(inside) = directory.strip_prefix(project) else { return Ok(None) };
        let top = Beneath::hostile(project)?;
        let git = inside.join(".git");
        let path = project.join(&git);
        let (dot_git, git) = match top.kind(&git)? {
            Some(FileType::Directory) => (DotGit::Directory, git),
            Some(FileType::RegularFile | FileType::Symlink) => {
                let Some(target) = named(&top, project, &git)? else { return Ok(None) };
                if let Some(own) = own.filter(|own| target.starts_with(&own.common)) {
                    return Self::of_users(own, directory, target);
                }
                let Ok(within) = target.strip_prefix(project).map(Path::to_owned) else {
                    return Err(LayoutError::Foreign { git: path, target });
                };
                if within.file_name().is_some_and(|name| name == ".git") {
                    // It is the one of the worktree around it.
                    return Err(LayoutError::Foreign { git: path, target });
                }
                (DotGit::File, within)
            }
            Some(_) => return Err(LayoutError::Unreadable(io::ErrorKind::InvalidInput.into())),
            None => (DotGit::Bare, inside.to_owned()),
        };
        let is_directory =
            |name: &str| Ok::<_, io::Error>(top.kind(&git.join(name))? == Some(FileType::Directory));
        if top.kind(&git.join("commondir"))?.is_some() {
            return Err(LayoutError::Outside { git: project.join(&git), what: "commondir" });
        }
        let whole =
            top.kind(&git.join("HEAD"))?.is_some() && is_directory("objects")? && is_directory("refs")?;
        if !whole || (dot_git == DotGit::Bare && top.kind(&git.join("config"))?.is_none()) {
            return Ok(None);
        }
        let read = |name: &str, max| top.read(git.join(name), max);
        let config = read("config", MAX_CONFIG)?.unwrap_or_default();
        let git_dir = project.join(&git);
        let mut stores = vec![git_dir.join("objects")];
        // What it borrows, it borrows from the user's own, or it does without.
        let borrowed = read("objects/info/alternates", MAX_POINTER)?.unwrap_or_default();
        let borrowed =
            text(&borrowed).lines().map(|line| lexically(&stores[0].join(line))).collect::<Vec<_>>();
        stores
            .extend(own.iter().flat_map(|own| &own.stores).filter(|store| borrowed.contains(store)).cloned());
        Ok(Some(Self::configured(
            &text(&config),
            Self {
                worktree: directory.to_owned(),
                dot_git,
                common: git_dir.clone(),
                git_dir,
                stores,
                format: ObjectFormat::Sha1,
                reftable: false,
                partial: false,
                origin: Origin::Project,
            },
        )))
    }

    /// A submodule or a linked worktree, whose git directory lies in the user's own and names the worktree.
    fn of_users(own: &Self, directory: &Path, target: PathBuf) -> Result<Option<Self>, LayoutError> {
        if !is_git_directory(&target) {
            return Ok(None);
        }
        let names = target != own.git_dir && knows(&target, directory);
        if !names {
            return Err(LayoutError::Foreign { git: directory.join(".git"), target });
        }
        Self::read(directory, DotGit::File, target).map(Some)
    }

    fn configured(config: &str, repository: Self) -> Self {
        let config = config.to_ascii_lowercase();
        let says = |key: &str, value: &str| {
            config.lines().any(|line| {
                let mut sides = line.splitn(2, '=').map(|side| side.trim().trim_matches('"'));
                sides.next() == Some(key) && sides.next() == Some(value)
            })
        };
        let sha256 = says("objectformat", "sha256");
        Self {
            format: if sha256 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 },
            partial: config.contains("partialclone") || config.contains("promisor"),
            reftable: says("refstorage", "reftable"),
            ..repository
        }
    }

    /// Opens one of its directories: in the user's own, links are meant, in the project's none is followed.
    ///
    /// # Errors
    /// When it is not there, or the way there leads through a link of the project's.
    pub fn open(&self, directory: &Path) -> io::Result<Beneath> {
        match self.origin {
            Origin::User => Beneath::own(directory),
            Origin::Project => Beneath::of_project(directory),
        }
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

/// The directory that a `gitdir: PATH` file of the user's names.
fn pointer(file: &Path) -> io::Result<Option<PathBuf>> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() || metadata.len() > MAX_POINTER {
        return Ok(None);
    }
    let Some(path) = pointed(&fs::read(file)?) else { return Ok(None) };
    Ok(file.parent().unwrap_or(Path::new("/")).join(path).canonicalize().ok())
}

/// The directory that a `.git` file or link below the project names; none where it names none that is there.
fn named(top: &Beneath, project: &Path, git: &Path) -> io::Result<Option<PathBuf>> {
    let from = project.join(git.parent().unwrap_or(Path::new("")));
    let path = match top.link(git)? {
        Some(target) => target,
        None => match top.read(git, MAX_POINTER)?.as_deref().and_then(pointed) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    Ok(from.join(path).canonicalize().ok())
}

/// The path of a `gitdir: PATH` file.
fn pointed(bytes: &[u8]) -> Option<PathBuf> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(PathBuf::from(text.strip_prefix("gitdir:")?.trim_start().trim_end_matches(['\n', '\r'])))
}

/// Whether a git directory says itself that this is its worktree: a linked worktree's `gitdir`, a submodule's
/// `core.worktree`; one that was made with `--separate-git-dir` says nothing, and is no other place's `.git`.
fn knows(git_dir: &Path, worktree: &Path) -> bool {
    let Ok(directory) = Beneath::own(git_dir) else { return false };
    let read = |name: &str, max| directory.read(name, max).ok().flatten().map(|bytes| text(&bytes));
    let same = |path: &Path| match (path.canonicalize(), worktree.canonicalize()) {
        (Ok(path), Ok(worktree)) => path == worktree,
        _ => false,
    };
    if directory.has("commondir") {
        let back = read("gitdir", MAX_POINTER).map(|path| git_dir.join(path.trim_end_matches('\n')));
        return back.is_some_and(|path| {
            path.file_name().is_some_and(|name| name == ".git") && path.parent().is_some_and(same)
        });
    }
    let config = read("config", MAX_CONFIG).unwrap_or_default();
    let said = config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("worktree").then(|| value.trim().trim_matches('"').to_owned())
    });
    match said {
        Some(path) => same(&git_dir.join(path)),
        None => git_dir.starts_with(worktree) || git_dir.file_name().is_some_and(|name| name != ".git"),
    }
}

/// A path without `.` and `..`, by name alone.
fn lexically(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A store of the user's and what it borrows from, `objects/info/alternates`, each once. What is no object store is left
/// out: it is mounted inside.
fn stores(own: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut waiting = vec![(own.to_owned(), 0)];
    while let Some((store, depth)) = waiting.pop() {
        let Ok(store) = store.canonicalize() else { continue };
        if found.contains(&store) || (depth > 0 && !is_store(&store)) {
            continue;
        }
        let borrowed = Beneath::own(&store)?.read("info/alternates", MAX_POINTER)?.unwrap_or_default();
        found.push(store.clone());
        if depth < MAX_ALTERNATES {
            let borrowed = text(&borrowed);
            let lines = borrowed.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            waiting.extend(lines.map(|line| (store.join(line), depth + 1)));
        }
    }
    Ok(found)
}

/// Whether a directory holds what git keeps in a store, and nothing of another kind around it: no home, nothing above one.
fn is_store(path: &Path) -> bool {
    let around = |name: &str| {
        let place = std::env::var_os(name).map(PathBuf::from).and_then(|place| place.canonicalize().ok());
        place.is_some_and(|place| place.starts_with(path))
    };
    let marked = path.join("pack").is_dir() || path.join("info").is_dir();
    marked && !around("HOME") && !around("XDG_RUNTIME_DIR")
}
