//! Tries a named credential: whether its secret can be had, and does what it is for.

use ssh_key::{HashAlg, PrivateKey, PublicKey};

use super::{SignError, agent, rsa, ssh};
use crate::credential::named::{self, CredentialKind, CredentialSource, NamedCredential};

/// What is signed to try a key: no form that anything could take for a message of ours.
const PROBE: &[u8] = b"keyhatch credential test";

/// Makes a new ed25519 key.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn generate(comment: &str) -> Result<PrivateKey, SignError> {
    let odd = |_| SignError::Unsupported { why: "no key could be made" };
    let seed = zeroize::Zeroizing::new(keyhatch_host::random::random::<32>());
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&seed);
    PrivateKey::new(ssh_key::private::KeypairData::Ed25519(pair), comment).map_err(odd)
}

/// Tries a credential, and says what was found.
///
/// # Errors
/// When its secret cannot be had, or does not fit.
pub async fn test(credential: &NamedCredential) -> Result<String, SignError> {
    if credential.kind == CredentialKind::Passphrase {
        return passphrase(credential).await;
    }
    let public = credential.public.as_deref().and_then(|line| PublicKey::from_openssh(line).ok());
    let public = public.ok_or(SignError::File { why: "it has no public key" })?;
    let fingerprint = public.fingerprint(HashAlg::Sha256);
    let private = match (credential.source, &credential.file) {
        (CredentialSource::Agent, _) => {
            return match agent::holds(&public).await {
                true => Ok(format!("the ssh-agent holds {fingerprint}")),
                false => Err(SignError::Agent { did: "does not hold the key" }),
            };
        }
        (CredentialSource::Keyring, _) => named::private_key(&credential.name)
            .await
            .ok_or_else(|| SignError::Keyring { name: credential.name.clone() })?,
        (CredentialSource::File, Some(path)) => ssh::load(path)?,
        (CredentialSource::File, None) => return Err(SignError::File { why: "it names no file" }),
    };
    if private.public_key().key_data() != public.key_data() {
        return Err(SignError::File { why: "it holds another key than it should" });
    }
    if private.is_encrypted() {
        return Ok(format!("{fingerprint}: its file is there, and has a passphrase"));
    }
    rsa::sign_with(&private, PROBE)?;
    Ok(format!("{fingerprint}: it signs"))
}

async fn passphrase(credential: &NamedCredential) -> Result<String, SignError> {
    let file = credential.file.as_deref().ok_or(SignError::File { why: "it names no file" })?;
    let secret =
        named::passphrase(file).await.ok_or_else(|| SignError::Keyring { name: credential.name.clone() })?;
    let key = ssh::load(file)?;
    key.decrypt(secret.as_bytes())
        .map_err(|_| SignError::File { why: "the passphrase that is kept is wrong" })?;
    Ok(format!("{}: it opens", key.fingerprint(HashAlg::Sha256)))
}
