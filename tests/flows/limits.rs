//! Limits: each is gone past, and what was hit is said.

use std::fs;
use std::time::Duration;

use keyhatch_tests::{Finished, World};
use serde_json::Value;

/// Runs a script under a policy with these limits.
fn run(world: &World, limits: &str, script: &str) -> Finished {
    world.policy("tight", &format!("name = \"tight\"\ndescription = \"a test\"\n{limits}\n"));
    let project = world.make_directory("p");
    world.run(&project, "tight", script)
}

/// The report's section about limits, asked for afterwards.
fn section(world: &World) -> Value {
    let opened = world.audit().into_iter().rev().find(|record| record["event"] == "session-opened");
    let id = opened.expect("a session was opened")["session"].as_str().expect("an id").to_owned();
    let shown = world.keyhatch(&["session", "show", &id, "--json"]).ok();
    let report: Value = serde_json::from_str(&shown.stdout).expect("a report");
    let sections = report["sections"].as_array().expect("sections").clone();
    sections.into_iter().find(|section| section["name"] == "limits").unwrap_or_default()
}

#[test]
fn memory_of_all_processes_together_is_limited() {
    let world = World::new();
    let hog = "import time; x = bytearray(60 << 20); time.sleep(60)";
    let script = format!("for i in 1 2 3; do python3 -c '{hog}' & done; wait; echo survived");
    let ran = run(&world, "[limits]\nmemory = \"128MiB\"", &script).fails();
    assert!(ran.stderr.contains("killed: memory"), "{ran:?}");
    assert!(ran.stderr.contains("128 MiB") && !ran.stdout.contains("survived"), "{ran:?}");
    let said = section(&world);
    assert_eq!(
        (&said["data"][0]["limit"], &said["data"][0]["killed"]),
        (&"memory".into(), &true.into()),
        "{said}"
    );
    let within = run(&world, "[limits]\nmemory = \"512MiB\"", &script.replace("sleep(60)", "sleep(0.5)"));
    assert!(within.stdout.contains("survived") && !within.stderr.contains("limits:"), "{within:?}");
}

#[test]
fn files_in_memory_count_as_memory() {
    let world = World::new();
    let script = "head -c 200M /dev/zero > /tmp/x; sleep 60";
    let ran = run(&world, "[limits]\nmemory = \"96MiB\"", script).fails();
    assert!(ran.stderr.contains("killed: memory"), "{ran:?}");
}

#[test]
fn a_fork_bomb_ends_at_its_own_wall() {
    let world = World::new();
    let script = "for i in $(seq 60); do sleep 2 & done; echo $(jobs -r | wc -l); wait";
    let ran = run(&world, "[limits]\nprocesses = 20", &format!("bash -c '{script}'"));
    assert!(
        ran.stderr.contains("fork") && ran.stderr.contains("Resource temporarily unavailable"),
        "{ran:?}"
    );
    assert!(
        ran.stderr.contains("reached: processes 20") || ran.stderr.contains("reached: pids.max 20"),
        "{ran:?}"
    );
}

#[test]
fn time_ends_with_a_request_and_then_by_force() {
    let world = World::new();
    let polite = run(&world, "[limits]\ntime = \"1s\"", "trap 'echo saved; exit 5' TERM; sleep 60 & wait");
    assert_eq!((polite.code(), polite.stdout.trim()), (5, "saved"), "{polite:?}");
    assert!(polite.stderr.contains("killed: time 1 s"), "{polite:?}");
    let deaf = run(&world, "[limits]\ntime = \"1s\"", "trap '' TERM; echo deaf; sleep 61; sleep 61");
    assert_eq!((deaf.code(), deaf.stdout.trim()), (137, "deaf"), "{deaf:?}");
}

#[test]
fn a_command_that_does_nothing_is_idle_and_one_that_works_or_prints_is_not() {
    let world = World::new();
    let idle = run(&world, "[limits]\nidle = \"2s\"", "sleep 60").fails();
    assert!(idle.stderr.contains("killed: idle 2 s"), "{idle:?}");
    let prints =
        run(&world, "[limits]\nidle = \"2s\"", "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done").ok();
    assert!(!prints.stderr.contains("idle"), "{prints:?}");
    let works = "import time\nend = time.time() + 4\nwhile time.time() < end: pass";
    let works = run(&world, "[limits]\nidle = \"2s\"", &format!("python3 -c '{works}'")).ok();
    assert!(!works.stderr.contains("idle"), "{works:?}");
}

