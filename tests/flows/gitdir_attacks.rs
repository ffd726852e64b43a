//! What an agent writes into its git directory, so that the host's git runs it later. Each attack is shown to work where
//! the git directory is the project's own and writable, and to do nothing where it is the session's.

use keyhatch_tests::{GITS, Twins};

/// What the user does next, in all innocence. `~` is the user's home; inside it is another one.
const INNOCENT: &str = "touch README; git status; git diff; git log -p -1; git add -A .; git commit -qm host --allow-empty; \
    git checkout -q HEAD; git stash list; git submodule status; git fetch -q evil; git gc -q; git fsck; git branch -a; true";

/// Name, and the script that plants it. Nothing of a script's own git commands may set it off.
const EXECUTED: &[(&str, &str)] = &[
    (
        "hooks",
        "printf '#!/bin/sh\\ntouch ~/pwned\\n' > .git/hooks/post-commit; chmod +x .git/hooks/post-commit",
    ),
    ("fsmonitor", "git config core.fsmonitor 'touch ~/pwned; false'"),
    (
        "sshCommand",
        "git config core.sshCommand 'touch ~/pwned; false'; git remote add evil ssh://h.example/x",
    ),
    (
        "hooksPath",
        "mkdir evil; printf '#!/bin/sh\\ntouch ~/pwned\\n' > evil/post-commit; chmod +x evil/post-commit; git config core.hooksPath evil",
    ),
    ("filters", "git config filter.x.clean 'touch ~/pwned; cat'; echo '* filter=x' > .gitattributes"),
    (
        "includes",
        "printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' > evil.cfg; git config include.path ../evil.cfg",
    ),
    (
        "commondir",
        "cp -r .git evil.git; printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' >> evil.git/config; echo ../evil.git > .git/commondir",
    ),
    (
        "config.worktree",
        "git config extensions.worktreeConfig true; git config --worktree core.fsmonitor 'touch ~/pwned; false'",
    ),
    (
        "a directory in the place of .git",
        "cp -r .git other; printf '[core]\\nfsmonitor = \"touch ~/pwned; false\"\\n' >> other/config; mv .git away && mv other .git || true",
    ),
    (
        "a submodule that is a repository of the agent's",
        "git init -q nested; git -C nested commit -q --allow-empty -m n; git -C nested config core.fsmonitor 'touch ~/pwned; false'; \
         git -c core.fsmonitor=false add nested 2>/dev/null; git -c core.fsmonitor=false commit -qm nested --no-verify 2>/dev/null; \
         git -c core.fsmonitor=false reset -q --hard 2>/dev/null; rm -f ~/pwned",
    ),
];

#[test]
fn nothing_that_the_agent_writes_into_its_git_directory_runs_on_the_host() {
    let twins = Twins::new(GITS[1]);
    for (at, (name, plant)) in EXECUTED.iter().enumerate() {
        for git in GITS {
            let world = &twins.world;
            std::fs::remove_file(world.path("bin/git")).expect("a link");
            world.use_git(git);
            let project = |kind: &str| {
                let name = format!("{kind}-{at}-{}", git.len());
                world.project(&name, "https://h.example/p.git")
            };
            let pwned = world.home().join("pwned");
            let (plain, boxed) = (project("plain"), project("boxed"));
            // The same agent without a sandbox, in a home of its own.
            let elsewhere = world.make_directory("elsewhere");
            std::fs::copy(world.home().join(".gitconfig"), elsewhere.join(".gitconfig")).expect("copied");
            world.user.owns(&elsewhere.join(".gitconfig"));
            let planting = format!("HOME={}; export HOME; {plant}", elsewhere.display());
            twins.on_host(&plain, &planting);
            assert!(!pwned.exists(), "{name} is set off by planting it");
            twins.on_host(&plain, &format!("set +e; {INNOCENT}"));
            assert!(pwned.exists(), "{name} is no attack: it does nothing where .git is writable ({git})");
            std::fs::remove_file(&pwned).expect("a file");

            let ran = twins.inside(&boxed, plant);
            assert_ne!(ran.code(), 125, "there was no sandbox: {ran:?}");
            let looked = twins.on_host(&boxed, &format!("set +e; {INNOCENT}"));
            assert!(!pwned.exists(), "{name} got out: {ran:#?} {looked:#?}");
            assert_eq!(twins.on_host(&boxed, "git fsck --no-dangling").ok().all(), "", "{name}");
        }
    }
}

