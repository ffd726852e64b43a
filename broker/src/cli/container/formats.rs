//! What is to be mounted and set, in the words of whoever starts the container.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;
use keyhatch_protocol::SessionId;
use serde::Serialize;

use super::sandboxes;
use crate::cli::Failure;
use crate::cli::args::Format;
use crate::cli::session::clock;
use crate::control::OpenedContainer;

/// A session as `keyhatch session open --json` prints it. Stable: fields are added, never changed.
#[derive(Debug, Serialize)]
struct Printed<'o> {
    /// Its id.
    session: &'o SessionId,
    /// The project's directory on the host.
    project: &'o Path,
    /// The policy's name.
    policy: &'o str,
    /// When it ends by itself, in seconds since the epoch.
    expires: u64,
    /// To be mounted in this order; the project itself is mounted by whoever starts the container.
    mounts: Vec<PrintedMount<'o>>,
    /// To be set for every process of the container.
    env: &'o BTreeMap<String, String>,
    /// What the user should know, a line each.
    warnings: &'o [String],
}

#[derive(Debug, Serialize)]
struct PrintedMount<'o> {
    /// A path on the host.
    source: &'o Path,
    /// A path inside.
    target: &'o Path,
    /// Whether nothing may be written through it.
    readonly: bool,
}

/// Renders a session. `service` is the one that a Compose file adds to.
pub(super) fn render(format: Format, opened: &OpenedContainer, service: &str) -> Result<String, Failure> {
    Ok(match format {
        Format::Text => text(opened),
        Format::Json => line(&json(opened))?,
        Format::Docker | Format::Podman => {
            let words: Vec<String> = options(opened)?.iter().map(|word| quoted(word)).collect();
            format!("{}\n", words.join(" "))
        }
        Format::Compose => compose(opened, service)?,
        Format::Devcontainer => devcontainer(opened)?,
        Format::Srt => sandboxes::srt(opened)?,
        Format::Codex => sandboxes::codex(),
        Format::Env => opened.env.iter().map(|(k, v)| format!("export {k}={}\n", quoted(v))).collect(),
    })
}

fn json(opened: &OpenedContainer) -> Printed<'_> {
    let mounts = opened.mounts.iter().map(|Mount { source, target, read_only }| PrintedMount {
        source,
        target,
        readonly: *read_only,
    });
    Printed {
        session: &opened.session,
        project: &opened.project,
        policy: &opened.policy,
        expires: opened.expires,
        mounts: mounts.collect(),
        env: &opened.env,
        warnings: &opened.warnings,
    }
}

fn line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::internal("cannot encode", &e))?;
    Ok(format!("{text}\n"))
}

fn text(opened: &OpenedContainer) -> String {
    let OpenedContainer { session, project, policy, mounts, env, expires, .. } = opened;
    let mut text = format!("session {session}, policy {policy}, {}\n", project.display());
    let mut say = |line: String| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {line}");
    };
    for Mount { source, target, read_only } in mounts {
        let how = if *read_only { " (read-only)" } else { "" };
        say(format!("mount  {} at {}{how}", source.display(), target.display()));
    }
    for (name, value) in env {
        say(format!("set    {name}={}", quoted(value)));
    }
    say(format!("ends   {}, or: keyhatch session close {session}", clock(*expires)));
    text
}

/// Options of `docker run` and `podman run`, one word each.
pub(super) fn options(opened: &OpenedContainer) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    for mount in &opened.mounts {
        let colon =
            [&mount.source, &mount.target].iter().any(|path| path.display().to_string().contains(':'));
        if colon {
            words.extend(["--mount".to_owned(), comma_separated(mount, "readonly")?]);
        } else {
            let how = if mount.read_only { ":ro" } else { "" };
            let volume = format!("{}:{}{how}", mount.source.display(), mount.target.display());
            words.extend(["--volume".to_owned(), volume]);
        }
    }
    for (name, value) in &opened.env {
        words.extend(["--env".to_owned(), format!("{name}={value}")]);
    }
    Ok(words)
}

/// `type=bind,source=…,target=…`, in which a path cannot hold a comma.
fn comma_separated(mount: &Mount, read_only: &str) -> Result<String, Failure> {
    let unsayable = |path: &&PathBuf| path.display().to_string().contains([',', '"', '\n']);
    if let Some(path) = [&mount.source, &mount.target].iter().find(|path| unsayable(path)) {
        return Err(Failure::invalid(
            format!("{} cannot be named in a mount option", path.display()),
            "--json names every path as it is",
        ));
    }
    let how = if mount.read_only { format!(",{read_only}") } else { String::new() };
    Ok(format!("type=bind,source={},target={}{how}", mount.source.display(), mount.target.display()))
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A Compose file. YAML takes JSON's strings; a `$` would be a variable.
fn compose(opened: &OpenedContainer, service: &str) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if service.is_empty() || !service.bytes().all(plain) {
        return Err(Failure::invalid(
            format!("{service} is no service's name"),
            "letters, digits, `.`, `_` and `-`",
        ));
    }
    let string = |text: &str| serde_json::Value::from(text.replace('$', "$$")).to_string();
    let mut text = format!("services:\n  {service}:\n    environment:\n");
    for (name, value) in &opened.env {
        text += &format!("      {name}: {}\n", string(value));
    }
    text += "    volumes:\n";
    for Mount { source, target, read_only } in &opened.mounts {
        let (source, target) = (string(&source.to_string_lossy()), string(&target.to_string_lossy()));
        text += &format!(
            "      - type: bind\n        source: {source}\n        target: {target}\n        read_only: {read_only}\n"
        );
    }
    Ok(text)
}

fn devcontainer(opened: &OpenedContainer) -> Result<String, Failure> {
    let mounts: Result<Vec<String>, Failure> =
        opened.mounts.iter().map(|mount| comma_separated(mount, "readonly")).collect();
    let value = serde_json::json!({ "mounts": mounts?, "containerEnv": opened.env });
    let text = serde_json::to_string_pretty(&value).map_err(|e| Failure::internal("cannot encode", &e))?;
    Ok(format!("{text}\n"))
}