#[test]
fn files_outside_the_project_have_a_bound() {
    let world = World::new();
    let script = "for at in /tmp ~ /dev/shm; do head -c 40M /dev/zero > $at/x; ls -l $at/x | tr -s ' ' | cut -d' ' -f5; done; sleep 1";
    let ran = run(&world, "[limits]\ndisk = \"16MiB\"", script).ok();
    assert_eq!(ran.stdout, "16777216\n".repeat(3), "{ran:?}");
    assert!(
        ran.stderr.contains("No space left on device") && ran.stderr.contains("reached: disk 16 MiB"),
        "{ran:?}"
    );
}

#[test]
fn a_home_that_is_kept_has_the_same_bound() {
    let world = World::new();
    let kept = "[sandbox]\nhome = \"persistent\"\n[limits]\ndisk = \"16MiB\"";
    let ran = run(&world, kept, "head -c 40M /dev/zero > ~/x; sync ~/x; sleep 60").fails();
    assert!(ran.stderr.contains("killed: disk 16 MiB"), "{ran:?}");
}

#[test]
fn the_project_can_grow_so_far_and_no_further() {
    let world = World::new();
    fs::create_dir_all(world.path("p")).expect("a directory");
    fs::write(world.path("p/old"), vec![1; 64 << 20]).expect("a file");
    let file = std::fs::File::open(world.path("p/old")).expect("a file");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    file.set_times(fs::FileTimes::new().set_modified(long_ago)).expect("a time");
    for script in [
        "mkdir a; for i in 1 2 3 4 5 6; do head -c 16M /dev/zero > a/$i; done; sync a/6; sleep 60",
        // A name is not what takes room.
        "exec 9> gone; rm gone; head -c 90M /dev/zero >&9; sync; sleep 60",
    ] {
        let ran = run(&world, "[limits]\ngrowth = \"80MiB\"", script).fails();
        assert!(ran.stderr.contains("killed: growth 80 MiB"), "{script} {ran:?}");
    }
}

#[test]
fn output_has_an_end() {
    let world = World::new();
    let ran = run(&world, "[limits]\noutput = \"1MiB\"", "yes").fails();
    assert!(ran.stderr.contains("killed: output 1 MiB"), "{:?} bytes {}", ran.stderr, ran.stdout.len());
    let both = run(&world, "[limits]\noutput = \"1MiB\"", "yes >&2").fails();
    assert!(both.stderr.contains("killed: output 1 MiB"));
    let within = run(&world, "[limits]\noutput = \"1MiB\"", "head -c 900K /dev/zero").ok();
    assert_eq!(within.stdout.len(), 900 * 1024);
}

#[test]
fn where_no_cgroup_can_be_had_it_is_said_and_a_policy_that_requires_one_does_not_start() {
    let world = World::new();
    let ran = run(&world, "[limits]\nmemory = \"1GiB\"\ncpu = \"50%\"", "echo ran").ok();
    assert!(ran.stderr.contains("no cgroup") && ran.stderr.contains("not limited: cpu"), "{ran:?}");
    let refused =
        run(&world, "[sandbox]\nrequire = [\"cgroup\"]\n[limits]\nmemory = \"1GiB\"", "echo ran").fails();
    assert!(!refused.stdout.contains("ran"), "{refused:?}");
    assert!(refused.stderr.contains("requires a cgroup") && refused.stderr.contains("hint:"), "{refused:?}");
}

#[test]
fn the_sessions_own_git_directory_grows_no_further_than_the_project_may() {
    let world = World::new();
    let project = world.project("repository", "https://h.example/r.git");
    let policy = "name = \"tight\"\ndescription = \"a test\"\n[limits]\ngrowth = \"8MiB\"\n";
    world.policy("tight", policy);
    let ran =
        world.run(&project, "tight", "head -c 64M /dev/zero > .git/fill; sleep 60; echo survived").fails();
    assert!(ran.stderr.contains("killed: growth 8 MiB") && !ran.stdout.contains("survived"), "{ran:?}");
}
