//! The order of a start. Every step is irrevocable for this process and all it starts; each file owns one mechanism.
//!
//! ```text
//! outer    the rules' foundation → parent's death → cgroup → namespaces → loopback
//! init     cgroup → system in a new root → standard descriptors, rules → session, terminal → keyring → limits → mounts →
//!          root → capabilities → hidden memory
//! command  process group → no_new_privs → Landlock → seccomp → proof → descriptors → exec
//! ```
//!
//! Between fork and exec only this program's own code runs, and each child dies with its parent: there is no moment at
//! which a kill leaves something unconfined behind.

use std::os::fd::OwnedFd;

use keyhatch_sandbox_rules::rules::Foundation;

use crate::error::RunError;
use crate::rules::Rest;
use crate::supervise::Ended;
use crate::tier::{self, Around, Tier};
use crate::{cgroup, landlocked, network, observer, outer, supervise};

/// The sockets to whoever started this: the one for what is handed over in order, and the observer's, where there is one.
pub(crate) type Lines = (OwnedFd, Option<OwnedFd>);

/// Runs the command of the rules in the strongest sandbox that this kernel gives, and says how it ended.
pub(crate) fn launch(
    (foundation, rest): (Foundation, Rest),
    (handoff, observer): Lines,
    around: Around,
) -> Result<Ended, RunError> {
    // Whoever kills `keyhatch run` kills all of it: this process, init with it, and with init the whole pid namespace.
    supervise::die_with_parent()?;
    let cgroup = cgroup::prepare(&foundation, &handoff)?;
    let observer = observer::prepare(&foundation, observer);
    let chosen = tier::prepare(&foundation, around)?;
    match chosen.tier {
        Tier::A => outer::run((&foundation, rest), &chosen, (handoff, cgroup, observer)),
        Tier::B | Tier::C => {
            // There is no loopback of its own to listen on.
            network::hand_over(&[], &handoff)?;
            drop(handoff);
            landlocked::run(&rest.read(&foundation)?, &chosen, (cgroup, observer))
        }
    }
}
