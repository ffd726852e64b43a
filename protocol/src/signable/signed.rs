//! A signed object taken apart: what was signed, and the signature (git's `parse_signed_commit`, `parse_signature`).

use crate::{ObjectFormat, SignatureFormat};

/// An object with a signature, in its two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedObject {
    /// What the signature covers.
    pub covered: Vec<u8>,
    /// The armoured signature, as a verifier reads it.
    pub signature: Vec<u8>,
    /// Which kind of signature it is; none where its first line is of no kind.
    pub format: Option<SignatureFormat>,
}

/// Takes a commit apart; none where it is not signed.
#[must_use]
pub fn split_commit(object: &[u8], names: ObjectFormat) -> Option<SignedObject> {
    let ours: &[u8] = match names {
        ObjectFormat::Sha1 => b"gpgsig",
        ObjectFormat::Sha256 => b"gpgsig-sha256",
    };
    // The first empty line ends the headers, also where it is the first line of all.
    let after_first = object.windows(2).position(|pair| pair == b"\n\n").map_or(object.len(), |at| at + 1);
    let end = if object.starts_with(b"\n") { 0 } else { after_first };
    let (head, body) = object.split_at(end);
    let mut covered = Vec::with_capacity(object.len());
    let mut signature = Vec::new();
    let mut taking = None;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let value = match (line.strip_prefix(b" "), taking) {
            (Some(more), Some(taken)) => Some((more, taken)),
            (None, _) if name == b"gpgsig" || name == b"gpgsig-sha256" => {
                taking = Some(name == ours);
                // Both are left out of what is covered; only the one of this format is the signature.
                Some((line.get(name.len() + 1..).unwrap_or_default(), name == ours))
            }
            _ => {
                taking = None;
                covered.extend_from_slice(line);
                None
            }
        };
        if let Some((text, true)) = value {
            signature.extend_from_slice(text);
        }
    }
    covered.extend_from_slice(body);
    let format = first_line_format(&signature);
    (!signature.is_empty()).then_some(SignedObject { covered, signature, format })
}

/// Takes a tag, or a push certificate, apart at the last line that starts a signature; none where there is no such line.
#[must_use]
pub fn split_tag(object: &[u8]) -> Option<SignedObject> {
    let mut at = 0;
    let mut start = None;
    for line in object.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if SignatureFormat::of_armour(text).is_some() {
            start = Some(at);
        }
        at += line.len();
    }
    let (covered, signature) = object.split_at(start?);
    Some(SignedObject {
        covered: covered.to_vec(),
        signature: signature.to_vec(),
        format: first_line_format(signature),
    })
}

fn first_line_format(signature: &[u8]) -> Option<SignatureFormat> {
    SignatureFormat::of_armour(signature.split(|byte| *byte == b'\n').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_commit_is_taken_apart_and_an_unsigned_one_is_not() {
        let head = "tree x\nauthor a\ncommitter c\n";
        let signed = format!(
            "{head}gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n\nmessage\n"
        );
        let object = split_commit(signed.as_bytes(), ObjectFormat::Sha1).expect("signed");
        assert_eq!(object.covered, format!("{head}\nmessage\n").as_bytes());
        assert_eq!(object.signature, b"-----BEGIN SSH SIGNATURE-----\nabc\n-----END SSH SIGNATURE-----\n");
        assert_eq!(object.format, Some(SignatureFormat::Ssh));
        assert_eq!(split_commit(format!("{head}\nmessage\n").as_bytes(), ObjectFormat::Sha1), None);
        assert_eq!(split_commit(signed.as_bytes(), ObjectFormat::Sha256), None);
        let in_message = format!("{head}\ngpgsig x\n");
        assert_eq!(split_commit(in_message.as_bytes(), ObjectFormat::Sha1), None);
    }

    #[test]
    fn a_signed_tag_is_taken_apart_at_its_last_signature() {
        let tag = b"object x\n\nm\n-----BEGIN PGP SIGNATURE-----\nabc\n";
        let object = split_tag(tag).expect("signed");
        assert_eq!(object.covered, b"object x\n\nm\n");
        assert_eq!(object.format, Some(SignatureFormat::OpenPgp));
        assert_eq!(split_tag(b"object x\n\nm\n"), None);
    }
}
