//! The session's own git directory: git works inside, and the user sees afterwards what they would have seen without.

use std::os::unix::fs::MetadataExt;

use keyhatch_tests::{GITS, SshServer, SshVersion, Twins, World, with_git};

#[test]
fn commits_come_back_with_their_log_and_a_clean_status() {
    Twins::each(|twins| {
        twins.same(
            "echo a > a; git add a; git commit -qm a; echo b > b; git add b; git commit -qm 'b, with words'",
        );
        twins.same("git rm -q a; git commit -qm 'remove a'; echo c >> README; git commit -qam c; git tag v1; git tag -a v2 -m two");
    });
}

#[test]
fn what_is_staged_changed_and_untracked_looks_the_same() {
    Twins::each(|twins| {
        twins.same("echo a > a; git add a; echo more >> a; echo b > b; chmod +x b; git add -N b; echo x >> README; mkdir d; echo d > d/d");
        twins.same("git add -A; git reset -q README; git mv a e; git update-index --assume-unchanged README");
    });
}

#[test]
fn branches_are_made_switched_and_deleted() {
    Twins::each(|twins| {
        twins.prepare("git branch old");
        twins.same("git switch -qc topic; echo t > t; git add t; git commit -qm t; git switch -q main; git switch -q -; git branch side; git branch gone; git branch -D gone");
        twins.same("git switch -q main; git branch other; git branch -D other");
        twins.same("git merge -q --no-edit topic; git switch -q --detach HEAD~1; git switch -q main");
        twins.same("git switch -q --orphan fresh; echo f > f; git add f; git commit -qm fresh");
    });
}

