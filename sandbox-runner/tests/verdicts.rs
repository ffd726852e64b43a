//! Every system call and its verdict, as the filter's own program answers it: a table that a reviewer can read, and an
//! interpreter that runs the very steps that the kernel gets.

use keyhatch_run::seccomp;
use keyhatch_run::seccomp::layers::{LANDLOCKED, NAMESPACED, SOCKETLESS};
use keyhatch_run::seccomp::observed;
use keyhatch_run::tier::Tier;
use keyhatch_sandbox_rules::rules::Observe;
use keyhatch_seccomp::program::Program;
use keyhatch_seccomp::table::{Entry, MAX_CALLS, Verdict};

const NATIVE: u32 = 0xC000_003E;

/// `struct seccomp_data`, as far as a filter reads it.
struct Made {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Made {
    fn with(number: u32, arguments: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Self { number, architecture: NATIVE, arguments: all }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16.. => {
                let (index, half) = ((offset as usize - 16) / 8, (offset as usize - 16) % 8);
                (self.arguments[index] >> (8 * half)) as u32
            }
            _ => unreachable!("no filter of ours looks at the instruction pointer"),
        }
    }
}

/// Runs a program as the kernel does, and counts its steps.
fn answer(program: &Program, made: &Made) -> (&'static str, usize) {
    let (mut accumulator, mut at, mut count) = (0, 0, 0);
    loop {
        let step = program.steps()[at];
        (at, count) = (at + 1, count + 1);
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = made.word(step.k),
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return (named(step.k), count),
            code => panic!("an instruction that is not ours: {code:#x}"),
        }
    }
}

fn named(result: u32) -> &'static str {
    match result {
        0x7fff_0000 => "allow",
        0x0005_0001 => "EPERM",
        0x0005_0026 => "ENOSYS",
        0x8000_0000 => "kill",
        0x7fc0_0000 => "observed",
        _ => panic!("a result that is not ours: {result:#x}"),
    }
}

fn call_named(number: u32, layers: &'static [&'static [Entry]]) -> Option<(&'static str, Verdict)> {
    let entries = layers.iter().flat_map(|layer| layer.iter());
    let mut calls = entries.flat_map(|entry| entry.calls.iter().map(move |call| (call, entry.verdict)));
    calls.rfind(|(call, _)| call.number == number).map(|(call, verdict)| (call.name, verdict))
}

/// What the table says of a number, without its arguments.
fn word(number: u32, layers: &'static [&'static [Entry]]) -> &'static str {
    match call_named(number, layers) {
        None | Some((_, Verdict::Absent)) => "ENOSYS",
        Some((_, Verdict::Allow)) => "allow",
        Some((_, Verdict::Observe | Verdict::ObserveUnless(_))) => "observed",
        Some((_, Verdict::Refuse)) => "EPERM",
        Some((_, Verdict::RefuseWhen(_) | Verdict::ObserveWhen(_))) => "by argument",
    }
}

