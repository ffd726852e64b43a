//! The switch that turns one mitigation off, in a test build that exists for nothing else.
//!
//! An escape test that stays green with its mitigation off proves nothing. The feature `mutations` is in no normal build
//! and does not compile in a release build; without it every question here is the constant "no".

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` takes the sandbox apart: it is for test builds only");

/// What can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mitigation {
    /// Closing what was inherited.
    Descriptors,
    /// The fresh session keyring, with the calls that reach it.
    Keyring,
    /// Resource limits.
    Limits,
    /// The session apart from the host's terminal.
    Session,
    /// The network namespace.
    NetworkNamespace,
    /// The ipc namespace.
    IpcNamespace,
    /// The pid namespace.
    PidNamespace,
    /// The uts namespace, with the name that is set in it.
    UtsNamespace,
    /// The fresh root: the host's stays.
    Root,
    /// `nosuid` on mounts.
    Nosuid,
    /// The read-only root.
    Seal,
    /// The null device over files of /proc that are not kept apart.
    Unseen,
    /// Read-only mounts of the rules.
    ReadOnly,
    /// Landlock, as a whole.
    Landlock,
    /// Landlock's scopes.
    Scopes,
    /// Giving capabilities up.
    Capabilities,
    /// `no_new_privs`.
    NoNewPrivileges,
    /// Hiding init's memory.
    Dumpable,
    /// The proof before exec.
    Probe,
    /// Dying with the parent.
    DeathSignal,
}

#[cfg(not(feature = "mutations"))]
mod switch {
    use super::Mitigation;
    use keyhatch_seccomp::program::Program;

    /// Reads the switch.
    pub(crate) const fn read() {}

    /// Whether a mitigation is switched off.
    pub(crate) const fn is_off(_: Mitigation) -> bool {
        false
    }

    /// The filter to load in place of the tier's.
    pub(crate) const fn filter() -> Option<Program> {
        None
    }

    /// The newest Landlock ABI to use.
    pub(crate) const fn landlock_abi() -> Option<i32> {
        None
    }
}

#[cfg(feature = "mutations")]
mod switch {
    use std::sync::OnceLock;

    use super::Mitigation;
    use crate::seccomp::layers::NAMESPACED;
    use keyhatch_seccomp::program::Program;
    use keyhatch_seccomp::table::{MAX_CALLS, Verdict, verdicts};

    static SWITCH: OnceLock<String> = OnceLock::new();

    /// Reads the switch from a file beside the program: its environment is empty and its arguments are fixed.
    pub(crate) fn read() {
        let text = std::env::current_exe()
            .and_then(|program| std::fs::read_to_string(program.with_extension("mutation")))
            .unwrap_or_default();
        SWITCH.set(text.trim().to_owned()).ok();
    }

    fn word(after: &str) -> Option<&'static str> {
        SWITCH.get()?.split(',').find_map(|part| part.trim().strip_prefix(after))
    }

    /// Whether a mitigation is switched off.
    pub(crate) fn is_off(mitigation: Mitigation) -> bool {
        SWITCH.get().is_some_and(|text| text.split(',').any(|part| part.trim() == format!("{mitigation:?}")))
    }

    /// The filter to load in place of the tier's: nothing refused, other doors open, or some calls allowed.
    pub(crate) fn filter() -> Option<Program> {
        if word("Seccomp").is_some() {
            return Some(Program::of(&[Verdict::Allow; MAX_CALLS]).with_open_doors());
        }
        if word("Doors").is_some() {
            return Some(Program::of(&verdicts(NAMESPACED)).with_open_doors());
        }
        let mut verdicts = verdicts(NAMESPACED);
        let calls: Vec<usize> = word("call ")?.split(' ').filter_map(|number| number.parse().ok()).collect();
        for call in calls {
            verdicts[call] = Verdict::Allow;
        }
        Some(Program::of(&verdicts))
    }

    /// The newest Landlock ABI to use.
    pub(crate) fn landlock_abi() -> Option<i32> {
        word("abi ")?.parse().ok()
    }
}

pub(crate) use switch::{filter, is_off, landlock_abi, read};