#[test]
fn a_renamed_branch_keeps_its_log() {
    Twins::each(|twins| {
        let script = "git switch -qc a; git commit -q --allow-empty -m a; git branch -m a b; git commit -q --allow-empty -m b; \
            git branch c; git branch -m c d";
        twins.inside(&twins.boxed, script).ok();
        twins.on_host(&twins.plain, script).ok();
        // git itself writes no entry for a ref that stays where it is, which renaming is.
        let seen = |project: &std::path::Path| {
            let view = twins.view(project);
            let kept = view.lines().filter(|line| !line.contains("Branch: renamed"));
            kept.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(seen(&twins.boxed), seen(&twins.plain));
        // The user's own stays under its name too.
        twins.prepare("git branch mine");
        let ran = twins.inside(&twins.boxed, "git branch -m mine yours").ok();
        let seen =
            twins.on_host(&twins.boxed, "git for-each-ref --format='%(refname:short)' refs/heads").ok();
        assert!(seen.stdout.contains("mine\n") && seen.stdout.contains("yours\n"), "{seen:?}");
        assert!(ran.stderr.contains("refs/heads/mine: deleted inside, kept on the host"), "{ran:?}");
    });
}

#[test]
fn the_sessions_own_commits_may_be_amended_and_rebased() {
    Twins::each(|twins| {
        twins.same(
            "for n in 1 2 3; do echo $n > f$n; git add .; git commit -qm $n; done; git commit -q --amend -m three; \
             git switch -qc topic HEAD~2; echo t > t; git add t; git commit -qm t; git rebase -q main; git switch -q main",
        );
        let log = twins.on_host(&twins.boxed, "git log --format=%s --graph --all").ok();
        assert!(log.stdout.contains("three"), "{log:?}");
    });
}

#[test]
fn the_stash_grows_and_shrinks() {
    Twins::each(|twins| {
        twins.prepare("echo mine >> README; git stash -q");
        twins.same("echo one >> README; git stash -q; echo two >> README; git stash push -q -m 'with words'; echo n > n; git stash -qu");
        twins.same("echo x > x; git add x; git stash -q; echo y >> README; git stash -q; git stash pop -q; git checkout -q README; git stash drop -q");
        // The user's own entry stays, whatever happens to it inside.
        let script = twins.script("git stash clear; git stash list");
        let ran = twins.world.run(&twins.boxed, "default", &script).ok();
        assert_eq!(ran.stdout, "");
        let left = twins.on_host(&twins.boxed, "git stash list").ok();
        assert_eq!(left.stdout.lines().count(), 4, "{left:?}");
    });
}

#[test]
fn configuration_hooks_and_upkeep_work_inside_and_stay_there() {
    Twins::each(|twins| {
        let config = std::fs::read_to_string(twins.boxed.join(".git/config")).expect("a file");
        let script = "git config core.fsmonitor false; git config alias.x '!touch pwned'; \
            printf '#!/bin/sh\\necho ran > hook-ran\\n' > .git/hooks/post-commit; chmod +x .git/hooks/post-commit; \
            git commit -q --allow-empty -m x; cat hook-ran; rm hook-ran; git gc -q; git fsck; git pack-refs --all; \
            git update-ref refs/heads/packed HEAD; git pack-refs --all; git commit -q --allow-empty -m y";
        let ran = twins.inside(&twins.boxed, script).ok();
        assert!(ran.stdout.contains("ran"), "{ran:?}");
        assert_eq!(std::fs::read_to_string(twins.boxed.join(".git/config")).expect("a file"), config);
        assert!(!twins.boxed.join(".git/hooks/post-commit").exists());
        let log = twins
            .on_host(&twins.boxed, "git log --format=%s; git rev-parse packed HEAD~1; git fsck --strict")
            .ok();
        assert!(log.stdout.starts_with("y\nx\nAdd README\n"), "{log:?}");
        twins.world.clean(&twins.boxed);
    });
}

#[test]
fn a_commit_is_on_the_host_while_the_session_runs() {
    for git in GITS {
        let twins = Twins::new(git);
        let script = twins.script(
            "git commit -q --allow-empty -m live; git rev-parse HEAD > made; while ! test -e go; do sleep 0.05; done",
        );
        let run = twins.world.start(&twins.boxed, "default", &script);
        let made = || std::fs::read_to_string(twins.boxed.join("made")).unwrap_or_default();
        twins.world.wait_until("the commit is on the host", || {
            !made().is_empty() && twins.world.tip(&twins.boxed, "main") == made().trim()
        });
        twins.world.write("boxed/go", "");
        run.finish().ok();
        twins.world.clean(&twins.boxed);
    }
}

#[test]
fn the_hosts_own_files_have_one_name_again_soon_after_the_start() {
    Twins::each(|twins| {
        twins.prepare("git pack-refs --all");
        let run = twins.world.start(
            &twins.boxed,
            "default",
            "touch ready; while ! test -e go; do sleep 0.05; done",
        );
        twins.world.wait_until("it runs", || twins.boxed.join("ready").exists());
        for name in [".git/index", ".git/packed-refs"] {
            let names = || std::fs::metadata(twins.boxed.join(name)).map(|file| file.nlink());
            twins.world.wait_until("the keeper copies it", || names().is_ok_and(|names| names == 1));
        }
        twins.world.write("boxed/go", "");
        run.finish().ok();
    });
}

#[test]
fn what_the_host_does_meanwhile_appears_inside() {
    Twins::each(|twins| {
        let script = twins.script(
            "echo ready > ready; wait_for() { while ! eval \"$1\"; do sleep 0.05; done; }\n\
             wait_for 'test \"$(git log -1 --format=%s)\" = host'; wait_for 'test -z \"$(git status --porcelain -uno)\"'; \
             wait_for 'git rev-parse -q --verify made >/dev/null'; echo commit-seen >> seen; \
             wait_for 'test \"$(git symbolic-ref HEAD)\" = refs/heads/made'; wait_for 'test -z \"$(git status --porcelain -uno)\"'; echo switch-seen >> seen; \
             wait_for '! git rev-parse -q --verify gone >/dev/null'; echo deletion-seen >> seen; \
             git commit -q --allow-empty -m inside",
        );
        twins.prepare("git branch gone; git pack-refs --all");
        let run = twins.world.start(&twins.boxed, "default", &script);
        let seen =
            |word: &str| std::fs::read_to_string(twins.boxed.join("seen")).unwrap_or_default().contains(word);
        twins.world.wait_until("it runs", || twins.boxed.join("ready").exists());
        twins.on_host(&twins.boxed, "echo h > h; git add h; git commit -qm host; git branch made").ok();
        twins.world.wait_until("the commit is seen", || seen("commit-seen"));
        twins.on_host(&twins.boxed, "git switch -q made").ok();
        twins.world.wait_until("the switch is seen", || seen("switch-seen"));
        twins.on_host(&twins.boxed, "git branch -D gone").ok();
        let ran = run.finish();
        assert!(ran.status.success(), "{ran:?}");
        let log = twins
            .on_host(&twins.boxed, "git log --format=%s made; git status --porcelain -uno; git fsck")
            .ok();
        assert!(log.stdout.starts_with("inside\nhost\nAdd README\n"), "{log:?}");
    });
}

#[test]
fn what_would_take_the_users_commits_away_waits_and_the_report_says_how_to_take_it() {
    Twins::each(|twins| {
        twins.world.commit(&twins.boxed, "mine", "mine\n");
        let before = twins.world.tip(&twins.boxed, "main");
        let ran = twins
            .inside(&twins.boxed, "git commit -q --amend -m rewritten; git tag t; git branch -f t2")
            .ok();
        assert_eq!(twins.world.tip(&twins.boxed, "main"), before);
        let waiting = twins
            .on_host(&twins.boxed, "git for-each-ref --format='%(refname) %(contents:subject)' refs/keyhatch")
            .ok();
        let line = waiting.stdout.lines().next().unwrap_or_default();
        assert!(line.ends_with("/heads/main rewritten"), "{waiting:?}");
        let name = line.split(' ').next().unwrap_or_default();
        assert!(
            ran.stderr.contains(&format!("keyhatch:   waits as {name}")) || ran.stderr.contains(name),
            "{ran:?}"
        );
        assert!(ran.stderr.contains(&format!("git merge {name}")), "{ran:?}");
        let taken = twins
            .on_host(&twins.boxed, &format!("git reset -q --hard {name}; git log -1 --format=%s; git fsck"))
            .ok();
        assert!(taken.stdout.starts_with("rewritten"), "{taken:?}");
    });
}

#[test]
fn the_report_names_what_was_brought_and_show_repeats_it() {
    Twins::each(|twins| {
        let ran = twins
            .inside(
                &twins.boxed,
                "git commit -q --allow-empty -m one; git branch new; echo $KEYHATCH_SESSION",
            )
            .ok();
        assert!(ran.stderr.contains("main went from") && ran.stderr.contains("new new at"), "{ran:?}");
        let session = ran.stdout.trim();
        let shown = twins.world.keyhatch(&["session", "show", session, "--json"]).ok();
        let report: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
        let section =
            report["sections"].as_array().expect("sections").iter().find(|s| s["name"] == "repository");
        let moved = &section.expect("a section about the repository")["data"]["moved"];
        assert_eq!(moved[0]["ref"], "refs/heads/main", "{report}");
        assert_eq!(moved[0]["to"].as_str(), Some(twins.world.tip(&twins.boxed, "main").as_str()));
    });
}

#[test]
fn what_the_host_runs_later_is_shown_with_its_diff_when_it_was_changed() {
    Twins::each(|twins| {
        twins.prepare(
            "printf 'all:\\n\\ttrue\\n' > Makefile; echo same > build.rs; git add -A; git commit -qm build",
        );
        let script = "printf 'all:\\n\\tcurl evil\\n' > Makefile; mkdir -p .github/workflows; echo 'on: push' > .github/workflows/ci.yml; \
        echo x > tool; chmod +x tool; ln -s /etc/passwd out; ln -s README in; mkdir nested; git init -q nested; echo $KEYHATCH_SESSION";
        let ran = twins.inside(&twins.boxed, script).ok();
        for line in [
            "run or obeyed on your side: Makefile",
            "+\tcurl evil",
            "run or obeyed on your side: .github/workflows/ci.yml",
            "executable, made or changed: tool",
            "link out of the project: out",
            "repository of its own, whose configuration your git would obey there: nested",
        ] {
            assert!(ran.stderr.contains(line), "{line} {ran:#?}");
        }
        assert!(!ran.stderr.contains("build.rs") && !ran.stderr.contains("project: in"), "{ran:#?}");
        let shown = twins.world.keyhatch(&["session", "show", ran.stdout.trim(), "--json"]).ok();
        assert!(shown.stdout.contains("\"executables\":[\"tool\"]"), "{shown:?}");
    });
}

#[test]
fn tracking_branches_sparse_checkouts_and_worktrees_work_inside() {
    Twins::each(|twins| {
        twins.prepare(
            "mkdir in out; echo i > in/f; echo o > out/f; git add -A; git commit -qm dirs; git update-ref refs/remotes/origin/far HEAD",
        );
        let script = "git checkout -q -b near --track origin/far; git rev-parse --abbrev-ref near@{u}; \
            git sparse-checkout set in; ls; git status --porcelain; echo x > in/g; git add in/g; git commit -qm sparse; \
            git worktree add -q /tmp/tree -b treed; cd /tmp/tree; git commit -q --allow-empty -m treed; git worktree list";
        let ran = twins.inside(&twins.boxed, script).ok();
        assert!(ran.stdout.starts_with("origin/far\nREADME\nin\n"), "{ran:?}");
        assert!(ran.stdout.contains("/tmp/tree"), "{ran:?}");
        let seen = twins
            .on_host(
                &twins.boxed,
                "git log -1 --format=%s near; git log -1 --format=%s treed; git status --porcelain; git fsck",
            )
            .ok();
        assert_eq!(seen.stdout, "sparse\ntreed\n", "{seen:?} {ran:?}");
    });
}

#[test]
fn a_worktree_that_is_added_in_the_project_is_one_on_the_host_too() {
    Twins::each(|twins| {
        twins.same(
            "git worktree add -q tree -b treed; cd tree; echo t > t; git add t; git commit -qm treed; cd ..; git status --porcelain",
        );
        let [boxed, plain] = [&twins.boxed, &twins.plain].map(|p| {
            twins
                .on_host(
                    &p.join("tree"),
                    "git log --format=%s; git status --porcelain; git symbolic-ref HEAD",
                )
                .ok()
                .stdout
        });
        assert_eq!(boxed, plain);
    });
}

#[test]
fn a_push_that_sets_upstream_works_inside_and_the_host_sees_what_was_pushed() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.allow_policy();
        let script = "git commit -q --allow-empty -m pushed; git push -q -u origin main; git rev-parse --abbrev-ref @{u}; git status -sb";
        let ran = world.run(&project, "allow", &with_git(git, script)).ok();
        assert!(ran.stdout.starts_with("origin/main\n## main...origin/main\n"), "{ran:?}");
        let tip = world.tip(&upstream, "main");
        let seen = (world.tip(&project, "main"), world.tip(&project, "origin/main"));
        assert_eq!(seen, (tip.clone(), tip));
    }
}

