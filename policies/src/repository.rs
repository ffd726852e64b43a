//! `[repository]`: what a session's git works on, and which files of the project only the host may change.

use serde::Deserialize;
use toml::Spanned;

use crate::parse::Text;
use crate::place::PolicyError;

/// How a session and the project's repository go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPolicy {
    /// Which git directory the session's git works on.
    pub git_dir: GitDirectory,
    /// Paths of the project that are read-only inside, beside the built-in ones.
    pub protect: Vec<String>,
}

/// Which git directory a session's git works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitDirectory {
    /// One of its own: commits come back, configuration and hooks never do.
    Own,
    /// The project's, with configuration and hooks read-only. What else git obeys there (`commondir`, the index, refs
    /// as links) is the session's to write.
    Shared,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RepositoryToml {
    git_dir: Option<GitDirectoryToml>,
    protect: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum GitDirectoryToml {
    Own,
    Shared,
}

/// Reads `[repository]`.
pub(crate) fn parse(text: &Text<'_>, given: Option<RepositoryToml>) -> Result<RepositoryPolicy, PolicyError> {
    let RepositoryToml { git_dir, protect } = given.unwrap_or_default();
    if matches!(git_dir, Some(GitDirectoryToml::Shared))
        && let Some(path) = protect.first()
    {
        let help = "git_dir = \"own\", which is also what holds without that line";
        return Err(text.wrong(path.span(), "a shared git directory protects no other file", help));
    }
    Ok(RepositoryPolicy {
        git_dir: match git_dir {
            Some(GitDirectoryToml::Shared) => GitDirectory::Shared,
            Some(GitDirectoryToml::Own) | None => GitDirectory::Own,
        },
        protect: protect.iter().map(|path| place_in_project(text, path)).collect::<Result<_, _>>()?,
    })
}

fn place_in_project(text: &Text<'_>, given: &Spanned<String>) -> Result<String, PolicyError> {
    let path = given.get_ref().trim_end_matches('/');
    let odd = |c: char| c.is_control() || matches!(c, '*' | '?' | '\\');
    let legal = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(odd);
    if path.split('/').all(legal) {
        return Ok(path.to_owned());
    }
    let help = "protect = [\"Makefile\", \"scripts/deploy.sh\"]: plain paths from the project's top";
    Err(text.wrong(given.span(), "this is not a plain path in the project", help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    const HEAD: &str = "name = \"t\"\ndescription = \"d\"\n[repository]\n";

    #[test]
    fn a_session_has_its_own_git_directory_unless_the_policy_says_shared() {
        let parsed = |rest: &str| {
            let policy = Policy::parse(&format!("{HEAD}{rest}"), "p.toml").unwrap_or_else(|e| panic!("{e}"));
            policy.repository().clone()
        };
        assert_eq!(parsed("").git_dir, GitDirectory::Own);
        assert_eq!(parsed("git_dir = \"shared\"\n").git_dir, GitDirectory::Shared);
        assert_eq!(parsed("protect = [\"a/b/\", \"Makefile\"]\n").protect, ["a/b", "Makefile"]);
    }

    #[test]
    fn a_path_out_of_the_project_is_refused_where_it_stands() {
        for line in [
            "protect = [\"../x\"]",
            "protect = [\"/x\"]",
            "protect = [\"*\"]",
            "git_dir = \"none\"",
            "protect = [\"x\"]\ngit_dir = \"shared\"",
        ] {
            let wrong = Policy::parse(&format!("{HEAD}{line}\n"), "p.toml").expect_err(line);
            assert_eq!(wrong.line(), 4, "{wrong}");
        }
    }
}
