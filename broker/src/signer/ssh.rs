//! SSH signatures (PROTOCOL.sshsig), namespace `git` and no other.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyhatch_protocol::text::shown;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use super::{SignError, Voice, agent, rsa};
use crate::broker::Broker;
use crate::credential::{HostGit, named};

pub use keyhatch_protocol::signable::NAMESPACE;
/// Longest key file: an RSA key of 16,384 bits has 13 KiB.
const MAX_KEY_FILE: u64 = 64 * 1024;
/// How long `gpg.ssh.defaultKeyCommand` may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// The key that a session signs with: its public half, and where the private one can be had.
#[derive(Debug)]
pub struct SshKey {
    public: PublicKey,
    source: Source,
    /// A private key that a passphrase or the keyring opened; dropped, and wiped, with the session.
    opened: Mutex<Option<Arc<PrivateKey>>>,
}

#[derive(Debug)]
enum Source {
    /// A private key's file.
    File(PathBuf),
    /// Only the host's ssh-agent.
    Agent,
    /// A credential that keyhatch keeps in the user's keyring.
    Keyring(String),
}

/// What git's configuration says of the key.
pub(super) struct Configured<'s> {
    /// `user.signingKey`.
    pub(super) key: Option<&'s str>,
    /// `gpg.ssh.defaultKeyCommand`.
    pub(super) command: Option<&'s str>,
}

/// Finds the key that the host's git would sign with.
pub(super) async fn configured(setting: &Configured<'_>) -> Result<Option<SshKey>, &'static str> {
    let text = match (setting.key, setting.command) {
        (Some(key), _) => key.to_owned(),
        (None, Some(command)) => first_line_of(command).await?,
        (None, None) => return Ok(None),
    };
    if let Some(literal) = literal(&text) {
        let public = PublicKey::from_openssh(literal).map_err(|_| "user.signingkey is not a public key")?;
        return Ok(Some(SshKey::new(public, Source::Agent)));
    }
    of_file(&expanded(&text)).map(Some)
}

/// A key in the configuration itself, as git tells one (gpg-interface.c, `is_literal_ssh_key`).
fn literal(text: &str) -> Option<&str> {
    text.strip_prefix("key::").or_else(|| text.starts_with("ssh-").then_some(text))
}

/// The key of a file: a public key, or a private one, whose public half is never encrypted.
fn of_file(path: &Path) -> Result<SshKey, &'static str> {
    let text = read_text(path, MAX_KEY_FILE).ok_or("its file cannot be read")?;
    if let Ok(public) = PublicKey::from_openssh(text.trim()) {
        let private = path.with_extension("");
        let beside = path.extension().is_some_and(|extension| extension == "pub") && private.is_file();
        return Ok(SshKey::new(public, if beside { Source::File(private) } else { Source::Agent }));
    }
    let private = PrivateKey::from_openssh(&text).map_err(|_| "its file is not an OpenSSH key")?;
    Ok(SshKey::new(private.public_key().clone(), Source::File(path.to_owned())))
}

/// Runs the user's command for a default key, as git does.
async fn first_line_of(command: &str) -> Result<String, &'static str> {
    const FAILED: &str = "gpg.ssh.defaultKeyCommand prints no key";
    let mut shell = HostGit::of_user().program("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = tokio::time::timeout(COMMAND_PATIENCE, shell.output()).await;
    let output = output.map_err(|_| FAILED)?.map_err(|_| FAILED)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().filter(|line| literal(line).is_some()).ok_or(FAILED)?;
    Ok(line.to_owned())
}

/// `~/` as git expands it.
pub(super) fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// A small text file; none where it cannot be read, or is not small or not text.
pub(crate) fn read_text(path: &Path, limit: u64) -> Option<zeroize::Zeroizing<String>> {
    let mut text = zeroize::Zeroizing::new(String::new());
    // A pipe at this place must not hold the broker.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(limit + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= limit).then_some(text)
}

impl SshKey {
    fn new(public: PublicKey, source: Source) -> Self {
        Self { public, source, opened: Mutex::default() }
    }

    /// A key that keyhatch keeps.
    #[must_use]
    pub fn in_keyring(public: PublicKey, name: String) -> Self {
        Self::new(public, Source::Keyring(name))
    }

    /// A key that only the ssh-agent holds.
    #[must_use]
    pub fn in_agent(public: PublicKey) -> Self {
        Self::new(public, Source::Agent)
    }

    /// A key in a file.
    #[must_use]
    pub const fn in_file(public: PublicKey, path: PathBuf) -> Self {
        Self { public, source: Source::File(path), opened: Mutex::new(None) }
    }

