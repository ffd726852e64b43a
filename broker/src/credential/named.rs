//! Credentials that the user named: which there are stands in a file of the user's, the secrets are in the keyring.
//!
//! The file (`~/.config/keyhatch/credentials.toml`) holds names, kinds and public keys. The keyring is the Secret
//! Service, reached through the `keyring` crate; its calls block, so they run beside the runtime.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ssh_key::{PrivateKey, PublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::paths::config_home;
use crate::signer::SshKey;

/// The service that our items in the keyring belong to.
const SERVICE: &str = "keyhatch";
/// Longest file of names.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a locked keyring may ask the user.
const KEYRING_PATIENCE: Duration = Duration::from_secs(60);

/// What a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialKind {
    /// An ssh key that signs for sessions.
    Signing,
    /// An ssh key that logs in upstream.
    Ssh,
    /// The passphrase of a key file.
    Passphrase,
}

impl CredentialKind {
    /// The word that the command line and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::Ssh => "ssh",
            Self::Passphrase => "passphrase",
        }
    }
}

/// Where its secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialSource {
    /// In the user's keyring.
    Keyring,
    /// In a file of the user's.
    File,
    /// In the host's ssh-agent.
    Agent,
}

impl CredentialSource {
    /// The word that the command line and people use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Keyring => "keyring",
            Self::File => "file",
            Self::Agent => "agent",
        }
    }
}

/// One named credential; without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCredential {
    /// What policies call it.
    pub name: String,
    /// What it is for.
    pub kind: CredentialKind,
    /// Where its secret is.
    pub source: CredentialSource,
    /// A key's public half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
    /// The key file: where the secret is, or which file a passphrase opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// Credentials could not be read or changed.
#[derive(Debug, Error)]
pub enum NamedError {
    /// The file of names.
    #[error("cannot use {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The keyring.
    #[error("the keyring refuses: {0}")]
    Keyring(String),
    /// The name is taken, or not a name.
    #[error("the name {name:?} {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    #[serde(default, rename = "credential")]
    credentials: Vec<NamedCredential>,
}

/// Where the names stand.
fn path() -> Option<PathBuf> {
    Some(config_home()?.join("keyhatch/credentials.toml"))
}

/// All named credentials.
///
/// # Errors
/// When the file is not one that only the user can write, or is malformed.
pub fn list() -> Result<Vec<NamedCredential>, NamedError> {
    let Some(path) = path() else { return Ok(Vec::new()) };
    let wrong = |why: String| NamedError::File { path: path.clone(), why };
    let file = match fs::File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(|error| wrong(error.to_string()))?,
    };
    let meta = file.metadata().map_err(|error| wrong(error.to_string()))?;
    // It says which key signs and logs in: whoever can write it chooses.
    if meta.uid() != rustix::process::getuid().as_raw() || meta.mode() & 0o022 != 0 || meta.len() > MAX_FILE {
        return Err(wrong("others can write it, or it is too long".into()));
    }
    let text = io::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let parsed: FileToml = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    Ok(parsed.credentials)
}

/// Finds one by its name.
///
/// # Errors
/// When the file of names cannot be read.
pub fn find(name: &str) -> Result<Option<NamedCredential>, NamedError> {
    Ok(list()?.into_iter().find(|credential| credential.name == name))
}

/// Adds one, and its secret to the keyring where it has one.
///
/// # Errors
/// When the name is taken or odd, the keyring refuses, or the file cannot be written.
pub fn add(credential: NamedCredential, secret: Option<&str>) -> Result<(), NamedError> {
    let mut all = list()?;
    let odd = |why| NamedError::Name { name: credential.name.clone(), why };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name = &credential.name;
    if name.is_empty() || name.len() > 64 || name.starts_with(['-', '.']) || !name.bytes().all(plain) {
        return Err(odd("is not 1 to 64 letters, digits, '-', '_' and '.'"));
    }
    if matches!(name.as_str(), "host" | "none") {
        return Err(odd("means something else in a policy"));
    }
    if all.iter().any(|one| &one.name == name) {
        return Err(odd("is taken"));
    }
    if let Some(secret) = secret {
        entry(name)?.set_password(secret).map_err(|error| refused(&error))?;
    }
    all.push(credential);
    save(all)
}

