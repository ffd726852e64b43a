//! The front end of a session that has the host's network: on the host's own loopback, where everybody could knock.
//!
//! Two walls instead of the network namespace: the address holds a word that only the session's configuration has, and the
//! kernel says which user a connection comes from.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use keyhatch_host::random::random;
use keyhatch_policies::network::{Network, NetworkMode};
use tokio::net::TcpListener;

/// A listener, and the word that opens it.
#[derive(Debug)]
pub struct OnHost {
    pub(super) listener: TcpListener,
    pub(super) word: String,
    base: String,
}

impl OnHost {
    /// Opens one where the policy gives the host's network.
    ///
    /// # Errors
    /// When loopback has no port left.
    pub async fn open(network: &Network) -> io::Result<Option<Self>> {
        if network.mode != NetworkMode::Host {
            return Ok(None);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let word: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let base = format!("http://{}/{word}", listener.local_addr()?);
        Ok(Some(Self { listener, word, base }))
    }

    /// What stands before the path of a remote.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }
}

/// Whether the other end of a connection on loopback is this user's: `proc_net_tcp(5)`, the column `uid`.
pub(super) fn is_ours(from: SocketAddr) -> bool {
    let own = rustix::process::getuid().as_raw().to_string();
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1).and_then(|address| address.rsplit_once(':'));
        let port = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        port == Some(from.port()) && fields.nth(5) == Some(&own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whose_a_connection_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        assert!(is_ours(client.local_addr().expect("bound")));
        assert!(!is_ours("127.0.0.1:1".parse().expect("an address")));
    }
}
