//! What is left where the kernel gives no namespaces: announced, weaker, and never open.
//!
//! The case is real and needs no root: `keyhatch_tests::NO_NAMESPACES`.

#[allow(dead_code, reason = "two suites share it")]
mod theatre;

use keyhatch_tests::{Finished, World};
use theatre::Theatre;

/// What only namespaces can hide, and what is said of it in SECURITY.md: names and sizes of the user's files, command
/// lines of the user's processes. Rights over content are Landlock's, and hold.
const SEEN: &[&str] = &[
    "sees_that_a_key_exists",
    "opens_a_key_as_a_path",
    "reads_where_a_link_of_the_users_leads",
    "measures_the_file_system_of_the_home",
    "gives_a_key_to_the_one_who_has_it",
    "enters_the_home",
    "watches_the_home",
    "reads_an_extended_attribute",
    "changes_the_mode_of_a_key",
    "changes_the_times_of_a_key",
    "sets_an_extended_attribute",
    "reads_command_lines_of_the_host",
    "lists_keys_that_others_hold",
    "learns_the_machines_name",
    "reads_the_machines_identity",
    "reads_the_machines_hardware",
    "sees_the_hosts_devices",
    "sees_the_hosts_interfaces",
    "finds_a_mount_that_honours_setuid",
    "finds_system_directories_writable",
    "has_powers_in_its_bounding_set",
];

fn run(world: &World, policy: &str, script: &str) -> Finished {
    let project = world.make_directory("home/plain");
    world.make_directory("home/plain/src");
    world.run_unnamespaced(&project, policy, script)
}

#[test]
fn without_namespaces_the_tier_is_announced_and_the_command_confined() {
    let world = World::new();
    world.write("home/.ssh-canary", "canary-home");
    let script = format!(
        "cat {home}/.ssh-canary; echo written > src/file && cat src/file; echo in-home > $HOME/x && cat $HOME/x; \
         echo t > $TMPDIR/t && echo tmp-works; echo x > /tmp/x-{pid}; ls /tmp {home}; exit 7",
        home = world.home().display(),
        pid = std::process::id()
    );
    let ran = run(&world, "default", &script);
    assert_eq!(ran.code(), 7, "{ran:?}");
    assert!(ran.stderr.contains("keyhatch: tier ") && ran.stderr.contains("no namespaces:"), "{ran:?}");
    assert!(ran.stderr.contains("user.max_user_namespaces"), "the switch is named: {ran:?}");
    assert!(!ran.all().contains("canary-home"), "{ran:?}");
    for works in ["written", "in-home", "tmp-works"] {
        assert!(ran.stdout.contains(works), "{works}: {ran:?}");
    }
    assert!(!std::path::Path::new(&format!("/tmp/x-{}", std::process::id())).exists());
}

#[test]
fn without_namespaces_too_what_is_refused_is_named() {
    let world = World::new();
    let ran = run(
        &world,
        "default",
        "python3 -c 'import socket; socket.create_connection((\"203.0.113.10\", 443), 2)'",
    );
    assert_ne!(ran.code(), 0, "{ran:?}");
    let said = "system call socket (of the internet) (by python3): plain TCP and UDP only, and without namespaces none at all";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("PermissionError"), "{ran:?}");
}

#[test]
fn a_policy_that_requires_namespaces_refuses_to_start_without() {
    let world = World::new();
    world.policy(
        "strict",
        "name = \"strict\"\ndescription = \"Only in namespaces.\"\n[sandbox]\nrequire = [\"namespaces\"]\n",
    );
    let ran = run(&world, "strict", "echo started");
    assert!(!ran.stdout.contains("started"), "{ran:?}");
    assert!(
        ran.stderr.contains("the policy requires namespaces") && ran.stderr.contains("hint: "),
        "{ran:?}"
    );
}

#[test]
fn what_a_command_left_running_ends_with_it_also_without_a_pid_namespace() {
    let world = World::new();
    let mark = format!("88{}", std::process::id());
    let ran = run(&world, "default", &format!("setsid sleep {mark} >/dev/null 2>&1 & exit 3"));
    assert_eq!(ran.code(), 3, "{ran:?}");
    let alive = || {
        let entries = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        entries
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
            .any(|line| line.replace('\0', " ").trim() == format!("sleep {mark}"))
    };
    world.wait_until("the child is gone", || !alive());
}

#[test]
fn no_act_on_content_sockets_or_processes_gets_out_without_namespaces() {
    let theatre = Theatre::new(World::new());
    let played = theatre.play_unnamespaced(&[]);
    assert!(played.len() >= 82, "{} acts", played.len());
    let out: Vec<_> =
        played.iter().filter(|act| act.happened && !SEEN.contains(&act.name.as_str())).collect();
    assert!(out.is_empty(), "{} of {} got out: {out:#?}", out.len(), played.len());
}

#[test]
fn the_doctor_tells_every_mechanism_and_tries_a_sandbox() {
    let world = World::new();
    let told = world.keyhatch(&["doctor"]).ok();
    for word in
        ["user namespaces", "Landlock", "version ", "seccomp", "cgroup v2", "tier A: namespaces", "held"]
    {
        assert!(told.stdout.contains(word), "{word}: {told:?}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&world.keyhatch(&["doctor", "--json"]).ok().stdout).expect("JSON");
    assert_eq!(json["proof"]["held"], true, "{json:#}");
    let landlock =
        json["mechanisms"].as_array().expect("mechanisms").iter().find(|m| m["name"] == "Landlock");
    assert!(landlock.is_some_and(|m| m["state"]["version"].as_u64() >= Some(1)), "{json:#}");

    let without = world.spawn(world.unnamespaced(&["doctor"])).finish();
    assert!(
        without.stdout.contains("disabled    user namespaces are switched off by the sysctl"),
        "{without:?}"
    );
    assert!(
        without.stdout.contains("-> sudo sysctl user.max_user_namespaces=10000"),
        "the remedy: {without:?}"
    );
    assert!(without.stdout.contains("tier C: ") || without.stdout.contains("tier B: "), "{without:?}");
}
