//! Whether a session touched its project is told by the kernel, so that the end need not look at every file of it: in
//! whatever way a file is changed, it is named, and a project where nothing happened is not looked at.

use keyhatch_tests::World;

/// Opens the file for reading and writing and changes it by a mapping alone.
const MAPPED: &str =
    "import mmap; f = open('Makefile', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[0:3] = b'odd'";
/// The same, and nobody ever closes it: the descriptor is under way to a socket that is under way to itself.
const NEVER_CLOSED: &str = "import mmap, os, socket; f = os.open('Makefile', os.O_RDWR); m = mmap.mmap(f, 0); \
    a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [f, b.fileno()]); socket.send_fds(b, [b'x'], [a.fileno()]); \
    a.detach(); b.detach(); m[0:3] = b'odd'; os.kill(os.getpid(), 9)";

/// A policy with a home that is kept.
const KEPT: &str = "name = \"kept\"\ndescription = \"a test\"\n[sandbox]\nhome = \"persistent\"\n";

#[test]
fn whatever_way_a_file_is_changed_it_is_named_at_the_end() {
    let world = World::new();
    let project = world.project("project", "https://h.example/p.git");
    for directory in ["d", "d/deep", "d/deep/deeper"] {
        world.make_directory(&format!("project/{directory}"));
    }
    world.commit(&project, "Makefile", "all:\n\ttrue\n");
    world.commit(&project, "d/deep/deeper/Makefile", "all:\n\ttrue\n");
    let python = |script: &str| format!("python3 -c \"{script}\"");
    let acts = [
        ("in place", "echo x >> Makefile".to_owned(), "Makefile"),
        ("deep below", "echo x >> d/deep/deeper/Makefile".to_owned(), "d/deep/deeper/Makefile"),
        ("cut without opening", python("import os; os.truncate('Makefile', 2)"), "Makefile"),
        ("by a mapping", python(MAPPED), "Makefile"),
        ("by a mapping of what is never closed", format!("{}; true", python(NEVER_CLOSED)), "Makefile"),
        ("by a second name", "ln Makefile e/other; echo x >> e/other; rm e/other".to_owned(), "Makefile"),
        (
            "by a descriptor that outlives it",
            "exec 9>>Makefile; sleep 100 & echo x >&9".to_owned(),
            "Makefile",
        ),
        ("put over it", "echo x > /tmp/new; mv /tmp/new Makefile".to_owned(), "Makefile"),
        ("in a new directory", "mkdir e/new; echo x > e/new/Makefile".to_owned(), "e/new/Makefile"),
        (
            "in a directory that moved",
            "mv d e/d; echo x >> e/d/deep/deeper/Makefile".to_owned(),
            "e/d/deep/deeper/Makefile",
        ),
        ("where nothing was", "mkdir -p .cargo; echo x > .cargo/Makefile".to_owned(), ".cargo/Makefile"),
        ("by its mode", "chmod +x Makefile".to_owned(), "Makefile"),
    ];
    for (what, script, named) in acts {
        world.git(&project, &["checkout", "-qf", "."]).ok();
        world.git(&project, &["clean", "-qfdx"]).ok();
        world.make_directory("project/e");
        let ran = world.run(&project, "default", &script).ok();
        assert!(ran.stderr.lines().any(|line| line.ends_with(&format!(": {named}"))), "{what}: {ran:#?}");
    }
}

#[test]
fn a_project_where_a_session_touches_nothing_is_not_looked_at() {
    let world = World::new();
    let project = world.project("project", "https://h.example/p.git");
    world.make_directory("project/d/deep");
    world.commit(&project, "Makefile", "all:\n\ttrue\n");
    world.run(&project, "default", "true").ok();
    // What is read inside is asked for its time of change, in whole seconds: it must be of an earlier one.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    // What the user changes in the second in which a session opens has the same time as what it changes itself: only who
    // looks finds it, and it is nothing that this session did.
    let named = |policy: &str, script: &str| {
        world.write_mode("project/d/deep/tool", "x", 0o755);
        world.run(&project, policy, script).ok().stderr.contains("made or changed: d/deep/tool")
    };
    let quiet = "cat Makefile; ls -R; git status --porcelain; true";
    // Not each of them: where a busy machine leaves the start no time to watch all of it, it is looked at. Where all are
    // looked at, all are named but for those whose second turns.
    let quietly = (0..12).filter(|_| named("default", quiet)).count();
    assert!(quietly <= 9, "it was looked at all the same, {quietly} times of 12");
    // A file that appears is reason enough, and so is a home that is kept: a file of the project may have a name there.
    world.policy("kept", KEPT);
    for (policy, script) in [("default", "touch new; rm new"), ("kept", quiet)] {
        assert!((0..20).any(|_| named(policy, script)), "{policy} {script}");
    }
}
