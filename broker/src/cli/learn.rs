//! `keyhatch policy learn -- CMD`: runs a command in the sandbox as ever, looks at what it misses, and writes the smallest
//! policy under which it misses nothing that a policy can give.
//!
//! It is never run with more than a user could have read before: each round has what the round before asked for, secrets'
//! places are never given, and the result is a proposal that the user reads and keeps.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use super::args::{Learn, Run};
use super::{Failure, paths, print, run};
use crate::paths::make_private;
use crate::session::report::SessionReport;

/// A command that fails early misses little at a time; what five rounds do not show needs a person.
const ROUNDS: usize = 5;

/// What a policy would have to give.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Wanted {
    /// Directories of the user's home.
    tools: BTreeSet<String>,
    /// Hidden files of the project.
    show: BTreeSet<String>,
    /// Hosts with ports.
    hosts: BTreeSet<String>,
    /// What git did through the hatch.
    git: BTreeSet<Service>,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Service {
    Fetch,
    Push,
}

impl Service {
    const ALL: [Self; 2] = [Self::Fetch, Self::Push];

    /// The one of an event in a report.
    fn of_event(event: &str) -> Option<Self> {
        match event.split_once('-')?.0 {
            "fetch" => Some(Self::Fetch),
            "push" => Some(Self::Push),
            _ => None,
        }
    }

    /// Its rule: what leaves is asked for.
    const fn rule(self) -> &'static str {
        match self {
            Self::Fetch => {
                "\n[[fetch]]\nname     = \"own remotes\"\nremote   = \"{remotes}\"\ndecision = \"allow\"\nreason   = \"learned\"\n"
            }
            Self::Push => {
                "\n[[push]]\nname     = \"own remotes\"\nremote   = \"{remotes}\"\nupdates  = [\"create\", \"fast-forward\"]\n\
                 decision = \"ask\"\nreason   = \"learned\"\n"
            }
        }
    }
}

pub(super) fn learn(args: &Learn) -> Result<ExitCode, Failure> {
    let at = paths()?.state().join("learn");
    make_private(&at).map_err(|error| Failure::internal("the directory for learning", &error))?;
    let candidate = at.join(format!("{}.toml", std::process::id()));
    let mut wanted = Wanted::default();
    let mut code = ExitCode::SUCCESS;
    for round in 1..=ROUNDS {
        write(&candidate, &wanted.for_a_round())?;
        eprintln!("keyhatch: learning, round {round}");
        let asked = Run {
            project: args.project.clone(),
            policy: candidate.display().to_string(),
            explain: true,
            inside: false,
            json: false,
            command: args.command.clone(),
        };
        let ran = run::run_reported(&asked);
        drop(std::fs::remove_file(&candidate));
        let (ended, report) = ran?;
        code = ended;
        let before = wanted.clone();
        report.iter().for_each(|report| wanted.add(report));
        if wanted == before {
            break;
        }
    }
    match &args.output {
        Some(file) => write(file, &wanted.learned())?,
        None => print(&wanted.learned())?,
    }
    Ok(code)
}

/// A file that only the user can write, and that did not exist, or was one.
fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        Failure::invalid(format!("cannot write {}: {error}", path.display()), "name a file of yours")
    })
}

impl Wanted {
    fn add(&mut self, report: &SessionReport) {
        for section in &report.sections {
            match section.name.as_str() {
                "denials" => {
                    let denials = section.data.as_array().into_iter().flatten();
                    let lines = denials.filter_map(|denial| denial["line"].as_str());
                    lines.for_each(|line| self.add_line(line));
                }
                "network" => {
                    let destinations = section.data["destinations"].as_object().into_iter().flatten();
                    let refused = destinations.filter(|(_, count)| count["line"].is_string());
                    self.hosts
                        .extend(refused.map(|(name, _)| name.clone()).filter(|name| name.contains(':')));
                }
                "git" => {
                    let events = section.data.as_object().into_iter().flatten();
                    self.git.extend(events.filter_map(|(event, _)| Service::of_event(event)));
                }
                _ => {}
            }
        }
    }

    /// A line as the denials name it: `[sandbox] tools = ["~/.x"]`.
    fn add_line(&mut self, line: &str) {
        let Some(value) = line.split('"').nth(1).map(str::to_owned) else { return };
        if line.starts_with("[sandbox] tools") {
            self.tools.insert(value);
        } else if line.starts_with("[sandbox] show") {
            self.show.insert(value);
        }
    }

    /// What a round runs with. The hatch asks before anything leaves, and a learning run is watched: it is open while it is
    /// not known what git needs.
    fn for_a_round(&self) -> String {
        self.policy(Service::ALL, true)
    }

    /// What was needed, and no more.
    fn learned(&self) -> String {
        self.policy(self.git.iter().copied(), !self.hosts.is_empty())
    }

    fn policy(&self, services: impl IntoIterator<Item = Service>, proxy: bool) -> String {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ")
        };
        let mut text = "name        = \"learned\"\ndescription = \"What one command needed: read it before you keep it.\"\n".to_owned();
        if !proxy {
            text.push_str("network     = \"none\"\n");
        }
        services.into_iter().for_each(|service| text.push_str(service.rule()));
        text.push_str("\n[sandbox]\n");
        text.push_str(&format!("tools = [{}]\n", list(&self.tools)));
        if !self.show.is_empty() {
            text.push_str("# Shown although it looks like a secret.\n");
            text.push_str(&format!("show  = [{}]\n", list(&self.show)));
        }
        if proxy {
            text.push_str(&format!("\n[network]\nmode  = \"allow\"\nallow = [{}]\n", list(&self.hosts)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use keyhatch_policies::Policy;

    use super::*;

    #[test]
    fn what_is_written_is_a_policy() {
        let mut wanted = Wanted::default();
        Policy::parse(&wanted.for_a_round(), "learned").unwrap_or_else(|error| panic!("{error}"));
        let least = Policy::parse(&wanted.learned(), "learned").unwrap_or_else(|error| panic!("{error}"));
        assert!(!wanted.learned().contains("remotes") && least.network().allow.is_empty());
        wanted.add_line("[sandbox] tools = [\"~/.cargo\"]");
        wanted.add_line("[sandbox] show = [\".env\"]");
        wanted.hosts.insert("api.example.org:443".into());
        wanted.git.extend(["fetch-allowed", "signed"].into_iter().filter_map(Service::of_event));
        let text = wanted.learned();
        let policy = Policy::parse(&text, "learned").unwrap_or_else(|error| panic!("{error}"));
        assert!(text.contains("[[fetch]]") && !text.contains("[[push]]"), "{text}");
        assert_eq!(policy.sandbox().tools, [".cargo"]);
        assert!(!policy.sandbox().hide.hides(".env"));
    }
}
