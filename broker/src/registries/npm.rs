//! npm: `npm config list --json` has its registry and those of scopes, defaults included and secrets left out.

use keyhatch_policies::network::Registry;
use serde_json::{Map, Value};
use url::Url;

use super::ask::NoAnswer;
use super::{Answer, Tools, has_login, without_login};

pub(super) fn ask(tools: &Tools) -> Answer {
    match tools.ask("npm", &["config", "list", "--json"]) {
        Ok(printed) => read(&printed),
        Err(why) => Answer::unknown(Registry::Npm, why),
    }
}

fn read(printed: &str) -> Answer {
    let Ok(settings) = serde_json::from_str::<Map<String, Value>>(printed) else {
        return Answer::unknown(Registry::Npm, NoAnswer::Failed);
    };
    let mut answer = Answer::empty(Registry::Npm);
    let mut logins = false;
    for (key, value) in &settings {
        let is_registry = key == "registry" || (key.starts_with('@') && key.ends_with(":registry"));
        let url = value.as_str().filter(|_| is_registry).and_then(|text| Url::parse(text).ok());
        let Some(url) = url else { continue };
        answer.add(&url);
        logins |= has_login(&url);
        answer.env.insert(format!("npm_config_{key}"), without_login(&url).to_string());
    }
    if answer.hosts.is_empty() {
        return Answer::unknown(Registry::Npm, NoAnswer::Failed);
    }
    if logins {
        answer.note = Some(
            "npm: the login of its registry stays on this side; packages that need it are refused there"
                .into(),
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_and_those_of_scopes_are_read() {
        let answer = read(
            r#"{"registry": "https://mirror.example/npm/", "@acme:registry": "http://ada:pw@npm.acme.example:4873/", "fund": false}"#,
        );
        let hosts: Vec<String> = answer.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["npm.acme.example:4873", "mirror.example:443"]);
        assert_eq!(answer.env["npm_config_@acme:registry"], "http://npm.acme.example:4873/");
        assert!(answer.note.is_some_and(|note| !note.contains("pw")));
        assert!(read("npm ERR!").note.is_some() && read("{}").hosts.is_empty());
    }
}
