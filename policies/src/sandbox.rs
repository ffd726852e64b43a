//! `[sandbox]`: what the agent finds inside. Home, project, tools of the user's, hidden files, environment, and what
//! the sandbox must be able to promise.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use keyhatch_sandbox_rules::rules::Requirement;
use serde::Deserialize;
use toml::Spanned;

use crate::parse::Text;
use crate::place::PolicyError;

/// Project files that are hidden unless the policy says otherwise: settings with secrets in them, and keys.
const HIDDEN: &[&str] = &[
    ".env",
    ".env.*",
    ".envrc.local",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.ppk",
    "*.kdbx",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".netrc",
    ".pypirc",
    ".git-credentials",
];
/// What those patterns would hide, and everybody commits.
const SHOWN: &[&str] = &[".env.example", ".env.sample", ".env.template", ".env.dist", "*.pub.pem"];
/// Where secrets live, relative to a home: no tool is there, and a policy that names one of them is mistaken.
pub const SECRET_PLACES: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".git-credentials",
    ".password-store",
    ".mozilla",
    ".config/gh",
    ".config/gcloud",
    ".config/keyhatch",
    ".local/share/keyrings",
    ".local/state/keyhatch",
];
/// Parents of many tools and of many secrets: one of their directories can be named, never they themselves.
const MIXED_PLACES: &[&str] = &[".config", ".local", ".local/share", ".local/state", ".cache", "Library"];
/// Variables that are ours to set: a policy that set them would break the sandbox, or open it.
const OWN_VARIABLES: &[&str] =
    &["HOME", "USER", "LOGNAME", "PATH", "SHELL", "TMPDIR", "GIT_CONFIG_SYSTEM", "KEYHATCH_SESSION"];

/// What the agent finds inside.
#[derive(Debug, Clone)]
pub struct SandboxPolicy {
    /// Its home.
    pub home: HomeChoice,
    /// The project.
    pub project: ProjectAccess,
    /// Directories of the user's home that are shown read-only, relative to it.
    pub tools: Vec<String>,
    /// Project files that are shown empty.
    pub hide: HidePatterns,
    /// What the sandbox must be able to promise; without it nothing starts.
    pub require: Vec<Requirement>,
    /// Variables that are set.
    pub env: BTreeMap<String, String>,
    /// Variables of the user's that are kept.
    pub keep: Vec<String>,
    /// What of its output reaches the user's terminal.
    pub terminal: TerminalAccess,
}

/// What a session's output may do to the terminal that it is shown on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalAccess {
    /// Change what is on the screen.
    Screen,
    /// Whatever the terminal understands: the clipboard, notifications, questions that are answered like typed keys.
    Everything,
}

/// What the home directory inside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeChoice {
    /// Empty, in memory, gone at the end.
    Empty,
    /// A directory of this policy's own, which no session of another policy sees.
    Persistent,
}

/// What a session may do with the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectAccess {
    /// Read and write.
    Write,
    /// Read.
    Read,
    /// There is none.
    None,
}

/// Which names are hidden.
#[derive(Debug, Clone)]
pub struct HidePatterns {
    hide: NamePatterns,
    show: NamePatterns,
}

/// Patterns for a file's name, or with a slash for its path in the project. Compared without regard to case.
#[derive(Debug, Clone)]
struct NamePatterns {
    texts: Vec<String>,
    names: Set,
    paths: Set,
}

/// Bytes of patterns that compile in any case: far below what the engine refuses.
const SHORT: usize = 4096;

/// Patterns that are compiled where somebody asks: who opens a session does not, and waits for it.
#[derive(Debug, Clone)]
struct Set {
    globs: Vec<Glob>,
    compiled: OnceLock<GlobSet>,
}

impl HidePatterns {
    /// Whether a file of the project is hidden: its path from the project's top.
    #[must_use]
    pub fn hides(&self, path: &str) -> bool {
        let path = path.to_ascii_lowercase();
        self.hide.matches(&path) && !self.show.matches(&path)
    }

