//! Observing: somebody outside looks at calls, so that the user learns at the end why something failed.
//!
//! Nothing more is allowed than without. What is refused is refused by the observer's answer, which depends on the call's
//! number alone; where the observer is gone, by the kernel (ENOSYS). What goes on in the kernel once it was looked at
//! ([`CONNECTS`], [`NAMES_A_PATH`]) is never refused by an observer: with bad arguments, the kernel itself refuses it.

use keyhatch_sandbox_rules::rules::Observe;

use keyhatch_seccomp::calls;
use keyhatch_seccomp::program::Program;
use keyhatch_seccomp::table::{Call, Entry, MAX_CALLS, Verdict, verdicts};

use super::layers::{LANDLOCKED, NAMESPACED, SOCKETLESS};
use crate::tier::Tier;

/// Looked at in namespaces, whatever becomes of it: tools that know no proxy are found by where they connect.
pub const CONNECTS: &[Call] = calls!(SYS_connect);

/// Looked at with `keyhatch run --explain`.
#[cfg(target_arch = "x86_64")]
pub const NAMES_A_PATH: &[Call] = calls!(SYS_openat SYS_execve SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_open SYS_mkdir SYS_unlink SYS_rename);
/// Looked at with `keyhatch run --explain`.
#[cfg(not(target_arch = "x86_64"))]
pub const NAMES_A_PATH: &[Call] = calls!(SYS_openat SYS_execve SYS_mkdirat SYS_unlinkat SYS_renameat2);

static TIER_A: Program = Program::of(&observed(NAMESPACED, &[CONNECTS]));
static TIER_A_PATHS: Program = Program::of(&observed(NAMESPACED, &[CONNECTS, NAMES_A_PATH]));
static TIER_B: Program = Program::of(&observed(LANDLOCKED, &[]));
static TIER_B_PATHS: Program = Program::of(&observed(LANDLOCKED, &[NAMES_A_PATH]));
static TIER_C: Program = Program::of(&observed(SOCKETLESS, &[]));
static TIER_C_PATHS: Program = Program::of(&observed(SOCKETLESS, &[NAMES_A_PATH]));

/// The filter of a tier, with an observer. Without namespaces there is no network whose connections are looked at.
#[must_use]
pub fn program(tier: Tier, kind: Observe) -> &'static Program {
    match (tier, kind) {
        (Tier::A, Observe::Refused) => &TIER_A,
        (Tier::A, Observe::Paths) => &TIER_A_PATHS,
        (Tier::B, Observe::Refused) => &TIER_B,
        (Tier::B, Observe::Paths) => &TIER_B_PATHS,
        (Tier::C, Observe::Refused) => &TIER_C,
        (Tier::C, Observe::Paths) => &TIER_C_PATHS,
    }
}

/// The verdicts of some layers, with an observer for what they refuse and for calls that are looked at.
const fn observed(layers: &[&[Entry]], looked_at: &[&[Call]]) -> [Verdict; MAX_CALLS] {
    let mut verdicts = verdicts(layers);
    let mut number = 0;
    while number < MAX_CALLS {
        verdicts[number] = match (verdicts[number], is_among(number, &[CONNECTS, NAMES_A_PATH])) {
            (Verdict::Refuse, false) => Verdict::Observe,
            (Verdict::RefuseWhen(clauses), false) => Verdict::ObserveWhen(clauses),
            (other, _) => other,
        };
        if is_among(number, looked_at) {
            verdicts[number] = match verdicts[number] {
                Verdict::Allow => Verdict::Observe,
                Verdict::RefuseWhen(clauses) => Verdict::ObserveUnless(clauses),
                other => other,
            };
        }
        number += 1;
    }
    verdicts
}

const fn is_among(number: usize, lists: &[&[Call]]) -> bool {
    let mut list = 0;
    while list < lists.len() {
        let mut call = 0;
        while call < lists[list].len() {
            if lists[list][call].number as usize == number {
                return true;
            }
            call += 1;
        }
        list += 1;
    }
    false
}
