//! Observing: with `keyhatch run --explain` somebody outside looks at calls that name a path or an address, and answers
//! those that are refused.
//!
//! Nothing more is allowed than without: what is looked at goes on in the kernel as it would have, what is refused for its
//! arguments is refused by the kernel as ever, and what is refused altogether is refused by the observer's answer. Where
//! the observer is gone, the kernel answers ENOSYS.

use super::program::Program;
use super::table::{Call, NAMESPACED, Verdict, calls, verdicts};

/// Calls that are looked at.
const LOOKED_AT: &[Call] = calls!(SYS_openat SYS_execve SYS_connect SYS_mkdirat SYS_unlinkat SYS_renameat2);

/// The same, under numbers that only older architectures have.
#[cfg(target_arch = "x86_64")]
const LOOKED_AT_OLD: &[Call] = calls!(SYS_open SYS_mkdir SYS_unlink SYS_rename);
#[cfg(not(target_arch = "x86_64"))]
const LOOKED_AT_OLD: &[Call] = &[];

/// The filter of tier A, with an observer.
pub(super) fn program() -> Program {
    let mut verdicts = verdicts(NAMESPACED);
    for verdict in &mut verdicts {
        if matches!(verdict, Verdict::Refuse) {
            *verdict = Verdict::Observe;
        }
    }
    for call in LOOKED_AT.iter().chain(LOOKED_AT_OLD) {
        let verdict = &mut verdicts[call.number as usize];
        *verdict = match *verdict {
            Verdict::Allow => Verdict::Observe,
            Verdict::RefuseWhen(clauses) => Verdict::ObserveUnless(clauses),
            // The observer would let it go on: a test holds that no such call is listed.
            other => other,
        };
    }
    Program::of(&verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_that_is_refused_is_looked_at_and_let_go_on() {
        let verdicts = verdicts(NAMESPACED);
        for call in LOOKED_AT.iter().chain(LOOKED_AT_OLD) {
            let verdict = verdicts[call.number as usize];
            assert!(matches!(verdict, Verdict::Allow | Verdict::RefuseWhen(_)), "{}: {verdict:?}", call.name);
        }
        assert!(program().steps().len() > 100);
    }
}
