//! A session's git directories, told to the helper where nothing can be mounted: there a repository's `.git` stays closed at its
//! place, and the helper, called as git, leads git to the session's own.

use std::path::{Path, PathBuf};

/// The variable that holds them, where there are any.
pub const GIT_DIRECTORIES_VARIABLE: &str = "KEYHATCH_GIT_DIRECTORIES";

/// A git directory of the host's, and the session's own in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Where git looks for it.
    pub host: PathBuf,
    /// What it is to use.
    pub own: PathBuf,
}

/// Writes them, a path a line. What no line can hold is left out: git then says that there is no repository.
#[must_use]
pub fn written(all: &[Replaced]) -> String {
    let line = |path: &Path| path.to_str().filter(|text| !text.contains('\n')).map(str::to_owned);
    let pairs = all.iter().filter_map(|one| Some(format!("{}\n{}\n", line(&one.host)?, line(&one.own)?)));
    pairs.collect()
}

/// Reads what [`written`] wrote.
#[must_use]
pub fn read(text: &str) -> Vec<Replaced> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks_exact(2);
    pairs.map(|pair| Replaced { host: pair[0].into(), own: pair[1].into() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_no_line_holds_is_left_out() {
        let one = |host: &str, own: &str| Replaced { host: host.into(), own: own.into() };
        let kept = [one("/home/ada/a b/.git", "/x/0/git"), one("/p/.git", "/x/1/git")];
        let all = [kept[0].clone(), one("/line\nfeed/.git", "/x/2/git"), kept[1].clone()];
        assert_eq!(read(&written(&all)), kept);
        assert_eq!(read(""), []);
    }
}
