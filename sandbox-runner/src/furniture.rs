//! What a command without a mount namespace gets in place of mounts: a home, temporary files and settings in a private
//! directory of the session's, and Landlock grants that step around whatever a mount would have covered.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::message::HELPER_INSIDE;
use keyhatch_protocol::message::git_directories::{self, GIT_DIRECTORIES_VARIABLE, Replaced};
use keyhatch_sandbox_rules::rules::{Mount, SandboxRules};

use crate::error::{RunError, at};
use crate::ruleset::{Grant, May, devices};

/// Files of the host that name users and services and no secret; tools cannot do without.
const PUBLIC: &[&str] = &["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"];

/// Where files of the session's lie that its git configuration names.
const OURS: &[&str] = &["/etc/keyhatch", "/etc/gitexcludes"];

/// The rules as they hold here, what may be reached, and what the user should know.
pub(crate) struct Furniture {
    pub rules: SandboxRules,
    pub grants: Vec<Grant>,
    pub notes: Vec<String>,
}

/// Makes directories and files, and points the environment at them.
pub(crate) fn prepare(given: &SandboxRules) -> Result<Furniture, RunError> {
    let mut rules = given.clone();
    let home = given.home_source.clone().unwrap_or_else(|| given.fallback.join("home"));
    let tmp = given.fallback.join("tmp");
    for directory in [&home, &tmp] {
        make(directory)?;
    }
    let names = moved(given, &home);
    for mount in given.mounts.iter().filter(|mount| mount.target.starts_with("/run")) {
        lead(&mount.source, &names)?;
    }
    for file in &given.files {
        let path = beneath(&given.fallback.join("files"), &file.path);
        path.parent().map_or(Ok(()), make)?;
        let content = file.bridged.as_ref().unwrap_or(&file.content);
        fs::write(&path, renamed(content, &names)).map_err(at("write", path.display().to_string()))?;
    }
    for value in rules.env.values_mut() {
        *value = match given.files.iter().find(|file| file.path.as_os_str() == value.as_str()) {
            Some(file) => beneath(&given.fallback.join("files"), &file.path).to_string_lossy().into_owned(),
            None => renamed(value, &names),
        };
    }
    rules.env.insert("TMPDIR".into(), tmp.to_string_lossy().into_owned());
    let own = own_git_directories(given);
    own.iter().try_for_each(|replaced| borrow(&replaced.own, &names))?;
    rules.env.insert(GIT_DIRECTORIES_VARIABLE.into(), git_directories::written(&own));
    if let Some(programs) = programs(given)? {
        // Not the host's directory that the helper is below in a root of its own.
        let path = rules.env.get("PATH").map_or("", String::as_str).trim_end_matches(":/run");
        rules.env.insert("PATH".into(), format!("{}:{path}", programs.display()));
    }
    let mut notes = vec![format!("temporary files are in {}; /tmp is out of reach", tmp.display())];
    let grants = grants(given, &mut notes);
    Ok(Furniture { rules, grants, notes })
}

fn make(directory: &Path) -> Result<(), RunError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(at("make", directory.display().to_string()))
}

/// Leads the links of a session's directory to where their targets are here.
fn lead(directory: &Path, names: &[(String, String)]) -> Result<(), RunError> {
    // A single file has no links, and whatever cannot be listed has none that anybody could follow.
    let links = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    for link in
        links.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink())).map(|entry| entry.path())
    {
        let failed = || at("lead", link.display().to_string());
        let target = fs::read_link(&link).map_err(failed())?;
        let here = renamed(&target.to_string_lossy(), names);
        if Path::new(&here) == target {
            // In a container the directory is where its links say it is, and cannot be written.
            continue;
        }
        fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(here, &link)).map_err(failed())?;
    }
    Ok(())
}

