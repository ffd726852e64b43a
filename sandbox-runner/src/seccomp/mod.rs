//! seccomp: which system calls exist inside.
//!
//! Comes in: the tier. Goes out: a program that the kernel runs before each call of the command and everything it
//! starts. Nothing is computed at start: the programs are constants.

mod allowed;
mod observed;
pub mod program;
mod refused;
pub mod table;

use crate::error::RunError;
use crate::mutation;
use crate::observer::Observer;
use crate::sys;
use crate::tier::Tier;
use program::Program;

/// With namespaces of its own.
pub static NAMESPACED: Program = Program::compile(table::NAMESPACED);
/// Without.
pub static LANDLOCKED: Program = Program::compile(table::LANDLOCKED);
/// Without, and with no socket.
pub static SOCKETLESS: Program = Program::compile(table::SOCKETLESS);

/// A filter that is chosen, not yet enforced.
pub(crate) struct Filter(&'static Program);

/// Chooses the filter of a tier.
pub(crate) fn prepare(tier: Tier) -> Filter {
    Filter(match tier {
        Tier::A => &NAMESPACED,
        Tier::B => &LANDLOCKED,
        Tier::C => &SOCKETLESS,
    })
}

impl Filter {
    /// Enforces it on this process and everything it starts. `no_new_privs` must be set.
    pub(crate) fn enforce(self, observer: Observer) -> Result<(), RunError> {
        if observer.is_wanted() {
            let listener = sys::load_observed_filter(observed::program().steps());
            return observer.hand_over(&listener.map_err(|source| RunError::Filter { source })?);
        }
        let loaded = match mutation::filter() {
            Some(program) => sys::load_filter(program.steps()),
            None => sys::load_filter(self.0.steps()),
        };
        loaded.map_err(|source| RunError::Filter { source })
    }
}
