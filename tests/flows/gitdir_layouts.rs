//! Every shape in which git keeps a repository: a session starts in it, commits come back, the host sees what it would
//! have seen without a sandbox, and nothing is left behind.

use std::path::Path;
use std::process::Command;

use keyhatch_tests::{GITS, SshServer, SshVersion, Twins, World, with_git};

const WORK: &str = "echo w > w; git add w; git commit -qm work; git status --porcelain; git log --format=%s";

#[test]
fn the_project_is_a_linked_worktree() {
    Twins::each(|twins| {
        for project in [&twins.boxed, &twins.plain] {
            let linked = format!("git worktree add -q {}-linked -b linked", project.display());
            twins.on_host(project, &linked).ok();
        }
        let mut twins = twins.clone();
        (twins.boxed, twins.plain) = (linked(&twins.boxed), linked(&twins.plain));
        let main = twins.world.path("boxed");
        twins.same("echo l > l; git add l; git commit -qm l; git stash list; git switch -qc other; git commit -q --allow-empty -m o");
        // The main worktree's own branch is not moved under it.
        let ran = twins.inside(&twins.boxed, "git update-ref refs/heads/main HEAD; git worktree list").ok();
        assert!(ran.stderr.contains("another worktree has this branch checked out"), "{ran:?}");
        assert_eq!(twins.on_host(&main, "git status --porcelain; git fsck").ok().stdout, "");
        twins.boxed = main;
        twins.world.clean(&twins.boxed);
    });
}

fn linked(project: &Path) -> std::path::PathBuf {
    project.with_file_name(format!("{}-linked", project.file_name().expect("a name").to_string_lossy()))
}

#[test]
fn the_project_has_linked_worktrees_and_worktree_configuration() {
    Twins::each(|twins| {
        for project in [&twins.boxed, &twins.plain] {
            let script = format!(
                "git worktree add -q {0}-linked -b linked; git config extensions.worktreeConfig true; git config --worktree user.name Own",
                project.display()
            );
            twins.on_host(project, &script).ok();
        }
        twins.same("git commit -q --allow-empty -m mine; git log -1 --format=%an; git worktree list | wc -l");
        let ran = twins
            .inside(
                &twins.boxed,
                "git worktree list; git log -1 --format=%an; git checkout linked || echo refused",
            )
            .ok();
        assert!(
            ran.stdout.contains("[linked]") && ran.stdout.contains("Own") && ran.stdout.contains("refused"),
            "{ran:?}"
        );
    });
}

#[test]
fn the_git_directory_lies_elsewhere_or_is_a_link() {
    Twins::each(|twins| {
        twins.prepare("git init -q --separate-git-dir ../$(basename $PWD)-separate.git");
        twins.same(WORK);
        twins.prepare("rm .git; ln -s ../$(basename $PWD)-separate.git .git");
        twins.same("echo v > v; git add v; git commit -qm v; git switch -qc x");
        let script = "rm -f .git; mv .git x; echo 'gitdir: /tmp/evil' > .git; ls -ld .git";
        let ran = twins.world.run(&twins.boxed, "default", script);
        assert!(ran.stdout.contains("separate.git"), "{ran:?}");
        assert!(twins.boxed.join(".git").is_symlink(), "the link is still the user's own");
    });
}

#[test]
fn a_project_without_a_repository_gets_one_when_the_session_makes_one() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let project = world.make_directory("fresh");
        let ran = world.run(&project, "default", "ls -A; git status 2>&1 | head -1").ok();
        assert!(ran.stdout.contains("fatal: not a git repository"), "{ran:?}");
        world.clean(&project);
        assert!(std::fs::read_dir(&project).expect("a directory").next().is_none(), "nothing is left");
        let script = "git init -q -b trunk; git config core.fsmonitor 'touch ~/pwned; false'; echo 'touch ~/pwned' > .git/hooks/post-checkout; \
                      chmod +x .git/hooks/post-checkout; echo a > a; git add a; git commit -qm first; git switch -qc topic";
        world.run(&project, "default", script).ok();
        let seen = world.git(&project, &["log", "--format=%s %D"]).ok();
        assert_eq!(seen.stdout, "first HEAD -> topic, trunk\n");
        let status = world.git(&project, &["status", "--porcelain"]).ok();
        assert_eq!(status.stdout, "", "{status:?}");
        world.git(&project, &["checkout", "-q", "trunk"]).ok();
        assert!(!world.home().join("pwned").exists());
    }
}