/// Lets a session's git directory borrow objects from where they are here: gitrepository-layout(5), `objects/info/alternates`.
fn borrow(directory: &Path, names: &[(String, String)]) -> Result<(), RunError> {
    let alternates = directory.join("objects/info/alternates");
    match fs::read_to_string(&alternates) {
        Ok(stores) => fs::write(&alternates, renamed(&stores, names)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(at("write", alternates.display().to_string()))
}

fn beneath(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path.strip_prefix("/").unwrap_or(path))
}

/// What would have been seen under another name: from, to.
fn moved(rules: &SandboxRules, home: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut names: Vec<(String, String)> = rules
        .mounts
        .iter()
        .filter(|mount| mount.source != mount.target && !is_covered(mount, rules))
        .map(|mount| (text(&mount.target), text(&mount.source)))
        .collect();
    let files = rules.files.iter().filter(|file| is_ours(&file.path));
    names.extend(files.map(|file| {
        let here = beneath(&rules.fallback.join("files"), &file.path);
        (text(&file.path), text(&here))
    }));
    // A name that begins like another stands before it.
    names.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    names.push((text(&rules.home), text(home)));
    names
}

/// Whether a mount covers something of a writable one: a mask, which has no other name.
fn is_covered(mount: &Mount, rules: &SandboxRules) -> bool {
    rules.mounts.iter().any(|under| {
        !under.read_only && under.target != mount.target && mount.target.starts_with(&under.target)
    })
}

fn is_ours(path: &Path) -> bool {
    OURS.iter().any(|ours| path.starts_with(ours))
}

/// A text with every path of these as it is here. Read once: what a path becomes may hold the name of another one, where
/// the user's runtime directory is named like it.
fn renamed(text: &str, names: &[(String, String)]) -> String {
    if let Some((_, to)) = names.iter().find(|(from, _)| text == from) {
        return to.clone();
    }
    // The home is renamed only whole, as above: the project may be below it, at its own path.
    let inside = |(from, _): &&(String, String)| from.starts_with("/run/") || is_ours(Path::new(from));
    let (mut done, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(slash) = rest.find('/') {
        let (before, path) = rest.split_at(slash);
        done.push_str(before);
        // In the middle of a longer path it is another one.
        let begins = !done.ends_with(|letter: char| letter.is_alphanumeric() || "._-/".contains(letter));
        let name = names.iter().filter(inside).find(|(from, _)| begins && path.starts_with(from.as_str()));
        let (to, taken) = name.map_or(("/", 1), |(from, to)| (to.as_str(), from.len()));
        done.push_str(to);
        rest = &path[taken..];
    }
    done + rest
}

/// The session's own git directories, which would be mounted over the host's: git is led to them by name.
fn own_git_directories(rules: &SandboxRules) -> Vec<Replaced> {
    let over = |mount: &&Mount| {
        !mount.read_only && mount.source != mount.target && !mount.target.starts_with("/run")
    };
    let replaced = |mount: &Mount| Replaced { host: mount.target.clone(), own: mount.source.clone() };
    rules.mounts.iter().filter(over).map(replaced).collect()
}

/// Makes the directory of programs that come before the system's: the helper by its name, and as git, which finds the session's git
/// directories where nothing is mounted. None in a container, where the helper is at its place and they are mounted.
fn programs(rules: &SandboxRules) -> Result<Option<PathBuf>, RunError> {
    let mount = rules.mounts.iter().find(|mount| mount.target == Path::new(HELPER_INSIDE));
    let Some(helper) = mount.map(|mount| &mount.source) else { return Ok(None) };
    let programs = rules.fallback.join("bin");
    make(&programs)?;
    for name in ["git", "keyhatch-helper"] {
        let link = programs.join(name);
        std::os::unix::fs::symlink(helper, &link).map_err(at("make", link.display().to_string()))?;
    }
    Ok(Some(programs))
}

fn grants(rules: &SandboxRules, notes: &mut Vec<String>) -> Vec<Grant> {
    let grant = |path: &Path, may| Grant { path: path.to_owned(), may };
    let mut grants: Vec<Grant> = rules.system.iter().map(|path| grant(path, May::Read)).collect();
    grants.extend(PUBLIC.iter().map(|path| grant(path.as_ref(), May::Read)));
    grants.push(grant("/proc".as_ref(), May::Read));
    // Switches of the kernel are root's files: writing to them needs no capability.
    if !rustix::process::getuid().is_root() {
        grants.push(grant("/proc".as_ref(), May::WriteExisting));
    }
    grants.extend(devices());
    if rules.terminal {
        // Its own and no other: the user's other terminals have the same owner, and obey what is written to them.
        grants.push(grant("/proc/self/fd/0".as_ref(), May::Device));
    }
    // Beside these is the hatch, in which nothing but pipes can be made.
    grants.extend(["home", "tmp"].map(|name| grant(&rules.fallback.join(name), May::Write)));
    grants.extend(["files", "bin"].map(|name| grant(&rules.fallback.join(name), May::Read)));
    grants.extend(rules.home_source.iter().map(|home| grant(home, May::Write)));
    for mount in &rules.mounts {
        let masks: Vec<&Mount> = rules
            .mounts
            .iter()
            .filter(|mask| mask.target != mount.target && mask.target.starts_with(&mount.target))
            .collect();
        if is_covered(mount, rules) {
            // Its own source is reached by name where it is a directory of the session's; a mask covers, and is not seen;
            // a directory over itself is there so that it cannot be renamed.
            if !mount.read_only && mount.source != mount.target {
                grants.push(grant(&mount.source, May::Write));
            }
        } else if mount.read_only {
            grants.push(grant(&mount.source, May::Read));
        } else if mount.target.starts_with("/run") {
            grants.push(grant(&mount.source, May::Connect));
        } else if masks.is_empty() {
            grants.push(grant(&mount.source, May::Write));
        } else {
            around(&mount.source, &masks, &mut grants, notes);
        }
    }
    grants
}

/// Landlock cannot take a hole out of a grant: each entry of a directory that holds something covered is granted by itself.
fn around(directory: &Path, masks: &[&Mount], grants: &mut Vec<Grant>, notes: &mut Vec<String>) {
    notes.push(format!(
        "{} holds what is protected: no file can be made in it itself, only below its directories",
        directory.display()
    ));
    grants.push(Grant { path: directory.to_owned(), may: May::List });
    let entries = fs::read_dir(directory).map(|entries| entries.collect::<io::Result<Vec<_>>>());
    for entry in entries.and_then(|entries| entries).unwrap_or_default() {
        let path = entry.path();
        let covers = |mask: &&&Mount| mask.target == path && (mask.read_only || mask.source != mask.target);
        if let Some(mask) = masks.iter().find(covers) {
            // A file that is shown read-only as it is may be read; one that something else covers may not.
            if mask.source == mask.target {
                grants.push(Grant { path, may: May::Read });
            }
        } else if masks.iter().any(|mask| mask.target.starts_with(&path)) {
            around(&path, masks, grants, notes);
        } else if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            grants.push(Grant { path, may: May::Write });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_renamed_once_and_only_where_it_begins() {
        let names: Vec<(String, String)> = [
            ("/run/keyhatch-helper", "/opt/keyhatch-helper"),
            ("/etc/keyhatch/key.pub", "/x/run/keyhatch/files/key.pub"),
            ("/run/keyhatch", "/x/run/keyhatch/sessions/1"),
            ("/home/ada", "/x/home"),
        ]
        .map(|(from, to)| (from.to_owned(), to.to_owned()))
        .into();
        for (text, here) in [
            ("key = /etc/keyhatch/key.pub", "key = /x/run/keyhatch/files/key.pub"),
            ("program = \"/run/keyhatch/gpg\"", "program = \"/x/run/keyhatch/sessions/1/gpg\""),
            ("command = /run/keyhatch-helper ssh", "command = /opt/keyhatch-helper ssh"),
            ("/srv/run/keyhatch/objects", "/srv/run/keyhatch/objects"),
            ("/home/ada", "/x/home"),
            ("/home/ada/p", "/home/ada/p"),
            ("none", "none"),
        ] {
            assert_eq!(renamed(text, &names), here, "{text}");
        }
    }

    #[test]
    fn grants_step_around_what_is_covered() {
        let project = tempfile::tempdir().expect("a directory");
        for name in ["src", ".git", "docs"] {
            fs::create_dir(project.path().join(name)).expect("a directory");
        }
        fs::write(project.path().join(".env"), "secret").expect("a file");
        fs::write(project.path().join(".envrc"), "run").expect("a file");
        let at = |name: &str| project.path().join(name);
        let mount = |source: PathBuf, target: PathBuf| Mount { source, target, read_only: true };
        let hidden = mount("/empty".into(), at(".env"));
        let shown = mount(at(".envrc"), at(".envrc"));
        let inner = mount("/config".into(), at(".git/config"));
        let pinned = Mount { source: at("docs"), target: at("docs"), read_only: false };
        let (mut grants, mut notes) = (Vec::new(), Vec::new());
        around(project.path(), &[&hidden, &shown, &inner, &pinned], &mut grants, &mut notes);
        let may =
            |name: &str| grants.iter().filter(|g| g.path == at(name)).map(|g| g.may).collect::<Vec<_>>();
        assert_eq!(may("src"), [May::Write]);
        assert_eq!(may(".env"), [], "hidden");
        assert_eq!(may(".envrc"), [May::Read], "as it is, read-only");
        assert_eq!(may(".git"), [May::List], "not whole");
        assert_eq!(may("docs"), [May::List], "kept in place, its content is free");
        assert_eq!(notes.len(), 3);
    }
}
