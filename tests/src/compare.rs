//! git's own behaviour as the reference: the same commands on the same history, once straight to a server and once
//! from a sandbox through the broker. Exit codes, report lines and the refs on the server must be the same.

use std::path::{Path, PathBuf};

use crate::World;

/// One command and what it did.
#[derive(Debug, PartialEq, Eq)]
pub struct Did {
    /// The command.
    pub command: String,
    /// Its exit code.
    pub code: String,
    /// Its output, without what must differ: URLs, object counts, progress and keyhatch's own words.
    pub output: Vec<String>,
}

/// Commands for a shell, with `$GIT` for git. Each line is one command; its output and code are compared.
pub struct Script<'a> {
    /// The git to run on the client's side.
    pub git: &'a str,
    /// The commands.
    pub lines: &'a [&'a str],
}

impl Script<'_> {
    /// The script as a shell runs it: each command's output between marks.
    #[must_use]
    pub fn shell(&self) -> String {
        let mut text = format!("GIT={}\nexport LC_ALL=C\n", self.git);
        for line in self.lines {
            text.push_str(&format!(
                "echo '@@ {}'\n( {line} ) 2>&1\necho \"@= $?\"\n",
                line.replace('\'', "'\\''")
            ));
        }
        text
    }

    /// Reads what the shell printed.
    #[must_use]
    pub fn read(&self, printed: &str, hidden: &[String]) -> Vec<Did> {
        let mut did: Vec<Did> = Vec::new();
        for line in printed.lines() {
            if let Some(command) = line.strip_prefix("@@ ") {
                did.push(Did { command: command.to_owned(), code: String::new(), output: Vec::new() });
            } else if let (Some(code), Some(last)) = (line.strip_prefix("@= "), did.last_mut()) {
                last.code = code.to_owned();
            } else if let Some(last) = did.last_mut()
                && let Some(line) = comparable(line, hidden)
            {
                last.output.push(line);
            }
        }
        did
    }
}

/// A line without what must differ; none for one that may be absent.
fn comparable(line: &str, hidden: &[String]) -> Option<String> {
    // Progress overwrites itself with carriage returns, and object counts depend on negotiation.
    let line = line.rsplit('\r').next().unwrap_or_default().trim_end();
    let noise = [
        "remote: Enumerating",
        "remote: Counting",
        "remote: Compressing",
        "remote: Total",
        "Receiving objects",
        "Resolving deltas",
        "Unpacking objects",
        "Enumerating objects",
        "Counting objects",
        "Compressing objects",
        "Writing objects",
        "Total ",
        "Delta compression",
        "POST git-",
        "From ",
        "To ",
        "remote: keyhatch:",
        // git says these over ssh, and not over HTTP.
        "error: atomic push failed",
        "fatal: the remote end hung up",
    ];
    if line.is_empty() || noise.iter().any(|noise| line.starts_with(noise)) {
        return None;
    }
    // The URL, without its user over ssh, and rewritten through the broker.
    let quoted = ["error: failed to push some refs to ", "fatal: repository "];
    let mut line = match quoted.iter().find(|prefix| line.starts_with(**prefix)) {
        Some(prefix) => (*prefix).to_owned(),
        None => line.to_owned(),
    };
    for hidden in hidden {
        line = line.replace(hidden, "URL");
    }
    Some(line)
}

/// The refs of a repository, with what they point to.
#[must_use]
pub fn refs(world: &World, repository: &Path) -> Vec<String> {
    let listed = world.git(repository, &["for-each-ref", "--format=%(refname) %(objectname)"]).ok();
    listed.stdout.lines().map(str::to_owned).collect()
}

/// Makes the same project twice, with the same history, each with an upstream and a remote of its own.
pub fn twins(world: &World, format: &str, url: impl Fn(&Path) -> String) -> [(PathBuf, PathBuf); 2] {
    ["direct", "brokered"].map(|name| {
        let upstream = world.upstream(&format!("{name}.git"), format);
        let project = world.project_with(name, &url(&upstream), format);
        (project, upstream)
    })
}
