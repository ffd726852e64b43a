//! Root file systems that containers start from: Debian's git of four releases, built by `tests/images/build.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::World;

/// A root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// git 2.30.
    Bullseye,
    /// git 2.39.
    Bookworm,
    /// git 2.47.
    Trixie,
    /// git 2.55.
    Sid,
    /// Nothing at all: no shell, no libc.
    Scratch,
}

impl Image {
    /// All that have a git.
    pub const WITH_GIT: [Self; 4] = [Self::Bullseye, Self::Bookworm, Self::Trixie, Self::Sid];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
            Self::Scratch => "scratch",
        }
    }

    /// The version of git in it, as `git --version` begins.
    #[must_use]
    pub const fn git(self) -> &'static str {
        match self {
            Self::Bullseye => "git version 2.30.",
            Self::Bookworm => "git version 2.39.",
            Self::Trixie => "git version 2.47.",
            Self::Sid => "git version 2.5",
            Self::Scratch => "none",
        }
    }

    /// The archive of it.
    ///
    /// # Panics
    /// When it was not built.
    #[must_use]
    pub fn archive(self) -> PathBuf {
        built(&format!("images/{}.tar", self.name()), "tests/images/build.sh target/images")
    }

    /// A copy of it in a world, which the world's user can read. Files are links to the built ones: nobody may write to them.
    ///
    /// # Panics
    /// When it was not built, or cannot be copied.
    #[must_use]
    pub fn root(self, world: &World) -> PathBuf {
        let root = world.path(&format!("root-{}", self.name()));
        if root.exists() {
            return root;
        }
        if self == Self::Scratch {
            for directory in ["proc", "dev", "sys", "tmp", "run/keyhatch", "etc"] {
                world.make_directory(&format!("root-scratch/{directory}"));
            }
            return root;
        }
        let source = built(&format!("images/{}", self.name()), "tests/images/build.sh target/images");
        let copy = |how: &str| {
            let mut cp = Command::new("cp");
            cp.arg(how).arg(&source).arg(&root).output().is_ok_and(|done| done.status.success())
        };
        // On another file system there are no links to them.
        assert!(
            copy("-al") || (std::fs::remove_dir_all(&root).is_ok() && copy("-a")),
            "{}",
            source.display()
        );
        // Where an engine makes mount points: an image's own root is writable to it.
        world.make_directory(&format!("root-{}/run/keyhatch-git", self.name()));
        root
    }
}

/// A file that `test.sh` builds under `target`.
pub(crate) fn built(name: &str, how: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name);
    assert!(path.exists(), "{} is missing: run ./test.sh, which runs {how}", path.display());
    path
}

impl World {
    /// Puts a copy of the devcontainer command line where the user can read it, and returns the program.
    ///
    /// # Panics
    /// When it was not installed.
    #[must_use]
    pub fn devcontainer_cli(&self) -> PathBuf {
        let source = crate::downloaded("devcontainers-cli-0.89.0").join("node_modules");
        let copied = Command::new("cp").arg("-a").arg(source).arg(self.path("npm")).status();
        assert!(copied.is_ok_and(|status| status.success()), "it can be copied");
        self.path("npm/.bin/devcontainer")
    }

    /// Puts a directory of the repository's where the user can write to it, with what its links lead to.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn copy_from_tree(&self, name: &str, to: &Path) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let copied = Command::new("cp").arg("-rL").arg(&source).arg(to).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} can be copied", source.display());
        let owner = format!("{0}:{0}", self.user.name);
        let owned = self.as_root("chown").args(["-R", &owner]).arg(to).status();
        assert!(owned.is_ok_and(|status| status.success()), "{} can be given to the user", to.display());
    }

    /// Puts the helper and the runner that start in any image beside keyhatch, and returns the helper.
    ///
    /// # Panics
    /// When they were not built.
    pub fn static_helper(&self) -> PathBuf {
        let places = ["keyhatch-helper", "keyhatch-run-static"].map(|name| {
            let source = built(&format!("containers/{name}"), "packaging/static-helper.sh target/containers");
            let place = self.path("bin").join(name);
            // The file may run already; one in its place does not disturb that.
            std::fs::remove_file(&place).ok();
            std::fs::copy(source, &place).expect("it can be copied");
            place
        });
        let [helper, _] = places;
        helper
    }
}
