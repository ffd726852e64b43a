//! Where the broker keeps things: the runtime directory (sockets) and the state directory (audit, spool, logs).
//!
//! Comes in: the user's environment. Goes out: directories that only this user can enter, checked on the opened
//! directory and not on its path.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use thiserror::Error;

/// A directory of ours cannot be used.
#[derive(Debug, Error)]
pub enum PathsError {
    /// It could not be made or opened.
    #[error("cannot use the directory {path}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns it, or others may enter it.
    #[error("the directory {path} is not private: owner {owner}, mode {mode:o}")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// There is no home to keep state in.
    #[error("HOME is not set to an absolute path")]
    NoHome,
}

/// The broker's directories.
#[derive(Debug, Clone)]
pub struct Paths {
    runtime: PathBuf,
    state: PathBuf,
}

impl Paths {
    /// Finds and makes the directories of the user who runs this.
    ///
    /// # Errors
    /// When one cannot be made, or is not private to this user.
    pub fn of_user() -> Result<Self, PathsError> {
        let home = absolute("HOME").ok_or(PathsError::NoHome)?;
        let uid = rustix::process::getuid().as_raw();
        let runtime = match absolute("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("keyhatch"),
            None => PathBuf::from(format!("/tmp/keyhatch-{uid}")),
        };
        let state = absolute("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("keyhatch");
        let paths = Self { runtime, state };
        for dir in [
            paths.runtime.clone(),
            paths.sessions(),
            paths.files(),
            paths.ssh(),
            paths.named(),
            paths.state.clone(),
            paths.spool(),
            paths.git_directories(),
            paths.reports(),
        ] {
            make_private(&dir)?;
        }
        Ok(paths)
    }

    /// Sockets, and what is gone with the machine's next start.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The socket for the user's own commands.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The file that proves that a client can read this user's files.
    #[must_use]
    pub fn control_token(&self) -> PathBuf {
        self.runtime.join("control.token")
    }

    /// The file whose lock says that a broker runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("broker.lock")
    }

    /// One directory a session, which can be mounted into a container.
    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.runtime.join("sessions")
    }

    /// One directory a session with the files that are mounted one by one.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.runtime.join("files")
    }

    /// Links to the directories of sessions that the user named.
    #[must_use]
    pub fn named(&self) -> PathBuf {
        self.runtime.join("named")
    }

    /// What stays in projects until a container has ended that outlived its session: a file a session.
    #[must_use]
    pub fn placeholders(&self) -> PathBuf {
        self.state.join("placeholders")
    }

    /// What outlives a session.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Sockets of ssh connections that are shared.
    #[must_use]
    pub fn ssh(&self) -> PathBuf {
        self.runtime.join("ssh")
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit.jsonl")
    }

    /// What a detached broker writes to standard error.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("broker.log")
    }

    /// What ended sessions did, a file each.
    #[must_use]
    pub fn reports(&self) -> PathBuf {
        self.state.join("reports")
    }

    /// Where pushes wait.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.state.join("spool")
    }

    /// The homes that policies keep.
    #[must_use]
    pub fn homes(&self) -> PathBuf {
        self.state.join("homes")
    }

    /// The sessions' own git directories, one directory a session.
    #[must_use]
    pub fn git_directories(&self) -> PathBuf {
        self.state.join("gitdirs")
    }

    /// What is known of the repositories inside each project.
    #[must_use]
    pub fn nested(&self) -> PathBuf {
        self.state.join("nested")
    }

    /// Repositories that the broker keeps for a remote.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.state.join("cache")
    }
}

/// The user's configuration directory: `$XDG_CONFIG_HOME`, else `~/.config` (XDG Base Directory Specification).
#[must_use]
pub fn config_home() -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))
}

/// A variable that holds an absolute path; the specification says to ignore any other.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Makes a directory with mode 0700, or checks that an existing one is private.
///
/// # Errors
/// When it cannot be made, is a symbolic link, belongs to another user, or others may enter it.
pub fn make_private(path: &Path) -> Result<(), PathsError> {
    let unusable = |source| PathsError::Unusable { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    // Opened without following a link, then judged by the descriptor: /tmp is shared with other users.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| unusable(e.into()))?;
    let meta = fs::File::from(opened).metadata().map_err(unusable)?;
    let private = meta.uid() == rustix::process::getuid().as_raw() && meta.mode() & 0o077 == 0;
    if private {
        Ok(())
    } else {
        Err(PathsError::NotPrivate { path: path.to_owned(), owner: meta.uid(), mode: meta.mode() & 0o7777 })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = temp.path().join("open");
        fs::create_dir(&dir).expect("mkdir");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(matches!(make_private(&dir), Err(PathsError::NotPrivate { mode: 0o755, .. })));
        let link = temp.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).expect("symlink");
        assert!(make_private(&link).is_err());
    }
}