/// Removes one, and its secret.
///
/// # Errors
/// When there is none, the keyring refuses, or the file cannot be written.
pub fn remove(name: &str) -> Result<(), NamedError> {
    let mut all = list()?;
    let unknown = || NamedError::Name { name: name.to_owned(), why: "is not one that keyhatch keeps" };
    let at = all.iter().position(|one| one.name == name).ok_or_else(unknown)?;
    if all[at].source == CredentialSource::Keyring {
        match entry(name)?.delete_credential() {
            Ok(()) | Err(keyring::Error::NoEntry) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    all.remove(at);
    save(all)
}

fn save(credentials: Vec<NamedCredential>) -> Result<(), NamedError> {
    let path = path().ok_or_else(|| NamedError::File { path: "~".into(), why: "HOME is not set".into() })?;
    let wrong = |error: io::Error| NamedError::File { path: path.clone(), why: error.to_string() };
    let text = toml::to_string(&FileToml { credentials })
        .map_err(|error| NamedError::File { path: path.clone(), why: error.to_string() })?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(wrong)?;
    }
    keyhatch_host::durable::write_atomic(&path, text.as_bytes(), 0o600).map_err(wrong)
}

fn entry(name: &str) -> Result<keyring::Entry, NamedError> {
    if let Err(error) = keyring::Entry::store_status() {
        return Err(refused(error));
    }
    keyring::Entry::new(SERVICE, name).map_err(|error| refused(&error))
}

fn refused(error: &keyring::Error) -> NamedError {
    NamedError::Keyring(crate::cause::chain(error))
}

/// The secret of a credential in the keyring. Blocks, and may ask the user to unlock it.
///
/// # Errors
/// When the keyring has none or refuses.
pub fn secret(name: &str) -> Result<Zeroizing<String>, NamedError> {
    Ok(Zeroizing::new(entry(name)?.get_password().map_err(|error| refused(&error))?))
}

/// The secret, beside the runtime and within its time.
async fn secret_soon(name: &str) -> Option<Zeroizing<String>> {
    let name = name.to_owned();
    let reading = tokio::task::spawn_blocking(move || secret(&name));
    match tokio::time::timeout(KEYRING_PATIENCE, reading).await {
        Ok(Ok(Ok(secret))) => Some(secret),
        Ok(Ok(Err(error))) => {
            tracing::info!(%error, "the keyring gives no secret");
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

/// The private key that keyhatch keeps under this name.
pub(crate) async fn private_key(name: &str) -> Option<PrivateKey> {
    PrivateKey::from_openssh(secret_soon(name).await?.as_str()).ok()
}

/// The passphrase that keyhatch keeps for a key file.
pub(crate) async fn passphrase(file: &Path) -> Option<Zeroizing<String>> {
    let opens =
        |one: &NamedCredential| one.kind == CredentialKind::Passphrase && one.file.as_deref() == Some(file);
    let credential = list().ok()?.into_iter().find(opens)?;
    secret_soon(&credential.name).await
}

/// The key that a policy names for its sessions' signatures.
pub(crate) fn signing_key(name: &str) -> Result<Option<SshKey>, &'static str> {
    key(name, CredentialKind::Signing).map(Some)
}

/// The key that a policy names for logging in.
pub(crate) fn ssh_key(name: &str) -> Result<SshKey, &'static str> {
    key(name, CredentialKind::Ssh)
}

fn key(name: &str, kind: CredentialKind) -> Result<SshKey, &'static str> {
    let found = find(name).map_err(|_| "the file of named credentials cannot be read")?;
    let credential = found.ok_or("the policy names a credential that keyhatch does not keep")?;
    if credential.kind != kind {
        return Err("the policy names a credential that is for something else");
    }
    let public = credential.public.as_deref().and_then(|line| PublicKey::from_openssh(line).ok());
    let public = public.ok_or("the named credential has no public key")?;
    Ok(match (credential.source, credential.file) {
        (CredentialSource::Keyring, _) => SshKey::in_keyring(public, credential.name),
        (CredentialSource::File, Some(path)) => SshKey::in_file(public, path),
        (CredentialSource::File, None) | (CredentialSource::Agent, _) => SshKey::in_agent(public),
    })
}
