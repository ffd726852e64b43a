//! Where the user's own tools fetch packages from: asked from the tools, so that a company's mirror works by itself and no
//! registry's name stands in our code.
//!
//! Runs on the user's side, before the session opens: in an empty directory, with a clean environment, in a bounded time.
//! Goes out: destinations for the policy, and settings that lead the same tools inside to the same place. A login in an
//! address stays here.

mod ask;
mod cache;
mod cargo;
mod go;
mod npm;
mod pip;

use std::collections::BTreeMap;
use std::path::Path;

use keyhatch_policies::network::{Registry, RegistryHost};
use keyhatch_policies::rules::FileInside;
use keyhatch_protocol::Destination;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::paths::make_private;

use ask::NoAnswer;
pub use ask::Tools;

/// What one tool said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Whose.
    pub registry: Registry,
    /// Where it fetches from.
    pub hosts: Vec<Destination>,
    /// Variables that lead it there inside.
    pub env: BTreeMap<String, String>,
    /// Files that lead it there inside.
    pub files: Vec<FileInside>,
    /// What it could not tell.
    pub note: Option<String>,
}

impl Answer {
    fn empty(registry: Registry) -> Self {
        Self { registry, hosts: Vec::new(), env: BTreeMap::new(), files: Vec::new(), note: None }
    }

    /// A tool that is not there is no news: a policy speaks of more tools than a machine has.
    fn unknown(registry: Registry, why: NoAnswer) -> Self {
        let note = format!(
            "{}: {}; what it cannot reach is named at the end, with the line for [network] allow",
            registry.word(),
            why.word()
        );
        Self { note: (why != NoAnswer::Missing).then_some(note), ..Self::empty(registry) }
    }

    /// Adds the host of an address; what is no web address names none.
    fn add(&mut self, url: &Url) {
        let usual_port = match url.scheme() {
            "https" => 443,
            "http" => 80,
            _ => return,
        };
        let Some(host) = url.host_str() else { return };
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        if let Ok(found) = Destination::parse_authority(&format!("{host}{port}"), usual_port)
            && !self.hosts.contains(&found)
        {
            self.hosts.push(found);
        }
    }
}

/// The hosts of all answers.
#[must_use]
pub fn hosts(answers: &[Answer]) -> Vec<RegistryHost> {
    let of = |answer: &Answer| {
        let registry = answer.registry;
        answer.hosts.clone().into_iter().map(move |destination| RegistryHost { registry, destination })
    };
    answers.iter().flat_map(of).collect()
}

/// Asks every tool of a policy, all at once; answers that are still fresh are taken from `state`. Nothing in the project is
/// run or obeyed.
#[must_use]
pub fn ask(registries: &[Registry], state: &Path, project: Option<&Path>) -> Vec<Answer> {
    if registries.is_empty() {
        return Vec::new();
    }
    let directory = state.join("registries");
    if let Err(error) = make_private(&directory) {
        tracing::warn!(%error, "the tools cannot be asked");
        return registries.iter().map(|registry| Answer::unknown(*registry, NoAnswer::Failed)).collect();
    }
    let tools = Tools::of_user(directory.clone(), project);
    std::thread::scope(|scope| {
        let asked: Vec<_> = registries
            .iter()
            .map(|registry| (*registry, scope.spawn(|| cache::answer(&tools, *registry, &directory))))
            .collect();
        let joined = asked.into_iter().map(|(registry, thread)| {
            thread.join().unwrap_or_else(|_| Answer::unknown(registry, NoAnswer::Failed))
        });
        joined.collect()
    })
}

fn fresh(tools: &Tools, registry: Registry) -> Answer {
    match registry {
        Registry::Npm => npm::ask(tools),
        Registry::Pip => pip::ask(tools),
        Registry::Cargo => cargo::ask(tools),
        Registry::Go => go::ask(tools),
    }
}

/// An address without user and password: inside, there is no use for them, and they are secrets.
fn without_login(url: &Url) -> Url {
    let mut url = url.clone();
    // Both refuse only addresses that have no host; those name nothing to reach.
    url.set_username("").ok();
    url.set_password(None).ok();
    url
}

fn has_login(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_destination_without_its_login() {
        let url = Url::parse("https://ada:secret@Mirror.example:8443/simple/").expect("a url");
        let mut answer = Answer::empty(Registry::Pip);
        answer.add(&url);
        answer.add(&Url::parse("file:///opt/wheels").expect("a url"));
        assert_eq!(answer.hosts, [Destination::parse("mirror.example:8443").expect("parses")]);
        assert_eq!(without_login(&url).as_str(), "https://mirror.example:8443/simple/");
        assert!(has_login(&url) && !has_login(&without_login(&url)));
    }
}
