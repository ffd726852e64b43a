//! Whether a session that ends left its git directory as it was agreed on: then nothing can come of it, and no child
//! need be started to look.
//!
//! By content, not by times: whatever a session did in the last moment shows. Only names, values and bytes are compared.

use std::fs;
use std::io;

use super::beneath::Beneath;
use super::coming;
use super::harvest::{BUSY, MAX_LOG};
use super::index::MAX_INDEX;
use super::reflog::LogEntry;
use super::refs::Head;
use super::state::{State, Tree};

/// Whether nothing is new inside. What cannot be read may be new.
pub(super) fn is(state: &State) -> bool {
    look(state).unwrap_or(false)
}

fn look(state: &State) -> io::Result<bool> {
    let inside = Beneath::hostile(&state.session())?;
    let changes = state.base.changes(&state.start()?, &inside)?;
    if coming::is_noted(state) || changes.iter().any(|(name, new)| state.settled.get(name) != Some(new)) {
        return Ok(false);
    }
    let log = inside.read("logs/refs/stash", MAX_LOG)?.unwrap_or_default();
    let stash = LogEntry::tail(&log, usize::MAX);
    if !stash.iter().map(|entry| &entry.new).eq(&state.stash) {
        return Ok(false);
    }
    for entry in inside.list("worktrees", 1000)? {
        if !state.common.join("worktrees").join(&entry.name).exists() {
            return Ok(false);
        }
    }
    for (at, tree) in state.trees.iter().enumerate() {
        if !same_tree(state, &inside, (at, tree))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_tree(state: &State, inside: &Beneath, (at, tree): (usize, &Tree)) -> io::Result<bool> {
    let within =
        |name: &str| if tree.within == "." { name.to_owned() } else { format!("{}/{name}", tree.within) };
    if Head::read(inside, &within("HEAD")) != tree.head || BUSY.iter().any(|name| inside.has(&within(name))) {
        return Ok(false);
    }
    let log = inside.read(within("logs/HEAD"), MAX_LOG)?.unwrap_or_default();
    if LogEntry::lines(&log).count() != tree.logged {
        return Ok(false);
    }
    let agreed = match fs::read(state.agreed_index(at)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        agreed => agreed.unwrap_or_default(),
    };
    Ok(inside.read(within("index"), MAX_INDEX)?.unwrap_or_default() == agreed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::session::gitdir::build::build;
    use crate::session::gitdir::layout::Repository;

    fn git(directory: &Path, script: &str) {
        let script = format!("git -c user.name=a -c user.email=a@b {script}");
        let output = Command::new("sh")
            .current_dir(directory)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", &script])
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{script} {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn whatever_comes_back_is_no_session_that_was_left_untouched() {
        let temp = tempfile::tempdir().expect("tempdir");
        let project = temp.path().join("p");
        fs::create_dir(&project).expect("mkdir");
        git(&project, "init -q -b main");
        git(&project, "commit -q --allow-empty -m one");
        git(&project, "tag t");
        fs::write(project.join("f"), "f").expect("writes");
        git(&project, "add f");
        let repository = Repository::of(&project).expect("reads").expect("a repository");
        let id = "1".repeat(40);
        let entry = format!("{} {id} A <a@b> 1700000000 +0000\tWIP\n", "0".repeat(40));
        let write = |path: &'static str, text: String| {
            move |session: &Path| {
                let path = session.join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
                let mut before = fs::read(&path).unwrap_or_default();
                before.extend(text.bytes());
                fs::write(path, before).expect("writes");
            }
        };
        type Act<'a> = Box<dyn Fn(&Path) + 'a>;
        let acts: Vec<(&str, bool, Act<'_>)> = vec![
            ("nothing", true, Box::new(|_| {})),
            ("configuration", true, Box::new(write("config", "[a]\n".into()))),
            ("a branch", false, Box::new(write("refs/heads/new", format!("{id}\n")))),
            ("a stash", false, Box::new(write("logs/refs/stash", entry.clone()))),
            ("a worktree", false, Box::new(write("worktrees/w/HEAD", format!("{id}\n")))),
            (
                "another HEAD",
                false,
                Box::new(|session| fs::write(session.join("HEAD"), "ref: refs/heads/x\n").expect("writes")),
            ),
            ("a merge", false, Box::new(write("MERGE_HEAD", format!("{id}\n")))),
            ("what HEAD did", false, Box::new(write("logs/HEAD", entry))),
            ("the index", false, Box::new(write("index", "x".into()))),
            (
                "a deleted tag",
                false,
                Box::new(|session| fs::remove_file(session.join("refs/tags/t")).expect("rm")),
            ),
        ];
        let wrong = acts.iter().enumerate().filter_map(|(at, (what, untouched, act))| {
            let (state, _) = build(&repository, (0, &temp.path().join(at.to_string())), "").expect("builds");
            act(&state.session());
            (is(&state) != *untouched).then_some(*what)
        });
        assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
    }
}
