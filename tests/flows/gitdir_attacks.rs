//! What an agent writes into its git directory, so that the host's git runs it later. Each attack is shown to work where
//! the git directory is the project's own and writable, and to do nothing where it is the session's. What happens where
//! it is shared (`git_dir = "shared"`) stands beside each: there hooks and configuration are read-only, and nothing else.

use std::path::PathBuf;

use keyhatch_tests::{GITS, Twins};

/// What the user does next, in all innocence. `~` is the user's home; inside it is another one.
const INNOCENT: &str = "touch README; git status; git submodule --quiet update; git diff; git log -p -1; git add -A .; git commit -qm host --allow-empty; \
    git checkout -q HEAD; git stash list; git submodule status; git fetch -q evil; git gc -q; git fsck; git branch -a; true";

/// What becomes of an attack where the git directory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// It works: that it does nothing otherwise is the doing of the session's own git directory.
    Works,
    /// Configuration and hooks are read-only there too, so that only a writable git directory shows that it is an attack.
    Stopped,
}
use Shared::{Stopped, Works};

/// Name, what becomes of it in shared mode, and the script that plants it. Nothing of a script's own git commands may set
/// it off.
const EXECUTED: &[(&str, Shared, &str)] = &[
    (
        "hooks",
        Stopped,
        "printf '#!/bin/sh\\ntouch ~/pwned\\n' > .git/hooks/post-commit; chmod +x .git/hooks/post-commit",
    ),
    ("fsmonitor", Stopped, "git config core.fsmonitor 'touch ~/pwned; false'"),
    (
        "sshCommand",
        Stopped,
        "git config core.sshCommand 'touch ~/pwned; false'; git remote add evil ssh://h.example/x",
    ),
    (
        "hooksPath",
        Stopped,
        "mkdir evil; printf '#!/bin/sh\\ntouch ~/pwned\\n' > evil/post-commit; chmod +x evil/post-commit; git config core.hooksPath evil",
    ),
    (
        "filters",
        Stopped,
        "git config filter.x.clean 'touch ~/pwned; cat'; echo '* filter=x' > .gitattributes",
    ),
    (
        "includes",
        Stopped,
        "printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' > evil.cfg; git config include.path ../evil.cfg",
    ),
    (
        "commondir",
        Works,
        "cp -r .git evil.git; printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' >> evil.git/config; echo ../evil.git > .git/commondir",
    ),
    (
        "config.worktree",
        Stopped,
        "git config extensions.worktreeConfig true; git config --worktree core.fsmonitor 'touch ~/pwned; false'",
    ),
    (
        "a directory in the place of .git",
        Stopped,
        "cp -r .git other; printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' >> other/config; mv .git away && mv other .git || true",
    ),
    (
        "a submodule that is a repository of the agent's",
        Works,
        "git init -q nested; git -C nested commit -q --allow-empty -m n; git -C nested config core.fsmonitor 'touch ~/pwned; false'; \
         git -c core.fsmonitor=false add nested 2>/dev/null; git -c core.fsmonitor=false commit -qm nested --no-verify 2>/dev/null; \
         git -c core.fsmonitor=false reset -q --hard 2>/dev/null; rm -f ~/pwned",
    ),
    (
        "config.worktree of a project that has one",
        Works,
        "test -f .git/config.worktree; printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' >> .git/config.worktree",
    ),
    (
        "submodule configuration",
        Stopped,
        "git init -q nested; git -C nested commit -q --allow-empty -m one; git add nested 2>/dev/null; \
         printf '[submodule \"nested\"]\\n path = nested\\n url = ./nested\\n' > .gitmodules; \
         git -C nested commit -q --allow-empty -m two; git config submodule.nested.url ./nested; \
         git config submodule.nested.update '!touch ~/pwned; true'",
    ),
];

