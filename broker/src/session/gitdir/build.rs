//! The session's own git directory: refs, index, hooks and a cleaned configuration copied, objects borrowed.
//!
//! Comes in: the host's git directory: the user's own, or one that the project brought, in which no link is followed. Goes out: a directory of ours, which is the session's from the moment
//! it is mounted. What is copied does not grow with history: objects never are.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_host::untrusted_file;
use keyhatch_protocol::ObjectFormat;
use rustix::fs::FileType;

use super::beneath::Beneath;
use super::borrowed::{self, borrow};
use super::host;
use super::index::{self, GitlinkSearch};
use super::layout::{DotGit, Origin, Repository};
use super::reflog::LogEntry;
use super::refs::{Base, Head, Refs, loose, packed, render_packed};
use super::state::{Outcome, State, Tree};

/// Directories of a session's git directory, parents first.
const DIRECTORIES: &[&str] = &[
    "objects",
    "objects/info",
    "objects/pack",
    "info",
    "logs",
    "logs/refs",
    "logs/refs/heads",
    "refs",
    "refs/heads",
    "refs/tags",
    "hooks",
];
/// The log of the stash, and of `HEAD`.
const STASH: &str = "logs/refs/stash";
const HEAD_LOG: &str = "logs/HEAD";
/// Files of a shared git directory that are taken as they are.
const COMMON: &[&str] =
    &["description", "shallow", "info/exclude", "info/attributes", "info/sparse-checkout", STASH];
/// Files of a worktree's own git directory: what it is in the middle of goes on inside.
const OWN: &[&str] = &[
    "HEAD",
    "ORIG_HEAD",
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "MERGE_RR",
    "SQUASH_MSG",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "AUTO_MERGE",
    "FETCH_HEAD",
    "BISECT_LOG",
    "BISECT_START",
    "BISECT_NAMES",
    "BISECT_TERMS",
    "COMMIT_EDITMSG",
    HEAD_LOG,
    "info/sparse-checkout",
];
/// Directories that are taken whole, where they are small.
const SMALL_TREES: &[&str] = &["rebase-merge", "rebase-apply", "sequencer", "rr-cache"];
/// Most files of such a directory, and the largest one.
const MAX_SMALL: usize = 2000;
const MAX_SMALL_FILE: u64 = 4 * 1024 * 1024;
/// Most loose refs that stay loose: beyond, one packed file is made of all.
const MAX_LOOSE: usize = 500;
/// Most logs of branches that are taken.
const MAX_LOGS: usize = 300;
/// Largest file of a git directory that is taken: a log of `HEAD` grows with each command.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Most names in one of its directories: one for each loose ref.
const MAX_NAMES: usize = 1_000_000;
/// Most other worktrees that are shown inside.
const MAX_WORKTREES: usize = 64;

/// Where the borrowed stores are inside.
#[must_use]
pub fn store_inside(repository: usize, store: usize) -> PathBuf {
    PathBuf::from(format!("/run/keyhatch-git/{repository}/{store}/objects"))
}

