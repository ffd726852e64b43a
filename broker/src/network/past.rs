//! Connections that a tool tried itself, past the proxy: none came about, and here each gets its name and its remedy.
//!
//! Comes in: addresses that `keyhatch run` saw processes connect to. Goes out: entries of the tally and the audit, with the
//! host that an address stands for.

use std::sync::Arc;

use keyhatch_policies::network::{Reach, judge_destination};
use keyhatch_protocol::{Destination, DestinationHost};

use super::address::{self, Refused};
use super::plan::PROXY_PORT;
use super::tally::Miss;
use crate::broker::Broker;
use crate::observe::{Attempt, Carrier};
use crate::session::Session;

/// Counts them all.
pub async fn settle(broker: &Arc<Broker>, session: &Arc<Session>, attempts: Vec<Attempt>) {
    for attempt in attempts {
        let host = DestinationHost::Address(attempt.address.ip());
        let Ok(asked) = Destination::new(host, attempt.address.port()) else { continue };
        settle_one(broker, session, &attempt, &session.network.meant(&asked)).await;
    }
}

async fn settle_one(broker: &Arc<Broker>, session: &Session, attempt: &Attempt, meant: &Destination) {
    let (network, tally) = (&session.network, &session.network.tally);
    let (name, reason, line) = match attempt.carrier {
        Carrier::Udp => (
            format!("{meant} (UDP)"),
            "nothing carries UDP out of a sandbox; the proxy speaks TCP".to_owned(),
            None,
        ),
        Carrier::Tcp => {
            let (reason, line) = explain(network, meant);
            (meant.to_string(), reason, line)
        }
    };
    if let DestinationHost::Name(host) = meant.host() {
        // It was counted when it was asked for, as far as it was known then.
        tally.forget(host.as_str());
    }
    let mut first = false;
    for _ in 0..attempt.times {
        first |= tally.missed(&name, Miss::Refused, (&reason, line.as_deref()));
    }
    for process in &attempt.processes {
        tally.asked_by(&name, process.clone());
    }
    if first {
        let fields = vec![("destination", name.into()), ("reason", reason.into())];
        broker.refuse(&session.id, "network-refused", fields).await;
    }
}

/// Why it failed, and the policy line without which it always will.
fn explain(network: &super::SessionNetwork, meant: &Destination) -> (String, Option<String>) {
    let past = format!(
        "a tool tried it itself, past the proxy at http://127.0.0.1:{PROXY_PORT}: it ignores HTTPS_PROXY and its like, and \
         needs an option of its own"
    );
    if let DestinationHost::Address(ip) = meant.host()
        && let Some(Refused::Always(word)) = address::refused(*ip)
    {
        return (format!("{word}, which no policy opens"), None);
    }
    match judge_destination(&network.rules, &network.registries, meant) {
        Reach::Allowed { .. } => (past, None),
        Reach::Refused { reason, line } if network.rules.allow.is_empty() => (reason, Some(line)),
        Reach::Refused { reason, line } => (format!("{reason}, and {past}"), Some(line)),
    }
}