#[test]
fn submodules_work_inside_each_with_a_git_directory_of_its_own() {
    Twins::each(|twins| {
        let sub = twins.world.project("library", "https://h.example/library.git");
        for project in [&twins.boxed, &twins.plain] {
            let script = format!(
                "git -c protocol.file.allow=always submodule --quiet add {} sub; git commit -qm sub; \
                 git -C sub config user.name Ada; git -C sub config user.email ada@example.org",
                sub.display()
            );
            twins.on_host(project, &script).ok();
        }
        twins.same(
            "cd sub; echo s > s; git add s; git commit -qm s; cd ..; git submodule status; git add sub; git commit -qm 'move sub'; \
             git status --porcelain",
        );
        for command in [
            "git -C sub log --format=%s",
            "git -C sub status --porcelain",
            "git -C sub fsck",
            "git submodule status",
        ] {
            let [boxed, plain] = [&twins.boxed, &twins.plain].map(|p| twins.on_host(p, command).ok().stdout);
            assert_eq!(boxed, plain, "{command}");
        }
        // Its own top is one that an editor opens, too.
        let plant = "cd sub; echo x > .envrc; mkdir .vscode; echo x > .vscode/tasks.json; git add -A; git status --porcelain; ls -A";
        let ran = twins.world.run(&twins.boxed, "default", plant);
        assert!(
            ran.stdout.contains(".envrc\n") && !ran.stdout.contains("?? ") && !ran.stdout.contains("A  "),
            "{ran:?}"
        );
        assert!(!twins.boxed.join("sub/.envrc").exists() && !twins.boxed.join("sub/.vscode").exists());
        let attack = "git -C sub config core.fsmonitor 'touch /tmp/x; false'; mv sub gone; rm -rf sub; mkdir sub; git init -q sub; \
                      echo x > sub/.git; ls";
        let ran = twins.world.run(&twins.boxed, "default", attack);
        assert!(twins.boxed.join("sub/.git").is_file(), "{ran:?}");
        let config = std::fs::read_to_string(twins.boxed.join(".git/modules/sub/config")).expect("a file");
        assert!(!config.contains("fsmonitor"), "{config}");
    });
}

#[test]
fn an_uninitialised_submodule_can_be_used_inside_and_stays_there() {
    Twins::each(|twins| {
        let sub = twins.world.project("library", "https://h.example/library.git");
        let script = format!(
            "git -c protocol.file.allow=always submodule --quiet add {} sub; git commit -qm sub; git submodule --quiet deinit -f sub; rm -rf .git/modules",
            sub.display()
        );
        twins.on_host(&twins.boxed, &script).ok();
        let attack = "cd sub; git init -q; git config core.fsmonitor 'touch pwned; false'; git commit -q --allow-empty -m x; git log --format=%s";
        let ran = twins.inside(&twins.boxed, attack).ok();
        assert!(ran.stdout.contains('x'), "{ran:?}");
        assert!(std::fs::read_dir(twins.boxed.join("sub")).expect("a directory").next().is_none());
        twins.on_host(&twins.boxed, "git status").ok();
        // As `git submodule update --init` lays it out: upstream's commit and one of the session's own.
        let script = "mkdir -p .git/modules; git init -q --separate-git-dir .git/modules/sub sub; cd sub; git config core.fsmonitor 'touch ~/pwned; false'; \
             git commit -q --allow-empty -m theirs; git update-ref refs/remotes/origin/main HEAD; \
             git update-ref refs/heads/same HEAD; git commit -q --allow-empty -m inside";
        let ran = twins.inside(&twins.boxed, script).ok();
        let take = ran
            .stderr
            .lines()
            .find_map(|line| line.split_once("in that submodule: "))
            .expect("a way to take it")
            .1;
        let taken = format!(
            "git -c protocol.file.allow=always submodule --quiet update --init sub; cd sub; {take}; \
             git for-each-ref --format='%(refname) %(contents:subject)' refs/remotes/session; git fsck"
        );
        let seen = twins.on_host(&twins.boxed, &taken).ok();
        assert!(
            seen.stdout.starts_with("refs/remotes/session/") && seen.stdout.contains(" inside\n"),
            "{seen:?} {ran:?}"
        );
        assert_eq!(seen.stdout.lines().count(), 1, "what upstream has is not kept: {seen:?}");
        assert!(!twins.world.home().join("pwned").exists());
    });
}

