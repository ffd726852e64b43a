//! The project's git directory as the host has it when a session opens: remotes, secrets, objects, mounts.
//!
//! Comes in: files that an earlier session may have written. They are read with `git config --file --no-includes`,
//! which parses and runs nothing; git is never run *in* the project.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use keyhatch_host::untrusted_file;
use keyhatch_policies::rules::{FileInside, Mount};
use keyhatch_protocol::text::{shown, shown_name};
use keyhatch_protocol::{Remote, RemoteError};
use thiserror::Error;

use super::git_config::{Setting, is_harmless_preference, parse_list, render};
use super::gitdir::nested::MAX_NESTED;
use super::gitdir::{DotGit, LayoutError, Origin, Repository, Source};
use super::settings;
use super::user_config::{self, Place, UserConfig};
use crate::credential::{ProjectSecrets, is_token};
use crate::paths::config_home;

/// Where the user's own excludes are inside.
const EXCLUDES_INSIDE: &str = "/etc/gitexcludes";
/// Most bytes of a configuration that the project brought.
const MAX_CONFIG: u64 = 1024 * 1024;
/// Most bytes of them: people have a screen or two.
const MAX_EXCLUDES: u64 = 64 * 1024;

/// The project cannot be used.
#[derive(Debug, Error)]
pub enum ProjectError {
    /// Not a directory of this user's.
    #[error("{path} is not a directory that can be opened")]
    Directory {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its git directory is not used.
    #[error("the git directory of {path} cannot be used")]
    Layout {
        /// The project.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// git could not read a configuration file.
    #[error("git cannot read {file}")]
    Config {
        /// The file, or the scope.
        file: String,
    },
    /// git is missing.
    #[error("cannot run git")]
    Git(#[source] io::Error),
}

/// What a session takes from the project's git directory.
#[derive(Debug, Default)]
pub struct ProjectGit {
    /// The URLs of its remotes, after the user's own `insteadOf`, as far as they can be brokered.
    pub remotes: Vec<Remote>,
    /// The URLs of its initialised submodules.
    pub submodules: Vec<Remote>,
    /// The object directories on the host.
    pub objects: Vec<PathBuf>,
    /// Logins and headers of the project's configuration.
    pub secrets: ProjectSecrets,
    /// The user's harmless preferences.
    pub preferences: Vec<Setting>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Its repositories, each with a cleaned configuration; the project's own first.
    pub sources: Vec<Source>,
    user: Vec<Setting>,
    /// What the project's own configuration says of who signs, with which key and when.
    signs: Vec<Setting>,
}

/// Settings of the project's own that say how it is signed, beside names and addresses.
const SIGNS: &[&str] = &[
    "user.signingkey",
    "gpg.format",
    "commit.gpgsign",
    "tag.gpgsign",
    "tag.forcesignannotated",
    "push.gpgsign",
];

impl ProjectGit {
    /// Reads what a session needs. A directory that is no repository is a project too, without git.
    ///
    /// # Errors
    /// When the project or a configuration file cannot be read.
    pub async fn read(project: &Path, nested: &BTreeSet<PathBuf>) -> Result<Self, ProjectError> {
        let unusable = |source| ProjectError::Directory { path: project.to_owned(), source };
        fs::read_dir(project).map_err(unusable)?;
        let layout = |source| ProjectError::Layout { path: project.to_owned(), source };
        let repository = Repository::of(project).map_err(layout)?;
        let own = async {
            match &repository {
                Some(repository) => Self::raw_config(repository).await,
                None => Ok(Vec::new()),
            }
        };
        // At once: a git takes two milliseconds to start, which is a third of what a whole start may take.
        let (listed, raw) = tokio::try_join!(settings::of_user(), own)?;
        let UserConfig { settings: user, notes } =
            user_config::of(listed, &place(project, repository.as_ref(), &raw)).await;
        let preferences = user.iter().filter(|setting| is_harmless_preference(setting)).cloned().collect();
        let mut git = Self { preferences, user, notes, ..Self::default() };
        let Some(repository) = repository else {
            git.read_nested(project, nested).await?;
            return Ok(git);
        };
        git.secrets = ProjectSecrets::from_config_list(&raw);
        git.signs = parse_list(&raw).into_iter().filter(says_who_signs).collect();
        git.objects.clone_from(&repository.stores);
        let source = git.source(repository, &raw, project);
        let mut notes = Vec::new();
        let mut urls = |suffix: &str, section: &str| -> Vec<Remote> {
            let of_kind = |s: &&Setting| s.key.starts_with(section) && s.key.ends_with(suffix);
            let values = source.config.iter().filter(of_kind);
            let parsed = values.map(|s| Remote::parse(&s.value).map_err(|error| (s.key.as_str(), error)));
            let (good, bad): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
            // What is no remote of a server is nobody's business here: a path, a bundle.
            let bad =
                bad.into_iter().filter_map(Result::err).filter(|(_, error)| *error != RemoteError::Scheme);
            notes.extend(
                bad.map(|(key, error)| format!("{} cannot be used inside: {error}", shown_name(key))),
            );
            good.into_iter().filter_map(Result::ok).collect()
        };
        let mut remotes = urls(".url", "remote.");
        remotes.extend(urls(".pushurl", "remote."));
        remotes.dedup();
        (git.remotes, git.submodules) = (remotes, urls(".url", "submodule."));
        git.notes.extend(notes);
        git.sources.push(source);
        git.read_nested(project, nested).await?;
        Ok(git)
    }

    /// The repositories inside the project. One that cannot be read is not mounted over, and said so.
    async fn read_nested(&mut self, project: &Path, nested: &BTreeSet<PathBuf>) -> Result<(), ProjectError> {
        let own = self.sources.first().map(|source| source.repository.clone());
        for path in nested.iter().take(MAX_NESTED) {
            let why = match Repository::within(project, own.as_ref(), path) {
                Ok(Some(repository)) => {
                    // One that git cannot read says nothing: what is there is covered all the same.
                    let raw = Self::raw_config(&repository).await.unwrap_or_else(|error| {
                        let place = path.strip_prefix(project).unwrap_or(path).display().to_string();
                        self.notes
                            .push(shown(&format!("the configuration of {place} is not obeyed: {error}")));
                        Vec::new()
                    });
                    let source = self.source(repository, &raw, project);
                    self.sources.push(source);
                    continue;
                }
                Ok(None) => "has a .git that leads nowhere".to_owned(),
                Err(error) => format!("is not used as a repository: {error}"),
            };
            let path = path.strip_prefix(project).unwrap_or(path).display().to_string();
            self.notes.push(shown(&format!("{path} {why}")));
        }
        Ok(())
    }

    /// What the user's own git ignores everywhere, as a file inside with its setting; none where there is nothing.
    /// gitignore(5): `core.excludesFile`, else `git/ignore` in the configuration directory.
    #[must_use]
    pub fn excludes(&self, project: &Path) -> Option<(FileInside, Setting)> {
        let named = self.user.iter().rev().find(|setting| setting.key == "core.excludesfile");
        let file = match named {
            Some(setting) => expanded(&setting.value),
            None => config_home()?.join("git/ignore"),
        };
        let content = match untrusted_file::read(&file, &[project], MAX_EXCLUDES) {
            Ok(content) => String::from_utf8(content?).ok()?,
            Err(error) => {
                tracing::warn!(%error, "the user's own excludes are not taken inside");
                return None;
            }
        };
        let setting = Setting { key: "core.excludesfile".into(), value: EXCLUDES_INSIDE.into() };
        Some((FileInside::new(EXCLUDES_INSIDE, content), setting))
    }

    /// A repository's configuration as git lists it: the shared file, then the worktree's own.
    async fn raw_config(repository: &Repository) -> Result<Vec<u8>, ProjectError> {
        let file = repository.common.join("config");
        if repository.origin == Origin::Project {
            let unreadable = |_| ProjectError::Config { file: file.display().to_string() };
            let directory = repository.open(&repository.common).map_err(unreadable)?;
            let text = directory.read("config", MAX_CONFIG).map_err(unreadable)?.unwrap_or_default();
            return settings::of_text(text, &file).await;
        }
        let mut raw = settings::of_file(&file).await?;
        let own = repository.git_dir.join("config.worktree");
        if own.is_file()
            && parse_list(&raw).iter().any(|s| s.key == "extensions.worktreeconfig" && s.value == "true")
        {
            raw.extend(settings::of_file(&own).await?);
        }
        Ok(raw)
    }

    /// A repository with what its session's configuration will be.
    fn source(&self, repository: Repository, raw: &[u8], project: &Path) -> Source {
        let settings = parse_list(raw);
        // The repository's own setting is nearer than the user's.
        let of = |settings: &[Setting]| {
            settings.iter().rev().find(|s| s.key == "core.hookspath").map(|s| s.value.clone())
        };
        // What the project brought names nothing on the host.
        let own = of(&settings)
            .filter(|path| repository.origin == Origin::User || expanded(path).components().all(is_name));
        let hooks = own.or_else(|| of(&self.user));
        let mut config: Vec<Setting> = settings.into_iter().filter_map(|s| clean(s, &self.user)).collect();
        let hooks = hooks.and_then(|path| {
            let path = expanded(&path);
            let resolved = repository.worktree.join(&path);
            if resolved.starts_with(project) {
                config.push(Setting { key: "core.hookspath".into(), value: path.display().to_string() });
                return None;
            }
            Some(resolved)
        });
        Source { repository, config, hooks }
    }

    /// The settings that say who the user is and how they sign: the system's, the user's, and the project's own, which
    /// may name a key and when to sign, never a program.
    #[must_use]
    pub fn signing_settings(&self) -> Vec<Setting> {
        self.user.iter().chain(&self.signs).cloned().collect()
    }

    /// The mounts where the session shares the project's own git directory: configuration and hooks are read-only.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn shared_mounts(&self, files: &Path) -> io::Result<Vec<Mount>> {
        let own = self.sources.first().filter(|source| source.repository.dot_git == DotGit::Directory);
        let Some(source) = own else { return Ok(Vec::new()) };
        let directory = &source.repository.common;
        let config = files.join("config");
        fs::write(&config, render(&source.config))?;
        let read_only = |source: PathBuf, target: PathBuf| Mount { source, target, read_only: true };
        // A mount point cannot be renamed: else the directory around the protected files could be put aside whole.
        let pinned = Mount { source: directory.clone(), target: directory.clone(), read_only: false };
        let mut mounts = vec![pinned, read_only(config, directory.join("config"))];
        let hooks = directory.join("hooks");
        if hooks.is_dir() {
            mounts.push(read_only(hooks.clone(), hooks));
        } else {
            let empty = files.join("hooks");
            fs::create_dir_all(&empty)?;
            fs::create_dir_all(&hooks)?;
            mounts.push(read_only(empty, hooks));
        }
        Ok(mounts)
    }
}

/// Whether a part of a path leads down.
fn is_name(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_) | Component::CurDir)
}