#[test]
fn what_a_session_says_of_an_upstream_moves_nothing_until_upstream_says_it() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.policy("careful", CAREFUL);
        let own = upstream.display().to_string();
        world.git(&project, &["push", "-q", &own, "main"]).ok();
        world.git(&project, &["fetch", "-q", &own, "+refs/heads/*:refs/remotes/origin/*"]).ok();
        let agreed = world.tip(&project, "origin/main");
        // Somebody else pushes.
        world.git(&world.home(), &["clone", "-q", "-b", "main", &own, "other"]).ok();
        let other = world.home().join("other");
        world.commit(&other, "theirs", "theirs\n");
        world.git(&other, &["push", "-q", "origin", "HEAD:main"]).ok();
        let theirs = world.tip(&upstream, "main");

        let lie = "git commit -q --allow-empty -m mine; git update-ref refs/remotes/origin/main HEAD; \
        git remote add fork https://f.example/f.git; git update-ref refs/remotes/fork/x HEAD; git status -sb; \
        git push --force origin main; true";
        let ran = world.run(&project, "careful", &with_git(git, lie)).ok();
        assert!(
            ran.stdout.contains("## main...origin/main\n") || ran.stdout.contains("## main\n"),
            "{ran:?}"
        );
        assert_eq!(world.tip(&project, "origin/main"), agreed, "the user's own is not moved: {ran:?}");
        assert_eq!(
            world.tip(&upstream, "main"),
            theirs,
            "it is no fast-forward, whatever the session says: {ran:?}"
        );
        let refs = world.git(&project, &["for-each-ref", "--format=%(refname)"]).ok().stdout;
        assert!(refs.contains("/remotes/origin/main\n") && !refs.contains("fork"), "{refs}");
        assert!(ran.stderr.contains("upstream did not say that it has this"), "{ran:?}");
        assert!(ran.stderr.contains("refs/remotes/fork: the host has no such remote"), "{ran:?}");

        let fetch = "git fetch -q origin && git rev-parse origin/main";
        let ran = world.run(&project, "careful", &with_git(git, fetch)).ok();
        assert_eq!(ran.stdout.trim(), theirs);
        assert_eq!(
            world.tip(&project, "origin/main"),
            theirs,
            "upstream said it: {ran:?}\n{}",
            world.broker_log()
        );
    }
}

