//! The one way out: a destination that a session asked for becomes a connection, or a reason why not.
//!
//! judge → limits → audit → resolve on the host → look at every address → connect to an address that was looked at.
//! Everything that speaks a proxy's protocol comes through here, and nothing else connects anywhere for a session.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyhatch_policies::network::{Reach, judge_destination};
use keyhatch_protocol::{Destination, DestinationError, DestinationHost};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::Served;
use super::address::{self, Refused};
use super::process::{self, Table};
use super::tally::Miss;

/// How long the host's resolver may take: its own patience is longer than a tool's.
const RESOLVE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// What stands for everything that is no destination.
const ODD: &str = "(not a destination)";

/// A connection that may be used, and what it counts against.
pub(super) struct Open {
    /// To an address that was looked at.
    pub(super) stream: TcpStream,
    /// One of the session's connections; given back when dropped.
    pub(super) permit: OwnedSemaphorePermit,
    /// What was asked for, as it is counted.
    pub(super) name: String,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoWay {
    /// Which kind, for the protocol's own code.
    pub(super) kind: NoWayKind,
    /// One line of ASCII, without the destination.
    pub(super) reason: String,
    /// What the user can do.
    pub(super) hint: Option<String>,
}

/// Kinds that proxies tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWayKind {
    /// Not allowed: by the policy, or by what the name resolves to.
    Refused,
    /// A limit of the session's is used up.
    Limit,
    /// The name is unknown, or the host is not there.
    Unreachable,
    /// The host did not answer in time.
    TimedOut,
}

impl NoWay {
    fn new(kind: NoWayKind, reason: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind, reason: reason.into(), hint }
    }
}

/// Opens a connection for a session, or says why not. `from` is the session's end of its connection to the proxy.
pub(super) async fn open(served: &Served, asked: &Destination, from: SocketAddr) -> Result<Open, NoWay> {
    // A tool that resolves by itself and then asks the proxy for an address means the name.
    let asked = &served.network().meant(asked);
    let name = asked.to_string();
    match attempt(served, asked, &name).await {
        Ok((stream, permit)) => Ok(Open { stream, permit, name }),
        Err(no_way) => {
            note(served, &name, &no_way, from).await;
            Err(no_way)
        }
    }
}

async fn attempt(
    served: &Served,
    asked: &Destination,
    name: &str,
) -> Result<(TcpStream, OwnedSemaphorePermit), NoWay> {
    let network = served.network();
    let private = match judge_destination(&network.rules, &network.registries, asked) {
        Reach::Allowed { private, .. } => private,
        Reach::Refused { reason, line } => {
            return Err(NoWay::new(NoWayKind::Refused, reason, Some(line)));
        }
    };
    let limits = network.rules.limits;
    let Ok(permit) = network.connections.clone().try_acquire_owned() else {
        let reason = format!("the session has {} connections open, its limit", limits.connections);
        return Err(NoWay::new(NoWayKind::Limit, reason, Some("[network.limits] connections".into())));
    };
    if let Some(spent) = network.budget.spent() {
        let hint = Some(format!("[network.limits] {spent}"));
        return Err(NoWay::new(NoWayKind::Limit, format!("the session has used up its bytes {spent}"), hint));
    }
    if network.tally.allowed(name) {
        // Before the first byte goes there; later connections to the same place are in the sum at the end.
        let fields = vec![("destination", name.into())];
        if let Err(error) = served.broker.record(&served.session.id, "network-allowed", fields).await {
            tracing::error!(%error, "a connection could not be recorded");
            return Err(NoWay::new(NoWayKind::Limit, "it could not be recorded", None));
        }
    }
    let addresses = resolve(asked, name, private).await?;
    let stream = connect(&addresses, limits.connect).await?;
    network.tally.connected(name);
    Ok((stream, permit))
}

