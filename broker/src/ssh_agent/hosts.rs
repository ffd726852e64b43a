//! known_hosts, as the user's own ssh reads it: which named host a key belongs to.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keyhatch_protocol::Host;
use russh::keys::known_hosts::known_host_keys_path;
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
    match objection(key) {
        None => {}
        Some(Objection::Revoked) => {
            return Err(format!("the server's key {fingerprint} is revoked in known_hosts"));
        }
        Some(Objection::Unreadable) => {
            return Err("known_hosts cannot be read, and may say that the server's key is revoked".to_owned());
        }
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

/// What known_hosts says against a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objection {
    /// It is marked `@revoked`, for whichever host.
    Revoked,
    /// A file is there that cannot be read, and may say so.
    Unreadable,
}

/// What the files of the user and of the system say against a key: closed on doubt, none only where each was read or is
/// not there.
pub(crate) fn objection(key: &PublicKey) -> Option<Objection> {
    revocations().iter().find_map(|file| objection_of(file, key))
}

/// The files that OpenSSH looks for revoked keys in.
fn revocations() -> Vec<PathBuf> {
    let second = |file: PathBuf| PathBuf::from(format!("{}2", file.display()));
    files().into_iter().flat_map(|file| [file.clone(), second(file)]).collect()
}

fn objection_of(file: &Path, key: &PublicKey) -> Option<Objection> {
    let text = match read(file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return None,
        Err(_) => return Some(Objection::Unreadable),
    };
    // Comments may be in any encoding.
    let text = String::from_utf8_lossy(&text);
    text.lines().any(|line| revokes(line, key)).then_some(Objection::Revoked)
}

/// Whether a line revokes a key. One that has its bytes counts, however the rest of it is written.
fn revokes(line: &str, key: &PublicKey) -> bool {
    let Some(rest) = line.trim_start().strip_prefix("@revoked") else { return false };
    let base64 = key.to_openssh().ok().and_then(|text| text.split(' ').nth(1).map(str::to_owned));
    let Some(base64) = base64 else { return true };
    rest.contains(base64.trim_end_matches('='))
}

/// Reads a regular file of at most [`MAX_FILE`] bytes. A pipe at its place does not hold the broker.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJHzSTrmz5lXsbcqCkSxAcvGZU2K8XJZBFCIsSVh1zeW";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqkHz1kAyKM0sUYpmcNRKPTHAHq7fyHc5sIB09ZRW9J";

    #[test]
    fn a_key_is_revoked_however_its_line_is_written_and_a_file_that_cannot_be_read_is_a_doubt() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("known_hosts");
        let key = PublicKey::from_openssh(KEY).expect("a key");
        let says = |text: &[u8]| {
            std::fs::write(&file, text).expect("a file");
            objection_of(&file, &key)
        };
        assert_eq!(objection_of(&directory.path().join("none"), &key), None);
        assert_eq!(says(format!("h {KEY}\n@revoked * {OTHER}\n# @revoked * {KEY}\n").as_bytes()), None);
        for line in [
            format!("@revoked * {KEY}\n"),
            format!("h {KEY}\n \t@revoked\th.example.org,|1|x|y {KEY} a comment"),
            format!("broken\n@revoked [h]:22 {KEY}=\r\n"),
        ] {
            assert_eq!(says(line.as_bytes()), Some(Objection::Revoked), "{line}");
            let with_latin = [b"# caf\xe9\n", line.as_bytes()].concat();
            assert_eq!(says(&with_latin), Some(Objection::Revoked), "{line}");
        }
        std::fs::remove_file(&file).expect("it goes");
        std::fs::create_dir(&file).expect("a directory in its place");
        assert_eq!(objection_of(&file, &key), Some(Objection::Unreadable));
        let circle = directory.path().join("circle");
        symlink(&circle, &circle).expect("a link to itself");
        assert_eq!(objection_of(&circle, &key), Some(Objection::Unreadable));
        let long = directory.path().join("long");
        File::create(&long).expect("a file").set_len(MAX_FILE + 1).expect("a long one");
        assert_eq!(objection_of(&long, &key), Some(Objection::Unreadable));
    }
}