#[test]
fn a_submodule_is_checked_out_inside_from_its_server() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let server = SshServer::start(&world, SshVersion::V2);
        let library = world.project("library", "https://h.example/library.git");
        let upstream = world.upstream("library.git", "sha1");
        world.git(&library, &["push", "-q", &upstream.to_string_lossy(), "main"]).ok();
        let project = world.project("p", "https://h.example/p.git");
        // As in a clone: named, and not there yet.
        let make = format!(
            "git -c protocol.file.allow=always submodule --quiet add {} sub; git config -f .gitmodules submodule.sub.url {url}; \
             git add .gitmodules; git commit -qm sub; git submodule --quiet deinit -f sub; rm -rf .git/modules; git submodule --quiet init",
            upstream.display(),
            url = server.url(&upstream)
        );
        let twins = Twins::over(world, project.clone(), git);
        twins.on_host(&project, &make).ok();
        let script = "git submodule --quiet update --init; cat sub/README; cd sub; git commit -q --allow-empty -m inside; cd ..; git submodule status";
        let ran = twins.inside(&project, script).ok();
        assert!(ran.stdout.starts_with("hello\n+"), "{ran:?}\n{}", twins.world.broker_log());
        let kept = "sub: a repository that the session set up; kept: session-HEAD";
        assert!(ran.stderr.contains(kept), "on no branch, and kept all the same: {ran:?}");
        let seen = twins.on_host(&project, "ls -A sub; git status --porcelain; git fsck --no-dangling").ok();
        assert_eq!(seen.stdout, "", "{seen:?} {ran:?}");
        // Where the session only went to upstream's commit there is nothing to keep.
        let ran = twins.inside(&project, "git submodule --quiet update --init").ok();
        assert!(!ran.stderr.contains("kept:"), "{ran:?}");
        twins.world.clean(&project);
    }
}

#[test]
fn a_directory_above_several_repositories() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let above = world.make_directory("above");
        let [one, two] = ["above/one", "above/deep/two"].map(|name| {
            world.make_directory("above/deep");
            world.project(name, "https://h.example/p.git")
        });
        let script = "for d in one deep/two; do (cd $d; echo x > x; git add x; git commit -qm work; git config core.fsmonitor false); done; \
                      echo 'evil' > one/.git/hooks/post-commit";
        world.run(&above, "default", script).ok();
        for project in [&one, &two] {
            let seen = world.git(project, &["log", "--format=%s", "-1"]).ok();
            assert_eq!(seen.stdout, "work\n");
            assert_eq!(world.git(project, &["status", "--porcelain"]).ok().stdout, "");
            assert!(
                !std::fs::read_to_string(project.join(".git/config")).expect("a file").contains("fsmonitor")
            );
        }
        assert!(!one.join(".git/hooks/post-commit").exists() && !above.join(".git").exists());
        world.clean(&above);
    }
}

#[test]
fn a_bare_repository_inside_the_tree() {
    Twins::each(|twins| {
        twins.prepare("git clone -q --bare . fixtures.git");
        let script = "git -C fixtures.git config core.fsmonitor 'touch pwned'; git push -q fixtures.git HEAD:refs/heads/pushed; \
                      git -C fixtures.git log -1 --format=%s pushed";
        let ran = twins.inside(&twins.boxed, script).ok();
        assert!(ran.stdout.contains("Add README"), "{ran:?}");
        let config = std::fs::read_to_string(twins.boxed.join("fixtures.git/config")).expect("a file");
        assert!(!config.contains("fsmonitor"), "{config}");
        let pushed = twins
            .on_host(&twins.boxed, "git -C fixtures.git log -1 --format=%s pushed; git -C fixtures.git fsck")
            .ok();
        assert!(pushed.stdout.contains("Add README"), "{pushed:?}");
    });
}

