//! go: `go env` has its proxies and its checksum database, defaults included, and which modules are kept from them.

use keyhatch_policies::network::Registry;
use url::Url;

use super::ask::NoAnswer;
use super::{Answer, Tools, without_login};

pub(super) fn ask(tools: &Tools) -> Answer {
    match tools.ask("go", &["env", "GOPROXY", "GOSUMDB", "GONOPROXY", "GONOSUMDB"]) {
        Ok(printed) => read(&printed),
        Err(why) => Answer::unknown(Registry::Go, why),
    }
}

fn read(printed: &str) -> Answer {
    let mut lines = printed.lines();
    let (proxies, database) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut answer = Answer::empty(Registry::Go);
    let mut inside = Vec::new();
    // `,` and `|` say when the next is asked; `direct` and `off` are no hosts.
    for part in proxies.split([',', '|']).map(str::trim) {
        match Url::parse(part) {
            Ok(url) => {
                answer.add(&url);
                inside.push(without_login(&url).to_string());
            }
            Err(_) => inside.push(part.to_owned()),
        }
    }
    if answer.hosts.is_empty() {
        return Answer::unknown(Registry::Go, NoAnswer::Failed);
    }
    answer.env.insert("GOPROXY".into(), inside.join(","));
    // `NAME`, `NAME+KEY` or `NAME+KEY URL`.
    let mut words = database.split_whitespace();
    let name = words.next().unwrap_or("off");
    let host = words
        .next()
        .map_or_else(|| format!("https://{}/", name.split('+').next().unwrap_or(name)), str::to_owned);
    match Url::parse(&host) {
        Ok(url) if name != "off" => {
            answer.add(&url);
            answer.env.insert("GOSUMDB".into(), database.to_owned());
        }
        // The user asks none: inside, go would ask the usual one, which is not allowed.
        _ => drop(answer.env.insert("GOSUMDB".into(), "off".to_owned())),
    }
    // Patterns of modules, and no hosts: those go to their own servers, through the hatch or the policy's list.
    for (name, patterns) in ["GONOPROXY", "GONOSUMDB"].into_iter().zip(lines) {
        if !patterns.trim().is_empty() {
            answer.env.insert(name.into(), patterns.trim().to_owned());
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_the_checksum_database_are_read() {
        let answer = read("https://ada:pw@goproxy.example,direct\nsum.example\n");
        let hosts: Vec<String> = answer.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["goproxy.example:443", "sum.example:443"]);
        assert_eq!(answer.env["GOPROXY"], "https://goproxy.example/,direct");
        assert!(read("direct\noff\n").note.is_some());
        let private = read("https://goproxy.example\noff\ngit.corp.example\n\n");
        assert_eq!((private.env["GOSUMDB"].as_str(), private.hosts.len()), ("off", 1));
        assert_eq!(private.env["GONOPROXY"], "git.corp.example");
        assert!(!private.env.contains_key("GONOSUMDB"));
    }
}