/// `~/` as git expands it in a path.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// Keeps a setting of the project's own configuration, without secrets, programs and includes.
fn clean(setting: Setting, user: &[Setting]) -> Option<Setting> {
    // `extensions.refstorage` and `.worktreeconfig` are not kept: inside, refs are files and there is one configuration.
    const SECTIONS: &[&str] = &["branch.", "user.", "author.", "committer.", "pull.", "push."];
    const KEYS: &[&str] = &[
        "core.repositoryformatversion",
        "extensions.objectformat",
        "extensions.partialclone",
        "extensions.noop",
        "extensions.preciousobjects",
        "core.worktree",
        "core.filemode",
        "core.bare",
        "core.ignorecase",
        "core.symlinks",
        "core.precomposeunicode",
        "core.logallrefupdates",
        "core.autocrlf",
        "core.eol",
        "core.safecrlf",
        "core.sparsecheckout",
        "core.sparsecheckoutcone",
        "core.sharedrepository",
        "init.defaultbranch",
        "merge.conflictstyle",
        "rerere.enabled",
        "gc.auto",
        "index.version",
        "index.sparse",
        "feature.manyfiles",
        "lfs.repositoryformatversion",
    ];
    const REMOTE: &[&str] =
        &["fetch", "push", "tagopt", "prune", "promisor", "partialclonefilter", "skipfetchall"];
    let (section, name) = (setting.key.split('.').next()?, setting.key.rsplit('.').next()?);
    let url = (section == "remote" && matches!(name, "url" | "pushurl"))
        || (section == "submodule" && name == "url");
    if url {
        let value = url_inside(&instead_of(&setting.value, user))?;
        return Some(Setting { key: setting.key, value });
    }
    let kept = KEYS.contains(&setting.key.as_str())
        || SECTIONS.iter().any(|section| setting.key.starts_with(section))
        || (section == "remote" && REMOTE.contains(&name))
        || (section == "submodule" && name == "active");
    let names_a_key = setting.key.ends_with(".signingkey");
    (kept && !names_a_key).then_some(setting)
}

