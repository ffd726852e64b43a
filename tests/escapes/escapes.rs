//! Ways out of the sandbox, tried by an actor inside and judged from outside.
//!
//! Every act is run twice by the same ordinary user on the same host: plainly, where it must work, and confined, where it
//! must not. An act that does not work plainly proves nothing and fails the test.

#[allow(dead_code, reason = "other suites use the rest")]
mod theatre;

use keyhatch_tests::World;
use theatre::{Act, Theatre};

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
    // net.ipv4.ping_group_range
    "makes_a_ping_socket",
];

#[test]
fn every_act_works_without_the_sandbox_and_none_works_within() {
    let theatre = Theatre::new(World::new());
    let plainly = theatre.play_plainly(&[]);
    let confined = theatre.play_confined(&[]);
    let names: Vec<&String> = plainly.iter().map(|act| &act.name).collect();
    assert!(names.len() >= 82, "{} acts", names.len());
    assert_eq!(names, confined.iter().map(|act| &act.name).collect::<Vec<_>>());
    let harmless: Vec<&Act> = plainly
        .iter()
        .filter(|act| !act.happened && !KERNEL_MAY_REFUSE.contains(&act.name.as_str()))
        .collect();
    assert!(harmless.is_empty(), "these prove nothing, they fail without a sandbox: {harmless:#?}");
    let escaped: Vec<&Act> = confined.iter().filter(|act| act.happened).collect();
    assert!(escaped.is_empty(), "{} of {} got out: {escaped:#?}", escaped.len(), confined.len());
}

#[test]
fn with_an_observer_that_looks_at_paths_too_no_act_gets_out_either() {
    let theatre = Theatre::new(World::new());
    let keyhatch = theatre.world.path("bin/keyhatch").to_string_lossy().into_owned();
    let played = theatre.play_behind(&[&keyhatch, "run", "--explain", "--"]);
    assert!(played.len() >= 82, "{} acts", played.len());
    let escaped: Vec<&Act> = played.iter().filter(|act| act.happened).collect();
    assert!(escaped.is_empty(), "{} of {} got out: {escaped:#?}", escaped.len(), played.len());
}
