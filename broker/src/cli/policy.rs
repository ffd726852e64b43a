//! `keyhatch policy`, and how a policy's name becomes its text.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhatch_policies::{
    FetchOperation, Operation, Policy as Parsed, Project, PushOperation, describe, explain, shipped_names,
    shipped_text,
};
use keyhatch_protocol::{Facts, ObjectFormat, ObjectId, RefName, Remote, UpdateFact, UpdateKind};

use super::args::{Explain, Policy};
use super::{Failure, print};
use crate::paths::config_home;

/// Longest policy file, in bytes: the shipped ones have under 4 KiB.
const MAX_POLICY: u64 = 256 * 1024;

/// A policy's text and where it came from.
pub(super) struct Source {
    pub(super) origin: String,
    pub(super) text: String,
}

/// Finds a policy: a path if it looks like one, else the user's own of that name, else a shipped one.
///
/// A file inside `project` is refused: a session writes there, and would write its own permissions.
pub(super) fn find(name: &str, project: Option<&Path>) -> Result<Source, Failure> {
    if name.contains('/') || name.ends_with(".toml") {
        return read(Path::new(name), project);
    }
    if let Some(own) = own_directory().map(|dir| dir.join(format!("{name}.toml")))
        && own.exists()
    {
        return read(&own, project);
    }
    match shipped_text(name) {
        Some(text) => Ok(Source { origin: format!("{name}.toml"), text: text.to_owned() }),
        None => Err(Failure::invalid(
            format!("no policy is called {name}"),
            format!("shipped are {}; a path names a file", shipped_names().join(", ")),
        )),
    }
}

fn own_directory() -> Option<PathBuf> {
    Some(config_home()?.join("keyhatch/policies"))
}

/// Reads a policy file. Owner and mode are checked on the opened file, not on the path.
fn read(path: &Path, project: Option<&Path>) -> Result<Source, Failure> {
    let origin = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        Failure::invalid(format!("cannot read the policy {origin}: {error}"), "name a file that you own")
    };
    let resolved = path.canonicalize().map_err(unreadable)?;
    if project.is_some_and(|project| resolved.starts_with(project)) {
        return Err(Failure::invalid(
            format!("the policy {origin} lies in the project, where the agent can write"),
            "keep it in ~/.config/keyhatch/policies",
        ));
    }
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&resolved);
    let file = file.map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let owner_is_trusted = meta.uid() == rustix::process::getuid().as_raw() || meta.uid() == 0;
    if !meta.is_file() || !owner_is_trusted || meta.mode() & 0o022 != 0 {
        return Err(Failure::invalid(
            format!("the policy {origin} is not a file that only you can write"),
            format!("chmod go-w {origin}, and own it"),
        ));
    }
    let mut text = String::new();
    file.take(MAX_POLICY + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_POLICY {
        return Err(Failure::invalid(format!("the policy {origin} is longer than 256 KiB"), "split it"));
    }
    Ok(Source { origin, text })
}

fn parse(name: &str) -> Result<Parsed, Failure> {
    parsed(&find(name, None)?)
}

/// Parses a policy that was found.
pub(super) fn parsed(source: &Source) -> Result<Parsed, Failure> {
    Parsed::parse(&source.text, &source.origin).map_err(|error| {
        Failure::invalid(error.to_string(), "keyhatch policy show default prints one that is right")
    })
}

pub(super) fn policy(command: Policy) -> Result<ExitCode, Failure> {
    match command {
        Policy::List => {
            let mut names: Vec<String> = shipped_names().iter().map(|name| (*name).to_owned()).collect();
            if let Some(entries) = own_directory().and_then(|dir| std::fs::read_dir(dir).ok()) {
                let own = entries
                    .filter_map(Result::ok)
                    .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned));
                names.extend(own);
            }
            names.sort();
            names.dedup();
            print(&(names.join("\n") + "\n"))?;
        }
        Policy::Show { policy } => print(&describe(&parse(&policy)?))?,
        Policy::Check { policy } => {
            let policy = parse(&policy)?;
            print(&format!("{}: the policy is sound\n", policy.name()))?;
        }
        Policy::Learn(args) => return super::learn::learn(&args),
        Policy::Explain(args) => {
            let (policy, project, operation) = question(&args)?;
            print(&explain(&policy, &project, &operation))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The operation that the user asks about, with made-up object names: they play no part in a judgement.
fn question(args: &Explain) -> Result<(Parsed, Project, Operation), Failure> {
    let remote = |url: &String| {
        Remote::parse(url)
            .map_err(|error| Failure::invalid(error.to_string(), "write it as git remote -v prints it"))
    };
    let policy = parse(&args.policy)?;
    if args.operation == "sign" {
        return super::explain_sign::question(policy, args);
    }
    let asked = remote(args.remote.as_ref().unwrap_or(&String::new()))?;
    let remotes: Result<Vec<Remote>, Failure> = args.project_remotes.iter().map(remote).collect();
    let project = Project { remotes: remotes?, ..Project::default() };
    if args.operation == "fetch" {
        return Ok((policy, project, Operation::Fetch(FetchOperation { remote: asked })));
    }
    let ref_name = RefName::parse(args.ref_name.as_bytes())
        .map_err(|error| Failure::invalid(error.to_string(), "a full name, as refs/heads/main"))?;
    let kind = match args.update.as_str() {
        "create" => UpdateKind::Create,
        "force" => UpdateKind::Force,
        "delete" => UpdateKind::Delete,
        _ => UpdateKind::FastForward,
    };
    let zero = ObjectId::zero(ObjectFormat::Sha1);
    let update = UpdateFact { ref_name, kind, old: zero.clone(), new: zero, commit_count: None };
    let facts = Facts {
        object_format: ObjectFormat::Sha1,
        updates: vec![update],
        commit_count: 0,
        new_commit_count: 0,
        tag_count: 0,
        commits: Vec::new(),
        tags: Vec::new(),
        file_count: 0,
        files: Vec::new(),
        added: 0,
        removed: 0,
        object_count: 0,
        pack_bytes: 0,
        risks: Vec::new(),
        diff: String::new(),
        diff_cut: false,
    };
    let push = PushOperation { remote: asked, facts, push_options: Vec::new() };
    Ok((policy, project, Operation::Push(push)))
}
