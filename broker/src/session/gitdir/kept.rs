//! Repositories that a session set up where the host has none of its own (a submodule that was not there yet): their
//! commits are kept in a bare repository of our making, and the report says how to fetch them.
//!
//! Comes in: git directories that are the session's from the first byte. Goes out: objects and branches as data, under a
//! configuration of ours. The host's git looks at them when the user fetches them, as at a stranger's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keyhatch_protocol::text::shown_name;
use keyhatch_protocol::{ObjectFormat, ObjectId, RefName};
use rustix::fs::FileType;
use serde_json::json;

use super::beneath::Beneath;
use super::harvest::MAX_LOG;
use super::reflog::LogEntry;
use super::refs::{Head, MAX_PACKED, Refs, loose, packed, render_packed};
use super::state::Record;
use crate::session::report::Section;

/// Deepest place below `modules`: submodules' names have slashes.
const MAX_DEPTH: usize = 6;
/// Most repositories, and most files of one directory.
const MAX_KEPT: usize = 50;
const MAX_FILES: usize = 100_000;
/// The branch that a commit on no branch is kept as.
const DETACHED: &[u8] = b"refs/heads/session-HEAD";
/// Longest list of shallow commits.
const MAX_SHALLOW: u64 = 4 * 1024 * 1024;

/// Keeps what a session committed in such repositories, under `place`; one section for all.
///
/// # Errors
/// When something cannot be kept: then the session's own directory must stay.
pub(super) fn keep(directory: &Path, record: &Record, place: &Path) -> io::Result<Option<Section>> {
    let mut kept: Vec<(String, PathBuf, Refs)> = Vec::new();
    for (name, from) in found(directory, record) {
        let inside = Beneath::hostile(&from)?;
        let refs = branches(&inside)?;
        let Some(format) = refs.values().next().map(ObjectId::format) else { continue };
        let to = place.join(format!("{}.git", kept.len()));
        make(&to, format, &refs)?;
        copy(&inside, &to, record.limits.pack_bytes)?;
        kept.push((name, to, refs));
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let lines = kept.iter().flat_map(|(name, at, refs)| {
        let branches: Vec<String> = refs.keys().map(|name| shown_name(name.short())).collect();
        [
            format!(
                "{}: a repository that the session set up; kept: {}",
                shown_name(name),
                branches.join(", ")
            ),
            format!(
                "  take, in that submodule: git fetch {} 'refs/heads/*:refs/remotes/session/*'",
                at.display()
            ),
        ]
    });
    let data = kept.iter().map(|(name, at, refs)| {
        json!({"name": name, "kept": at.to_string_lossy(), "branches": refs.iter().map(|(n, id)| json!({"ref": n.as_str(), "id": id.as_str()})).collect::<Vec<_>>()})
    });
    Ok(Some(Section {
        name: "kept".into(),
        lines: lines.collect(),
        data: json!({"repositories": data.collect::<Vec<_>>()}),
    }))
}

/// Git directories below `modules` that the host does not have, and those in worktrees of submodules that were not there.
fn found(directory: &Path, record: &Record) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for state in &record.repositories {
        let mut waiting = vec![("modules".to_owned(), 0)];
        let Ok(inside) = Beneath::hostile(&state.session()) else { continue };
        while let Some((path, depth)) = waiting.pop() {
            if inside.has(&format!("{path}/HEAD")) {
                if !state.common.join(&path).exists() {
                    found.push((path.trim_start_matches("modules/").to_owned(), state.session().join(path)));
                }
                continue;
            }
            let entries = inside.list(&path, MAX_FILES).unwrap_or_default();
            let names = entries.iter().filter(|entry| entry.kind == FileType::Directory && depth < MAX_DEPTH);
            waiting.extend(
                names.filter_map(|entry| Some((format!("{path}/{}", entry.name.to_str()?), depth + 1))),
            );
        }
    }
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("submodule-")) {
        let git = entry.path().join(".git");
        if fs::symlink_metadata(&git).is_ok_and(|metadata| metadata.is_dir()) {
            found.push((entry.file_name().to_string_lossy().into_owned(), git));
        }
    }
    found.truncate(MAX_KEPT);
    found
}

