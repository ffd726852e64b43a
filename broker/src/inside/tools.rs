//! Directories of the user's home that a policy shows read-only: toolchains, without the credentials that lie in them.

use std::fs;
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::Mount;

use super::InsideError;

/// Files with a login or a token in them, relative to the home. Those below a tool's directory are shown empty.
const CREDENTIALS: &[&str] = &[
    ".bundle/config",
    ".cargo/config.toml",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".composer/auth.json",
    ".config/pip/pip.conf",
    ".gem/credentials",
    ".gradle/gradle.properties",
    ".local/share/opencode/auth.json",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".npm/_cacache/auth",
    ".nuget/NuGet/NuGet.Config",
    ".pip/pip.conf",
    ".terraform.d/credentials.tfrc.json",
];
/// Names of such files wherever they lie in the upper levels of a tool's directory.
const CREDENTIAL_NAMES: &[&str] = &[
    ".credentials.json",
    ".env",
    ".git-credentials",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".yarnrc",
    ".yarnrc.yml",
    "_netrc",
    "auth.json",
    "credentials",
    "credentials.json",
    "credentials.toml",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    "npmrc",
];
/// How deep such names are looked for, and in how many entries: a toolchain has tens of thousands, and this is before
/// every start.
const DEPTH: usize = 2;
const ENTRIES: usize = 512;

/// One directory of tools.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) mount: Mount,
    /// Directories with programs in it: paths inside.
    pub(super) programs: Vec<PathBuf>,
    /// Files in it that are shown empty: paths inside.
    pub(super) masked: Vec<PathBuf>,
}

/// Looks for a tool's directory; none where the user has none.
pub(super) fn find(home: &Path, tool: &str) -> Result<Option<Tool>, InsideError> {
    let named = home.join(tool);
    // A link is followed: people keep toolchains on another disk. Where it leads must not be more than a tool.
    let Ok(source) = named.canonicalize() else { return Ok(None) };
    let real_home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    if real_home.starts_with(&source) {
        return Err(InsideError::Tool { tool: tool.to_owned(), leads_to: source });
    }
    let inside = |found: PathBuf| found.strip_prefix(&source).map(|rest| named.join(rest)).unwrap_or(found);
    let mut masked: Vec<PathBuf> =
        CREDENTIALS.iter().map(|file| home.join(file)).filter(|file| file.starts_with(&named)).collect();
    masked.retain(|file| file.is_file());
    if source.is_dir() {
        masked.extend(credentials_below(&source).into_iter().map(inside));
        let npmrc = node_versions(&source)
            .into_iter()
            .map(|(_, version)| named.join("versions/node").join(version).join("etc/npmrc"));
        masked.extend(npmrc.filter(|file| file.is_file()));
    }
    masked.sort();
    masked.dedup();
    let programs = programs(&named, &source);
    Ok(Some(Tool { mount: Mount { source, target: named, read_only: true }, programs, masked }))
}

/// Looks for files with a credential's name, breadth first, as far as the limits go. Links are not followed.
fn credentials_below(top: &Path) -> Vec<PathBuf> {
    let (mut found, mut level, mut seen) = (Vec::new(), vec![top.to_owned()], 0);
    for _ in 0..=DEPTH {
        let mut next = Vec::new();
        for entry in level.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten() {
            seen += 1;
            if seen > ENTRIES {
                return found;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => next.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let name = entry.file_name();
                    if CREDENTIAL_NAMES.iter().any(|credential| name.eq_ignore_ascii_case(credential)) {
                        found.push(entry.path());
                    }
                }
                _ => {}
            }
        }
        level = next;
    }
    found
}

/// The directories in a tool's directory that belong into `PATH`.
fn programs(named: &Path, source: &Path) -> Vec<PathBuf> {
    if named.file_name().is_some_and(|name| name == "bin" || name == "shims") {
        return vec![named.to_owned()];
    }
    let mut found: Vec<PathBuf> = ["shims", "bin", "current/bin", "aliases/default/bin"]
        .into_iter()
        .filter(|sub| source.join(sub).is_dir())
        .map(|sub| named.join(sub))
        .collect();
    if let Some(version) = node_version(source) {
        found.push(named.join("versions/node").join(version).join("bin"));
    }
    found
}

/// The versions that nvm has, oldest first.
fn node_versions(nvm: &Path) -> Vec<(Vec<u32>, String)> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        name.strip_prefix('v')?.split('.').map(|number| number.parse().ok()).collect()
    };
    let installed = fs::read_dir(nvm.join("versions/node")).into_iter().flatten().flatten();
    let mut versions: Vec<(Vec<u32>, String)> = installed
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((numbers(&name)?, name))
        })
        .collect();
    versions.sort();
    versions
}

/// nvm's default version: what `alias/default` names where that is installed, else the newest.
fn node_version(nvm: &Path) -> Option<String> {
    let versions = node_versions(nvm);
    let alias = fs::read_to_string(nvm.join("alias/default")).unwrap_or_default();
    let wanted = alias.trim().trim_start_matches('v').to_owned();
    let is_wanted = |name: &str| {
        let rest = name.trim_start_matches('v').strip_prefix(&wanted);
        !wanted.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let chosen = versions.iter().rev().find(|(_, name)| is_wanted(name)).or_else(|| versions.last());
    chosen.map(|(_, name)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(home: &Path, file: &str) {
        let path = home.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, "canary").expect("a file");
    }

    #[test]
    fn credentials_in_a_toolchain_are_masked_and_its_programs_found() {
        let temp = tempfile::tempdir().expect("tempdir");
        let home = temp.path();
        for file in [".cargo/bin/cargo", ".cargo/credentials.toml", ".cargo/config.toml", ".cargo/x/.npmrc"] {
            make(home, file);
        }
        let cargo = find(home, ".cargo").expect("a tool").expect("it is there");
        assert_eq!(cargo.programs, [home.join(".cargo/bin")]);
        let masked = [".cargo/config.toml", ".cargo/credentials.toml", ".cargo/x/.npmrc"];
        assert_eq!(cargo.masked, masked.map(|file| home.join(file)));
        let programs = find(home, ".cargo/bin").expect("a tool").expect("it is there");
        assert_eq!((programs.masked.len(), programs.programs), (0, vec![home.join(".cargo/bin")]));
        assert!(find(home, ".nvm").expect("no error").is_none());
    }

    #[test]
    fn nvm_has_the_default_version_else_the_newest() {
        let temp = tempfile::tempdir().expect("tempdir");
        for version in ["v9.1.0", "v20.3.1", "v22.1.0"] {
            make(temp.path(), &format!(".nvm/versions/node/{version}/bin/node"));
        }
        let bin = |home: &Path| find(home, ".nvm").expect("a tool").expect("it is there").programs;
        let at = |version: &str| vec![temp.path().join(format!(".nvm/versions/node/{version}/bin"))];
        assert_eq!(bin(temp.path()), at("v22.1.0"));
        make(temp.path(), ".nvm/alias/default");
        fs::write(temp.path().join(".nvm/alias/default"), "20\n").expect("a file");
        assert_eq!(bin(temp.path()), at("v20.3.1"));
    }

    #[test]
    fn a_tool_that_leads_to_the_whole_home_is_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::symlink("..", temp.path().join("tools")).expect("a link");
        assert!(matches!(find(temp.path(), "tools"), Err(InsideError::Tool { .. })));
    }
}
