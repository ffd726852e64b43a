//! A project is data: whatever it brings, or an earlier session left in it, names no other place of the host's. Each way
//! of naming one is planted, a session is started, and what it finds is searched for the host's canaries.

use std::path::Path;

use keyhatch_tests::{Finished, World};

/// What nobody inside may see.
const CANARY: &str = "CANARY-OF-THE-HOME";

/// Searches all that a session can read, git's directories and mounts first, and says what is mounted there.
const SEARCH: &str = "grep -rl CANARY-OF-THE-HOM[E] / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr --exclude-dir=lib \
     2>/dev/null; find /run/keyhatch-git -maxdepth 6 2>/dev/null | grep -e id_ed25519 -e control.token -e '\\.git-credentials'; \
     find / -xdev -name id_ed25519 2>/dev/null; echo searched";

/// Name, and a script that plants it in the project. `$H` is the home, `$R` the runtime directory, `$O` another repository.
const PLANTED: &[(&str, &str)] = &[
    ("alternates of a bare repository", "bare b.git; echo $H/.ssh > b.git/objects/info/alternates"),
    ("alternates that name the home", "bare b.git; echo $H > b.git/objects/info/alternates"),
    ("alternates that name the runtime directory", "bare b.git; echo $R > b.git/objects/info/alternates"),
    ("relative alternates", "bare b.git; echo ../../../../.ssh > b.git/objects/info/alternates"),
    ("alternates of another repository", "bare b.git; echo $O/.git/objects > b.git/objects/info/alternates"),
    (
        "alternates of a nested repository",
        "git init -q n; mkdir -p n/.git/objects/info; echo $H/.ssh > n/.git/objects/info/alternates",
    ),
    (
        "alternates that are a link",
        "bare b.git; echo $H/.ssh > list; ln -s $PWD/list b.git/objects/info/alternates",
    ),
    ("alternates that are a pipe", "bare b.git; mkfifo b.git/objects/info/alternates"),
    ("objects that are a link", "bare b.git; rm -r b.git/objects; ln -s $H b.git/objects"),
    (
        "a store within that is a link",
        "bare b.git; rm -rf b.git/objects/pack; ln -s $H/.ssh b.git/objects/pack",
    ),
    ("core.hooksPath", "bare b.git; git -C b.git config core.hooksPath $H/.ssh"),
    ("core.hooksPath with dots", "bare b.git; git -C b.git config core.hooksPath ../../../.ssh"),
    ("core.hooksPath of the home", "git init -q n; git -C n config core.hooksPath '~/.ssh'"),
    (
        "hooks that are links",
        "bare b.git; mkdir -p b.git/hooks; ln -s $H/.ssh/id_ed25519 b.git/hooks/pre-commit; ln -s $R/keyhatch/control.token b.git/hooks/x",
    ),
    ("a directory of hooks that is a link", "bare b.git; rm -rf b.git/hooks; ln -s $H/.ssh b.git/hooks"),
    (
        "info/exclude",
        "bare b.git; rm -f b.git/info/exclude; mkdir -p b.git/info; ln -s $H/.git-credentials b.git/info/exclude",
    ),
    (
        "info that is a link",
        "bare b.git; rm -rf b.git/info; mkdir $H/inf; ln -s $H/.git-credentials $H/inf/exclude; ln -s $H/inf b.git/info",
    ),
    ("shallow", "bare b.git; ln -s $H/.ssh/id_ed25519 b.git/shallow"),
    ("description", "bare b.git; rm -f b.git/description; ln -s $H/.ssh/id_ed25519 b.git/description"),
    ("logs", "bare b.git; mkdir -p b.git/logs; ln -s $H/.ssh/id_ed25519 b.git/logs/HEAD"),
    ("logs of branches", "bare b.git; mkdir -p b.git/logs/refs; ln -s $H/.ssh b.git/logs/refs/heads"),
    ("packed-refs", "bare b.git; ln -s $H/.ssh/id_ed25519 b.git/packed-refs"),
    ("HEAD", "bare b.git; rm b.git/HEAD; ln -s $H/.ssh/id_ed25519 b.git/HEAD"),
    ("refs that are a link", "bare b.git; rm -r b.git/refs; ln -s $H/.ssh b.git/refs"),
    ("an index that is a link", "git init -q n; ln -s $H/.ssh/id_ed25519 n/.git/index"),
    ("a sharedindex", "git init -q n; ln -s $H/.ssh/id_ed25519 n/.git/sharedindex.aaaa"),
    ("a rebase", "git init -q n; ln -s $H/.ssh n/.git/rebase-merge"),
    (
        "files of a rebase",
        "git init -q n; mkdir n/.git/rebase-merge; ln -s $H/.ssh/id_ed25519 n/.git/rebase-merge/message",
    ),
    ("MERGE_MSG", "git init -q n; ln -s $H/.ssh/id_ed25519 n/.git/MERGE_MSG"),
    (
        "the head of a remote",
        "bare b.git; mkdir -p b.git/refs/remotes/o; ln -s $H/.ssh/id_ed25519 b.git/refs/remotes/o/HEAD",
    ),
    (
        "a worktree's entry",
        "bare b.git; mkdir -p b.git/worktrees/w; ln -s $H/.ssh/id_ed25519 b.git/worktrees/w/HEAD",
    ),
    ("a configuration that is a link", "bare b.git; rm b.git/config; ln -s $H/.git-credentials b.git/config"),
    ("a configuration that is a pipe", "bare b.git; rm b.git/config; mkfifo b.git/config"),
    ("a configuration that git cannot read", "bare b.git; echo '[core' > b.git/config"),
    ("includes", "bare b.git; git -C b.git config include.path $H/.git-credentials"),
    ("commondir", "bare b.git; echo $O/.git > b.git/commondir"),
    ("commondir that is a pipe", "bare b.git; mkfifo b.git/commondir"),
    ("commondir of a nested repository", "git init -q n; echo $O/.git > n/.git/commondir"),
    ("a .git file", "mkdir n; echo gitdir: $O/.git > n/.git"),
    ("a .git link", "mkdir n; ln -s $O/.git n/.git"),
    ("a .git file that is a pipe", "mkdir n; mkfifo n/.git"),
    ("a .git file to a directory that is a link", "mkdir n; ln -s $O/.git gd; echo gitdir: ../gd > n/.git"),
    ("a .git file to the project's own", "mkdir n; echo gitdir: ../.git > n/.git"),
    (
        "a worktree pointer of its own making",
        "mkdir -p n g/worktrees/w; echo ../.. > g/worktrees/w/commondir; echo $PWD/n/.git > g/worktrees/w/gitdir; \
        echo ref: refs/heads/main > g/worktrees/w/HEAD; ln -s $O/.git/objects g/objects; ln -s $O/.git/refs g/refs; cp $O/.git/config g/config; \
        cp $O/.git/HEAD g/HEAD; echo gitdir: ../g/worktrees/w > n/.git",
    ),
    ("core.worktree", "git init -q n; git -C n config core.worktree $H/.ssh"),
    ("lfs beside the objects", "bare b.git; ln -s $H/.ssh b.git/lfs"),
    (
        "a deep one",
        "mkdir -p a/b/c/d; bare a/b/c/d/e.git; echo $H/.ssh > a/b/c/d/e.git/objects/info/alternates",
    ),
];

