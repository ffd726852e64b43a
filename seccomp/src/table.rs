//! The shape of a filter's data: calls, verdicts, tests of arguments.
//!
//! An allow list: a call that no layer names does not exist inside (ENOSYS), so that libraries fall back to an older one
//! and what a newer kernel adds is closed until somebody looks at it. What is named and dangerous is refused (EPERM),
//! so that a user reads "not permitted" and not "not implemented". A later layer outweighs an earlier one.

/// The answer to one call.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// The kernel does it.
    Allow,
    /// EPERM.
    Refuse,
    /// ENOSYS.
    Absent,
    /// An observer looks at it, and answers or lets the kernel do it.
    Observe,
    /// EPERM where all tests of one of these clauses hold; else as [`Verdict::Observe`].
    ObserveUnless(&'static [&'static [Test]]),
    /// As [`Verdict::Observe`] where all tests of one of these clauses hold; else the kernel does it.
    ObserveWhen(&'static [&'static [Test]]),
    /// EPERM where all tests of one of these clauses hold; else the kernel does it.
    RefuseWhen(&'static [&'static [Test]]),
}

/// A test of one argument. The kernel reads 32 bits of each argument that is tested here, so these are compared: a filter
/// that compares 64 is passed by with a bit in the upper half (CVE-2019-10063).
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Which argument.
    pub argument: u32,
    /// The bits that count.
    pub mask: u32,
    /// Whether the test holds where the value is one of these, or where it is none.
    pub among: bool,
    /// The values.
    pub values: &'static [u32],
}

impl Test {
    /// It is one of these.
    #[must_use]
    pub const fn is(argument: u32, values: &'static [u32]) -> Self {
        Self { argument, mask: u32::MAX, among: true, values }
    }

    /// It is none of these.
    #[must_use]
    pub const fn is_not(argument: u32, values: &'static [u32]) -> Self {
        Self { argument, mask: u32::MAX, among: false, values }
    }

    /// Any of these bits is set.
    #[must_use]
    pub const fn has(argument: u32, bits: u32) -> Self {
        Self { argument, mask: bits, among: false, values: &[0] }
    }
}

/// A call by name and number.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// As in `syscalls(2)`.
    pub name: &'static str,
    /// On this architecture.
    pub number: u32,
}

impl Call {
    /// A call that `libc` names.
    ///
    /// # Panics
    /// While compiling, for a number that no kernel has.
    #[must_use]
    pub const fn named(name: &'static str, number: libc::c_long) -> Self {
        assert!(number >= 0 && number < MAX_CALLS as libc::c_long, "a call is out of the table");
        Self { name: name.split_at("SYS_".len()).1, number: number as u32 }
    }

    /// A call that is newer than the crate: since 2019 a number is the same on every architecture.
    #[must_use]
    pub const fn newer(name: &'static str, number: u32) -> Self {
        Self { name, number }
    }
}

/// Calls that share a verdict and its reason.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which.
    pub calls: &'static [Call],
    /// What is answered.
    pub verdict: Verdict,
    /// Who needs it, or which attack it stops.
    pub reason: &'static str,
}

/// Names calls of `libc`.
#[macro_export]
macro_rules! calls {
    ($($name:ident)*) => { &[$($crate::table::Call::named(stringify!($name), libc::$name)),*] };
}

/// Numbers from here on do not exist on any kernel yet.
pub const MAX_CALLS: usize = 512;

/// The verdict on every number; absent for what no layer names.
///
/// # Panics
/// While compiling, for an entry without a reason.
#[must_use]
pub const fn verdicts(layers: &[&[Entry]]) -> [Verdict; MAX_CALLS] {
    let mut verdicts = [Verdict::Absent; MAX_CALLS];
    let mut layer = 0;
    while layer < layers.len() {
        let mut entry = 0;
        while entry < layers[layer].len() {
            let Entry { calls, verdict, reason } = layers[layer][entry];
            assert!(!reason.is_empty(), "every entry has a reason");
            let mut call = 0;
            while call < calls.len() {
                verdicts[calls[call].number as usize] = verdict;
                call += 1;
            }
            entry += 1;
        }
        layer += 1;
    }
    verdicts
}