/// Makes the session's git directory for one repository under `directory`. Returns the paths of its submodules too.
///
/// # Errors
/// When the host's git directory cannot be read, or ours not written.
pub fn build(
    repository: &Repository,
    (number, directory): (usize, &Path),
    config: &str,
) -> io::Result<(State, Vec<Vec<u8>>)> {
    let mut state = State {
        directory: directory.to_owned(),
        common: repository.common.clone(),
        stores: repository.stores.clone(),
        format: repository.format,
        reftable: repository.reftable,
        partial: repository.partial,
        tracking: Vec::new(),
        trees: Vec::new(),
        base: Base::default(),
        floors: std::collections::BTreeMap::new(),
        settled: std::collections::BTreeMap::new(),
        stash: Vec::new(),
        host_stash: Vec::new(),
        own_stash: std::collections::BTreeSet::new(),
        left_stash: Vec::new(),
        brought: 0,
        begun: None,
        outcome: Outcome::default(),
    };
    let (session, agreed) = (state.session(), state.agreed());
    for path in [directory, &session, &agreed] {
        fs::create_dir(path)?;
    }
    for path in DIRECTORIES {
        fs::create_dir(session.join(path))?;
    }
    let mut stash = None;
    let common = repository.open(&repository.common)?;
    for name in COMMON {
        let taken = copy(&common, &session, name)?;
        match (*name, &taken) {
            ("shallow", Some(bytes)) => fs::write(agreed.join("shallow"), bytes)?,
            (STASH, _) => stash = taken,
            _ => {}
        }
    }
    let stores: String =
        (0..repository.stores.len()).map(|n| format!("{}\n", store_inside(number, n).display())).collect();
    fs::write(session.join("objects/info/alternates"), stores)?;
    fs::write(session.join("config"), config)?;
    match repository.origin {
        Origin::User => {
            copy_hooks(&repository.common.join("hooks"), &session.join("hooks"), &repository.worktree)?
        }
        Origin::Project => copy_hooks_of_project(&common, &session.join("hooks"))?,
    }
    refs((repository, &common), &mut state)?;
    logs(&common, &session)?;
    state.stash =
        LogEntry::tail(&stash.unwrap_or_default(), usize::MAX).into_iter().map(|entry| entry.new).collect();
    state.host_stash.clone_from(&state.stash);
    if let Some(id) = state.stash.last() {
        fs::write(session.join("refs/stash"), format!("{id}\n"))?;
    }
    if repository.origin == Origin::User {
        worktrees((repository, &common), &session)?;
    }
    let submodules = own_tree(repository, &mut state)?;
    state.begun = match state.trees.first().and_then(|tree| tree.head.clone()) {
        Some(Head::Detached(id)) => Some(id),
        Some(Head::Branch(name)) => state.agreed_value(&name)?,
        None => None,
    };
    Ok((state, submodules))
}

/// The worktree that the session works in.
fn own_tree(repository: &Repository, state: &mut State) -> io::Result<Vec<Vec<u8>>> {
    let within = repository.linked_name().map_or_else(|| ".".to_owned(), |name| format!("worktrees/{name}"));
    add_tree(repository, state, &within, repository.dot_git != DotGit::Bare)
}

/// Takes a worktree's own files, and notes what both sides have. Returns the paths of its submodules.
///
/// # Errors
/// When a file cannot be copied.
pub fn add_tree(
    repository: &Repository,
    state: &mut State,
    within: &str,
    has_index: bool,
) -> io::Result<Vec<Vec<u8>>> {
    let to = if within == "." { state.session() } else { state.session().join(within) };
    if within != "." {
        for directory in ["logs", "info"] {
            fs::create_dir_all(to.join(directory))?;
        }
    }
    let git_dir = &repository.open(&repository.git_dir)?;
    // Most of what could be there is not: the names say so, and nothing need be tried.
    let names = names(git_dir, ".")?;
    let (mut head, mut log) = (None, Vec::new());
    for name in OWN {
        let first = name.split('/').next().unwrap_or(name);
        let taken = if names.contains(OsStr::new(first)) { copy(git_dir, &to, name)? } else { None };
        match (*name, taken) {
            ("HEAD", Some(bytes)) => head = Head::parse(&bytes),
            (HEAD_LOG, Some(bytes)) => log = bytes,
            _ => {}
        }
    }
    for name in names.iter().filter_map(|name| name.to_str()) {
        if name.starts_with("sharedindex.") {
            copy(git_dir, &to, name)?;
        } else if SMALL_TREES.contains(&name) {
            copy_tree(git_dir, Path::new(name), &to.join(name), &mut 0)?;
        }
    }
    let submodules = index(git_dir, (&to, &state.agreed_index(state.trees.len())), state.format)?;
    if state.reftable {
        head = host::head(&repository.git_dir, state.reftable);
        if let Some(head) = &head {
            fs::write(to.join("HEAD"), head.render())?;
        }
    }
    let logged = LogEntry::lines(&log).count();
    state.trees.push(Tree { within: within.to_owned(), has_index, head, logged, host_log: log.len() });
    Ok(submodules)
}