#[test]
fn nothing_that_the_agent_writes_into_its_git_directory_runs_on_the_host() {
    let twins = Twins::new(GITS[1]);
    twins.world.policy("shared", SHARED);
    for (at, (name, in_shared, plant)) in EXECUTED.iter().enumerate() {
        for git in GITS {
            let world = &twins.world;
            std::fs::remove_file(world.path("bin/git")).expect("a link");
            world.use_git(git);
            let project = |kind: &str| {
                let directory = format!("{kind}-{at}-{}", git.len());
                let project = world.project(&directory, "https://h.example/p.git");
                if name.ends_with("that has one") {
                    let own =
                        "git config extensions.worktreeConfig true; git config --worktree core.abbrev 12";
                    twins.on_host(&project, own).ok();
                }
                project
            };
            let pwned = world.home().join("pwned");
            let works = |project: &PathBuf| {
                let looked = twins.on_host(project, &format!("set +e; {INNOCENT}"));
                let works = pwned.exists();
                std::fs::remove_file(&pwned).ok();
                (works, looked)
            };
            let (plain, boxed, shared) = (project("plain"), project("boxed"), project("shared"));
            // The same agent without a sandbox, in a home of its own.
            let elsewhere = world.make_directory("elsewhere");
            std::fs::copy(world.home().join(".gitconfig"), elsewhere.join(".gitconfig")).expect("copied");
            world.user.owns(&elsewhere.join(".gitconfig"));
            let planting = format!("HOME={}; export HOME; {plant}", elsewhere.display());
            twins.on_host(&plain, &planting);
            assert!(!pwned.exists(), "{name} is set off by planting it");
            let looked = works(&plain);
            assert!(
                looked.0,
                "{name} is no attack: it does nothing where .git is writable ({git}) {looked:?}"
            );

            let ran = world.run(&shared, "shared", &twins.script(plant));
            let looked = works(&shared);
            assert_eq!(looked.0, *in_shared == Works, "{name}, shared ({git}): {ran:#?} {looked:?}");

            let ran = twins.inside(&boxed, plant);
            assert_ne!(ran.code(), 125, "there was no sandbox: {ran:?}");
            let looked = works(&boxed);
            assert!(!looked.0, "{name} got out: {ran:#?} {looked:#?}");
            assert_eq!(twins.on_host(&boxed, "git fsck --no-dangling").ok().all(), "", "{name}");
        }
    }
}

#[test]
fn a_shared_git_directory_is_the_way_out_that_it_is_said_to_be() {
    let twins = Twins::new(GITS[1]);
    let plant = EXECUTED.iter().find(|(name, in_shared, _)| *name == "commondir" && *in_shared == Works);
    let shared = shared(&twins, plant.expect("it is there").2);
    twins.on_host(&shared, &format!("set +e; {INNOCENT}"));
    assert!(twins.world.home().join("pwned").exists());
}

#[test]
fn objects_that_git_fsck_refuses_never_come_and_the_rest_does() {
    Twins::each(|twins| {
        let blob = "b=$(echo x | git hash-object -w --stdin)";
        let tree = "raw() { printf \"100644 $1\\0\"; echo $b | sed 's/../\\\\x&/g' | xargs -0 printf '%b' | head -c 20; }";
        let commit = "c() { git update-ref refs/heads/$1 $(git commit-tree $2 -m $1); }";
        let script = format!(
            "{blob}; {tree}; {commit}; \
             t=$(raw .git | git hash-object -t tree --stdin -w --literally); c dotgit $t; \
             printf '[submodule \"a\"]\\n path = a\\n url = -u./evil\\n' > m; \
             t=$(printf '100644 blob %s\\t.gitmodules\\n' $(git hash-object -w m) | git mktree); c option $t; \
             printf '[submodule \"a\"]\\n path = a\\n url = x\\n update = !touch ~/pwned\\n' > m; \
             t=$(printf '100644 blob %s\\t.gitmodules\\n' $(git hash-object -w m) | git mktree); c update $t; \
             rm m; git commit -q --allow-empty -m good; git branch good"
        );
        let ran = twins.inside(&twins.boxed, &script).ok();
        let refs =
            twins.on_host(&twins.boxed, "git for-each-ref --format='%(refname)'; git fsck --strict").ok();
        for bad in ["dotgit", "option", "update"] {
            assert!(!refs.stdout.contains(bad), "{bad} {refs:?}");
            assert!(
                ran.stderr.contains(&format!("not taken: refs/heads/{bad}: git fsck refuses it:")),
                "{bad} {ran:#?}"
            );
        }
        assert!(refs.stdout.contains("refs/heads/good"), "{refs:?} {ran:?}");
        let log = twins.on_host(&twins.boxed, "git log -1 --format=%s").ok();
        assert_eq!(log.stdout, "good\n");
        let shared = shared(twins, &script);
        let refs = twins.on_host(&shared, "git for-each-ref --format='%(refname)'").ok();
        assert!(refs.stdout.contains("dotgit") && refs.stdout.contains("update"), "shared: {refs:?}");
        twins.on_host(&shared, "git fsck --strict").fails();
    });
}