    /// Whether nothing is hidden.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.hide.texts.is_empty()
    }

    /// The patterns of what is hidden, as the policy writes them.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.hide.texts.iter().map(String::as_str)
    }

    /// The patterns that name one path from the project's top: it is found however deep it lies.
    pub fn exact_paths(&self) -> impl Iterator<Item = &str> {
        self.patterns().filter(|pattern| pattern.contains('/') && !pattern.contains('*'))
    }
}

impl NamePatterns {
    /// None where a pattern is refused.
    fn parse(texts: &[&str]) -> Option<Self> {
        let set = |with_slash: bool| {
            let own = texts.iter().filter(|text| text.contains('/') == with_slash);
            let glob = |text: &&str| {
                GlobBuilder::new(&text.to_ascii_lowercase()).literal_separator(true).build().ok()
            };
            Set::of(own.map(glob).collect::<Option<_>>()?)
        };
        let (names, paths) = (set(false)?, set(true)?);
        Some(Self { texts: texts.iter().map(|text| (*text).to_owned()).collect(), names, paths })
    }

    fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.names.is_match(name) || self.paths.is_match(path)
    }
}

impl Set {
    /// None where there is too much to compile: only what is long is tried at once.
    fn of(globs: Vec<Glob>) -> Option<Self> {
        let set = Self { globs, compiled: OnceLock::new() };
        if set.globs.iter().map(|glob| glob.glob().len()).sum::<usize>() > SHORT {
            drop(set.compiled.set(set.compile()?));
        }
        Some(set)
    }

    fn compile(&self) -> Option<GlobSet> {
        let mut set = GlobSetBuilder::new();
        for glob in &self.globs {
            set.add(glob.clone());
        }
        set.build().ok()
    }

