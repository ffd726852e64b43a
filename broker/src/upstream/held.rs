//! Connections that wait for a signed push. Over ssh a server takes its nonce back on the very connection that gave it
//! (git's receive-pack.c, `check_nonce`): a fresh one would make every certificate `BAD`. So where a server asks for
//! certificates, the connection of the advertisement is held until the push that answers it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keyhatch_protocol::Remote;

use super::{CertificateOffer, keyed, ssh};
use crate::pktline::{Packet, Packets};

/// How long a connection waits for its push: packing, and a signature that somebody approves, lie between.
const WAITS: Duration = Duration::from_secs(15 * 60);
/// Most that wait in one session: each is a login upstream.
const MOST: usize = 4;

/// A running service upstream that has advertised and waits for commands. Dropping it ends it.
#[derive(Debug)]
pub struct HeldConnection(pub(super) Way);

/// How it is reached.
#[derive(Debug)]
pub(super) enum Way {
    /// Through the host's ssh.
    Ssh(ssh::Connection),
    /// With a key that keyhatch holds.
    Keyed(keyed::Connection),
}

impl HeldConnection {
    /// Whether the other end is still there, as far as is known.
    pub(super) fn is_alive(&mut self) -> bool {
        match &mut self.0 {
            Way::Ssh(connection) => connection.is_alive(),
            Way::Keyed(connection) => connection.is_alive(),
        }
    }
}

/// What a server that takes signed pushes gave with its advertisement.
#[derive(Debug)]
pub(crate) struct Held {
    /// What the certificate must name.
    pub(crate) nonce: String,
    /// Where it counts.
    pub(crate) connection: HeldConnection,
}

#[derive(Debug)]
struct Waiting {
    remote: Remote,
    since: Instant,
    held: Held,
}

/// The connections of one session, oldest first. They end with it.
#[derive(Debug, Default)]
pub(crate) struct HeldConnections(Mutex<Vec<Waiting>>);

impl HeldConnections {
    /// Holds a connection for the push that will name its nonce.
    pub(crate) fn hold(&self, remote: &Remote, held: Held) {
        let waiting = Waiting { remote: remote.clone(), since: Instant::now(), held };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.since.elapsed() < WAITS);
        if all.len() >= MOST {
            all.remove(0);
        }
        all.push(waiting);
    }

    /// The connection that a push belongs to: by its nonce. One without a certificate ends the newest of its remote,
    /// which will not be asked for.
    pub(crate) fn take(&self, remote: &Remote, nonce: Option<&str>) -> Option<HeldConnection> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |one: &Waiting| &one.remote == remote && nonce.is_none_or(|nonce| one.held.nonce == nonce);
        let at = all.iter().rposition(ours)?;
        let found = all.remove(at);
        nonce.map(|_| found.held.connection)
    }

    /// Ends them all.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The nonce of a server that takes signed pushes; none where it does not ask for certificates, or gives none.
pub(super) fn nonce(advertisement: &[u8]) -> Option<String> {
    certificate_offer(advertisement)?.nonce
}

/// What a server says of push certificates; none where it takes none.
pub(crate) fn certificate_offer(advertisement: &[u8]) -> Option<CertificateOffer> {
    let mut packets = Packets::new(advertisement);
    while let Ok(Some(packet)) = packets.next_packet() {
        // `version 1` may stand before the line with the capabilities.
        let Packet::Data(line) = packet else { return None };
        let Some(nul) = line.iter().position(|byte| *byte == 0) else { continue };
        let capabilities = String::from_utf8_lossy(&line[nul + 1..]);
        let offered =
            capabilities.split_ascii_whitespace().find_map(|word| word.strip_prefix("push-cert"))?;
        return match (offered, offered.strip_prefix('=')) {
            ("", _) | (_, Some("")) => Some(CertificateOffer { nonce: None }),
            (_, Some(nonce)) => Some(CertificateOffer { nonce: Some(nonce.to_owned()) }),
            (_, None) => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktline;

    #[test]
    fn the_nonce_stands_among_the_capabilities() {
        let oid = "a".repeat(40);
        let mut bytes = Vec::new();
        pktline::write(&mut bytes, b"version 1\n");
        pktline::write(
            &mut bytes,
            format!("{oid} refs/heads/m\0report-status push-cert=1-x atomic\n").as_bytes(),
        );
        assert_eq!(nonce(&bytes).as_deref(), Some("1-x"));
        assert_eq!(nonce(b"0000"), None);
    }
}