#[test]
fn a_session_reads_no_repository_of_the_users_through_borrowed_stores_or_links() {
    Twins::each(|twins| {
        let secret = twins.world.project("secret", "https://h.example/s.git");
        twins.world.commit(&secret, "token", "canary\n");
        let id = twins.world.tip(&secret, "main");
        let key = twins.world.write("home/key", &format!("{id}\n"));
        let script = format!(
            "echo {0}/.git/objects >> .git/objects/info/alternates; echo {id} > .git/refs/heads/steal; \
             ln -s {1} .git/refs/heads/link; mkdir -p .git/refs/heads/d; ln -s {0}/.git/refs/heads .git/refs/heads/d/up; \
             rm -rf .git/logs/refs/heads/main; ln -s {1} .git/logs/refs/heads/main; mkfifo .git/refs/heads/pipe; \
             ln -s {0}/.git/objects/pack .git/objects/pack2; ls .git/refs/heads",
            secret.display(),
            key.display()
        );
        let ran = twins.inside(&twins.boxed, &script).ok();
        let seen = twins
            .on_host(&twins.boxed, "git for-each-ref --format='%(refname)'; git fsck; git status --porcelain")
            .ok();
        assert_eq!(seen.stdout, "refs/heads/main\n", "{ran:?} {seen:?}");
        twins.on_host(&twins.boxed, &format!("git cat-file -e {id}")).fails();
        assert_eq!(std::fs::read_to_string(key).expect("a file"), format!("{id}\n"));
        let shared = shared(twins, &script);
        let seen = twins.on_host(&shared, &format!("git cat-file -p {id}; git rev-parse steal link"));
        assert!(seen.stdout.starts_with("tree ") && seen.stdout.contains(&id), "shared: {seen:?}");
    });
}

#[test]
fn an_index_head_or_store_that_is_no_such_thing_harms_nobody() {
    Twins::each(|twins| {
        for (at, plant) in [
            "rm .git/index; ln -s /etc/passwd .git/index",
            "echo nonsense > .git/index; echo 'ref: ../../x' > .git/HEAD",
            "rm .git/HEAD; mkfifo .git/HEAD .git/packed-refs || true",
            "rm -rf .git/objects; ln -s / .git/objects",
            "rm -rf .git/refs .git/logs; mkdir .git/refs",
            "rm -rf .git/* || true",
            "echo x > .git/index.lock; echo x > .git/HEAD.lock; git commit -q --allow-empty -m x || true",
            // The one that git itself refuses, also where the directory is shared.
            "printf '100644 %s 0\\t.git/hooks/post-commit\\n' $(echo 'touch ~/pwned' | git hash-object -w --stdin) | git update-index --index-info || true",
        ].iter().enumerate() {
            let ran = twins.inside(&twins.boxed, plant);
            let seen = twins.on_host(&twins.boxed, "git log --format=%s; git status --porcelain; git fsck; git checkout -q -f HEAD; ls .git/hooks | grep -v sample || true").ok();
            assert_eq!(seen.stdout, "Add README\n", "{plant} {ran:#?}");
            twins.world.clean(&twins.boxed);
            let shared = shared_as(twins, &format!("shared-{at}"), plant);
            let look = "t='timeout 5 git'; $t log --format=%s && $t status --porcelain && $t fsck --no-dangling && $t checkout -q -f HEAD && echo fine";
            let seen = twins.on_host(&shared, &format!("set +e; {look}"));
            let fine = seen.all() == "Add README\nfine\n";
            assert_eq!(fine, plant.contains("update-index"), "shared: {plant} {seen:?}");
        }
    });
}

