//! Shapes of repositories in containers that keyhatch did not make, with `--target`: what git's files name by a path of the
//! host's is named as the container has it, and what is made inside comes back.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Container, ContainerSession, Finished, Image, SshServer, World};

struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let (world, _server, upstream, project) = World::behind_ssh();
        world.allow_policy();
        Self { world, _server, upstream, project }
    }

    /// Runs a script where the project is at /work, and ends the session.
    fn inside(&self, project: &Path, script: &str) -> Finished {
        let session = ContainerSession::open_with(&self.world, project, "allow", &["--target", "/work"]);
        let mounts = [&[(project.to_owned(), "/work".to_owned(), false)], &session.mounts[..]].concat();
        let container = Container::new(Image::Trixie, &mounts, &session.env);
        let ran = container.runc(&self.world, &format!("set -e; cd /work; {script}"));
        self.world.keyhatch(&["session", "close", &session.id, "--container-ended"]).ok();
        ran
    }

    fn says(&self, directory: &Path, arguments: &[&str]) -> String {
        self.world.git(directory, arguments).ok().stdout
    }

    /// Nothing of the session's is left in a worktree.
    fn clean(&self, worktree: &Path) {
        assert_eq!(self.says(worktree, &["status", "--porcelain"]), "");
        assert!(!worktree.join(".vscode").exists() && !worktree.join(".envrc").exists());
    }
}

#[test]
fn a_linked_worktree_is_worked_in_and_its_branch_is_pushed_and_comes_back() {
    let stage = Stage::new();
    let linked = stage.world.path("linked");
    stage.says(&stage.project, &["worktree", "add", "-q", &linked.display().to_string(), "-b", "linked"]);
    stage.says(&stage.project, &["worktree", "add", "-q", "../third", "-b", "third"]);
    let ran = stage
        .inside(
            &linked,
            "echo l > l; git add l; git commit -q -m l; git status --porcelain; git worktree list; git worktree prune -v; \
             git push -q origin linked; cat .git; git config core.fsmonitor x",
        )
        .ok();
    assert!(ran.stdout.contains("/work ") && ran.stdout.contains("[linked]"), "{ran:?}");
    assert!(ran.stdout.ends_with("gitdir: /run/keyhatch-git/0/git/worktrees/linked\n"), "{ran:?}");
    assert!(!ran.stdout.contains("Removing"), "{ran:?}");
    assert_eq!(stage.says(&linked, &["log", "--format=%s"]), "l\nAdd README\n");
    assert_eq!(stage.world.tip(&stage.upstream, "linked"), stage.world.tip(&linked, "HEAD"));
    stage.clean(&linked);
    let listed = stage.says(&stage.project, &["worktree", "list"]);
    assert!(listed.contains(&format!("{} ", linked.display())), "{listed}");
    stage.says(&stage.project, &["fsck"]);
    let config = std::fs::read_to_string(stage.project.join(".git/config")).expect("a file");
    assert!(!config.contains("fsmonitor"), "{config}");
}

#[test]
fn a_linked_worktree_inside_the_project_names_its_git_directory_as_the_container_has_it() {
    let stage = Stage::new();
    stage.says(&stage.project, &["worktree", "add", "-q", "inner", "-b", "inner"]);
    std::fs::write(stage.project.join(".git/info/exclude"), "inner\n").expect("a file");
    let ran = stage
        .inside(&stage.project, "git commit -q --allow-empty -m outer; cd inner; git commit -q --allow-empty -m inner; git worktree list")
        .ok();
    assert!(ran.stdout.contains("/work/inner ") && !ran.stdout.contains("prunable"), "{ran:?}");
    let tip = |branch: &str| stage.says(&stage.project, &["log", "-1", "--format=%s", branch, "--"]);
    assert_eq!((tip("main").as_str(), tip("inner").as_str()), ("outer\n", "inner\n"));
}

