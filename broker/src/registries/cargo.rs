//! cargo: it prints its configuration to nobody, so it is let look for one small crate with the user's configuration and an
//! empty home, and what it then has says where it came from: the index, and the host of the files (`dl`).

use std::fs;
use std::path::Path;

use keyhatch_policies::network::Registry;
use keyhatch_policies::rules::FileInside;
use serde_json::Value;
use toml::Table;
use url::Url;

use super::ask::NoAnswer;
use super::{Answer, Tools, without_login};

/// A project with one dependency, which every mirror has: cargo's own suggestion for a first one.
const MANIFEST: &str = "\
[workspace]
[package]
name = \"asked\"
version = \"0.0.0\"
edition = \"2021\"
[dependencies]
itoa = \"1\"
[lib]
path = \"lib.rs\"
";
/// Sections of a configuration that say where crates come from.
const SECTIONS: &[&str] = &["source", "registries", "registry"];

pub(super) fn ask(tools: &Tools) -> Answer {
    let configuration = configuration(tools);
    let mut answer = Answer::empty(Registry::Cargo);
    for url in addresses(&configuration) {
        answer.add(&url);
    }
    match tools.empty_directory().and_then(|directory| fetch(tools, directory.path(), &configuration)) {
        Ok(urls) => urls.iter().for_each(|url| answer.add(url)),
        Err(why) if answer.hosts.is_empty() => return Answer::unknown(Registry::Cargo, why),
        Err(why) => {
            answer.note = Some(format!("cargo: which host its files come from is not known: {}", why.word()));
        }
    }
    if answer.hosts.is_empty() {
        return Answer::unknown(Registry::Cargo, NoAnswer::Failed);
    }
    if !configuration.is_empty() {
        // cargo looks in every directory above the project too, and the root inside is ours; the home may be the agent's.
        let path = "/.cargo/config.toml";
        answer.files.push(FileInside::new(path, configuration.to_string()));
    }
    answer
}

/// The user's configuration, as far as it says where crates come from, without logins.
fn configuration(tools: &Tools) -> Table {
    let home = tools.path("CARGO_HOME").unwrap_or_else(|| tools.home().join(".cargo"));
    let text = ["config.toml", "config"].iter().find_map(|name| fs::read_to_string(home.join(name)).ok());
    clean(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

fn clean(mut configuration: Table) -> Table {
    configuration.retain(|name, _| SECTIONS.contains(&name));
    for (_, section) in &mut configuration {
        visit(section);
    }
    configuration
}

/// Takes tokens and their helpers away, and logins out of addresses.
fn visit(value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => {
            table.retain(|name, _| !name.contains("token") && !name.contains("credential"));
            table.iter_mut().for_each(|(_, value)| visit(value));
        }
        toml::Value::String(text) => {
            let (kind, address) = text.split_once('+').unwrap_or(("", text));
            if let Ok(url) = Url::parse(address)
                && super::has_login(&url)
            {
                let url = without_login(&url);
                *text = if kind.is_empty() { url.to_string() } else { format!("{kind}+{url}") };
            }
        }
        _ => {}
    }
}

/// The addresses that a configuration names.
fn addresses(configuration: &Table) -> Vec<Url> {
    let entries = configuration.values().filter_map(toml::Value::as_table).flat_map(Table::values);
    let tables = entries.filter_map(toml::Value::as_table);
    let texts = tables.flat_map(|table| ["registry", "index"].map(|key| table.get(key)));
    texts.flatten().filter_map(|text| address(text.as_str()?)).collect()
}

fn address(text: &str) -> Option<Url> {
    // `{crate}` and its like stand in the path, if anywhere.
    Url::parse(text.strip_prefix("sparse+").unwrap_or(text)).ok()
}

/// Lets cargo fetch, and reads what its index said about itself.
fn fetch(tools: &Tools, directory: &Path, configuration: &Table) -> Result<Vec<Url>, NoAnswer> {
    let home = directory.join("home");
    let prepared = fs::create_dir(&home)
        .and_then(|()| fs::write(directory.join("Cargo.toml"), MANIFEST))
        .and_then(|()| fs::write(directory.join("lib.rs"), ""))
        .and_then(|()| fs::write(home.join("config.toml"), configuration.to_string()));
    prepared.map_err(|_| NoAnswer::Failed)?;
    let more = [("CARGO_HOME", home.as_path())];
    let arguments: &[&str] = &["generate-lockfile", "--quiet"];
    tools.ask_in(directory, ("cargo", arguments), &more)?;
    let indexes = fs::read_dir(home.join("registry/index")).map_err(|_| NoAnswer::Failed)?;
    let mut urls = Vec::new();
    for index in indexes.filter_map(Result::ok) {
        let text = fs::read_to_string(index.path().join("config.json")).unwrap_or_default();
        if let Some(dl) =
            serde_json::from_str::<Value>(&text).ok().and_then(|said| address(said["dl"].as_str()?))
        {
            urls.push(dl);
        }
        // `HOST-HASH`: the directory is named for the index.
        let name = index.file_name().to_string_lossy().into_owned();
        if let Some((host, _)) = name.rsplit_once('-') {
            urls.extend(Url::parse(&format!("https://{host}/")).ok());
        }
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_keeps_addresses_and_loses_secrets() {
        let text = "[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+https://u:pw@m.example:8443/i/\"\n\
                    [registries.acme]\nindex = \"https://git.acme.example/i\"\ntoken = \"secret\"\n\
                    [registry]\nglobal-credential-providers = [\"cargo:token\"]\n[build]\nrustc-wrapper = \"evil\"\n";
        let cleaned = clean(text.parse().expect("toml"));
        let printed = cleaned.to_string();
        assert!(
            !printed.contains("secret") && !printed.contains("pw") && !printed.contains("wrapper"),
            "{printed}"
        );
        assert!(printed.contains("sparse+https://m.example:8443/i/"), "{printed}");
        let hosts: Vec<Option<String>> =
            addresses(&cleaned).iter().map(|url| url.host_str().map(str::to_owned)).collect();
        assert_eq!(hosts.len(), 2, "{hosts:?}");
    }
}