#[test]
fn a_hundred_thousand_refs_are_not_the_hosts_problem() {
    Twins::each(|twins| {
        let script = "h=$(git rev-parse HEAD); (echo '# pack-refs with: sorted '; for n in $(seq 100000 199999); do echo \"$h refs/heads/n$n\"; done) > .git/packed-refs; \
                  git commit -q --allow-empty -m after; git for-each-ref | wc -l";
        let ran = twins.inside(&twins.boxed, script).ok();
        assert!(ran.stderr.contains("a session may make 10000 refs"), "{ran:?}");
        let count =
            twins.on_host(&twins.boxed, "git for-each-ref | wc -l; git fsck; git log -1 --format=%s").ok();
        let brought: usize =
            count.stdout.lines().next().and_then(|n| n.trim().parse().ok()).expect("a number");
        assert!(brought <= 10_001, "{count:?}");
        let shared = shared(twins, script);
        let count = twins.on_host(&shared, "git for-each-ref | wc -l").ok();
        assert_eq!(count.stdout.trim(), "100001", "shared: {count:?}");
    });
}

#[test]
fn what_the_host_runs_later_cannot_be_made_or_changed() {
    Twins::each(|twins| {
        twins.world.policy(
            "protecting",
            &format!("{SHARED}protect = [\"deploy/run.sh\"]\n").replace("\"shared\"\n", "\"own\"\n"),
        );
        twins.prepare("echo real > .npmrc; mkdir .vscode deploy; echo '{}' > .vscode/tasks.json; echo run > deploy/run.sh; git add -A -f; git commit -qm settings");
        let script = "for f in .envrc .mcp.json .npmrc .cargo/config.toml mise.toml deploy/run.sh; do echo evil > $f; rm -f $f; mv $f x; done; \
        for d in .vscode .idea .claude .devcontainer; do echo evil > $d/tasks.json; mkdir $d; rm -rf $d; mv $d y; done; \
        mv .cargo z; mv deploy z; ln -sf README .envrc; git add -A; git commit -qm all; git ls-files";
        let mut command = twins.world.command(twins.world.path("bin/keyhatch"));
        command.current_dir(&twins.boxed).args(["run", "--policy", "protecting", "--", "sh", "-c", script]);
        let ran = twins.world.spawn(command).finish();
        assert!(
            !ran.stdout.contains(".envrc") && ran.stdout.contains(".npmrc"),
            "no placeholder is committed: {ran:?}"
        );
        let seen = twins
            .on_host(
                &twins.boxed,
                "cat .npmrc .vscode/tasks.json deploy/run.sh; ls -A; git status --porcelain",
            )
            .ok();
        assert!(
            seen.stdout.starts_with("real\n{}\nrun\n") && !seen.stdout.contains("evil"),
            "{seen:?} {ran:?}"
        );
        for gone in [".envrc", ".mcp.json", ".cargo", ".idea", ".claude", "mise.toml"] {
            assert!(!twins.boxed.join(gone).exists(), "{gone} is left behind");
        }
        // A policy that shares the git directory protects nothing else: the same files, and nobody is in the way.
        let shared = shared(twins, "echo evil > .envrc; mkdir -p .idea; echo evil > .idea/tasks.json");
        let seen = twins.on_host(&shared, "cat .envrc .idea/tasks.json").ok();
        assert_eq!(seen.stdout, "evil\nevil\n", "shared");
    });
}

