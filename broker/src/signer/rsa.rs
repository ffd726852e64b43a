//! Signing with a private key in memory. RSA goes through ring: the `rsa` crate is not constant in time when it signs.

use ::rsa::traits::PrivateKeyParts;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair, KeyPairComponents, PublicKeyComponents};
use ring::signature::RSA_PKCS1_SHA512;
use signature::Signer;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::{Algorithm, HashAlg, PrivateKey, Signature};

use super::SignError;

/// Signs bytes as they are; RSA with SHA-512 and no other hash.
pub(super) fn sign_with(key: &PrivateKey, bytes: &[u8]) -> Result<Signature, SignError> {
    match key.key_data() {
        KeypairData::Rsa(pair) => rsa(pair, bytes),
        KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => {
            key.try_sign(bytes).map_err(|_| SignError::Unsupported { why: "it contradicts itself" })
        }
        KeypairData::Encrypted(_) => Err(SignError::Locked),
        _ => Err(SignError::Unsupported { why: "its algorithm is unknown or outdated" }),
    }
}

fn rsa(pair: &RsaKeypair, bytes: &[u8]) -> Result<Signature, SignError> {
    let odd =
        || SignError::Unsupported { why: "it is an RSA key that contradicts itself, or of an unusual size" };
    // Only its numbers are taken from this crate: the two exponents that OpenSSH's files leave out.
    let numbers = ::rsa::RsaPrivateKey::try_from(pair).map_err(|_| odd())?;
    let (dp, dq) = (numbers.dp().ok_or_else(odd)?, numbers.dq().ok_or_else(odd)?);
    let (public, private) = (pair.public(), pair.private());
    let positive = |number: &ssh_key::Mpint| number.as_positive_bytes().map(<[u8]>::to_vec).ok_or_else(odd);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n: positive(public.n())?, e: positive(public.e())? },
        d: positive(private.d())?,
        p: positive(private.p())?,
        q: positive(private.q())?,
        dP: trimmed(&dp.to_be_bytes()),
        dQ: trimmed(&dq.to_be_bytes()),
        qInv: positive(private.iqmp())?,
    };
    let key = KeyPair::from_components(&components).map_err(|_| odd())?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), bytes, &mut signature).map_err(|_| odd())?;
    Signature::new(Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, signature).map_err(|_| odd())
}

/// A number without the zeros that stand before it.
fn trimmed(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number[start..].to_vec()
}