#[test]
fn every_number_has_the_verdict_of_the_reviewed_table() {
    let mut table = String::from("# number, call, verdict in tier A, B, C. Every other number: ENOSYS.\n");
    for number in 0..MAX_CALLS as u32 {
        let name = call_named(number, SOCKETLESS).map(|(name, _)| name);
        let words = [NAMESPACED, LANDLOCKED, SOCKETLESS].map(|layers| word(number, layers));
        if let Some(name) = name {
            table.push_str(&format!("{number} {name}: {}, {}, {}\n", words[0], words[1], words[2]));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verdicts.txt");
    let reviewed = std::fs::read_to_string(path).unwrap_or_default();
    let made = concat!(env!("CARGO_TARGET_TMPDIR"), "/verdicts.txt");
    std::fs::write(made, &table).expect("a file");
    assert!(reviewed == table, "the filter is not what was reviewed: compare {path} with {made}");
}

#[test]
fn the_programs_answer_every_number_as_the_table_says() {
    let tiers = [
        (&seccomp::NAMESPACED, NAMESPACED),
        (&seccomp::LANDLOCKED, LANDLOCKED),
        (&seccomp::SOCKETLESS, SOCKETLESS),
    ];
    for (program, layers) in tiers {
        for number in 0..2048 {
            let expected = word(number, layers);
            let (given, steps) = answer(program, &Made::with(number, &[]));
            if expected != "by argument" {
                assert_eq!(given, expected, "call {number}");
            }
            assert!(steps <= 32, "call {number} takes {steps} steps");
        }
    }
}

/// Arguments that some test of the filter looks for, and others.
const ARGUMENTS: &[u64] =
    &[0, 1, 2, 3, 10, 16, 17, 35, 40, 262, 0o101, 0o644, 0o4755, 0o20_666, 0x5412, 0x1000_0011, 0x40_0000];

#[test]
fn an_observer_lets_nothing_through_that_is_refused_without_one() {
    let tiers =
        [(Tier::A, &seccomp::NAMESPACED), (Tier::B, &seccomp::LANDLOCKED), (Tier::C, &seccomp::SOCKETLESS)];
    let goes_on =
        |number| observed::CONNECTS.iter().chain(observed::NAMES_A_PATH).any(|call| call.number == number);
    for (tier, plain) in tiers {
        for kind in [Observe::Refused, Observe::Paths] {
            let watched = observed::program(tier, kind);
            let mut seen = 0;
            for number in 0..MAX_CALLS as u32 + 2 {
                let combinations = (0..ARGUMENTS.len().pow(3)).step_by(29).map(|n| {
                    let pick = |place: u32| ARGUMENTS[n / ARGUMENTS.len().pow(place) % ARGUMENTS.len()];
                    [pick(0), pick(1), pick(2), pick(1)]
                });
                for arguments in combinations.chain([[0; 4]]) {
                    let made = Made::with(number, &arguments);
                    let (without, with) = (answer(plain, &made).0, answer(watched, &made).0);
                    let fits = match (without, with) {
                        ("EPERM", "observed") => !goes_on(number),
                        ("allow", "observed") => goes_on(number),
                        (without, with) => without == with,
                    };
                    assert!(
                        fits,
                        "{tier:?} {kind:?} {number} {arguments:x?}: {without}, {with} with an observer"
                    );
                    seen += usize::from(with == "observed");
                }
            }
            assert!(seen > 100, "{tier:?} {kind:?}: nothing is observed");
        }
    }
}

#[test]
fn other_architectures_and_x32_are_killed_whatever_they_call() {
    for number in [0, 1, 59, 101, 228, 511] {
        let foreign = Made { architecture: 0x4000_0003, ..Made::with(number, &[]) };
        assert_eq!(answer(&seccomp::NAMESPACED, &foreign).0, "kill", "int 0x80 with {number}");
        let x32 = Made::with(number | 0x4000_0000, &[]);
        assert_eq!(answer(&seccomp::NAMESPACED, &x32).0, "kill", "x32's {number}");
    }
}

#[track_caller]
fn expect(program: &Program, number: libc::c_long, arguments: &[u64], expected: &str) {
    let made = Made::with(u32::try_from(number).expect("a number"), arguments);
    assert_eq!(answer(program, &made).0, expected, "{number} {arguments:x?}");
    // The kernel reads the low half alone: whatever is above it must change nothing.
    let high: Vec<u64> = arguments.iter().map(|argument| argument | 0xdead_0000_0000_0000).collect();
    assert_eq!(answer(program, &Made::with(made.number, &high)).0, expected, "{number} {high:x?}");
}

#[test]
fn sockets_are_local_or_plain_internet() {
    let a = &seccomp::NAMESPACED;
    for (arguments, expected) in [
        ([1u64, 1, 0], "allow"),
        ([1, 5, 0], "allow"),
        ([2, 1, 0], "allow"),
        ([2, 1 | 0o2_000_000 | 0o4000, 6], "allow"),
        ([10, 2, 17], "allow"),
        ([16, 3, 0], "allow"),
        ([2, 3, 0], "EPERM"),
        ([2, 3, 1], "EPERM"),
        ([2, 2, 1], "EPERM"),
        ([2, 1, 262], "EPERM"),
        ([2, 1, 132], "EPERM"),
        ([2, 5, 132], "EPERM"),
        ([10, 1, 262], "EPERM"),
        ([16, 3, 12], "EPERM"),
        ([40, 1, 0], "EPERM"),
        ([38, 5, 0], "EPERM"),
        ([31, 3, 1], "EPERM"),
        ([17, 3, 3], "EPERM"),
    ] {
        expect(a, libc::SYS_socket, &arguments, expected);
        let landlocked = if arguments[0] == 1 { "allow" } else { "EPERM" };
        expect(&seccomp::LANDLOCKED, libc::SYS_socket, &arguments, landlocked);
        expect(&seccomp::SOCKETLESS, libc::SYS_socket, &arguments, "EPERM");
    }
    expect(&seccomp::SOCKETLESS, libc::SYS_socketpair, &[1, 1, 0], "allow");
    expect(a, libc::SYS_socketpair, &[2, 1, 0], "EPERM");
}

#[test]
fn arguments_that_open_a_way_out_are_refused() {
    let a = &seccomp::NAMESPACED;
    for (number, arguments, expected) in [
        (libc::SYS_clone, &[0x0100_0011u64][..], "allow"),
        (libc::SYS_clone, &[0x1000_0011], "EPERM"),
        (libc::SYS_clone, &[0x0002_0011], "EPERM"),
        (libc::SYS_ioctl, &[0, 0x5401], "allow"),
        (libc::SYS_ioctl, &[0, 0x5412], "EPERM"),
        (libc::SYS_ioctl, &[0, 0x541C], "EPERM"),
        (libc::SYS_ioctl, &[0, 0x5423], "EPERM"),
        (libc::SYS_personality, &[0xffff_ffff], "allow"),
        (libc::SYS_personality, &[0x0040_0000], "EPERM"),
        (libc::SYS_prlimit64, &[0, 7], "allow"),
        (libc::SYS_prlimit64, &[1, 7], "EPERM"),
        (libc::SYS_setpriority, &[0, 0, 5], "allow"),
        (libc::SYS_setpriority, &[0, 1, 5], "EPERM"),
        (libc::SYS_ioprio_set, &[1, 1, 0], "EPERM"),
        (libc::SYS_sched_setaffinity, &[77], "allow"),
        (libc::SYS_chmod, &[0, 0o755], "allow"),
        (libc::SYS_chmod, &[0, 0o4755], "EPERM"),
        (libc::SYS_fchmod, &[0, 0o2755], "EPERM"),
        (libc::SYS_fchmodat, &[0, 0, 0o6755], "EPERM"),
        (452, &[0, 0, 0o4755], "EPERM"),
        (libc::SYS_open, &[0, 0o2, 0o4755], "allow"),
        (libc::SYS_open, &[0, 0o102, 0o4755], "EPERM"),
        (libc::SYS_open, &[0, 0o102, 0o644], "allow"),
        (libc::SYS_openat, &[0, 0, 0o101, 0o4755], "EPERM"),
        (libc::SYS_openat, &[0, 0, 0o20_200_002, 0o4755], "EPERM"),
        (libc::SYS_openat, &[0, 0, 0o200_000, 0o4755], "allow"),
        (libc::SYS_creat, &[0, 0o4755], "EPERM"),
        (libc::SYS_mknod, &[0, 0o010_644], "allow"),
        (libc::SYS_mknod, &[0, 0o020_666], "EPERM"),
        (libc::SYS_mknodat, &[0, 0, 0o060_666], "EPERM"),
        (libc::SYS_mknodat, &[0, 0, 0o104_755], "EPERM"),
        (libc::SYS_prctl, &[15], "allow"),
        (libc::SYS_prctl, &[35], "EPERM"),
    ] {
        expect(a, number, arguments, expected);
    }
    expect(&seccomp::LANDLOCKED, libc::SYS_sched_setaffinity, &[77], "EPERM");
    expect(&seccomp::LANDLOCKED, libc::SYS_sched_setaffinity, &[0], "allow");
}
