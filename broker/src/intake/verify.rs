//! Whether an ssh signature fits a payload, for images without `ssh-keygen`. No secret is used and nothing is recorded.
//!
//! The words are OpenSSH's own (sshsig.c): the helper prints them as `ssh-keygen` would.

use std::time::Duration;

use keyhatch_protocol::message::SessionReply;
use keyhatch_protocol::signable::MAX_SIGNABLE;
use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use super::wire::{Wire, WireError};

/// How long a client may take to send what is signed: it is at hand.
const WHOLE_PAYLOAD: Duration = Duration::from_secs(20);
/// Longest RSA modulus that is looked at, in bits: OpenSSH's own limit. A longer one is a way to keep a processor busy.
const MAX_RSA_BITS: usize = 16_384;

/// Answers one question.
pub(super) async fn answer(mut wire: Wire, namespace: String, signature: String) -> Result<(), WireError> {
    let payload = match tokio::time::timeout(WHOLE_PAYLOAD, wire.data(MAX_SIGNABLE)).await {
        Ok(Ok(payload)) => payload,
        Ok(Err(error)) => return wire.refuse(&error).await,
        Err(_) => return Err(WireError::Slow),
    };
    // An RSA key of that length takes some milliseconds.
    let looking = tokio::task::spawn_blocking(move || verify(&signature, &namespace, &payload));
    let found = looking.await.unwrap_or(Err("the broker could not look at it"));
    let reply = match found {
        Ok((kind, fingerprint)) => SessionReply::Verified { kind: kind.to_owned(), fingerprint },
        Err(reason) => SessionReply::Unverified { reason: reason.to_owned() },
    };
    wire.reply(&reply).await
}

fn verify(signature: &str, namespace: &str, payload: &[u8]) -> Result<(&'static str, String), &'static str> {
    let signature = SshSig::from_pem(signature).map_err(|_| "Couldn't parse signature: invalid format")?;
    let key = PublicKey::new(signature.public_key().clone(), "");
    let kind = kind(&key).ok_or("keyhatch: a signature of this kind of key needs ssh-keygen in the image")?;
    if signature.namespace() != namespace {
        return Err("Couldn't verify signature: namespace does not match");
    }
    if key.key_data().rsa().is_some_and(|key| key.key_size() as usize > MAX_RSA_BITS) {
        return Err("Signature verification failed: invalid key length");
    }
    let fits = key.verify(namespace, payload, &signature);
    fits.map_err(|_| "Signature verification failed: incorrect signature")?;
    Ok((kind, key.fingerprint(HashAlg::Sha256).to_string()))
}

/// A key's kind as OpenSSH writes it (sshkey.c, `sshkey_type`); none for what is not verified here.
fn kind(key: &PublicKey) -> Option<&'static str> {
    match key.algorithm() {
        Algorithm::Ed25519 => Some("ED25519"),
        Algorithm::Ecdsa { .. } => Some("ECDSA"),
        Algorithm::Rsa { .. } => Some("RSA"),
        Algorithm::SkEd25519 => Some("ED25519-SK"),
        Algorithm::SkEcdsaSha2NistP256 => Some("ECDSA-SK"),
        _ => None,
    }
}
