//! Two equal projects: in one a script runs inside a sandbox, in the other without one. Afterwards the user looks at
//! both with the same commands, and must see the same.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::{Finished, World};

/// The gits that every test of the session's own git directory runs with.
pub const GITS: [&str; 2] = ["/usr/bin/git", "/usr/local/bin/git"];

/// The pair.
#[derive(Clone)]
pub struct Twins {
    /// Whose machine.
    pub world: Rc<World>,
    /// The project that the sandbox works on.
    pub boxed: PathBuf,
    /// The one that it does not.
    pub plain: PathBuf,
    git: &'static str,
}

impl Twins {
    /// Two projects with the same commits, for a user whose git is this one.
    #[must_use]
    pub fn new(git: &'static str) -> Self {
        let world = World::new();
        world.use_git(git);
        let [boxed, plain] = ["boxed", "plain"].map(|name| world.project(name, "https://h.example/p.git"));
        Self { world: Rc::new(world), boxed, plain, git }
    }

    /// One project alone, for tests that know what the user must see.
    #[must_use]
    pub fn over(world: World, project: PathBuf, git: &'static str) -> Self {
        Self { world: Rc::new(world), boxed: project.clone(), plain: project, git }
    }

    /// The same, for each of the gits.
    pub fn each(test: impl Fn(&Self)) {
        for git in GITS {
            assert!(Path::new(git).exists(), "{git} is missing: tests run with an older and a newer git");
            test(&Self::new(git));
        }
    }

    /// Runs a script of the user's own on both, before the session.
    pub fn prepare(&self, script: &str) {
        for project in [&self.boxed, &self.plain] {
            self.on_host(project, script).ok();
        }
    }

    /// Runs a script on the host.
    pub fn on_host(&self, project: &Path, script: &str) -> Finished {
        let mut command = self.world.command("sh");
        command.current_dir(project).args(["-c", &self.script(script)]);
        self.world.spawn(command).finish()
    }

    /// Runs a script inside a sandbox.
    pub fn inside(&self, project: &Path, script: &str) -> Finished {
        self.world.run(project, "default", &self.script(script))
    }

    /// The script, with the git and the dates that make commits equal.
    #[must_use]
    pub fn script(&self, script: &str) -> String {
        let script = format!(
            "export GIT_AUTHOR_DATE='1700000001 +0100' GIT_COMMITTER_DATE='1700000001 +0100' GIT_EDITOR=true; set -e\n{script}"
        );
        with_git(self.git, &script)
    }

    /// Runs a script on both sides and compares what the user sees afterwards.
    ///
    /// # Panics
    /// Where the user sees a difference.
    #[track_caller]
    pub fn same(&self, script: &str) {
        let ran = self.inside(&self.boxed, script);
        assert!(ran.status.success(), "inside, {script}: {ran:#?}\n{}", self.world.broker_log());
        let plain = self.on_host(&self.plain, script).ok();
        let (boxed_view, plain_view) = (self.view(&self.boxed), self.view(&self.plain));
        let only = |one: &str, other: &str| {
            let other: Vec<&str> = other.lines().collect();
            one.lines().filter(|line| !other.contains(line)).collect::<Vec<_>>().join("\n")
        };
        assert!(
            boxed_view == plain_view,
            "{} {script}\nonly with the sandbox:\n{}\nonly without:\n{}\n--- with the sandbox:\n{boxed_view}\ninside: {ran:#?}\nplain: {plain:#?}\n{}",
            self.git,
            only(&boxed_view, &plain_view),
            only(&plain_view, &boxed_view),
            self.world.broker_log()
        );
        self.world.clean(&self.boxed);
    }

    /// What the user sees of a project.
    #[must_use]
    pub fn view(&self, project: &Path) -> String {
        let own = project.display().to_string();
        let mut seen = String::new();
        for command in [
            "git for-each-ref --format='%(objectname) %(refname)' refs/heads refs/tags refs/remotes refs/notes refs/stash",
            "git symbolic-ref -q HEAD || git rev-parse HEAD",
            "git status --porcelain",
            "git ls-files --stage -t",
            "git diff --cached --stat",
            "git fsck --full --no-dangling 2>&1",
            "git worktree list --porcelain",
            "git stash list --format='%H %gs'",
            "git reflog --format='%H %gn %gs'",
            "for b in $(git for-each-ref --format='%(refname)' refs/heads); do echo $b; git reflog --format='%H %gn %gs' $b; done",
        ] {
            let ran = self.on_host(project, command);
            let text = ran.all().replace(&own, "PROJECT");
            let others =
                [&self.world.path("boxed"), &self.world.path("plain")].map(|path| path.display().to_string());
            let text = text
                .replace(&others[0], "MAIN")
                .replace(&others[1], "MAIN")
                .replace("/boxed-", "/X-")
                .replace("/plain-", "/X-");
            // Writing to a String cannot fail.
            let _infallible = write!(seen, "$ {command}\n{text}");
        }
        seen
    }
}

/// A script that finds this git first, also inside, where the user's own links are not.
#[must_use]
pub fn with_git(git: &str, script: &str) -> String {
    let path = if git.starts_with("/usr/bin") { "PATH=/usr/bin:/bin; " } else { "" };
    format!("{path}{script}")
}

impl World {
    /// Makes this git the one that the user, and the broker, find first.
    ///
    /// # Panics
    /// When it cannot be linked.
    pub fn use_git(&self, git: &str) {
        std::os::unix::fs::symlink(git, self.path("bin/git")).expect("git can be linked");
    }

    /// Whether no session has a git directory of its own any more: the last of it goes after its command has ended.
    #[must_use]
    pub fn no_session_is_left(&self) -> bool {
        let directory = self.home().join(".local/state/keyhatch/gitdirs");
        std::fs::read_dir(directory).is_ok_and(|mut left| left.next().is_none())
    }

    /// Fails the test where a session left something behind in a project.
    ///
    /// # Panics
    /// When a lock, a file of ours or an empty mount point is there.
    #[track_caller]
    pub fn clean(&self, project: &Path) {
        let found = std::process::Command::new("find")
            .arg(project)
            .args([
                "(",
                "-name",
                "*.lock",
                "-o",
                "-name",
                "*keyhatch*",
                "-o",
                "-path",
                "*/.git",
                "-empty",
                ")",
            ])
            .args(["-not", "-path", "*/refs/keyhatch*", "-not", "-path", "*/logs/refs/keyhatch*"])
            .output()
            .expect("find runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "left behind in {}", project.display());
    }
}
