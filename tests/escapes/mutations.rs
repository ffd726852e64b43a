//! The escape suite's own proof: each mitigation is switched off in a test build of the runner, and an act gets out.
//!
//! Walls stand behind walls: with both the session keyring and seccomp, either alone holds. So some cases take the others
//! away first, show that the act is still held, and then take away the one that is meant.

#[allow(dead_code, reason = "two suites share it")]
mod theatre;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use keyhatch_tests::World;
use theatre::{BEFORE_SCOPES, Theatre};

/// What is taken away first, what is meant, and the act that then gets out.
const CASES: &[(&str, &str, &str)] = &[
    ("Probe", "Descriptors", "reads_an_inherited_descriptor"),
    ("Probe, Landlock", "Descriptors", "reaches_the_host_through_an_inherited_directory"),
    ("Probe, call 250", "Keyring", "reads_a_key_of_the_session_keyring"),
    ("Probe", "Limits", "raises_its_core_limit"),
    ("Probe", "Session", "opens_the_terminal_that_it_was_started_from"),
    ("Probe", "NetworkNamespace", "connects_by_tcp"),
    ("Probe", "NetworkNamespace", "sends_by_udp"),
    ("Probe", "IpcNamespace", "reads_the_hosts_shared_memory"),
    ("Probe", "Root", "reads_an_ssh_key"),
    ("Probe", "Root", "connects_to_the_session_bus"),
    ("Probe", "Nosuid", "finds_a_mount_that_honours_setuid"),
    ("Probe", "Seal", "finds_system_directories_writable"),
    ("Probe", "ReadOnly", "finds_system_directories_writable"),
    ("Probe", "Unseen", "lists_keys_that_others_hold"),
    ("Probe", "Landlock", "signals_the_process_that_watches"),
    ("Probe", "Scopes", "signals_the_process_that_watches"),
    ("Probe, NetworkNamespace", "Scopes", "connects_to_an_abstract_socket"),
    ("Probe", "Capabilities", "has_powers_in_its_bounding_set"),
    ("Probe, Landlock", "Dumpable", "lists_the_descriptors_of_init"),
    ("Probe", "Seccomp", "unshares_a_user_namespace"),
    ("Probe", "Doors", "calls_through_the_32_bit_door"),
    ("Probe", "Doors", "calls_through_the_x32_door"),
];

/// Calls of the filter, each allowed alone, and the act that then gets out.
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_unshare, "unshares_a_user_namespace"),
    (libc::SYS_clone, "clones_into_a_user_namespace"),
    (libc::SYS_clone3, "clones_into_a_user_namespace_behind_a_pointer"),
    (libc::SYS_setns, "joins_its_own_namespace"),
    (libc::SYS_mount, "mounts_a_file_system"),
    (libc::SYS_open_tree, "copies_a_mount"),
    (libc::SYS_mount_setattr, "reconfigures_a_mount"),
    (libc::SYS_name_to_handle_at, "names_a_file_by_handle"),
    (libc::SYS_fanotify_init, "watches_with_fanotify"),
    (libc::SYS_io_uring_setup, "sets_an_io_uring_up"),
    (libc::SYS_userfaultfd, "makes_a_userfaultfd"),
    (libc::SYS_perf_event_open, "measures_with_perf"),
    (libc::SYS_modify_ldt, "reads_its_descriptor_table"),
    (libc::SYS_kcmp, "compares_kernel_pointers"),
    (libc::SYS_personality, "makes_all_memory_executable"),
    (libc::SYS_set_mempolicy, "sets_a_memory_policy"),
    (libc::SYS_prctl, "rewrites_its_memory_map"),
    (libc::SYS_quotactl, "asks_for_machine_wide_quota"),
    (libc::SYS_pidfd_getfd, "takes_a_descriptor_of_another_process"),
    (libc::SYS_process_vm_writev, "writes_into_another_process"),
    (libc::SYS_add_key, "adds_a_key"),
    (libc::SYS_request_key, "asks_the_kernel_for_a_key"),
    (libc::SYS_socket, "makes_a_virtual_machine_socket"),
    (libc::SYS_socket, "makes_a_multipath_socket"),
    (libc::SYS_socket, "listens_to_kernel_events"),
    (libc::SYS_ioctl, "types_into_a_terminal_with_high_bits"),
    (libc::SYS_ioctl, "changes_the_line_discipline"),
    (libc::SYS_chmod, "leaves_a_setuid_file_by_chmod"),
    (libc::SYS_openat, "leaves_a_setuid_file_by_open"),
    (libc::SYS_openat2, "leaves_a_setuid_file_by_openat2"),
    (libc::SYS_fchmodat2, "leaves_a_setuid_file_by_fchmodat2"),
    (libc::SYS_prlimit64, "changes_the_limits_of_others"),
    (libc::SYS_setpriority, "changes_the_priority_of_others"),
    (457, "calls_what_no_list_knows"),
];