    /// `SHA256:…`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.public.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The public key as one line; without its comment, which may be anything.
    pub(super) fn line(&self) -> String {
        let bare = PublicKey::new(self.public.key_data().clone(), "");
        bare.to_openssh().unwrap_or_default().trim_end().to_owned()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// The public key as ssh's protocols write it.
    #[must_use]
    pub fn blob(&self) -> Option<Vec<u8>> {
        self.public.to_bytes().ok()
    }

    /// Whether it is an RSA key, whose signatures have a hash to choose.
    #[must_use]
    pub fn is_rsa(&self) -> bool {
        matches!(self.public.algorithm(), Algorithm::Rsa { .. })
    }

    /// Signs a login: bytes that somebody has parsed as one.
    ///
    /// # Errors
    /// When the private key cannot be had or refuses.
    pub async fn login(
        &self,
        broker: &Broker,
        data: Vec<u8>,
        voice: &Voice,
    ) -> Result<ssh_key::Signature, SignError> {
        self.raw(broker, data, voice).await
    }

    /// Checks that git asks for this key.
    pub(super) fn asked(&self, line: &str) -> Result<String, SignError> {
        let same =
            PublicKey::from_openssh(line).is_ok_and(|asked| asked.key_data() == self.public.key_data());
        if same { Ok(self.fingerprint()) } else { Err(SignError::OtherKey { ours: self.fingerprint() }) }
    }

    /// Signs, in the namespace `git`.
    pub(super) async fn sign(
        &self,
        broker: &Broker,
        bytes: &[u8],
        voice: &Voice,
    ) -> Result<String, SignError> {
        let unsupported = |_| SignError::Unsupported { why: "its algorithm is unknown" };
        let hash = HashAlg::Sha512;
        let data = SshSig::signed_data(NAMESPACE, hash, bytes).map_err(unsupported)?;
        let signature = self.raw(broker, data, voice).await?;
        let whole =
            SshSig::new(self.public.key_data().clone(), NAMESPACE, hash, signature).map_err(unsupported)?;
        // A file or an agent may hold another key than it says: what does not verify does not leave.
        self.public
            .verify(NAMESPACE, bytes, &whole)
            .or_else(|_| if is_sk(&self.public) { Ok(()) } else { Err(()) })
            .map_err(|()| SignError::Unsupported { why: "its signature does not verify" })?;
        whole.to_pem(LineEnding::LF).map_err(unsupported)
    }

    /// A signature of these very bytes, from wherever the private key is.
    async fn raw(
        &self,
        broker: &Broker,
        data: Vec<u8>,
        voice: &Voice,
    ) -> Result<ssh_key::Signature, SignError> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(key) = opened {
            return rsa::sign_with(&key, &data);
        }
        let key = match &self.source {
            Source::Agent => return self.by_agent(data, voice).await,
            Source::Keyring(name) => Arc::new(
                named::private_key(name).await.ok_or_else(|| SignError::Keyring { name: name.clone() })?,
            ),
            Source::File(path) => {
                let key = load(path)?;
                if !key.is_encrypted() {
                    // Read anew each time: a key that the user takes away is gone.
                    return rsa::sign_with(&key, &data);
                }
                if agent::holds(&self.public).await {
                    return self.by_agent(data, voice).await;
                }
                self.unlocked(broker, path, key, voice).await?
            }
        };
        let signature = rsa::sign_with(&key, &data);
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        signature
    }

    async fn by_agent(&self, data: Vec<u8>, voice: &Voice) -> Result<ssh_key::Signature, SignError> {
        if is_sk(&self.public) {
            voice.say("keyhatch: touch your security key, on the host");
        }
        agent::sign(&self.public, data, voice).await
    }

    /// Opens an encrypted key: with the passphrase that keyhatch keeps, or one that the user types on the host.
    async fn unlocked(
        &self,
        broker: &Broker,
        path: &Path,
        key: PrivateKey,
        voice: &Voice,
    ) -> Result<Arc<PrivateKey>, SignError> {
        if let Some(passphrase) = named::passphrase(path).await {
            let opened = tokio::task::spawn_blocking(move || key.decrypt(passphrase.as_bytes())).await;
            let opened = opened.map_err(|_| SignError::File { why: "it could not be decrypted" })?;
            return opened
                .map(Arc::new)
                .map_err(|_| SignError::File { why: "the passphrase that is kept is wrong" });
        }
        voice.say(
            "keyhatch: the signing key is locked; on the host, the user runs: keyhatch credential unlock",
        );
        let waits = (self.fingerprint(), path.to_owned(), voice.session().clone());
        broker.locks.opened(waits, key).await.ok_or(SignError::Locked)
    }
}

pub(super) fn load(path: &Path) -> Result<PrivateKey, SignError> {
    let text = read_text(path, MAX_KEY_FILE).ok_or(SignError::File { why: "it cannot be read" })?;
    PrivateKey::from_openssh(text.as_str()).map_err(|error| {
        tracing::info!(path = %shown(&path.display().to_string()), %error, "a signing key cannot be parsed");
        SignError::File { why: "it is not an OpenSSH private key" }
    })
}

/// Whether the key lives in a security key: it needs a touch, and its signatures count.
fn is_sk(key: &PublicKey) -> bool {
    matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
}