#[test]
fn submodules_are_committed_to_and_pushed_and_a_submodule_is_a_project_of_its_own() {
    let stage = Stage::new();
    let world = &stage.world;
    let part = world.upstream("part.git", "sha1");
    let url =
        stage.says(&stage.project, &["remote", "get-url", "origin"]).trim().replace("r.git", "part.git");
    let source = world.project("source", &part.display().to_string());
    stage.says(&source, &["push", "-q", "origin", "main"]);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "-b", "main"];
    stage.says(&stage.project, &[&add[..], &[&source.display().to_string(), "part"]].concat());
    stage.says(&stage.project.join("part"), &["remote", "set-url", "origin", &url]);
    stage.says(&stage.project, &["config", "-f", ".gitmodules", "submodule.part.url", &url]);
    stage.says(&stage.project, &["config", "submodule.part.url", &url]);
    stage.says(&stage.project, &["commit", "-q", "-a", "-m", "Add part"]);
    // A session pushes to remotes of the project alone.
    stage.says(&stage.project, &["remote", "add", "part", &url]);
    // An older git wrote the path whole.
    let whole = format!("gitdir: {}\n", stage.project.join(".git/modules/part").display());
    std::fs::write(stage.project.join("part/.git"), whole).expect("a file");
    let script = "cd part; echo s > s; git add s; git commit -q -m s; git push -q origin HEAD:main; cd ..; git submodule status; \
                  git commit -q -a -m 'Move part'; git push -q origin main; git status --porcelain";
    let ran = stage.inside(&stage.project, script).ok();
    assert!(ran.stdout.contains(" part (") && ran.stdout.lines().count() == 1, "{ran:?}");
    let inner = stage.project.join("part");
    assert_eq!(world.tip(&part, "main"), world.tip(&inner, "HEAD"), "{ran:?}");
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
    stage.clean(&inner);
    stage.clean(&stage.project);

    let ran = stage
        .inside(&inner, "git rev-parse --show-toplevel; echo t > t; git add t; git commit -q -m t; git push -q origin HEAD:main")
        .ok();
    assert_eq!(ran.stdout, "/work\n");
    assert_eq!(world.tip(&part, "main"), world.tip(&inner, "HEAD"), "{ran:?}");
    assert_eq!(stage.says(&inner, &["log", "-1", "--format=%s"]), "t\n");
    stage.clean(&inner);
}

#[test]
fn a_git_directory_that_lies_elsewhere_is_followed_and_a_link_to_one_is_refused() {
    let stage = Stage::new();
    stage.says(&stage.project, &["init", "-q", "--separate-git-dir", "../separate.git"]);
    std::fs::create_dir(stage.world.path("hooks")).expect("a directory");
    stage.world.user.owns(&stage.world.path("hooks"));
    stage.world.write_mode("hooks/pre-commit", "#!/bin/sh\necho hooked\n", 0o755);
    stage.says(
        &stage.project,
        &["config", "core.hooksPath", &stage.world.path("hooks").display().to_string()],
    );
    let ran = stage.inside(&stage.project, "git commit --allow-empty -m e; git push -q origin main").ok();
    assert!(ran.all().contains("hooked\n"), "{ran:?}");
    assert_eq!(stage.says(&stage.project, &["log", "-1", "--format=%s"]), "e\n");
    assert_eq!(stage.world.tip(&stage.upstream, "main"), stage.world.tip(&stage.project, "main"));

    std::fs::remove_file(stage.project.join(".git")).expect("it is there");
    std::os::unix::fs::symlink("../separate.git", stage.project.join(".git")).expect("a link");
    let mut open = stage.world.command(stage.world.path("bin/keyhatch"));
    open.current_dir(&stage.project).args(["session", "open", "--project", ".", "--target", "/work"]);
    let refused = Finished::from(open.output().expect("it runs")).fails();
    assert!(refused.stderr.contains("is a symbolic link, which a container could replace"), "{refused:?}");
}