const CAREFUL: &str = r#"
name = "careful"
description = "Nothing but fast-forwards."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"

[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward"]
decision = "allow"
risks = "accept"
reason = "a test"
"#;

#[test]
fn the_projects_own_hooks_run_inside_wherever_they_lie() {
    Twins::each(|twins| {
        let hook = |directory: &str| {
            format!(
                "mkdir -p {directory}; printf '#!/bin/sh\\necho hooked >> hooked\\n' > {directory}/pre-commit; chmod +x {directory}/pre-commit"
            )
        };
        let home = twins.world.home().join("hooks").display().to_string();
        for (directory, setting) in
            [(".git/hooks", String::new()), (".husky/_", ".husky/_".to_owned()), (&*home, home.clone())]
        {
            let set = if setting.is_empty() {
                String::new()
            } else {
                format!("git config core.hooksPath {setting}; ")
            };
            twins.prepare(&format!("rm -f .git/hooks/*; {set}{}", hook(directory)));
            let ran = twins
                .inside(&twins.boxed, "rm -f hooked; git commit -q --allow-empty -m x; cat hooked; rm hooked")
                .ok();
            assert_eq!(ran.stdout, "hooked\n", "{directory} {ran:?}");
        }
    });
}

#[test]
fn large_files_that_a_session_commits_are_on_the_host() {
    Twins::each(|twins| {
        let lfs = "git lfs install --local --skip-smudge; git lfs track '*.bin'";
        twins.prepare(&format!("{lfs}; git add -A; git commit -qm track"));
        let forged = "0000000000000000000000000000000000000000000000000000000000000000";
        let script = format!(
            "{lfs}; head -c 300000 /dev/urandom > a.bin; sha256sum a.bin | head -c 64 > sum; git add a.bin; git commit -qm large; \
             mkdir -p .git/lfs/objects/00/00; echo forged > .git/lfs/objects/00/00/{forged}; git commit -q --allow-empty -m x"
        );
        let ran = twins.inside(&twins.boxed, &script).ok();
        let seen = twins
            .on_host(
                &twins.boxed,
                "git lfs fsck --objects; rm a.bin; git lfs checkout a.bin; sha256sum a.bin | head -c 64",
            )
            .ok();
        let sum = std::fs::read_to_string(twins.boxed.join("sum")).expect("a file");
        assert!(seen.stdout.ends_with(&sum), "{seen:?} {ran:?}");
        assert!(!twins.boxed.join(".git/lfs/objects/00").join("00").join(forged).exists(), "{ran:?}");
        assert!(ran.stderr.contains("not taken: a large file of git-lfs"), "{ran:?}");
        twins.world.clean(&twins.boxed);
    });
}

#[test]
fn settings_that_the_user_changes_between_two_sessions_are_the_new_ones_inside() {
    let twins = Twins::new(GITS[1]);
    let included = twins.world.write("home/more", "[user]\n\temail = first@example.org\n");
    twins.prepare(&format!("git config --global include.path {}", included.display()));
    let changes = [
        ("true", "Ada Lovelace\nfirst@example.org\nhttps://h.example/p.git\n"),
        ("sed -i s/first/second/ ~/more", "Ada Lovelace\nsecond@example.org\nhttps://h.example/p.git\n"),
        (
            "git config --global user.name Grace; git remote set-url origin https://h.example/q.git",
            "Grace\nsecond@example.org\nhttps://h.example/q.git\n",
        ),
        (
            "mkdir -p ~/.config/git; git config -f ~/.config/git/config core.abbrev 11; git config --global --unset user.name; \
             git config -f ~/.config/git/config user.name Other",
            "Other\nsecond@example.org\nhttps://h.example/q.git\n",
        ),
    ];
    let script = "git config user.name; git config user.email; git config remote.origin.url";
    let look = || twins.inside(&twins.boxed, script).ok().stdout;
    for (change, expected) in changes {
        // What was just written is not remembered: a file system might not show another change.
        std::thread::sleep(std::time::Duration::from_secs(4));
        look();
        twins.on_host(&twins.boxed, change).ok();
        assert_eq!(look(), expected, "{change}");
    }
}

#[test]
fn a_policy_can_share_the_projects_own_git_directory() {
    for git in GITS {
        let world = World::new();
        world.use_git(git);
        world.policy("shared", &format!("{}\n[repository]\ngit_dir = \"shared\"\n", SHARED));
        let project = world.project("p", "https://h.example/p.git");
        let script = "git commit -q --allow-empty -m x; echo x >> .git/config; echo x > .git/hooks/post-commit; \
                  rm -f .git/config; mv .git/hooks .git/h; git config core.fsmonitor x; rm -rf .git/hooks; ls .git/hooks";
        let ran = world.run(&project, "shared", &with_git(git, script));
        let config = std::fs::read_to_string(project.join(".git/config")).expect("a file");
        assert!(config.contains("h.example") && !config.contains("fsmonitor"), "{config} {ran:?}");
        assert!(!project.join(".git/hooks/post-commit").exists() && project.join(".git/hooks").exists());
        assert_eq!(world.git(&project, &["log", "--format=%s", "-1"]).ok().stdout, "x\n");
    }
}

const SHARED: &str = r#"
name = "shared"
description = "The project's own git directory."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"
"#;