/// Runs a script in a project whose git directory is shared, and returns the project.
fn shared(twins: &Twins, script: &str) -> PathBuf {
    shared_as(twins, "shared", script)
}

fn shared_as(twins: &Twins, name: &str, script: &str) -> PathBuf {
    twins.world.policy("shared", SHARED);
    let project = twins.world.project(name, "https://h.example/p.git");
    let ran = twins.world.run(&project, "shared", &twins.script(script));
    assert_ne!(ran.code(), 125, "there was no sandbox: {ran:?}");
    project
}

const SHARED: &str = r#"
name = "test"
description = "A policy of the tests."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"

[repository]
git_dir = "shared"
"#;

/// A tree entry's mode is six digits that anybody can choose. What git takes for a repository of its own (everything that
/// is no file, link or directory) waits as one; all else comes, and nothing of it keeps the rest inside.
#[test]
fn a_tree_entry_of_an_unheard_of_mode_keeps_nothing_else_inside() {
    Twins::each(|twins| {
        let script = "b=$(echo x | git hash-object -w --stdin); hex=$(echo $b | sed 's/../\\\\x&/g'); \
             for m in 100600 20000 100664 160001 120777 100000 0; do \
             t=$( (printf \"$m a\\0\"; /usr/bin/printf '%b' \"$hex\") | git hash-object -t tree --stdin -w --literally); \
             git update-ref refs/heads/mode-$m $(git commit-tree $t -m $m -p HEAD); done; \
             git commit -q --allow-empty -m good; git branch good";
        let ran = twins.inside(&twins.boxed, script).ok();
        let refs = twins.on_host(&twins.boxed, "git for-each-ref --format='%(refname)'").ok();
        let log = twins.on_host(&twins.boxed, "git log -1 --format=%s main").ok();
        assert_eq!(log.stdout, "good\n", "{ran:#?} {}", twins.world.broker_log());
        for came in ["refs/heads/good\n", "refs/heads/mode-100600\n", "refs/heads/mode-100664\n"] {
            assert!(refs.stdout.contains(came), "{came} {refs:?} {ran:#?}");
        }
        assert!(!refs.stdout.contains("refs/heads/mode-20000\n"), "{refs:?} {ran:#?}");
        assert!(!twins.world.broker_log().contains("panicked"), "{}", twins.world.broker_log());
    });
}

/// Names in a project are bytes. What is said of them is text, and all else is said and done all the same.
#[test]
fn a_file_name_that_is_no_text_hides_nothing_and_leaves_nothing_behind() {
    Twins::each(|twins| {
        let script = "printf '#!/bin/sh\\n' > $(printf 'run\\377me'); chmod +x $(printf 'run\\377me'); ln -s /etc/passwd $(printf 'link\\376'); \
             mkdir -p $(printf '.github/workflows/\\375'); echo x > $(printf '.github/workflows/\\375/ci\\374.yml'); \
             git init -q $(printf 'repo\\373'); echo all: > Makefile; git commit -q --allow-empty -m good";
        let ran = twins.inside(&twins.boxed, script).ok();
        for said in [
            "executable, made or changed",
            "link out of the project",
            "run or obeyed on your side: Makefile",
            "repository of its own",
        ] {
            assert!(ran.stderr.contains(said), "{said}: {ran:#?} {}", twins.world.broker_log());
        }
        twins.world.wait_until("the session's directory is gone", || twins.world.no_session_is_left());
        assert!(!twins.boxed.join(".vscode").exists(), "placeholders are left behind");
        let log = twins.on_host(&twins.boxed, "git log -1 --format=%s").ok();
        assert_eq!(log.stdout, "good\n", "{ran:#?}");
        assert!(!twins.world.broker_log().contains("panicked"), "{}", twins.world.broker_log());
        // And the next session starts among them.
        twins.on_host(&twins.boxed, "rm -rf repo*").ok();
        twins.inside(&twins.boxed, "git commit -q --allow-empty -m next").ok();
    });
}
