//! The README's first command.

use keyhatch_tests::World;

#[test]
fn the_demo_plays_without_a_human_and_leaves_nothing_behind() {
    let world = World::new();
    let temporary = world.make_directory("tmp");
    let mut demo = world.command(world.path("bin/keyhatch"));
    demo.env("TMPDIR", &temporary).args(["demo", "--yes"]);
    let demo = world.spawn(demo).finish().ok();
    for expected in [
        "id_ed25519: No such file or directory",
        "Failed to connect to 192.0.2.1",
        "  fast-forward ",
        "│ refs/heads/main",
        "+    println!(\"Hello, Ada!\");",
        "push-sending",
        " lines, each follows from the one before",
        "The agent read no key, reached no network, and pushed what you approved.",
    ] {
        assert!(demo.all().contains(expected), "{expected}\n{demo:#?}");
    }
    assert!(!demo.all().contains("must-not-be-read"), "{demo:#?}");
    assert_eq!(std::fs::read_dir(&temporary).expect("it can be read").count(), 0);
    assert_eq!(world.processes("keyhatch"), Vec::<i32>::new());
}

#[test]
fn the_demo_wants_a_terminal_or_to_be_told() {
    let world = World::new();
    let demo = world.keyhatch(&["demo"]).fails();
    assert!(demo.stderr.contains("hint: keyhatch demo --yes"), "{demo:?}");
}