#[test]
fn reftable_and_sha256_repositories() {
    // The older git knows no reftable: there the host could not have such a repository.
    for (git, options) in [
        (GITS[0], "--object-format=sha256"),
        (GITS[1], "--object-format=sha256"),
        (GITS[1], "--ref-format=reftable"),
        (GITS[1], "--ref-format=reftable --object-format=sha256"),
    ] {
        let world = World::new();
        world.use_git(git);
        let project = world.make_directory("p");
        let make = format!("git init -q {options}; echo a > a; git add a; git commit -qm a; git branch old");
        let twins = Twins::over(world, project.clone(), git);
        twins.on_host(&project, &make).ok();
        let script = "echo b > b; git add b; git commit -qm b; git switch -qc topic; git commit -q --allow-empty -m t; git branch -d old || true; git log --format=%s";
        twins.inside(&project, script).ok();
        let seen = twins
            .on_host(&project, "git log --format=%s; git symbolic-ref HEAD; git status --porcelain; git fsck")
            .ok();
        assert!(
            seen.stdout.starts_with("t\nb\na\nrefs/heads/topic\n"),
            "{options} {seen:?}\n{}",
            twins.world.broker_log()
        );
        let script =
            "git worktree add -q tree -b treed; cd tree; echo t > t; git add t; git commit -qm treed";
        let ran = twins.inside(&project, script).ok();
        let look = "git log --format=%s -1; git status --porcelain; git symbolic-ref HEAD; git fsck";
        let seen = twins.on_host(&project.join("tree"), look);
        assert_eq!(seen.stdout, "treed\nrefs/heads/treed\n", "{options} {seen:?} {ran:?}");
        let listed = twins.on_host(&project, "git worktree list | wc -l").ok();
        assert_eq!(listed.stdout.trim(), "2", "{options}");
        twins.world.clean(&project);
    }
}

#[test]
fn shallow_and_partial_clones_and_alternates() {
    Twins::each(|twins| {
        let source = twins.world.project("source", "https://h.example/s.git");
        for n in 0..4 {
            twins.world.commit(&source, &format!("f{n}"), "content\n");
            twins.world.commit(&source, "changing", &format!("{n}\n"));
        }
        twins.world.commit(&source, "f3", "last\n");
        twins.on_host(&source, "git config uploadpack.allowFilter true").ok();
        for (kind, options) in
            [("shallow", "--depth 2"), ("partial", "--filter=blob:none"), ("borrowing", "--shared")]
        {
            let clone = format!(
                "git clone -q {options} file://{0} ../{kind} 2>&1 || git clone -q {options} {0} ../{kind}",
                source.display()
            );
            twins.on_host(&source, &clone).ok();
            if kind == "borrowing" {
                twins
                    .on_host(
                        &source,
                        &format!("rm -rf ../{kind}; git clone -q --shared {} ../{kind}", source.display()),
                    )
                    .ok();
            }
            let project = twins.world.path(kind);
            let ran = twins
                .inside(
                    &project,
                    "echo n > n; git add n; git commit -qm new; git status --porcelain; git log --format=%s",
                )
                .ok();
            assert!(ran.stdout.starts_with("new\nAdd f3\n"), "{kind} {ran:?}");
            let seen = twins.on_host(&project, "git log --format=%s; git status --porcelain; git fsck 2>&1; git rev-parse --is-shallow-repository").ok();
            assert!(seen.stdout.starts_with("new\nAdd f3\n"), "{kind} {seen:?}");
            assert_eq!(seen.stdout.contains("true"), kind == "shallow", "{kind} {seen:?}");
            assert!(!ran.all().contains("alternate") && !ran.all().contains("error"), "{kind} {ran:?}");
            if kind == "partial" {
                // To a file that upstream promised and nobody has here; and to one that nobody promised.
                let script = "c() { git update-ref refs/heads/$1 $(git commit-tree $2 -p HEAD -m $1); }; c promised $(printf '100644 blob %s\\tx\\n' $(git rev-parse HEAD~3:changing) | git mktree --missing); \
                     c hole $(printf '100644 blob %s\tx\n' 1234567890123456789012345678901234567890 | git mktree --missing)";
                let ran = twins.inside(&project, script).ok();
                let seen =
                    twins.on_host(&project, "git for-each-ref --format='%(refname:short)' refs/heads").ok();
                assert!(
                    seen.stdout.contains("promised") && !seen.stdout.contains("hole"),
                    "{seen:?} {ran:?}"
                );
                assert!(ran.stderr.contains("not taken: refs/heads/hole"), "{ran:?}");
            }
        }
    });
}

