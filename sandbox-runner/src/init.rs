//! Init: pid 1 inside. Builds the inside, starts the command, reaps, passes signals on.
//!
//! It stays outside of the command's Landlock domain and filter: with the scope of signals the command cannot touch it,
//! and it holds nothing. Its own powers are gone before the command exists.

use std::io::{PipeReader, PipeWriter, Write};

use keyhatch_sandbox_rules::rules::{Foundation, SandboxRules};

use crate::cgroup::Cgroup;
use crate::error::{RunError, at};
use crate::observer::Observer;
use crate::rules::Rest;
use crate::ruleset::{Grant, May, devices};
use crate::supervise::{announce, die_with_parent, reap, still_alive};
use crate::sys::{self, Forked};
use crate::tier::Chosen;
use crate::{command, keyring, limits, privileges, root, terminal};

/// Builds the inside, runs the command in it and reports its wait status.
pub(crate) fn run(
    (foundation, rest): (&Foundation, Rest),
    chosen: &Chosen,
    (cgroup, observer): (Cgroup, Observer),
    (mut status, alive): (PipeWriter, PipeReader),
) -> Result<i32, RunError> {
    die_with_parent()?;
    still_alive(alive)?;
    cgroup.enforce_and_hide()?;
    let root = root::begin(foundation)?;
    // From here on the session is open.
    let rules = &rest.read(foundation)?;
    let root = root.prepare(rules)?;
    terminal::enforce(rules)?;
    // Before the mounts: a key of the user's session keyring is readable whatever is mounted.
    keyring::enforce()?;
    limits::prepare(rules).enforce()?;
    root.enforce(rules)?;
    // After the mounts, which need power.
    privileges::drop_capabilities()?;
    // Init keeps the agent's uid: not dumpable, its memory and descriptors are out of the agent's reach.
    privileges::hide()?;
    // All there is: a person reads it, a program that reads standard error is left alone. Anything less is always said.
    if rustix::termios::isatty(std::io::stderr()) {
        announce(rules, &format!("tier A: namespaces, Landlock ABI {}, seccomp", chosen.abi));
    }
    let command = match sys::fork().map_err(at("fork", "the command"))? {
        Forked::Child => {
            drop(status);
            return command::become_it(rules, chosen, grants(rules), observer);
        }
        Forked::Parent(pid) => {
            drop(observer);
            pid
        }
    };
    let ended = reap(command)?;
    // The outer process may be gone; then nobody wants to know.
    drop(status.write_all(&ended.encode()));
    Ok(0)
}

/// Inside, the mounts say what is there; Landlock says again what of it may be written and connected to.
fn grants(rules: &SandboxRules) -> Vec<Grant> {
    let grant = |path: &std::path::Path, may| Grant { path: path.to_owned(), may };
    let writable = rules.mounts.iter().filter(|mount| !mount.read_only);
    let mut grants = vec![
        grant("/".as_ref(), May::Read),
        grant("/proc".as_ref(), May::WriteExisting),
        // The session's sockets and no others: they are mounts under here.
        grant("/run".as_ref(), May::Connect),
    ];
    grants.extend(devices());
    // Of the sandbox's own devpts: no terminal of the host's is there.
    grants.extend(["/dev/ptmx", "/dev/pts"].map(|path| grant(path.as_ref(), May::Device)));
    grants.extend(writable.map(|mount| grant(&mount.target, May::Write)));
    grants.extend(["/tmp", "/dev/shm"].map(|path| grant(path.as_ref(), May::Write)));
    grants.push(grant(&rules.home, May::Write));
    grants
}
