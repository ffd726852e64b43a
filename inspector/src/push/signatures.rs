//! Whose signature a commit or a tag carries, as far as it can be known without a secret: in the confined child.
//!
//! An ssh signature carries its key, and is verified with it. An OpenPGP or X.509 one is named by its digest only: the
//! broker knows those that it made.

use git2::{Oid, Repository};
use keyhatch_host::digest::sha256;
use keyhatch_protocol::signable::{NAMESPACE, SignedObject, split_commit, split_tag};
use keyhatch_protocol::{CarriedSignature, ObjectFormat, SignatureFact, SignatureFormat};
use ssh_key::{HashAlg, PublicKey, SshSig};

/// Longest signature that is looked at: an RSA key of 16,384 bits makes one of 6 KiB.
const MAX_SIGNATURE: usize = 64 * 1024;

/// What is known of a commit's signature; none where it has none.
pub(super) fn of_commit(
    repository: &Repository,
    commit: Oid,
    format: ObjectFormat,
) -> Result<Option<CarriedSignature>, git2::Error> {
    let odb = repository.odb()?;
    let object = odb.read(commit)?;
    Ok(split_commit(object.data(), format).map(|signed| carried(&signed, "commit")))
}

/// What is known of a tag's signature; none where it has none.
pub(super) fn of_tag(repository: &Repository, tag: Oid) -> Result<Option<CarriedSignature>, git2::Error> {
    let odb = repository.odb()?;
    let object = odb.read(tag)?;
    Ok(split_tag(object.data()).map(|signed| carried(&signed, "tag")))
}

fn carried(signed: &SignedObject, by: &str) -> CarriedSignature {
    CarriedSignature {
        covered: sha256(&signed.covered),
        digest: sha256(&signed.signature),
        fact: fact(signed, by),
    }
}

fn fact(signed: &SignedObject, by: &str) -> SignatureFact {
    let bad = |why: &str| SignatureFact::Bad { why: why.to_owned() };
    let Some(format) = signed.format else { return bad("it is of no kind that git knows") };
    if signed.signature.len() > MAX_SIGNATURE {
        return bad("it is too long");
    }
    match format {
        SignatureFormat::OpenPgp | SignatureFormat::X509 => {
            SignatureFact::Foreign { format: Some(format), key: None }
        }
        SignatureFormat::Ssh => {
            let Ok(signature) = SshSig::from_pem(&signed.signature) else { return bad("it is malformed") };
            let key = PublicKey::new(signature.public_key().clone(), "");
            match key.verify(NAMESPACE, &signed.covered, &signature) {
                Ok(()) => SignatureFact::Foreign {
                    format: Some(format),
                    key: Some(key.fingerprint(HashAlg::Sha256).to_string()),
                },
                Err(_) => bad(&format!("it does not fit the {by}")),
            }
        }
    }
}