/// The branches that no upstream is known to have, and a commit of the session's that is on none: `git submodule update`
/// leaves `HEAD` detached, and whoever commits there makes no branch.
fn branches(inside: &Beneath) -> io::Result<Refs> {
    let mut all: Refs = packed(&inside.read("packed-refs", MAX_PACKED)?.unwrap_or_default()).collect();
    all.extend(loose(inside)?);
    let of = |prefix: &'static str| {
        move |(name, id): (keyhatch_protocol::RefName, ObjectId)| {
            name.as_str().starts_with(prefix).then_some((name, id))
        }
    };
    let upstream: BTreeSet<ObjectId> =
        all.clone().into_iter().filter_map(of("refs/remotes/")).map(|(_, id)| id).collect();
    let mut branches: Refs =
        all.into_iter().filter_map(of("refs/heads/")).filter(|(_, id)| !upstream.contains(id)).collect();
    if let Some(Head::Detached(id)) = Head::read(inside, "HEAD")
        && !upstream.contains(&id)
        && !branches.values().any(|branch| *branch == id)
        && is_made_here(inside, &id)?
        && let Ok(name) = RefName::parse(DETACHED)
    {
        branches.entry(name).or_insert(id);
    }
    Ok(branches)
}

/// Whether a commit was more than gone to: by what the log of `HEAD` says of it, and where it says nothing too.
fn is_made_here(inside: &Beneath, id: &ObjectId) -> io::Result<bool> {
    let log = inside.read("logs/HEAD", MAX_LOG)?.unwrap_or_default();
    let of = LogEntry::tail(&log, usize::MAX).into_iter().filter(|entry| entry.new == *id);
    let gone_to =
        |entry: &LogEntry| ["checkout:", "clone:"].iter().any(|word| entry.message.starts_with(word));
    let mut of = of.peekable();
    Ok(of.peek().is_none() || of.any(|entry| !gone_to(&entry)))
}

fn make(to: &Path, format: ObjectFormat, refs: &Refs) -> io::Result<()> {
    fs::create_dir_all(to.join("objects/pack"))?;
    fs::create_dir_all(to.join("refs"))?;
    let config = match format {
        ObjectFormat::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        ObjectFormat::Sha256 => {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
        }
    };
    fs::write(to.join("config"), config)?;
    fs::write(to.join("packed-refs"), render_packed(refs))?;
    let head = refs.keys().next().map(|name| format!("ref: {name}\n")).unwrap_or_default();
    fs::write(to.join("HEAD"), head)
}

/// Copies objects by their names, and nothing else.
fn copy(inside: &Beneath, to: &Path, most: u64) -> io::Result<()> {
    let mut left = most;
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    for directory in inside.list("objects", MAX_FILES)? {
        let Some(name) = directory.name.to_str() else { continue };
        if !(name == "pack" || name.len() == 2 && hex(name)) {
            continue;
        }
        fs::create_dir_all(to.join("objects").join(name))?;
        for file in inside.list(format!("objects/{name}"), MAX_FILES)? {
            let Some(file) = file.name.to_str() else { continue };
            let stem = file.strip_prefix("pack-").and_then(|pack| {
                ["pack", "idx"].iter().find_map(|end| pack.strip_suffix(&format!(".{end}")))
            });
            if !(name == "pack" && stem.is_some_and(hex) || name != "pack" && hex(file)) {
                continue;
            }
            let path = format!("objects/{name}/{file}");
            let mut from = io::Read::take(inside.file(&path)?, left.saturating_add(1));
            let size = io::copy(&mut from, &mut fs::File::create(to.join(path))?)?;
            left = left
                .checked_sub(size)
                .ok_or_else(|| io::Error::other("it is larger than the policy allows"))?;
        }
    }
    let shallow = inside.read("shallow", MAX_SHALLOW)?.unwrap_or_default();
    let text = String::from_utf8(shallow).map_err(io::Error::other)?;
    let ids: String = text.lines().filter(|line| hex(line)).map(|line| format!("{line}\n")).collect();
    if ids.is_empty() { Ok(()) } else { fs::write(to.join("shallow"), ids) }
}