    fn is_match(&self, name: &str) -> bool {
        let compiled = || self.compile().expect("what is short compiles, and what is long did");
        !self.globs.is_empty() && self.compiled.get_or_init(compiled).is_match(name)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SandboxToml {
    home: Option<HomeToml>,
    project: Option<ProjectToml>,
    tools: Vec<Spanned<String>>,
    hide: Option<Vec<Spanned<String>>>,
    show: Option<Vec<Spanned<String>>>,
    require: Vec<Requirement>,
    env: BTreeMap<Spanned<String>, Spanned<String>>,
    keep: Vec<Spanned<String>>,
    terminal: Option<TerminalToml>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TerminalToml {
    Screen,
    Everything,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum HomeToml {
    Empty,
    Persistent,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProjectToml {
    Write,
    Read,
    None,
}

/// Reads `[sandbox]`.
pub(crate) fn parse(text: &Text<'_>, given: Option<SandboxToml>) -> Result<SandboxPolicy, PolicyError> {
    let SandboxToml { home, project, tools, hide, show, require, env, keep, terminal } =
        given.unwrap_or_default();
    Ok(SandboxPolicy {
        home: match home {
            Some(HomeToml::Persistent) => HomeChoice::Persistent,
            Some(HomeToml::Empty) | None => HomeChoice::Empty,
        },
        project: match project {
            Some(ProjectToml::Write) | None => ProjectAccess::Write,
            Some(ProjectToml::Read) => ProjectAccess::Read,
            Some(ProjectToml::None) => ProjectAccess::None,
        },
        tools: tools.iter().map(|tool| place_in_home(text, tool)).collect::<Result<_, _>>()?,
        hide: HidePatterns {
            hide: patterns(text, hide.as_deref(), HIDDEN)?,
            show: patterns(text, show.as_deref(), SHOWN)?,
        },
        require,
        env: env
            .iter()
            .map(|(name, value)| Ok((variable(text, name)?, text.value(value)?)))
            .collect::<Result<_, PolicyError>>()?,
        keep: keep.iter().map(|name| variable(text, name)).collect::<Result<_, _>>()?,
        terminal: match terminal {
            Some(TerminalToml::Everything) => TerminalAccess::Everything,
            Some(TerminalToml::Screen) | None => TerminalAccess::Screen,
        },
    })
}

/// The policy line that would show a path of the user's home: the tool that it belongs to.
///
/// # Errors
/// Why no policy shows it.
pub fn tool_line(below_home: &str) -> Result<String, &'static str> {
    if is_within(below_home, SECRET_PLACES) || is_within(below_home, &[".netrc", ".npmrc", ".pypirc"]) {
        return Err("secrets live there: no session sees them");
    }
    let parts: Vec<&str> = below_home.split('/').filter(|part| !part.is_empty()).collect();
    // As little as is one thing: a directory of a tool's, not what holds it and others.
    let depth = if is_within(below_home, MIXED_PLACES) {
        MIXED_PLACES
            .iter()
            .filter(|place| is_within(below_home, &[place]))
            .map(|place| place.split('/').count())
            .max()
    } else {
        None
    };
    let taken: Vec<&str> = parts.iter().take(depth.unwrap_or(0) + 1).copied().collect();
    if taken.is_empty() || MIXED_PLACES.contains(&taken.join("/").as_str()) {
        return Err("this holds secrets too: a policy names one directory in it");
    }
    Ok(format!("[sandbox] tools = [\"~/{}\"]", taken.join("/")))
}

/// Whether a path is one of these places or below one. Case and all: some homes are on file systems that ignore it.
fn is_within(path: &str, places: &[&str]) -> bool {
    let lower = path.to_ascii_lowercase();
    places.iter().any(|place| {
        let rest = lower.strip_prefix(place.to_ascii_lowercase().as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A directory or file below the user's home.
fn place_in_home(text: &Text<'_>, given: &Spanned<String>) -> Result<String, PolicyError> {
    let help = "tools = [\"~/.cargo/bin\", \"~/.rustup\"]: each is one directory below your home";
    let wrong = |what: &str| text.wrong(given.span(), what, help);
    let path =
        given.get_ref().strip_prefix("~/").ok_or_else(|| wrong("a tool's directory starts with ~/"))?;
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.contains(|c: char| c.is_control() || matches!(c, '*' | '?' | '\\' | ':'))
    };
    if !path.split('/').all(plain) {
        return Err(wrong("this is not a plain path"));
    }
    let lower = path.to_ascii_lowercase();
    if is_within(path, SECRET_PLACES) {
        return Err(wrong("secrets live there: no session sees them"));
    }
    if MIXED_PLACES.iter().any(|place| lower == place.to_ascii_lowercase()) {
        return Err(wrong("this holds secrets too: name one directory in it"));
    }
    Ok(path.to_owned())
}

fn patterns(
    text: &Text<'_>,
    given: Option<&[Spanned<String>]>,
    default: &[&str],
) -> Result<NamePatterns, PolicyError> {
    let Some(given) = given else {
        let none = || text.wrong(0..0, "the patterns that are built in are wrong", "please report this");
        return NamePatterns::parse(default).ok_or_else(none);
    };
    let wrong = |pattern: &Spanned<String>| {
        let help = "hide = [\".env\", \"*.pem\", \"config/secrets.yml\"]: a name anywhere, or a path from the project's top";
        text.wrong(pattern.span(), "this is not a pattern for files", help)
    };
    if let Some(odd) = given.iter().find(|pattern| !is_pattern(pattern.get_ref())) {
        return Err(wrong(odd));
    }
    let texts: Vec<&str> = given.iter().map(|pattern| pattern.get_ref().as_str()).collect();
    let help = "fewer patterns, or shorter ones";
    NamePatterns::parse(&texts).ok_or_else(|| {
        let span = given.first().map_or(0..0, Spanned::span);
        text.wrong(span, "these patterns are too large together", help)
    })
}

/// Whether a pattern speaks of files of the project. Everything is not a pattern: `project = "none"` says that.
fn is_pattern(pattern: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '{' | '}' | '[' | ']' | '?' | '!' | '\\');
    !pattern.contains(odd)
        && !matches!(pattern, "*" | "**")
        && pattern.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn variable(text: &Text<'_>, given: &Spanned<String>) -> Result<String, PolicyError> {
    let name = given.get_ref();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(text.wrong(
            given.span(),
            "this is not a variable's name",
            "env = { RUST_LOG = \"info\" }",
        ));
    }
    // What the loader obeys changes what a program is before its first line.
    if OWN_VARIABLES.contains(&name.as_str()) || name.starts_with("LD_") {
        return Err(text.wrong(given.span(), "keyhatch sets this variable itself", "choose another"));
    }
    Ok(name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    const HEAD: &str = "name = \"t\"\ndescription = \"d\"\n[sandbox]\n";

    fn parsed(rest: &str) -> SandboxPolicy {
        Policy::parse(&format!("{HEAD}{rest}"), "p.toml").unwrap_or_else(|e| panic!("{e}")).sandbox().clone()
    }

    #[test]
    fn unless_a_policy_says_otherwise_env_files_and_keys_are_hidden_and_examples_are_not() {
        let hide = parsed("").hide;
        for hidden in [
            ".env",
            ".ENV",
            "a/b/.env",
            ".env.local",
            "server.pem",
            "deploy/id_ed25519",
            "tls/x.KEY",
            ".netrc",
        ] {
            assert!(hide.hides(hidden), "{hidden}");
        }
        for shown in [".env.example", ".envrc", "env", "keys.rs", "a.pem.md", "id_rsa.pub", "Cargo.toml"] {
            assert!(!hide.hides(shown), "{shown}");
        }
    }

    #[test]
    fn the_line_that_would_show_a_path_names_one_tool_and_no_secret() {
        assert_eq!(tool_line(".cargo/bin/cargo").as_deref(), Ok("[sandbox] tools = [\"~/.cargo\"]"));
        assert_eq!(
            tool_line(".local/share/uv/python/x").as_deref(),
            Ok("[sandbox] tools = [\"~/.local/share/uv\"]")
        );
        for none in [".ssh/id_rsa", ".aws", ".config", ".local/share", ".netrc", ""] {
            assert!(tool_line(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_pattern_with_a_slash_is_a_path_from_the_top() {
        let hide = parsed("hide = [\"config/*.yml\"]\n").hide;
        assert!(hide.hides("config/secrets.yml") && !hide.hides("a/config/secrets.yml"));
        assert!(!hide.hides(".env"), "a policy's own list is the whole list");
        assert!(parsed("hide = []\n").hide.is_empty());
    }

    #[test]
    fn what_would_open_the_sandbox_is_refused_where_it_stands() {
        for (line, what) in [
            ("tools = [\"~/.ssh\"]", "secrets live there"),
            ("tools = [\"~/.SSH/sub\"]", "secrets live there"),
            ("tools = [\"~/.config\"]", "holds secrets too"),
            ("tools = [\"~/\"]", "plain path"),
            ("tools = [\"~/../x\"]", "plain path"),
            ("tools = [\"/etc\"]", "starts with ~/"),
            ("hide = [\"*\"]", "pattern"),
            ("hide = [\"../x\"]", "pattern"),
            ("require = [\"luck\"]", "unknown variant `luck`"),
            ("env = { LD_PRELOAD = \"x\" }", "sets this variable itself"),
            ("env = { PATH = \"x\" }", "sets this variable itself"),
            ("keep = [\"A B\"]", "not a variable's name"),
        ] {
            let wrong = Policy::parse(&format!("{HEAD}{line}\n"), "p.toml").expect_err(line);
            assert!(wrong.what().contains(what) && wrong.line() == 4, "{wrong}");
        }
        assert_eq!(Policy::parse(&format!("{HEAD}home = \"shared\"\n"), "p").expect_err("x").line(), 4);
    }
}
