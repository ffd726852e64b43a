//! jj's own ssh signing backend inside: it calls another argv than git, pipes, and writes commits of its own making.

use std::path::PathBuf;
use std::process::Command;

use keyhatch_tests::World;

/// Puts jj into the project, which inside is what there is of the host's files, with a configuration of the user's.
fn with_jj(world: &World, config: &str) -> PathBuf {
    let project = world.project("p", "https://git.invalid/p");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(keyhatch_tests::downloaded("jj"))
        .arg(project.join(".jj-program"))
        .status();
    assert!(copied.expect("cp runs").success());
    world.write("p/.jj-config.toml", config);
    world.write("p/.git/info/exclude", ".jj-program\n.jj-config.toml\n");
    project
}

/// What a script that calls it begins with.
const JJ: &str = "set -e; export JJ_CONFIG=$PWD/.jj-config.toml; jj() { $PWD/.jj-program/jj \"$@\"; }; ";
/// A user who does not sign.
const PLAIN: &str = "[user]\nname = \"Ada\"\nemail = \"ada@example.org\"\n[ui]\npaginate = \"never\"\n";
const CONFIG: &str = r#"
[user]
name = "Ada Lovelace"
email = "ada@example.org"
[ui]
paginate = "never"
[signing]
behavior = "own"
backend = "ssh"
key = "/etc/keyhatch/signing.pub"
[signing.backends.ssh]
program = "/run/keyhatch/ssh-keygen"
allowed-signers = "/etc/keyhatch/allowed_signers"
"#;

#[test]
fn jj_signs_and_verifies_through_the_helper() {
    let world = World::new();
    let project = with_jj(&world, CONFIG);
    world.signing_key();
    let script = "set -e; export JJ_CONFIG=$PWD/.jj-config.toml; jj() { $PWD/.jj-program/jj \"$@\" 2>&1; }; \
        jj git init --colocate; echo 1 > one; jj describe -m 'Made by jj'; jj new -m 'The next'; jj bookmark create jj -r @-; \
        jj log --no-graph -r 'jj|@' -T 'description.first_line() ++ \" \" ++ signature.status() ++ \" \" ++ signature.display() ++ \"\\n\"' > log; cat log; \
        mkdir /tmp/b; ln -s -t /tmp/b /usr/local/bin/* /usr/bin/* 2> /dev/null || true; rm -f /tmp/b/ssh-keygen; export PATH=/tmp/b; ! command -v ssh-keygen; \
        jj show --no-patch -r jj -T 'signature.status() ++ \" without: \" ++ signature.display()'";
    let done = world.run(&project, "default", script).ok();
    assert!(done.stdout.contains("Made by jj good ada@example.org"), "{done:?}");
    assert!(
        done.stdout.contains("good without: ada@example.org"),
        "the helper verifies for jj too: {done:?}"
    );
    let verified = world.git(&project, &["verify-commit", "refs/heads/jj"]).ok();
    assert!(verified.stderr.contains("Good \"git\" signature for ada@example.org"), "{verified:?}");
    let signed = world.audit().iter().filter(|record| record["event"] == "signed").count();
    assert!(signed >= 2, "jj signs each commit that it makes: {signed}");
}

#[test]
fn what_jj_did_inside_is_whole_for_the_jj_on_the_host() {
    let world = World::new();
    let project = with_jj(&world, PLAIN);
    let script = "jj git init --colocate; echo 1 > one; jj describe -m first; jj new -m second; echo 2 > two; jj new -m third; \
                  jj abandon -r @-; echo 3 > three; jj status";
    world.run(&project, "default", &format!("{JJ}{script}")).ok();
    let look = "jj log --no-graph -r 'all()' -T 'description.first_line() ++ \"\\n\"'; jj undo; jj new -m 'on the host'; jj file list -r @-";
    let mut command = world.command("sh");
    command.current_dir(&project).args(["-c", &format!("{JJ}{look}; git fsck --no-dangling")]);
    let seen = world.spawn(command).finish().ok();
    assert!(seen.stdout.starts_with("third\nfirst\nAdd README\n"), "{seen:?}");
}

#[test]
fn what_jj_obeys_of_a_repository_of_its_own_cannot_be_changed_and_what_appears_is_named() {
    let world = World::new();
    let project = with_jj(&world, PLAIN);
    let on_host = |script: &str| {
        let mut command = world.command("sh");
        command.current_dir(&project).args(["-c", &format!("{JJ}{script}")]);
        world.spawn(command).finish().ok()
    };
    on_host("jj git init --colocate");
    let target = project.join(".jj/repo/store/git_target");
    let before = std::fs::read_to_string(&target).expect("jj's own file");
    let attack = "(echo evil > .jj/repo/store/git_target) || echo kept; mv .jj/repo/store/git_target x || echo stays; \
                  for at in .jj .jj/repo .jj/repo/store; do python3 -c \"import os; os.rename('$at', 'y')\" 2>/dev/null || echo pinned; done; echo 'aliases = {}' > .jj/repo/config.toml";
    let work = "echo 1 > one; jj describe -m first; jj new -m second";
    let ran = world.run(&project, "default", &format!("{JJ}{work}; {attack}")).ok();
    for held in ["kept\n", "stays\n", "pinned\npinned\npinned\n"] {
        assert!(ran.stdout.contains(held), "{held}: {ran:?}");
    }
    assert_eq!(std::fs::read_to_string(&target).expect("it is there"), before);
    assert!(ran.stderr.contains(".jj/repo/config.toml"), "settings that appeared are named: {ran:?}");
    let seen = on_host("jj log --no-graph -r 'all()' -T 'description.first_line() ++ \"\\n\"'");
    assert!(seen.stdout.contains("first\n"), "{seen:?}");
    let again = world.run(&project, "default", "(echo evil > .jj/repo/config.toml) || echo kept").ok();
    assert!(again.stdout.contains("kept\n"), "settings that are there are read-only: {again:?}");
}
