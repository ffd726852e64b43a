//! seccomp: which system calls exist inside.
//!
//! Comes in: the tier. Goes out: a program that the kernel runs before each call of the command and everything it
//! starts. Nothing is computed at start: the programs are constants.

mod allowed;
pub mod layers;
pub mod observed;
mod refused;

use crate::error::RunError;
use crate::mutation;
use crate::observer::Observer;
use crate::sys;
use crate::tier::Tier;
use keyhatch_seccomp::program::Program;
use keyhatch_seccomp::sys::load_filter;

/// With namespaces of its own.
pub static NAMESPACED: Program = Program::compile(layers::NAMESPACED);
/// Without.
pub static LANDLOCKED: Program = Program::compile(layers::LANDLOCKED);
/// Without, and with no socket.
pub static SOCKETLESS: Program = Program::compile(layers::SOCKETLESS);

/// A filter that is chosen, not yet enforced.
pub(crate) struct Filter(Tier);

/// Chooses the filter of a tier.
pub(crate) const fn prepare(tier: Tier) -> Filter {
    Filter(tier)
}

impl Filter {
    /// Enforces it on this process and everything it starts. `no_new_privs` must be set.
    pub(crate) fn enforce(self, observer: Observer) -> Result<(), RunError> {
        let failed = |source| RunError::Filter { source };
        if let Some(program) = mutation::filter() {
            return load_filter(program.steps(), 0).map(drop).map_err(failed);
        }
        let observed = observer.kind().map(|kind| observed::program(self.0, kind));
        // A kernel takes one observer a process: in a container that has one, what is refused is refused without words.
        if let Some(Ok(listener)) = observed.map(|program| sys::load_observed_filter(program.steps())) {
            return observer.hand_over(&listener);
        }
        let program = match self.0 {
            Tier::A => &NAMESPACED,
            Tier::B => &LANDLOCKED,
            Tier::C => &SOCKETLESS,
        };
        load_filter(program.steps(), 0).map(drop).map_err(failed)
    }
}
