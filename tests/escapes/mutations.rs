//! The escape suite's own proof: each mitigation is switched off in a test build of the runner, and an act gets out.
//!
//! Walls stand behind walls: with both the session keyring and seccomp, either alone holds. So some cases take the others
//! away first, show that the act is still held, and then take away the one that is meant.

#[allow(dead_code, reason = "two suites share it")]
mod theatre;

use keyhatch_tests::World;
use theatre::{Act, BEFORE_SCOPES, Theatre};

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
    ("Probe", "UtsNamespace", "learns_the_machines_name"),
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
    ("Probe, Landlock", "Dumpable", "opens_the_program_of_init"),
    ("Probe", "Seccomp", "unshares_a_user_namespace"),
    ("Probe", "Doors", "calls_through_the_32_bit_door"),
    ("Probe", "Doors", "calls_through_the_x32_door"),
];

/// The same where there are no namespaces: fewer walls, and each alone. The filter of a call that is allowed there is tier A's.
const WITHOUT_NAMESPACES: &[(&str, &str, &str)] = &[
    ("Probe", "Descriptors", "reads_an_inherited_descriptor"),
    ("Probe, call 250", "Keyring", "reads_a_key_of_the_session_keyring"),
    ("Probe", "Limits", "raises_its_core_limit"),
    ("Probe", "Session", "opens_the_terminal_that_it_was_started_from"),
    ("Probe", "Landlock", "reads_an_ssh_key"),
    ("Probe", "Landlock", "writes_a_shell_start_file"),
    ("Probe", "Landlock", "sets_a_hook_of_the_hosts_git"),
    ("Probe", "Landlock", "makes_a_protected_file_that_is_not_there"),
    ("Probe", "Scopes", "signals_a_process_of_the_host"),
    ("Probe", "call 41", "connects_to_the_session_bus"),
    ("Probe", "call 41", "sends_by_udp"),
    ("Probe", "call 29", "reads_the_hosts_shared_memory"),
    ("Probe", "Doors", "calls_through_the_32_bit_door"),
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

fn theatre() -> Theatre {
    Theatre::new(World::new())
}

/// Whether this act gets out of a runner with something switched off; where not, what held it.
fn escaped(theatre: &Theatre, switched_off: &str, act: &str) -> Result<(), String> {
    theatre.world.switch(switched_off);
    held_by(&theatre.play_confined(&[act]), switched_off, act)
}

/// The same without namespaces, on a Landlock that cannot tell local sockets apart.
fn escaped_unnamespaced(theatre: &Theatre, switched_off: &str, act: &str) -> Result<(), String> {
    theatre.world.switch(&format!("{switched_off}, abi 8"));
    held_by(&theatre.play_unnamespaced(&[act]), switched_off, act)
}

fn held_by(played: &[Act], switched_off: &str, act: &str) -> Result<(), String> {
    let held = played.iter().find(|played| !played.happened);
    held.map_or(Ok(()), |held| Err(format!("{act} is still held with [{switched_off}] off: {}", held.detail)))
}

/// What of these does not hold what it is said to hold.
fn wrong(cases: &[(&str, &str, &str)], escaped: impl Fn(&str, &str) -> Result<(), String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (before, meant, act) in cases {
        if escaped(before, act).is_ok() {
            wrong.push(format!("{act} gets out with [{before}] off: {meant} is not what holds it"));
        }
        wrong.extend(escaped(&format!("{before}, {meant}"), act).err());
    }
    wrong
}

#[test]
fn each_mitigation_holds_something_that_nothing_else_holds() {
    let theatre = theatre();
    let wrong = wrong(CASES, |off, act| escaped(&theatre, off, act));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn without_namespaces_too_each_mitigation_holds_something() {
    let theatre = theatre();
    let wrong = wrong(WITHOUT_NAMESPACES, |off, act| escaped_unnamespaced(&theatre, off, act));
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
        theatre.world.switch(switched_off);
        let ran = theatre.world.run(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started"), "{switched_off}: {ran:?}");
        assert_eq!(ran.code(), 125, "{switched_off}: {ran:?}");
        assert!(ran.stderr.contains(act), "{switched_off}: {ran:?}");
    }
}

#[test]
fn without_namespaces_too_the_proof_refuses_to_start_what_does_not_hold() {
    let theatre = theatre();
    let project = theatre.world.make_directory("plain");
    for (switched_off, act) in [
        ("Landlock", "listing the user's home worked"),
        ("Scopes", "signalling the process that watches worked"),
        ("call 41", "a virtual machine socket worked"),
    ] {
        theatre.world.switch(&format!("{switched_off}, abi 8"));
        let ran = theatre.world.run_unnamespaced(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started") && ran.code() == 125, "{switched_off}: {ran:?}");
        assert!(ran.stderr.contains(act), "{switched_off}: {ran:?}");
    }
}

#[test]
fn without_new_privileges_forbidden_or_a_pid_namespace_nothing_starts_at_all() {
    let theatre = theatre();
    let project = theatre.world.make_directory("plain");
    for switched_off in ["NoNewPrivileges", "PidNamespace"] {
        theatre.world.switch(switched_off);
        let ran = theatre.world.run(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started") && ran.code() == 125, "{switched_off}: {ran:?}");
    }
}

#[test]
fn an_older_landlock_still_holds_in_namespaces_and_says_which_it_is() {
    let theatre = theatre();
    for abi in 1..=7 {
        theatre.world.switch(&format!("abi {abi}"));
        let played = theatre.play_confined(&[]);
        let excused = |name: &str| abi < 6 && name == BEFORE_SCOPES;
        let out: Vec<_> = played.iter().filter(|act| act.happened && !excused(&act.name)).collect();
        assert!(out.is_empty(), "Landlock ABI {abi}: {out:#?}");
    }
}

#[test]
fn an_older_landlock_and_no_namespaces_start_nothing_and_say_what_is_needed() {
    let theatre = theatre();
    let project = theatre.world.make_directory("plain");
    for abi in 1..=5 {
        theatre.world.switch(&format!("abi {abi}"));
        let ran = theatre.world.run_unnamespaced(&project, "default", "echo started");
        assert!(!ran.stdout.contains("started") && ran.code() == 125, "{abi}: {ran:?}");
        let said = format!("Landlock has ABI {abi}, and without namespaces 6 is needed (Linux 6.12)");
        assert!(ran.stderr.contains(&said) && ran.stderr.contains("hint: keyhatch doctor"), "{abi}: {ran:?}");
    }
}

#[test]
fn without_the_death_signal_a_killed_runner_leaves_its_sandbox_behind() {
    let theatre = theatre();
    let world = &theatre.world;
    let project = world.make_directory("plain");
    world.switch("DeathSignal");
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