/// Applies the user's own `url.BASE.insteadOf`: the longest prefix wins, as in git.
fn instead_of(url: &str, user: &[Setting]) -> String {
    let rules = user.iter().filter_map(|s| {
        let base = s.key.strip_prefix("url.")?.strip_suffix(".insteadof")?;
        let rest = url.strip_prefix(s.value.as_str())?;
        Some((s.value.len(), format!("{base}{rest}")))
    });
    rules.max_by_key(|(length, _)| *length).map_or_else(|| url.to_owned(), |(_, rewritten)| rewritten)
}

/// A URL as it stands inside: in the one spelling that is led to the front end, and without a secret. A password and a
/// token are used upstream only; a name alone stays, since it says whose login is asked for. None where the name is one that
/// no remote has: without it, another user's login would be asked for.
fn url_inside(url: &str) -> Option<String> {
    let without_secret = without_secret(url);
    match Remote::parse(&without_secret) {
        Ok(remote) => Some(remote.to_string()),
        Err(RemoteError::User | RemoteError::Userinfo) => None,
        Err(_) => Some(without_secret),
    }
}

/// Drops the password or token of an http(s) URL, with the name beside it.
fn without_secret(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, _)) if scheme.starts_with("http") && (user.contains(':') || is_token(user)) => {
            format!("{scheme}://{}", &rest[user.len() + 1..])
        }
        _ => url.to_owned(),
    }
}

