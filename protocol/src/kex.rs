//! What an ssh server proves before its connection is encrypted: its key, and its signature of the session's id
//! (RFC 4253, sections 4.2, 6 and 8). Pure functions on a slice; the bytes are a server's, and hostile.

use crate::agent;

/// Most bytes of a server until its key exchange is over: with post-quantum ones it is some 10 KiB.
pub const MAX_PRELUDE: usize = 128 * 1024;
/// Longest packet before encryption (RFC 4253, section 6.1).
const MAX_PACKET: usize = 35_000;
const MSG_NEWKEYS: u8 = 21;
/// Messages of the key exchange methods: 30 to 49.
const FIRST_METHOD: u8 = 30;
const LAST_METHOD: u8 = 49;

/// A server's key, and its signature of something that only the two ends of its connection know until a login names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The key, as ssh's protocols write it.
    pub host_key: Vec<u8>,
    /// Its signature.
    pub signature: Vec<u8>,
}

/// What the first bytes of a server say.
#[derive(Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Not enough of them yet.
    More,
    /// The proof.
    Proved(Proof),
    /// It is no ssh server, or its key exchange is over without one.
    Nothing,
}

/// Reads what a server sent so far: its version, then packets in clear.
#[must_use]
pub fn read(bytes: &[u8]) -> Prelude {
    let Some(mut rest) = after_version(bytes) else {
        let odd = bytes.len() > MAX_PRELUDE || bytes.contains(&0);
        return if odd { Prelude::Nothing } else { Prelude::More };
    };
    loop {
        let Some((length, body)) = rest.split_first_chunk::<4>() else { return Prelude::More };
        let length = u32::from_be_bytes(*length) as usize;
        if !(2..=MAX_PACKET).contains(&length) {
            return Prelude::Nothing;
        }
        let Some((packet, next)) = body.split_at_checked(length) else { return Prelude::More };
        rest = next;
        let padding = usize::from(packet[0]);
        let Some(payload) = packet.get(1..length.saturating_sub(padding)) else { return Prelude::Nothing };
        match payload.split_first() {
            Some((&MSG_NEWKEYS, _)) | None => return Prelude::Nothing,
            Some((FIRST_METHOD..=LAST_METHOD, reply)) => {
                if let Some(proof) = proof(reply) {
                    return Prelude::Proved(proof);
                }
            }
            Some(_) => {}
        }
    }
}

/// What follows the line with the version. Other lines may stand before it (RFC 4253, section 4.2).
fn after_version(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, next) = rest.split_at(end + 1);
        if line.starts_with(b"SSH-2.0-") {
            return Some(next);
        }
        rest = next;
    }
}

/// The reply that ends a key exchange: host key, the server's half, signature. A group that stands under the same number
/// (RFC 4419) is two numbers, and no key.
fn proof(reply: &[u8]) -> Option<Proof> {
    let (host_key, rest) = agent::take(reply)?;
    let (_, rest) = agent::take(rest)?;
    let (signature, rest) = agent::take(rest)?;
    let names_a_type = agent::take(host_key).is_some_and(|(name, _)| name.is_ascii() && !name.is_empty());
    let whole = rest.is_empty() && names_a_type && !signature.is_empty();
    whole.then(|| Proof { host_key: host_key.to_vec(), signature: signature.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let padding = 8;
        let length = u32::try_from(1 + payload.len() + padding).expect("short");
        [&length.to_be_bytes()[..], &[8], payload, &[0; 8]].concat()
    }

    fn strings(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        parts.iter().for_each(|part| agent::put(&mut bytes, part));
        bytes
    }

    #[test]
    fn the_reply_of_a_key_exchange_is_found_behind_whatever_stands_before_it() {
        let key = strings(&[b"ssh-ed25519", &[1; 32]]);
        let reply = [&[31][..], &strings(&[&key, &[2; 32], b"sig"])].concat();
        let start = [&b"hello\r\nSSH-2.0-x\r\n"[..], &packet(&[20; 100])].concat();
        let whole = [start.clone(), packet(&reply), packet(&[21])].concat();
        let proof = Proof { host_key: key.clone(), signature: b"sig".to_vec() };
        assert_eq!(read(&whole), Prelude::Proved(proof.clone()));
        for cut in [0, 5, 12, 19, start.len(), start.len() + 7] {
            assert_eq!(read(&whole[..cut]), Prelude::More, "{cut}");
        }
        // A group first, under the same number, then the reply under another.
        let group = [&[31][..], &strings(&[&[5; 256], &[2]])].concat();
        let other = [&[33][..], &reply[1..]].concat();
        assert_eq!(read(&[start.clone(), packet(&group), packet(&other)].concat()), Prelude::Proved(proof));
        assert_eq!(read(&[start.clone(), packet(&[21])].concat()), Prelude::Nothing);
        assert_eq!(read(&[start, vec![0xff; 8]].concat()), Prelude::Nothing);
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\0"), Prelude::Nothing);
    }
}
