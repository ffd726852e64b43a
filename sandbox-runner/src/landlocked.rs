//! Tiers B and C: a command confined without namespaces, by Landlock and seccomp alone.
//!
//! This process stays outside as the supervisor: the command's Landlock scope keeps its signals away from it, and as the
//! reaper of everything below it ends what is left when the command ends or `keyhatch run` dies. Weaker than tier A in
//! what can be seen (metadata of the user's files, other command lines), and it says so.

use std::path::Path;

use keyhatch_protocol::message::SOCKETS_INSIDE;
use keyhatch_protocol::message::hatch::HATCH_VARIABLE;
use keyhatch_sandbox_rules::rules::{NetworkInside, SandboxRules};
use rustix::process::{Pid, Signal, WaitOptions, getppid, wait};

use crate::cgroup::Cgroup;
use crate::error::{RunError, at};
use crate::hatch::Hatch;
use crate::observer::Observer;
use crate::outer::said;
use crate::supervise::{Ended, announce, die_with_parent, reap_while, still_alive};
use crate::sys::{self, Forked};
use crate::tier::{Chosen, Tier};
use crate::{command, furniture, keyring, limits, privileges, terminal};

/// What names the session's ssh-agent, ssh(1).
const SSH_AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
/// The front end's and the one for names.
const SOCKETS_OF_EVERY_SESSION: usize = 2;

/// Confines the command and waits for it.
pub(crate) fn run(
    rules: &SandboxRules,
    chosen: &Chosen,
    (cgroup, observer): (Cgroup, Observer),
) -> Result<Ended, RunError> {
    let furniture = furniture::prepare(rules)?;
    for line in [said_at_start(chosen)].iter().chain(&furniture.notes) {
        announce(rules, line);
    }
    let (mut rules, mut grants) = (furniture.rules, furniture.grants);
    for line in out_of_reach(&mut rules, chosen) {
        announce(&rules, line);
    }
    let hatch = if chosen.tier == Tier::C { hatch(&rules)? } else { None };
    if let Some(hatch) = &hatch {
        rules.env.insert(HATCH_VARIABLE.into(), hatch.directory().to_string_lossy().into_owned());
        grants.extend(hatch.grants());
    }
    keyring::enforce()?;
    privileges::hide()?;
    let parent = getppid();
    // Asked of the kernel as a signal that can be handled: what is below must be ended first.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(at("watch", "the parent"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(at("reap", "what the command starts"))?;
    sys::hold_signals(true).map_err(at("hold", "signals"))?;
    let (alive_reader, alive_writer) = std::io::pipe().map_err(at("open", "a pipe"))?;
    match sys::fork().map_err(at("fork", "the command"))? {
        Forked::Child => {
            drop((alive_writer, hatch));
            let confined = || -> Result<i32, RunError> {
                die_with_parent()?;
                still_alive(alive_reader)?;
                cgroup.enforce()?;
                terminal::enforce(&rules)?;
                limits::prepare(&rules).enforce()?;
                privileges::drop_capabilities()?;
                std::env::set_current_dir(&rules.cwd)
                    .map_err(at("enter", rules.cwd.display().to_string()))?;
                command::become_it(&rules, chosen, grants, observer)
            };
            std::process::exit(said(confined()))
        }
        Forked::Parent(command) => {
            drop((alive_reader, observer));
            // The last fork is done: a thread is in nobody's way.
            let served = hatch.map_or(Ok(()), Hatch::serve);
            if served.is_err() {
                end_all_below()?;
            }
            served?;
            let ended = reap_while(command, || getppid() == parent)?;
            end_all_below()?;
            drop(alive_writer);
            cgroup.farewell();
            Ok(ended.unwrap_or(Ended::Signal(9)))
        }
    }
}

/// The way to the session's sockets for a command that can have none. None where there is no session: a sandbox that is
/// made for its proof.
fn hatch(rules: &SandboxRules) -> Result<Option<Hatch>, RunError> {
    let sockets = rules.mounts.iter().find(|mount| mount.target == Path::new(SOCKETS_INSIDE));
    // Outside of what the command may write to: there it could make what it likes.
    let directory = rules.fallback.join("hatch");
    sockets.map(|sockets| Hatch::prepare(&directory, &sockets.source)).transpose()
}

fn said_at_start(chosen: &Chosen) -> String {
    let sockets = match chosen.tier {
        Tier::C => "no sockets, git through pipes",
        _ => "the session's sockets and no others",
    };
    let because = chosen.because.as_deref().unwrap_or("unknown");
    format!(
        "{}: Landlock ABI {}, seccomp, {sockets}; no namespaces: {because}{}",
        chosen.tier,
        chosen.abi,
        // A container is its owner's to change; what the machine lacks, its user can look up there.
        if chosen.in_container { "" } else { "; keyhatch doctor says how to get tier A" }
    )
}

/// What the policy gives and nothing inside can have. A variable that names a socket nobody can make is taken away.
fn out_of_reach(rules: &mut SandboxRules, chosen: &Chosen) -> Vec<&'static str> {
    let mut lines = Vec::new();
    // In a container the network is not ours, and its own notes say so.
    if opens_more_than_git(&rules.network) && !chosen.in_container {
        lines.push(
            "what the policy's [network] opens is out of reach: without namespaces nothing inside has an internet socket, an agent that \
             calls its model neither",
        );
    }
    if chosen.tier == Tier::C && rules.env.remove(SSH_AGENT_VARIABLE).is_some() {
        lines.push(
            "the session's ssh-agent is out of reach: it is spoken to over a local socket, and nothing inside has one; what git does over \
             ssh needs none",
        );
    }
    lines
}

/// Whether a policy opens a network: every session has a front end for git and an answer to questions for names.
fn opens_more_than_git(network: &NetworkInside) -> bool {
    match network {
        NetworkInside::Host => true,
        NetworkInside::Own { sockets } => sockets.len() > SOCKETS_OF_EVERY_SESSION,
    }
}

/// Kills until no child is left. What a killed process had started becomes a child of this one.
pub(crate) fn end_all_below() -> Result<(), RunError> {
    loop {
        for child in children()? {
            // It may have ended meanwhile.
            drop(sys::kill(child, libc::SIGKILL));
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Ok(()),
        }
    }
}

fn children() -> Result<Vec<i32>, RunError> {
    let own = rustix::process::getpid();
    let entries = std::fs::read_dir("/proc").map_err(at("list", "/proc"))?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(numbers.filter(|pid| parent_of(*pid) == Some(own)).collect())
}

fn parent_of(pid: i32) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and may hold anything, parentheses too.
    let (_, fields) = stat.rsplit_once(") ")?;
    Pid::from_raw(fields.split(' ').nth(1)?.parse().ok()?)
}
