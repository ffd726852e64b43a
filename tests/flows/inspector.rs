//! The program that reads what may be hostile: a broker without it says so, and one that runs keeps its own.

use std::fs;

use keyhatch_tests::World;

#[test]
fn without_its_inspector_no_broker_starts_and_the_message_names_it_and_what_to_do() {
    let world = World::new();
    let project = world.project("p", "https://git.example.org/p");
    fs::remove_file(world.path("bin/keyhatch-inspect")).expect("it was there");
    let hint = "hint: cargo build --release builds all programs into one directory: keep them together";
    let doctor = world.keyhatch(&["doctor"]).fails();
    assert!(doctor.stderr.contains("keyhatch-inspect is not beside keyhatch, in "), "{doctor:?}");
    assert!(doctor.stderr.contains(hint), "{doctor:?}");
    let broker = world.keyhatch(&["broker"]).fails();
    assert!(broker.stderr.contains("bin/keyhatch-inspect is missing"), "{broker:?}");
    assert!(broker.stderr.contains(hint), "{broker:?}");
    let run = world.run(&project, "default", "echo ran").fails();
    assert!(run.stderr.contains("bin/keyhatch-inspect is missing") && run.stderr.contains(hint), "{run:?}");
    assert!(!run.stdout.contains("ran"), "{run:?}");
    assert_eq!(world.processes("keyhatch broker"), Vec::<i32>::new());
}

#[test]
fn a_broker_that_runs_on_while_its_programs_are_replaced_keeps_its_own_inspector() {
    let world = World::new();
    let project = world.project("p", "https://git.example.org/p");
    world.run(&project, "default", "true").ok();
    let broker = world.processes("keyhatch broker");
    // Another version's, which would not understand what this one asks.
    fs::remove_file(world.path("bin/keyhatch-inspect")).expect("it was there");
    world.write_mode("bin/keyhatch-inspect", "#!/bin/sh\nexit 1\n", 0o755);
    world.run(&project, "default", "echo more > more && git add more && git commit -qm more").ok();
    assert_eq!(world.processes("keyhatch broker"), broker, "the same one served both");
    assert_eq!(world.git(&project, &["log", "-1", "--format=%s"]).ok().stdout, "more\n");
}
