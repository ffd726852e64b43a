//! Connections that a program tried itself, past the proxy: where to, and who.
//!
//! Bounded: an attack tries as many as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::SocketType;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::network::process;
use crate::sys::Notification;

/// Addresses that are kept.
const MOST: usize = 256;
/// Processes that are named for one of them.
const MOST_PROCESSES: usize = 4;

/// What would have carried the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What was tried with one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Where to.
    pub address: SocketAddr,
    /// Over what.
    pub carrier: Carrier,
    /// How often.
    pub times: u64,
    /// Who; what they are called is the session's own word.
    pub processes: BTreeSet<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Attempts(BTreeMap<(SocketAddr, Carrier), Attempt>);

impl Attempts {
    /// Counts one. The process still waits, so that it can be looked at.
    pub(super) fn add(&mut self, address: SocketAddr, call: &Notification) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        // 0.0.0.0 is the sandbox's own loopback; port 0 only asks the kernel for a route.
        if address.ip().is_loopback() || address.ip().is_unspecified() || address.port() == 0 {
            return;
        }
        let carrier = carrier(call);
        let room = self.0.len() < MOST;
        let Some(attempt) = (match self.0.get_mut(&(address, carrier)) {
            None if room => Some(self.0.entry((address, carrier)).or_insert(Attempt {
                address,
                carrier,
                times: 0,
                processes: BTreeSet::new(),
            })),
            known => known,
        }) else {
            return;
        };
        attempt.times += 1;
        if attempt.processes.len() < MOST_PROCESSES
            && attempt.times <= MOST_PROCESSES as u64
            && let Some(process) = process::named(call.pid)
        {
            attempt.processes.insert(process);
        }
    }

    /// Each by itself.
    #[must_use]
    pub fn into_vec(self) -> Vec<Attempt> {
        self.0.into_values().collect()
    }
}

/// What the socket is; TCP where the process does not let itself be asked.
fn carrier(call: &Notification) -> Carrier {
    let kind = socket(call).and_then(|socket| rustix::net::sockopt::socket_type(&socket).ok());
    if kind == Some(SocketType::DGRAM) { Carrier::Udp } else { Carrier::Tcp }
}

/// A descriptor of the same socket. The number of a thread is no process's: its group's is.
fn socket(call: &Notification) -> Option<OwnedFd> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", call.pid)).ok()?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let process = pidfd_open(Pid::from_raw(group)?, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, i32::try_from(call.arguments[0]).ok()?, PidfdGetfdFlags::empty()).ok()
}