fn scene(world: &World) -> std::path::PathBuf {
    let project = world.project("p", "https://h.example/p.git");
    for directory in ["home/.ssh", "home/other"] {
        world.make_directory(directory);
    }
    for file in ["home/.ssh/id_ed25519", "home/.git-credentials", "home/.ssh/known", "home/other/file"] {
        world.write(file, &format!("{CANARY} {file}\n"));
    }
    let other = world.path("home/other");
    for arguments in [&["init", "-q", "-b", "main"][..], &["add", "."], &["commit", "-qm", CANARY]] {
        world.git(&other, arguments).ok();
    }
    project
}

fn on_host(world: &World, project: &Path, script: &str) -> Finished {
    let runtime = world
        .command("true")
        .get_envs()
        .find(|(name, _)| *name == "XDG_RUNTIME_DIR")
        .and_then(|(_, value)| value)
        .map(std::ffi::OsStr::to_owned);
    let prelude = format!(
        "set -e; H={}; O=$H/other; R={}; bare() {{ git init -q --bare $1; }}; ",
        world.home().display(),
        runtime.expect("a world has one").display()
    );
    let mut sh = world.command("/bin/sh");
    sh.current_dir(project).args(["-c", &format!("{prelude}{script}")]);
    Finished::from(sh.output().expect("sh runs")).ok()
}

#[test]
fn nothing_that_a_project_brings_shows_another_place_of_the_hosts() {
    let world = World::new();
    scene(&world);
    for (at, (name, plant)) in PLANTED.iter().enumerate() {
        let project = world.project(&format!("p{at}"), "https://h.example/p.git");
        on_host(&world, &project, plant);
        let before = world.tip(&world.path("home/other"), "refs/heads/main");
        let ran = world.run(&project, "default", SEARCH).ok();
        // The canary's own name stands in this very command, and nowhere else.
        assert_eq!(ran.stdout, "searched\n", "{name}: {ran:?}");
        // Nor does what is committed there reach another repository of the user's.
        // A git that reads a pipe of the project's waits for ever, inside as on the host.
        let write = "g() { timeout 5 git \"$@\"; }; for d in n b.git a/b/c/d/e.git; do [ -d $d ] && (cd $d && echo x > y; g add y; g commit -qm evil; \
                     g update-ref refs/heads/evil $(g commit-tree -m evil $(g mktree < /dev/null))); done 2>/dev/null; echo done";
        let ran = world.run(&project, "default", write).ok();
        assert_eq!(ran.stdout, "done\n", "{name}: {ran:?}");
        let other = world.path("home/other");
        assert_eq!(world.tip(&other, "refs/heads/main"), before, "{name}: another repository was moved");
        let branches = world.git(&other, &["for-each-ref", "--format=%(refname)"]).ok();
        assert_eq!(branches.stdout, "refs/heads/main\n", "{name}");
    }
}