#[test]
fn a_shared_git_directory_is_the_way_out_that_it_is_said_to_be() {
    let twins = Twins::new(GITS[1]);
    twins.world.policy("shared", SHARED);
    let plant = EXECUTED.iter().find(|(name, _)| *name == "commondir").expect("it is there").1;
    twins.world.run(&twins.boxed, "shared", plant);
    twins.on_host(&twins.boxed, &format!("set +e; {INNOCENT}"));
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
    });
}

#[test]
fn an_index_head_or_store_that_is_no_such_thing_harms_nobody() {
    Twins::each(|twins| {
        for plant in [
            "rm .git/index; ln -s /etc/passwd .git/index",
            "echo nonsense > .git/index; echo 'ref: ../../x' > .git/HEAD",
            "rm .git/HEAD; mkfifo .git/HEAD .git/packed-refs || true",
            "rm -rf .git/objects; ln -s / .git/objects",
            "rm -rf .git/refs .git/logs; mkdir .git/refs",
            "rm -rf .git/* || true",
            "echo x > .git/index.lock; echo x > .git/HEAD.lock; git commit -q --allow-empty -m x || true",
            "e=$(printf 'e%.0s' $(seq 40)); printf '100644 %s 0\\t.git/hooks/post-commit\\n' $(echo 'touch ~/pwned' | git hash-object -w --stdin) | git update-index --index-info || true",
        ] {
            let ran = twins.inside(&twins.boxed, plant);
            let seen = twins.on_host(&twins.boxed, "git log --format=%s; git status --porcelain; git fsck; git checkout -q -f HEAD; ls .git/hooks | grep -v sample || true").ok();
            assert_eq!(seen.stdout, "Add README\n", "{plant} {ran:#?}");
            twins.world.clean(&twins.boxed);
        }
    });
}

#[test]
fn a_hundred_thousand_refs_are_not_the_hosts_problem() {
    let twins = Twins::new(GITS[1]);
    let script = "h=$(git rev-parse HEAD); (echo '# pack-refs with: sorted '; for n in $(seq 100000 199999); do echo \"$h refs/heads/n$n\"; done) > .git/packed-refs; \
                  git commit -q --allow-empty -m after; git for-each-ref | wc -l";
    let ran = twins.inside(&twins.boxed, script).ok();
    assert!(ran.stderr.contains("a session may make 10000 refs"), "{ran:?}");
    let count =
        twins.on_host(&twins.boxed, "git for-each-ref | wc -l; git fsck; git log -1 --format=%s").ok();
    let brought: usize = count.stdout.lines().next().and_then(|n| n.trim().parse().ok()).expect("a number");
    assert!(brought <= 10_001, "{count:?}");
}

#[test]
fn what_the_host_runs_later_cannot_be_made_or_changed() {
    let twins = Twins::new(GITS[0]);
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
        .on_host(&twins.boxed, "cat .npmrc .vscode/tasks.json deploy/run.sh; ls -A; git status --porcelain")
        .ok();
    assert!(seen.stdout.starts_with("real\n{}\nrun\n") && !seen.stdout.contains("evil"), "{seen:?} {ran:?}");
    for gone in [".envrc", ".mcp.json", ".cargo", ".idea", ".claude", "mise.toml"] {
        assert!(!twins.boxed.join(gone).exists(), "{gone} is left behind");
    }
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