fn names(directory: &Beneath, path: &str) -> io::Result<BTreeSet<OsString>> {
    let entries = plain(directory, directory.list(path, MAX_NAMES).map(Some))?.unwrap_or_default();
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// The index: what is agreed on is the very file that the session gets a copy of, also where the host's git puts another
/// there meanwhile. Returns the paths of its submodules.
fn index(git_dir: &Beneath, (to, agreed): (&Path, &Path), format: ObjectFormat) -> io::Result<Vec<Vec<u8>>> {
    let Some(file) = plain(git_dir, borrow(git_dir, "index", agreed))? else { return Ok(Vec::new()) };
    let mut search = GitlinkSearch::default();
    borrowed::copy(&file, &to.join("index"), |piece| search.look(piece))?;
    match search.is_possible() {
        true => Ok(index::gitlinks(&fs::read(agreed)?, format).unwrap_or_default()),
        false => Ok(Vec::new()),
    }
}

/// Refs: always in the files format inside, which every git reads. A packed file is copied as it is.
fn refs((repository, common): (&Repository, &Beneath), state: &mut State) -> io::Result<()> {
    let (session, agreed) = (state.session(), state.agreed().join("packed-refs"));
    let given = session.join("packed-refs");
    let loose = if repository.reftable {
        let mut all = host::Git::of(state).refs()?;
        all.retain(|name, _| is_shown(name.as_str()));
        write_both((&given, &agreed), &render_packed(&all))?;
        Refs::new()
    } else {
        // Loose ones first: what git packs meanwhile is found among the packed ones.
        let mut loose = plain(common, loose(common).map(Some))?.unwrap_or_default();
        loose.retain(|name, _| is_shown(name.as_str()));
        if loose.len() > MAX_LOOSE {
            let host = plain(common, common.read("packed-refs", MAX_FILE))?.unwrap_or_default();
            let mut all: Refs = packed(&host).collect();
            all.append(&mut loose);
            write_both((&given, &agreed), &render_packed(&all))?;
        } else {
            match plain(common, borrow(common, "packed-refs", &agreed))? {
                Some(file) => borrowed::copy(&file, &given, |_| {})?,
                None => write_both((&given, &agreed), b"")?,
            }
        }
        loose
    };
    for (name, id) in &loose {
        let path = session.join(name.as_str());
        let value = format!("{id}\n");
        with_parents(&path, || fs::write(&path, &value))?;
    }
    state.base.since = loose.into_iter().map(|(name, id)| (name, Some(id))).collect();
    symbolic(common, &session.join("refs/remotes"))
}

fn write_both((one, other): (&Path, &Path), bytes: &[u8]) -> io::Result<()> {
    fs::write(one, bytes)?;
    fs::write(other, bytes)
}

/// What waits from earlier sessions, and the stash, which is a log, are not shown as refs.
fn is_shown(name: &str) -> bool {
    name != "refs/stash" && !name.starts_with("refs/keyhatch/") && !name.starts_with("refs/bisect/")
}

/// The remotes' `HEAD`, which is a name.
fn symbolic(common: &Beneath, to: &Path) -> io::Result<()> {
    for remote in names(common, "refs/remotes")?.iter().take(MAX_WORKTREES) {
        let head = common.read(Path::new("refs/remotes").join(remote).join("HEAD"), MAX_SMALL_FILE);
        // Neither a ref of that name nor what is no file is one.
        let Ok(Some(head)) = head else { continue };
        if matches!(Head::parse(&head), Some(Head::Branch(_))) {
            let to = to.join(remote);
            fs::create_dir_all(&to)?;
            fs::write(to.join("HEAD"), head)?;
        }
    }
    Ok(())
}

/// Logs of branches, as many as people look at.
fn logs(from: &Beneath, to: &Path) -> io::Result<()> {
    let path = Path::new("logs/refs/heads");
    copy_tree(from, path, &to.join(path), &mut 0)
}

/// The other worktrees of the repository, so that `git worktree list` and the rule of one branch in one worktree hold
/// inside. Locked: their directories are not there, and git would take them for gone.
fn worktrees((repository, common): (&Repository, &Beneath), session: &Path) -> io::Result<()> {
    if repository.linked_name().is_some() {
        for name in ["HEAD", "index"] {
            copy(common, session, name)?;
        }
    }
    let Ok(names) = fs::read_dir(repository.common.join("worktrees")) else { return Ok(()) };
    for entry in names.flatten().take(MAX_WORKTREES) {
        let to = session.join("worktrees").join(entry.file_name());
        fs::create_dir_all(&to)?;
        for name in ["HEAD", "gitdir", "commondir", "locked", "ORIG_HEAD"] {
            copy(&Beneath::own(&entry.path())?, &to, name)?;
        }
        let own = entry.path().canonicalize().is_ok_and(|path| path == repository.git_dir);
        if !own && !to.join("locked").exists() {
            fs::write(to.join("locked"), "not part of this session\n")?;
        }
    }
    Ok(())
}

/// The user's own hooks. A hook is often a link to a script elsewhere, which is followed; but no link in the project is: a
/// session could have put it there. Samples are never run.
fn copy_hooks(from: &Path, to: &Path, worktree: &Path) -> io::Result<()> {
    let Ok(names) = fs::read_dir(from) else { return Ok(()) };
    for entry in names.flatten().take(MAX_SMALL) {
        let path = entry.path();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !metadata.is_file() || is_sample(&path) {
            continue;
        }
        match untrusted_file::read(&path, &[worktree], MAX_SMALL_FILE) {
            Ok(Some(script)) => {
                write_hook(&to.join(entry.file_name()), &script, metadata.permissions().mode())?
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a hook is not taken inside"),
        }
    }
    Ok(())
}

/// The hooks of a repository that the project brought: its own files, and nothing that they lead to.
fn copy_hooks_of_project(from: &Beneath, to: &Path) -> io::Result<()> {
    let Ok(names) = from.list("hooks", MAX_SMALL) else { return Ok(()) };
    for name in names.iter().map(|entry| &entry.name).filter(|name| !is_sample(Path::new(name))) {
        let path = Path::new("hooks").join(name);
        let (Ok(Some(script)), Ok(mode)) = (from.read(&path, MAX_SMALL_FILE), from.mode(&path)) else {
            continue;
        };
        write_hook(&to.join(name), &script, mode)?;
    }
    Ok(())
}

fn is_sample(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sample")
}

/// Removable and changeable inside, whatever the mode on the host.
fn write_hook(to: &Path, script: &[u8], mode: u32) -> io::Result<()> {
    fs::write(to, script)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode & 0o777 | 0o600))
}