#[test]
fn a_project_of_another_owner_that_the_user_trusts() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let project = world.project("theirs", "https://h.example/p.git");
        // Readable and writable by the user, and not theirs: git asks for safe.directory.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&project, mode).expect("a mode");
        let mut give = Command::new(if rustix::process::getuid().is_root() { "env" } else { "sudo" });
        let given = give.args(["chown", "root"]).arg(&project).status();
        assert!(given.is_ok_and(|status| status.success()), "giving a directory to root needs root, or sudo");
        world.git(&world.home(), &["config", "--global", "safe.directory", &project.to_string_lossy()]).ok();
        let ran = world
            .run(
                &project,
                "default",
                &with_git(git, "git status --porcelain && git commit -q --allow-empty -m x"),
            )
            .ok();
        assert!(!ran.all().contains("dubious"), "{ran:?}");
        assert_eq!(world.git(&project, &["log", "-1", "--format=%s"]).ok().stdout, "x\n");
    }
}

#[test]
fn two_sessions_in_one_repository_and_in_two_worktrees_of_it() {
    Twins::each(|twins| {
        let linked = format!("git worktree add -q {}-linked -b linked", twins.boxed.display());
        twins.on_host(&twins.boxed, &linked).ok();
        let wait = |count: usize| {
            format!(
                "touch $0.ready; n=0; while [ $n -lt 5 ]; do git commit -q --allow-empty -m \"$0 $n\" && n=$((n+1)) || sleep 0.2; done; \
             while [ $(git rev-list --count --all) -lt {count} ]; do sleep 0.1; done"
            )
        };
        let other = self::linked(&twins.boxed);
        let start = |project: &Path, name: &str, count| {
            let script =
                format!("set -- ; sh -c '{}' {name}", twins.script(&wait(count)).replace("'", "'\\''"));
            twins.world.start(project, "default", &script)
        };
        let one = start(&twins.boxed, "one", 11);
        let two = start(&other, "two", 11);
        for ran in [one.finish(), two.finish()] {
            assert!(ran.status.success(), "{ran:?}\n{}", twins.world.broker_log());
        }
        let count = twins
            .on_host(&twins.boxed, "git rev-list --count --all; git fsck; git log -1 --format=%s linked main")
            .ok();
        assert!(count.stdout.starts_with("11\n"), "{count:?}");
        // In one worktree they take turns: each goes on from what the other committed.
        let turns = |name: &str, odd: usize| {
            let script = format!(
                "n=0; while [ $n -lt 6 ]; do c=$(git rev-list --count HEAD); \
                 if [ $((c % 2)) = {odd} ]; then git commit -q --allow-empty -m '{name}' && n=$((n+1)); else sleep 0.05; fi; done"
            );
            twins.world.start(&twins.boxed, "default", &twins.script(&script))
        };
        let (three, four) = (turns("three", 0), turns("four", 1));
        for ran in [three.finish(), four.finish()] {
            assert!(ran.status.success(), "{ran:?}\n{}", twins.world.broker_log());
        }
        let log = twins.on_host(&twins.boxed, "git log --format=%s -12; git for-each-ref refs/keyhatch").ok();
        assert_eq!(
            log.stdout.lines().collect::<Vec<_>>().chunks(2).filter(|pair| pair[0] != pair[1]).count(),
            6,
            "{log:?}"
        );
        twins.world.clean(&twins.boxed);
    });
}
