//! The filter's program, made by the compiler.
//!
//! Numbers are grouped to ranges with one verdict and found by a binary search: the kernel runs a filter once for every
//! number when it is loaded, to remember which are always allowed, so that a list of 300 comparisons costs a
//! millisecond at every start, and a tree of eight levels nothing that can be measured.

use libc::sock_filter;

use crate::table::{Entry, MAX_CALLS, Test, Verdict, verdicts};

/// Room for the longest program.
const CAPACITY: usize = 640;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// From here on numbers are x32's, another table with other meanings.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64

const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const OBSERVED: u32 = libc::SECCOMP_RET_USER_NOTIF;
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A program that the kernel takes.
#[derive(Clone)]
pub struct Program {
    steps: [sock_filter; CAPACITY],
    length: usize,
}

/// One verdict from this number up to the next range's.
#[derive(Clone, Copy)]
struct Range {
    from: u32,
    verdict: Verdict,
}

impl Program {
    /// Its steps.
    #[must_use]
    pub fn steps(&self) -> &[sock_filter] {
        &self.steps[..self.length]
    }

    /// Compiles layers of entries; a later one outweighs an earlier one.
    #[must_use]
    pub const fn compile(layers: &[&[Entry]]) -> Self {
        Self::of(&verdicts(layers))
    }

    /// Compiles a verdict for every number.
    #[must_use]
    pub const fn of(verdicts: &[Verdict; MAX_CALLS]) -> Self {
        let mut program =
            Self { steps: [step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS); CAPACITY], length: 0 };
        program.push(step(LOAD, 0, 0, ARCHITECTURE));
        // Another architecture's numbers mean other calls: a 32-bit `int 0x80` passes every comparison below.
        program.push(step(IF_EQUAL, 1, 0, NATIVE));
        program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
        program.push(step(LOAD, 0, 0, NUMBER));
        #[cfg(target_arch = "x86_64")]
        {
            program.push(step(IF_AT_LEAST, 0, 1, X32));
            program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
        }
        let (ranges, count) = ranges(verdicts);
        program.search(&ranges, 0, count);
        program
    }

    /// The same, with other architectures and x32 let in: for a test build only.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub fn with_open_doors(mut self) -> Self {
        for step in &mut self.steps[..self.length] {
            if step.code == RETURN && step.k == libc::SECCOMP_RET_KILL_PROCESS {
                step.k = libc::SECCOMP_RET_ALLOW;
            }
        }
        self
    }

    const fn push(&mut self, step: sock_filter) {
        self.steps[self.length] = step;
        self.length += 1;
    }

    /// Finds the number's range among those from `first` to before `last`.
    const fn search(&mut self, ranges: &[Range; MAX_CALLS], first: usize, last: usize) {
        if last - first == 1 {
            self.leaf(ranges[first].verdict);
            return;
        }
        let middle = usize::midpoint(first, last);
        let test = self.length;
        self.push(step(IF_AT_LEAST, 0, 0, ranges[middle].from));
        // A conditional jump reaches 255 steps; this one may have to go further.
        let far = self.length;
        self.push(step(JUMP, 0, 0, 0));
        let lower = self.length;
        self.search(ranges, first, middle);
        let distance = self.length - lower;
        if distance < 255 {
            self.steps[test].jt = distance as u8 + 1;
            self.steps[test].jf = 1;
        } else {
            self.steps[test].jf = 1;
            self.steps[far].k = distance as u32;
        }
        self.search(ranges, middle, last);
    }

    const fn leaf(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Allow => self.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW)),
            Verdict::Refuse => self.push(step(RETURN, 0, 0, REFUSED)),
            Verdict::Absent => self.push(step(RETURN, 0, 0, ABSENT)),
            Verdict::Observe => self.push(step(RETURN, 0, 0, OBSERVED)),
            Verdict::RefuseWhen(clauses) => self.clauses(clauses, (REFUSED, libc::SECCOMP_RET_ALLOW)),
            Verdict::ObserveWhen(clauses) => self.clauses(clauses, (OBSERVED, libc::SECCOMP_RET_ALLOW)),
            Verdict::ObserveUnless(clauses) => self.clauses(clauses, (REFUSED, OBSERVED)),
        }
    }

    /// Gives one answer where one of them holds, else the other.
    const fn clauses(&mut self, clauses: &[&[Test]], (holds, otherwise): (u32, u32)) {
        let mut clause = 0;
        while clause < clauses.len() {
            self.clause(clauses[clause], holds);
            clause += 1;
        }
        self.push(step(RETURN, 0, 0, otherwise));
    }

    /// Answers where all tests hold; else goes on behind itself.
    const fn clause(&mut self, tests: &[Test], holds: u32) {
        let end = self.length + clause_length(tests);
        let mut index = 0;
        while index < tests.len() {
            self.test(&tests[index], end);
            index += 1;
        }
        self.push(step(RETURN, 0, 0, holds));
        assert!(self.length == end, "a clause is as long as it was said to be");
    }

    /// Goes on behind itself where the test holds, else to `failed`.
    const fn test(&mut self, test: &Test, failed: usize) {
        // The low half of the argument comes first on the little-endian machines that are supported.
        self.push(step(LOAD, 0, 0, ARGUMENTS + 8 * test.argument));
        if test.mask != u32::MAX {
            self.push(step(AND, 0, 0, test.mask));
        }
        let mut index = 0;
        while index < test.values.len() {
            let left = test.values.len() - 1 - index;
            let to_failed = (failed - self.length - 1) as u8;
            let equal = step(IF_EQUAL, 0, 0, test.values[index]);
            self.push(match (test.among, left) {
                (true, 0) => sock_filter { jf: to_failed, ..equal },
                (true, _) => sock_filter { jt: left as u8, ..equal },
                (false, _) => sock_filter { jt: to_failed, ..equal },
            });
            index += 1;
        }
    }
}

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn clause_length(tests: &[Test]) -> usize {
    let (mut length, mut index) = (1, 0);
    while index < tests.len() {
        length += 1 + (tests[index].mask != u32::MAX) as usize + tests[index].values.len();
        index += 1;
    }
    length
}

/// Neighbours with the same verdict become one range. What tests arguments stays alone.
const fn ranges(verdicts: &[Verdict; MAX_CALLS]) -> ([Range; MAX_CALLS], usize) {
    let mut ranges = [Range { from: 0, verdict: Verdict::Absent }; MAX_CALLS];
    ranges[0].verdict = verdicts[0];
    let (mut count, mut number) = (1, 1);
    while number < MAX_CALLS {
        let same = matches!(
            (verdicts[number - 1], verdicts[number]),
            (Verdict::Allow, Verdict::Allow)
                | (Verdict::Refuse, Verdict::Refuse)
                | (Verdict::Observe, Verdict::Observe)
                | (Verdict::Absent, Verdict::Absent)
        );
        if !same {
            ranges[count] = Range { from: number as u32, verdict: verdicts[number] };
            count += 1;
        }
        number += 1;
    }
    (ranges, count)
}
