//! The host's git, for work of ours: with nothing of the user's, the system's or an environment's configuration.

use std::process::Command;

/// git with nothing of the user's or the system's configuration.
#[must_use]
pub fn git() -> Command {
    let mut git = Command::new("git");
    git.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .current_dir("/");
    git
}
