//! known_hosts, as the user's own ssh reads it: which named host a key belongs to.

use std::path::PathBuf;

use keyhatch_protocol::Host;
use russh::keys::known_hosts::known_host_keys_path;
use ssh_key::known_hosts::{KnownHosts, Marker};
use ssh_key::{HashAlg, PublicKey};

/// Longest file that is searched for revoked keys.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The files of the user and of the system.
pub(crate) fn files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/known_hosts"));
    home.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]).collect()
}

/// The first of these hosts that the key is known for.
pub(super) fn named(hosts: &[(Host, u16)], key: &PublicKey) -> Result<String, String> {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    if files().iter().any(|file| is_revoked(file, key)) {
        return Err(format!("the server's key {fingerprint} is revoked in known_hosts"));
    }
    let known = |(host, port): &&(Host, u16)| {
        keys(host.as_str(), *port).iter().any(|one| one.key_data() == key.key_data())
    };
    let found = hosts.iter().find(known);
    found.map(|(host, port)| format!("{}:{port}", host.as_str())).ok_or_else(|| {
        format!("the server's key {fingerprint} is not known for a host that the policy names")
    })
}

/// The keys that known_hosts has for a host.
pub(crate) fn keys(host: &str, port: u16) -> Vec<PublicKey> {
    let of_file = |file: PathBuf| known_host_keys_path(host, port, file).unwrap_or_default();
    files().into_iter().flat_map(of_file).map(|(_, key)| key).collect()
}

/// Whether a key is marked `@revoked`, for whichever host: closed on doubt.
pub(crate) fn is_revoked(file: &std::path::Path, key: &PublicKey) -> bool {
    let Some(text) = crate::signer::read_text(file, MAX_FILE) else { return false };
    KnownHosts::new(&text).filter_map(Result::ok).any(|entry| {
        entry.marker() == Some(&Marker::Revoked) && entry.public_key().key_data() == key.key_data()
    })
}