/// The runner with its switch, in a directory of its own: the normal build stays what it is.
static MUTANT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/mutants");
    let built = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["build", "--quiet", "--jobs", "2", "--package", "keyhatch-run", "--features", "mutations"])
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(built.expect("cargo runs").success(), "the test build of the runner does not compile");
    target.join("debug/keyhatch-run")
});

fn theatre() -> Theatre {
    Theatre::new(World::new())
}

fn switch(world: &World, switched_off: &str) {
    std::fs::copy(&*MUTANT, world.path("bin/keyhatch-run")).expect("a program can be copied");
    world.write("bin/keyhatch-run.mutation", switched_off);
}

/// Whether this act gets out of a runner with something switched off; where not, what held it.
fn escaped(theatre: &Theatre, switched_off: &str, act: &str) -> Result<(), String> {
    switch(&theatre.world, switched_off);
    let played = theatre.play_confined(&[act]);
    let held = played.iter().find(|played| !played.happened);
    held.map_or(Ok(()), |held| Err(format!("{act} is still held with [{switched_off}] off: {}", held.detail)))
}

#[test]
fn each_mitigation_holds_something_that_nothing_else_holds() {
    let theatre = theatre();
    let mut wrong = Vec::new();
    for (before, meant, act) in CASES {
        if escaped(&theatre, before, act).is_ok() {
            wrong.push(format!("{act} gets out with [{before}] off: {meant} is not what holds it"));
        }
        wrong.extend(escaped(&theatre, &format!("{before}, {meant}"), act).err());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_entry_of_the_filter_holds_an_act() {
    let theatre = theatre();
    let held: Vec<String> = CALLS
        .iter()
        .filter_map(|(call, act)| escaped(&theatre, &format!("Probe, call {call}"), act).err())
        .collect();
    assert!(held.is_empty(), "{held:#?}");
}

#[test]
fn the_proof_refuses_to_start_what_does_not_hold() {
    let theatre = theatre();
    let project = theatre.world.make_directory("plain");
    for (switched_off, act) in [
        ("call 425", "io_uring worked"),
        ("call 250", "asking for a key of a keyring worked"),
        ("call 272", "making a user namespace worked"),
        ("call 41", "a virtual machine socket worked"),
        ("NetworkNamespace", "reaching the network worked"),
        ("Root", "seeing the host's /boot worked"),
        ("Dumpable, Landlock", "looking into init's memory worked"),
        ("Landlock", "signalling the process that watches worked"),
        ("Scopes", "signalling the process that watches worked"),
    ] {
        switch(&theatre.world, switched_off);
        let ran = theatre.world.run(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started"), "{switched_off}: {ran:?}");
        assert_eq!(ran.code(), 125, "{switched_off}: {ran:?}");
        assert!(ran.stderr.contains(act), "{switched_off}: {ran:?}");
    }
}

#[test]
fn without_new_privileges_forbidden_or_a_pid_namespace_nothing_starts_at_all() {
    let theatre = theatre();
    let project = theatre.world.make_directory("plain");
    for switched_off in ["NoNewPrivileges", "PidNamespace"] {
        switch(&theatre.world, switched_off);
        let ran = theatre.world.run(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started") && ran.code() == 125, "{switched_off}: {ran:?}");
    }
}

#[test]
fn an_older_landlock_still_holds_in_namespaces_and_says_which_it_is() {
    let theatre = theatre();
    for abi in 1..=7 {
        switch(&theatre.world, &format!("abi {abi}"));
        let played = theatre.play_confined(&[]);
        let excused = |name: &str| abi < 6 && name == BEFORE_SCOPES;
        let out: Vec<_> = played.iter().filter(|act| act.happened && !excused(&act.name)).collect();
        assert!(out.is_empty(), "Landlock ABI {abi}: {out:#?}");
    }
}

#[test]
fn without_the_death_signal_a_killed_runner_leaves_its_sandbox_behind() {
    let theatre = theatre();
    let world = &theatre.world;
    let project = world.make_directory("plain");
    switch(world, "DeathSignal");
    let run = world.start(&project, "default", "echo ready > ready; exec sleep 600");
    world.wait_until("the command is ready", || project.join("ready").exists());
    let ours = || world.processes("keyhatch-run --rules-fd");
    let outer = *ours().first().expect("a runner");
    let kill = |pid| {
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    };
    kill(outer);
    world.wait_until("the outer process is gone", || !ours().contains(&outer));
    let left = ours();
    left.iter().copied().for_each(kill);
    drop(run);
    assert!(!left.is_empty(), "init ends without it too: nothing tests it");
}
