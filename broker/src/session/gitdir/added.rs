//! Worktrees that a session adds inside the project: the host registers them too, from paths that were checked, with
//! nothing of the session's but a name.

use std::fs;
use std::io;
use std::path::Path;

use keyhatch_protocol::ObjectId;

use super::beneath::Beneath;
use super::host::Git;
use super::refs::Head;
use super::state::{State, Tree};

/// Most worktrees of one session.
const MAX_ADDED: usize = 16;
/// Longest file that names a directory.
const MAX_POINTER: u64 = 4096;

/// Registers worktrees that are new inside. Returns whether there were any.
///
/// # Errors
/// When a directory of the host's cannot be made.
pub(super) fn adopt(state: &mut State, project: &Path) -> io::Result<bool> {
    let Some(begun) = state.begun.clone() else { return Ok(false) };
    let inside = Beneath::hostile(&state.session())?;
    let mut any = false;
    for entry in inside.list("worktrees", 1000).unwrap_or_default() {
        let Some(name) = entry.name.to_str().filter(|name| is_plain(name)) else { continue };
        let within = format!("worktrees/{name}");
        let directory = state.common.join(&within);
        if directory.exists() || state.trees.len() > MAX_ADDED {
            continue;
        }
        let Some(pointer) = pointer(&inside, &within, project, &directory) else { continue };
        // Where it goes from here is followed as for every worktree.
        let head = Head::Detached(begun.clone());
        if state.reftable {
            register_by_git(state, name, &begun)?;
        } else {
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("commondir"), "../..\n")?;
            fs::write(directory.join("HEAD"), head.render())?;
        }
        fs::write(directory.join("gitdir"), format!("{pointer}\n"))?;
        state.trees.push(Tree { within, has_index: true, head: Some(head), logged: 0, host_log: 0 });
        any = true;
    }
    Ok(any)
}

/// A worktree in the reftable format has tables of its own, which git makes: for a directory of ours of the same name.
fn register_by_git(state: &State, name: &str, at: &ObjectId) -> io::Result<()> {
    let place = state.directory.join("added");
    fs::create_dir_all(&place)?;
    Git::of(state).add_worktree(&place.join(name), at).map_err(io::Error::other)?;
    fs::remove_dir_all(place)
}

fn is_plain(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() < 100
        && !name.starts_with('.')
        && !name.ends_with(".lock")
        && name.bytes().all(legal)
}

/// The `.git` file of a worktree in the project that leads to this directory, reached without a link.
fn pointer(inside: &Beneath, within: &str, project: &Path, directory: &Path) -> Option<String> {
    let read =
        |side: &Beneath, path: &str| side.read(path, MAX_POINTER).ok()?.map(|b| String::from_utf8(b).ok())?;
    let text = read(inside, &format!("{within}/gitdir"))?;
    let path = text.strip_suffix('\n')?.to_owned();
    let relative = Path::new(&path).strip_prefix(project).ok()?.to_str()?.to_owned();
    let legal =
        relative.ends_with("/.git") && !relative.split('/').any(|part| matches!(part, "" | "." | ".."));
    let back = read(&Beneath::hostile(project).ok()?, &relative)?;
    (legal && !path.contains('\n') && back == format!("gitdir: {}\n", directory.display())).then_some(path)
}
