//! Denials explained: what the command wanted and did not get, and the policy line that would allow it.

use std::path::Path;

use keyhatch_tests::{Finished, World};
use serde_json::Value;

fn explain(world: &World, project: &Path, policy: &str, script: &str) -> Finished {
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(project).args(["run", "--explain", "--policy", policy, "--", "sh", "-c", script]);
    world.spawn(command).finish()
}

#[test]
fn a_missing_tool_a_hidden_file_and_a_secret_are_told_apart() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/.env", "TOKEN=canary");
    world.make_directory("home/.mytool");
    world.write_mode("home/.mytool/run", "#!/bin/sh\necho tool-ran\n", 0o755);
    world.make_directory("home/.ssh");
    world.write_mode("home/.ssh/id_rsa", "canary-key", 0o600);
    let script = "~/.mytool/run; cat .env; cat ~/.ssh/id_rsa; cat ~/.nothing-anywhere; cat README; exit 1";
    let ran = explain(&world, &project, "default", script);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stdout.contains("hello") && !ran.all().contains("canary"), "{ran:?}");
    for said in [
        ".mytool/run (by sh): it is yours, and not shown; policy: [sandbox] tools = [\"~/.mytool\"]",
        ".env (by cat): it is hidden: shown empty; policy: [sandbox] show = [\".env\"]",
        ".ssh/id_rsa (by cat): secrets live there: no session sees them; no policy allows it",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    assert!(
        !ran.stderr.contains("denials: /home/nothing") && !ran.stderr.contains(".nothing-anywhere (by"),
        "{ran:?}"
    );

    // The line that was named is the line that helps.
    world.policy(
        "more",
        "name = \"more\"\ndescription = \"a test\"\n[sandbox]\ntools = [\"~/.mytool\"]\nshow = [\".env\"]\n",
    );
    let ran = explain(&world, &project, "more", "~/.mytool/run; cat .env");
    assert!(ran.stdout.contains("tool-ran") && ran.stdout.contains("TOKEN=canary"), "{ran:?}");
}

#[test]
fn refused_calls_addresses_and_writes_are_named_and_repeated_on_demand() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let script = "unshare -Ur true; echo x > /usr/x; python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 443), 2)'; exit 1";
    let ran = explain(&world, &project, "default", script);
    for said in [
        "system call unshare (by unshare): it reaches past the sandbox's walls; no policy allows it",
        "192.0.2.1:443 (by python3): there is no network but the proxy, which is asked by name; policy: [network] allow = [\"HOST:443\"]",
        "/usr/x (by sh): its directory can only be read; no policy allows it",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    assert!(ran.stderr.contains("Operation not permitted"), "what is refused is refused: {ran:?}");
    let opened = world.audit().into_iter().rev().find(|record| record["event"] == "session-opened");
    let id = opened.expect("a session")["session"].as_str().expect("an id").to_owned();
    let shown = world.keyhatch(&["session", "show", &id, "--denials"]).ok();
    assert!(shown.stdout.contains("system call unshare"), "{shown:?}");
    let report = world.keyhatch(&["session", "show", &id, "--denials", "--json"]).ok();
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let denials = report["sections"][0]["data"].as_array().expect("denials").clone();
    assert!(denials.iter().any(|denial| denial["object"] == "192.0.2.1:443"), "{report}");
}

#[test]
fn a_command_that_gets_what_it_wants_is_slower_and_nothing_else() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let script = "git status --short; git log --oneline | wc -l; python3 -c 'print(6*7)'; for i in 1 2 3; do sh -c 'echo $0' $i; done; \
                  mkdir d && echo x > d/f && mv d/f d/g && cat d/g && rm -r d; exit 7";
    let plain = world.run(&project, "default", script);
    let observed = explain(&world, &project, "default", script);
    assert_eq!((observed.code(), &observed.stdout), (plain.code(), &plain.stdout), "{observed:?}");
    assert!(plain.stdout.contains("42\n1\n2\n3\nx\n"), "{plain:?}");
}

#[test]
fn a_policy_is_learned_round_by_round_and_holds_no_secret() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    for directory in ["home/.mytool", "home/.second", "home/.ssh"] {
        world.make_directory(directory);
    }
    world.write_mode(
        "home/.mytool/run",
        "#!/bin/sh\n~/.second/run && cat ~/.ssh/id_rsa; echo tools-ran\n",
        0o755,
    );
    world.write_mode("home/.second/run", "#!/bin/sh\necho second-ran\n", 0o755);
    world.write_mode("home/.ssh/id_rsa", "canary-key", 0o600);
    let file = world.path("learned.toml").display().to_string();
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(&project).args([
        "policy",
        "learn",
        "--output",
        &file,
        "--",
        "sh",
        "-c",
        "~/.mytool/run",
    ]);
    let learned = world.spawn(command).finish();
    assert!(learned.stdout.contains("second-ran\ntools-ran"), "{learned:?}");
    assert!(!learned.all().contains("canary"), "{learned:?}");
    let text = std::fs::read_to_string(&file).expect("a policy was written");
    assert!(text.contains("tools = [\"~/.mytool\", \"~/.second\"]") && !text.contains(".ssh"), "{text}");
    world.keyhatch(&["policy", "check", &file]).ok();
    let ran = world.run(&project, &file, "~/.mytool/run");
    assert!(ran.stdout.contains("second-ran\ntools-ran") && !ran.all().contains("canary"), "{ran:?}");
}