/// What a first session plants itself, and a second one would find.
const BY_A_SESSION: &[(&str, &str)] = &[
    ("a .git file", "mkdir n; echo gitdir: $O/.git > n/.git"),
    ("alternates", "git init -q n; echo $H/.ssh > n/.git/objects/info/alternates"),
    (
        "a bare repository",
        "mkdir -p b.git/objects/info b.git/refs; echo ref: refs/heads/main > b.git/HEAD; echo > b.git/config; echo $H > b.git/objects/info/alternates",
    ),
    ("a link", "mkdir n; ln -s $O/.git n/.git"),
    (
        "a pipe",
        "mkdir -p b.git/objects b.git/refs; echo ref: refs/heads/main > b.git/HEAD; mkfifo b.git/config",
    ),
];

#[test]
fn nothing_that_a_session_leaves_shows_the_next_one_another_place_of_the_hosts() {
    let world = World::new();
    scene(&world);
    for (at, (name, plant)) in BY_A_SESSION.iter().enumerate() {
        let project = world.project(&format!("p{at}"), "https://h.example/p.git");
        let plant = plant.replace("$O", &world.path("home/other").display().to_string());
        let plant = plant.replace("$H", &world.home().display().to_string());
        world.run(&project, "default", &plant).ok();
        let ran = world.run(&project, "default", SEARCH).ok();
        assert_eq!(ran.stdout, "searched\n", "{name}: {ran:?}");
    }
}

/// Files of the user's configuration that lie in the project, and what a session puts in their place.
#[test]
fn a_file_of_the_users_configuration_that_lies_in_the_project_is_read_only_as_a_file_of_the_projects() {
    for (what, named) in [
        ("core.excludesFile", "p/ignore"),
        ("gpg.ssh.allowedSignersFile", "p/signers"),
        ("git/ignore", "home/.config/git/ignore"),
    ] {
        let world = World::new();
        let project = scene(&world);
        world.write("p/ignore", "*.o\n");
        world.write("p/signers", "");
        match what {
            "git/ignore" => {
                world.make_directory("home/.config/git");
                std::os::unix::fs::symlink(project.join("ignore"), world.path(named)).expect("links");
            }
            key => {
                world
                    .git(&project, &["config", "--global", key, &world.path(named).display().to_string()])
                    .ok();
                world.git(&project, &["config", "--global", "gpg.format", "ssh"]).ok();
            }
        }
        let home = world.home().display().to_string();
        let plant = format!(
            "rm -f ignore signers; ln -s {home}/.ssh/id_ed25519 ignore; ln -s {home}/.git-credentials signers"
        );
        world.run(&project, "default", &plant).ok();
        let ran = world.run(&project, "default", SEARCH).ok();
        assert_eq!(ran.stdout, "searched\n", "{what}: {ran:?}");
        let pipes =
            world.run(&project, "default", "rm -f ignore signers; mkfifo ignore signers; echo made").ok();
        assert_eq!(pipes.stdout, "made\n");
        assert_eq!(world.run(&project, "default", "echo started").ok().stdout, "started\n", "{what}");
    }
}

#[test]
fn an_included_file_in_the_project_is_not_obeyed_whatever_its_name() {
    let world = World::new();
    let project = scene(&world);
    let pwned = world.home().join("pwned");
    world.make_directory("p/git");
    let evil = format!(
        "[gpg \"ssh\"]\n\tdefaultKeyCommand = touch {}\n[gpg]\n\tformat = ssh\n[commit]\n\tgpgsign = true\n",
        pwned.display()
    );
    for file in ["p/.gitconfig", "p/git/config"] {
        world.write(file, &evil);
        let file = world.path(file).display().to_string();
        world.git(&project, &["config", "--global", "--add", "include.path", &file]).ok();
    }
    let ran = world.run(&project, "default", "git commit -qm x --allow-empty --no-gpg-sign; echo ran").ok();
    assert!(ran.stdout.ends_with("ran\n"), "{ran:?}");
    assert!(ran.stderr.contains("is not obeyed"), "{ran:?}");
    assert!(!pwned.exists(), "a program that the project names ran on the host");
}
