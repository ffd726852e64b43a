//! The session's own git directory: refs, index, hooks and a cleaned configuration copied, objects borrowed.
//!
//! Comes in: the host's git directory, trusted. Goes out: a directory of ours, which is the session's from the moment
//! it is mounted. What is copied does not grow with history: objects never are.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::ObjectFormat;

use super::beneath::Beneath;
use super::borrowed::{self, borrow};
use super::host;
use super::index::{self, GitlinkSearch};
use super::layout::{DotGit, Repository};
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
    for name in COMMON {
        let taken = copy(&repository.common, &session, name)?;
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
    copy_hooks(&repository.common.join("hooks"), &session.join("hooks"))?;
    refs(repository, &mut state)?;
    logs(&repository.common, &session)?;
    state.stash =
        LogEntry::tail(&stash.unwrap_or_default(), usize::MAX).into_iter().map(|entry| entry.new).collect();
    state.host_stash.clone_from(&state.stash);
    if let Some(id) = state.stash.last() {
        fs::write(session.join("refs/stash"), format!("{id}\n"))?;
    }
    worktrees(repository, &session)?;
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
    add_tree(&repository.git_dir, state, &within, repository.dot_git != DotGit::Bare)
}

/// Takes a worktree's own files, and notes what both sides have. Returns the paths of its submodules.
///
/// # Errors
/// When a file cannot be copied.
pub fn add_tree(
    git_dir: &Path,
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
    // Most of what could be there is not: the names say so, and nothing need be tried.
    let names = names(git_dir)?;
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
            copy_tree(&git_dir.join(name), &to.join(name), &mut 0)?;
        }
    }
    let submodules = index(git_dir, (&to, &state.agreed_index(state.trees.len())), state.format)?;
    if state.reftable {
        head = host::head(git_dir, state.reftable);
        if let Some(head) = &head {
            fs::write(to.join("HEAD"), head.render())?;
        }
    }
    let logged = LogEntry::lines(&log).count();
    state.trees.push(Tree { within: within.to_owned(), has_index, head, logged, host_log: log.len() });
    Ok(submodules)
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// The index: what is agreed on is the very file that the session gets a copy of, also where the host's git puts another
/// there meanwhile. Returns the paths of its submodules.
fn index(git_dir: &Path, (to, agreed): (&Path, &Path), format: ObjectFormat) -> io::Result<Vec<Vec<u8>>> {
    let Some(file) = borrow(&git_dir.join("index"), agreed)? else { return Ok(Vec::new()) };
    let mut search = GitlinkSearch::default();
    borrowed::copy(&file, &to.join("index"), |piece| search.look(piece))?;
    match search.is_possible() {
        true => Ok(index::gitlinks(&fs::read(agreed)?, format).unwrap_or_default()),
        false => Ok(Vec::new()),
    }
}

/// Refs: always in the files format inside, which every git reads. A packed file is copied as it is.
fn refs(repository: &Repository, state: &mut State) -> io::Result<()> {
    let (session, agreed) = (state.session(), state.agreed().join("packed-refs"));
    let given = session.join("packed-refs");
    let loose = if repository.reftable {
        let mut all = host::Git::of(state).refs()?;
        all.retain(|name, _| is_shown(name.as_str()));
        write_both((&given, &agreed), &render_packed(&all))?;
        Refs::new()
    } else {
        // Loose ones first: what git packs meanwhile is found among the packed ones.
        let mut loose = loose(&Beneath::own(&repository.common)?)?;
        loose.retain(|name, _| is_shown(name.as_str()));
        let host = repository.common.join("packed-refs");
        if loose.len() > MAX_LOOSE {
            let mut all: Refs = packed(&index::read_or_empty(&host)?).collect();
            all.append(&mut loose);
            write_both((&given, &agreed), &render_packed(&all))?;
        } else {
            match borrow(&host, &agreed)? {
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
    symbolic(&repository.common.join("refs/remotes"), &session.join("refs/remotes"))
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
fn symbolic(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(remotes) = fs::read_dir(from) else { return Ok(()) };
    for remote in remotes.flatten().take(MAX_WORKTREES) {
        let head = remote.path().join("HEAD");
        if fs::read(&head).is_ok_and(|bytes| matches!(Head::parse(&bytes), Some(Head::Branch(_)))) {
            let to = to.join(remote.file_name());
            fs::create_dir_all(&to)?;
            fs::copy(head, to.join("HEAD"))?;
        }
    }
    Ok(())
}

/// Logs of branches, as many as people look at.
fn logs(from: &Path, to: &Path) -> io::Result<()> {
    let mut taken = 0;
    copy_tree(&from.join("logs/refs/heads"), &to.join("logs/refs/heads"), &mut taken)
}

/// The other worktrees of the repository, so that `git worktree list` and the rule of one branch in one worktree hold
/// inside. Locked: their directories are not there, and git would take them for gone.
fn worktrees(repository: &Repository, session: &Path) -> io::Result<()> {
    if repository.linked_name().is_some() {
        for name in ["HEAD", "index"] {
            copy(&repository.common, session, name)?;
        }
    }
    let Ok(names) = fs::read_dir(repository.common.join("worktrees")) else { return Ok(()) };
    for entry in names.flatten().take(MAX_WORKTREES) {
        let to = session.join("worktrees").join(entry.file_name());
        fs::create_dir_all(&to)?;
        for name in ["HEAD", "gitdir", "commondir", "locked", "ORIG_HEAD"] {
            copy(&entry.path(), &to, name)?;
        }
        let own = entry.path().canonicalize().is_ok_and(|path| path == repository.git_dir);
        if !own && !to.join("locked").exists() {
            fs::write(to.join("locked"), "not part of this session\n")?;
        }
    }
    Ok(())
}

fn copy_hooks(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(names) = fs::read_dir(from) else { return Ok(()) };
    for entry in names.flatten().take(MAX_SMALL) {
        // Followed: a hook is often a link to a script elsewhere. Samples are never run.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        let sample = entry.path().extension().is_some_and(|extension| extension == "sample");
        if metadata.is_file() && !sample && metadata.len() <= MAX_SMALL_FILE {
            let to = to.join(entry.file_name());
            fs::copy(entry.path(), &to)?;
            // Removable and changeable inside, whatever the mode on the host.
            fs::set_permissions(&to, fs::Permissions::from_mode(metadata.permissions().mode() | 0o600))?;
        }
    }
    Ok(())
}

/// Takes the hooks of a directory outside the project, and returns where they are in the git directory.
///
/// # Errors
/// When they cannot be copied.
pub fn borrow_hooks(state: &State, from: &Path) -> io::Result<&'static Path> {
    let name = Path::new("hooks-borrowed");
    let to = state.session().join(name);
    fs::create_dir_all(&to)?;
    copy_hooks(from, &to)?;
    Ok(name)
}

/// Takes a file of the host's, and returns what is in it; none where it is not there.
fn copy(from: &Path, to: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let bytes = match fs::read(from.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
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

fn copy_tree(from: &Path, to: &Path, taken: &mut usize) -> io::Result<()> {
    let Ok(names) = fs::read_dir(from) else { return Ok(()) };
    for entry in names.flatten() {
        let kind = entry.file_type()?;
        if *taken >= MAX_LOGS.max(MAX_SMALL) {
            return Ok(());
        }
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &to, taken)?;
        } else if kind.is_file() && entry.metadata()?.len() <= MAX_SMALL_FILE {
            with_parents(&to, || fs::copy(entry.path(), &to))?;
            *taken += 1;
        }
    }
    Ok(())
}