/// Takes the hooks of a directory outside the project, and returns where they are in the git directory.
///
/// # Errors
/// When they cannot be copied.
pub fn borrow_hooks(state: &State, from: &Path, project: &Path) -> io::Result<&'static Path> {
    let name = Path::new("hooks-borrowed");
    let to = state.session().join(name);
    fs::create_dir_all(&to)?;
    copy_hooks(from, &to, project)?;
    Ok(name)
}

/// In a repository that the project brought, what cannot be read as a plain file or directory (a link, a pipe) is taken for
/// absent: the session starts, and the place is covered all the same.
fn plain<T>(from: &Beneath, read: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match read {
        Err(_) if from.is_hostile() => Ok(None),
        read => read,
    }
}

/// Takes a file of the host's, and returns what is in it; none where it is not there.
fn copy(from: &Beneath, to: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(bytes) = plain(from, from.read(name, MAX_FILE))? else { return Ok(None) };
    let to = to.join(name);
    // New, with a mode of ours: a read-only file of the host's would be one that git inside cannot replace.
    with_parents(&to, || fs::write(&to, &bytes))?;
    Ok(Some(bytes))
}

/// Writes something, and makes the directories around it only where it cannot be written without.
fn with_parents<T>(to: &Path, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
    write().or_else(|_| {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        write()
    })
}

fn copy_tree(from: &Beneath, path: &Path, to: &Path, taken: &mut usize) -> io::Result<()> {
    for entry in plain(from, from.list(path, MAX_NAMES).map(Some))?.unwrap_or_default() {
        if *taken >= MAX_LOGS.max(MAX_SMALL) {
            return Ok(());
        }
        let (path, to) = (path.join(&entry.name), to.join(&entry.name));
        if entry.kind == FileType::Directory {
            copy_tree(from, &path, &to, taken)?;
        } else if entry.kind == FileType::RegularFile
            && let Ok(Some(bytes)) = from.read(&path, MAX_SMALL_FILE)
        {
            with_parents(&to, || fs::write(&to, &bytes))?;
            *taken += 1;
        }
    }
    Ok(())
}
