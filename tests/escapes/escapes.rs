//! Ways out of the sandbox, tried by an actor inside and judged from outside.
//!
//! Every act is run twice by the same ordinary user on the same host: plainly, where it must work, and confined, where it
//! must not. An act that does not work plainly proves nothing and fails the test.

#[allow(dead_code, reason = "other suites use the rest")]
mod theatre;

use keyhatch_tests::World;
use theatre::{Act, BEFORE_SCOPES, Theatre};

/// What fails on any kernel of today's without a sandbox too, by the kernel's own settings on some machines. Nothing else
/// is excused.
const KERNEL_MAY_REFUSE: &[&str] = &[
    // dev.tty.legacy_tiocsti
    "types_into_the_terminal_that_it_was_started_from",
    "types_into_a_terminal",
    "types_into_a_terminal_with_high_bits",
    // kernel.perf_event_paranoid above 2
    "measures_with_perf",
    // kernel.io_uring_disabled
    "sets_an_io_uring_up",
    // CONFIG_CRYPTO_USER_API
    "makes_a_kernel_crypto_socket",
    // kernel.dmesg_restrict
    "reads_the_kernels_log",
    // net.ipv4.ping_group_range
    "makes_a_ping_socket",
];

/// System calls that a kernel as old as 6.1 does not have: `ENOSYS`, and nothing else, excuses these.
const NEWER_THAN_SOME: &[&str] = &["calls_what_no_list_knows", "leaves_a_setuid_file_by_fchmodat2"];

#[test]
fn every_act_works_without_the_sandbox_and_none_works_within() {
    let theatre = Theatre::new(World::new());
    let plainly = theatre.play_plainly(&[]);
    let confined = theatre.play_confined(&[]);
    let names: Vec<&String> = plainly.iter().map(|act| &act.name).collect();
    assert!(names.len() >= 82, "{} acts", names.len());
    assert_eq!(names, confined.iter().map(|act| &act.name).collect::<Vec<_>>());
    let excused = |act: &Act| {
        KERNEL_MAY_REFUSE.contains(&act.name.as_str())
            || NEWER_THAN_SOME.contains(&act.name.as_str()) && act.detail.contains("[Errno 38]")
    };
    let harmless: Vec<&Act> = plainly.iter().filter(|act| !act.happened && !excused(act)).collect();
    assert!(harmless.is_empty(), "these prove nothing, they fail without a sandbox: {harmless:#?}");
    none_got_out(&theatre, &confined);
}

#[test]
fn with_an_observer_that_looks_at_paths_too_no_act_gets_out_either() {
    let theatre = Theatre::new(World::new());
    let keyhatch = theatre.world.path("bin/keyhatch").to_string_lossy().into_owned();
    let played = theatre.play_behind(&[], &[&keyhatch, "run", "--explain", "--"]);
    assert!(played.len() >= 82, "{} acts", played.len());
    none_got_out(&theatre, &played);
}

fn none_got_out(theatre: &Theatre, played: &[Act]) {
    let scopes = theatre.world.landlock() >= 6;
    let got_out = |act: &&Act| act.happened && (scopes || act.name != BEFORE_SCOPES);
    let escaped: Vec<&Act> = played.iter().filter(got_out).collect();
    assert!(escaped.is_empty(), "{} of {} got out: {escaped:#?}", escaped.len(), played.len());
}