/// Resolves on the host, once, and looks at every address: one that is refused refuses them all, because a name with a
/// public and a private address is a trick (DNS rebinding).
async fn resolve(asked: &Destination, name: &str, private: bool) -> Result<Vec<SocketAddr>, NoWay> {
    let port = asked.port();
    let found: Vec<SocketAddr> = match asked.host() {
        DestinationHost::Address(address) => vec![SocketAddr::new(*address, port)],
        DestinationHost::Name(host) => {
            let unknown = |why: &str| NoWay::new(NoWayKind::Unreachable, why, None);
            let lookup = tokio::net::lookup_host((host.as_str(), port));
            match tokio::time::timeout(RESOLVE, lookup).await {
                Ok(Ok(found)) => found.take(MAX_ADDRESSES).collect(),
                Ok(Err(_)) => return Err(unknown("the host does not know this name")),
                Err(_) => return Err(unknown("the host's resolver did not answer in time")),
            }
        }
    };
    for found in &found {
        if let Some(word) = unfit(found.ip(), private) {
            let hint = (word == Refused::Private.word()).then(|| {
                format!("[network] allow = [{{ to = \"{name}\", private = true, reason = \"...\" }}]")
            });
            return Err(NoWay::new(NoWayKind::Refused, format!("the host resolves it to {word}"), hint));
        }
    }
    Ok(found)
}

fn unfit(ip: IpAddr, private: bool) -> Option<&'static str> {
    match address::refused(ip) {
        Some(Refused::Private) if private => None,
        Some(refused) => Some(refused.word()),
        None => None,
    }
    .or_else(|| address::is_own(ip).then_some("an address of this machine"))
}

/// Connects to the first address that answers, all of them in the time for one.
async fn connect(addresses: &[SocketAddr], patience: Duration) -> Result<TcpStream, NoWay> {
    let any = async {
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    match tokio::time::timeout(patience, any).await {
        Ok(Ok(stream)) => {
            // Small records of TLS must not wait for an acknowledgement; a socket that refuses this is only slower.
            drop(stream.set_nodelay(true));
            Ok(stream)
        }
        Ok(Err(error)) => {
            let reason = format!("it cannot be reached: {}", error.kind());
            Err(NoWay::new(NoWayKind::Unreachable, reason, None))
        }
        Err(_) => {
            let reason = format!("it did not answer in {} s", patience.as_secs());
            Err(NoWay::new(NoWayKind::TimedOut, reason, None))
        }
    }
}

/// Counts what was asked for and is no destination: its text is hostile, so it has no name of its own.
pub(super) async fn odd(served: &Served, error: DestinationError, from: SocketAddr) {
    note(served, ODD, &NoWay::new(NoWayKind::Refused, error.to_string(), None), from).await;
}

/// Counts a miss, records the first of each destination, and finds out who asked.
async fn note(served: &Served, name: &str, no_way: &NoWay, from: SocketAddr) {
    let network = served.network();
    let miss = match no_way.kind {
        NoWayKind::Refused | NoWayKind::Limit => Miss::Refused,
        NoWayKind::Unreachable | NoWayKind::TimedOut => Miss::Failed,
    };
    let first = network.tally.missed(name, miss, (&no_way.reason, no_way.hint.as_deref()));
    let event = if miss == Miss::Refused { "network-refused" } else { "network-failed" };
    if first {
        let fields = vec![("destination", name.into()), ("reason", no_way.reason.as_str().into())];
        // The sum at the end has it too.
        served.broker.refuse(&served.session.id, event, fields).await;
    }
    served.find_process(name, from, Table::Stream).await;
}

impl Served {
    /// Looks for the process behind a connection, while few are known for this destination.
    pub(super) async fn find_process(&self, name: &str, from: SocketAddr, table: Table) {
        let network = self.network();
        let Some(member) = network.member() else { return };
        if !network.tally.wants_processes(name) {
            return;
        }
        let found = tokio::task::spawn_blocking(move || process::behind(member, from, table)).await;
        if let Ok(Some(process)) = found {
            network.tally.asked_by(name, process);
        }
    }
}