fn says_who_signs(setting: &Setting) -> bool {
    let names = ["user", "author", "committer"]
        .iter()
        .any(|role| matches!(setting.key.strip_prefix(*role), Some(".name" | ".email")));
    names || SIGNS.contains(&setting.key.as_str())
}

/// What the conditions of the user's own configuration ask about.
fn place<'p>(project: &'p Path, repository: Option<&Repository>, raw: &[u8]) -> Place<'p> {
    // By its own name and by the one that the user went there with.
    let named = |repository: &Repository| vec![repository.git_dir.clone(), project.join(".git")];
    let settings = parse_list(raw);
    let urls = settings.into_iter().filter(|s| s.key.starts_with("remote.") && s.key.ends_with(".url"));
    Place {
        project,
        git_dirs: repository.map(named).unwrap_or_default(),
        remotes: urls.map(|setting| setting.value).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    #[test]
    fn secrets_and_programs_of_the_project_stay_outside() {
        let kept = |key: &str, value: &str| clean(setting(key, value), &[]).map(|s| s.value);
        assert_eq!(kept("remote.origin.url", "https://u:tok@h/a").as_deref(), Some("https://h/a"));
        assert_eq!(kept("remote.origin.url", "git@h:a").as_deref(), Some("git@h:a"));
        assert_eq!(kept("remote.origin.url", "https://bob@H:443/a/").as_deref(), Some("https://bob@h/a"));
        assert_eq!(kept("remote.origin.url", "https://glpat-x@h/a").as_deref(), Some("https://h/a"));
        assert_eq!(kept("remote.origin.url", "https://b\u{f6}b@h/a"), None);
        assert_eq!(kept("remote.origin.url", "/srv/a").as_deref(), Some("/srv/a"));
        for (key, value) in [
            ("http.extraheader", "Authorization: x"),
            ("core.fsmonitor", "x"),
            ("core.hookspath", "x"),
            ("core.sshcommand", "x"),
            ("include.path", "x"),
            ("includeif.x.path", "x"),
            ("alias.a", "!x"),
            ("filter.a.clean", "x"),
            ("remote.origin.uploadpack", "x"),
            ("remote.origin.vcs", "x"),
            ("credential.helper", "x"),
            ("submodule.a.update", "!x"),
            ("user.signingkey", "x"),
            ("extensions.refstorage", "reftable"),
            ("gpg.program", "x"),
        ] {
            assert_eq!(kept(key, value), None, "{key}");
        }
    }

    #[test]
    fn the_longest_prefix_of_the_users_own_rewrites_wins() {
        let user = [
            setting("url.git@github.com:.insteadof", "gh:"),
            setting("url.git@work:acme/.insteadof", "gh:acme/"),
        ];
        assert_eq!(instead_of("gh:acme/w", &user), "git@work:acme/w");
        assert_eq!(instead_of("gh:other/w", &user), "git@github.com:other/w");
        assert_eq!(instead_of("https://h/x", &user), "https://h/x");
    }
}
