//! pip: `pip config list` has what is configured, its help has the default, and a trial run says which host the files
//! come from: an index usually links to another one.

use keyhatch_policies::network::Registry;
use serde_json::Value;
use url::Url;

use super::ask::NoAnswer;
use super::{Answer, Tools, has_login, without_login};

/// What a trial run would install, without installing it: pip itself, which every index has.
const TRIAL: &[&str] = &[
    "install",
    "--quiet",
    "--dry-run",
    "--ignore-installed",
    "--no-deps",
    "--only-binary=:all:",
    "--disable-pip-version-check",
    "--no-input",
    "--report=-",
    "pip",
];

pub(super) fn ask(tools: &Tools) -> Answer {
    // A machine may have it under either name.
    let program = match tools.ask("pip", &["--version"]) {
        Err(NoAnswer::Missing) => "pip3",
        _ => "pip",
    };
    let configured = match tools.ask(program, &["config", "list"]) {
        Ok(printed) => configured(&printed),
        Err(why) => return Answer::unknown(Registry::Pip, why),
    };
    let mut answer = Answer::empty(Registry::Pip);
    let index = configured.index.clone().or_else(|| usual(&tools.ask(program, &["install", "--help"]).ok()?));
    let Some(index) = index else {
        return Answer::unknown(Registry::Pip, NoAnswer::Failed);
    };
    answer.add(&index);
    answer.env.insert("PIP_INDEX_URL".into(), without_login(&index).to_string());
    configured.extra.iter().for_each(|url| answer.add(url));
    if !configured.extra.is_empty() {
        let extra: Vec<String> = configured.extra.iter().map(|url| without_login(url).to_string()).collect();
        answer.env.insert("PIP_EXTRA_INDEX_URL".into(), extra.join(" "));
    }
    match tools.ask(program, TRIAL) {
        Ok(report) => files(&report).iter().for_each(|url| answer.add(url)),
        Err(why) => {
            answer.note = Some(format!("pip: which host its files come from is not known: {}", why.word()))
        }
    }
    if has_login(&index) || configured.extra.iter().any(has_login) {
        answer.note = Some(
            "pip: the login of its index stays on this side; packages that need it are refused there".into(),
        );
    }
    answer
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Configured {
    index: Option<Url>,
    extra: Vec<Url>,
}

/// Reads lines as `global.index-url='https://…'`, `:env:.extra-index-url='… …'`; later lines win, as in pip.
fn configured(printed: &str) -> Configured {
    let mut found = Configured::default();
    for line in printed.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        // pip prints a line break inside a value as `\n`.
        let value = value.trim_matches(['\'', '"']).replace("\\n", " ");
        let mut urls = value.split_whitespace().filter_map(|text| Url::parse(text).ok());
        match key.rsplit('.').next() {
            Some("index-url") => found.index = urls.next().or(found.index),
            Some("extra-index-url") => found.extra.extend(urls),
            _ => {}
        }
    }
    found
}

/// The default in pip's help: `--index-url <url> Base URL of the Python Package Index (default https://…).`
fn usual(help: &str) -> Option<Url> {
    let after = help.split_once("--index-url")?.1;
    let text = after.split_once("(default")?.1;
    Url::parse(text.trim_start().split([')', ' ', '\n']).next()?).ok()
}

/// Where the files of a trial run come from.
fn files(report: &str) -> Vec<Url> {
    let Ok(report) = serde_json::from_str::<Value>(report) else { return Vec::new() };
    let installs = report["install"].as_array().cloned().unwrap_or_default();
    installs.iter().filter_map(|one| Url::parse(one["download_info"]["url"].as_str()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a url")
    }

    #[test]
    fn the_configured_index_and_more_are_read() {
        let found = configured(
            "global.cert='/etc/x'\nglobal.index-url='https://a.example/simple'\n\
             :env:.extra-index-url='https://b.example/s https://c.example/s'\n:env:.index-url='https://d.example/simple'\n",
        );
        assert_eq!(found.index, Some(url("https://d.example/simple")));
        assert_eq!(found.extra, [url("https://b.example/s"), url("https://c.example/s")]);
    }

    #[test]
    fn the_default_is_in_the_help_and_the_files_in_the_report() {
        let help = "  -i, --index-url <url>       Base URL of the Python Package Index (default\n                              \
                    https://index.example/simple). This should point\n";
        assert_eq!(usual(help), Some(url("https://index.example/simple")));
        let report = r#"{"install": [{"download_info": {"url": "https://files.example/p/pip.whl"}}]}"#;
        assert_eq!(files(report), [url("https://files.example/p/pip.whl")]);
        assert!(files("nonsense").is_empty() && usual("nothing").is_none());
    }
}
