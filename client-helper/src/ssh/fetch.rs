//! A fetch in protocol v2 (gitprotocol-v2(5)): each request stands for itself, so each becomes one POST.

use std::io::{Read, Write};

use keyhatch_protocol::Remote;
use keyhatch_protocol::pktline;

use super::{BridgeError, advertisement};
use crate::http::{Exchange, HttpError, relay};

/// Most bytes of one request: a million wanted objects.
const MAX_REQUEST: usize = 64 * 1024 * 1024;
const FLUSH: &[u8] = b"0000";

/// Answers requests until the client has no more.
pub(super) fn bridge(
    remote: &Remote,
    input: &mut impl Read,
    output: &mut impl Write,
) -> Result<(), BridgeError> {
    let version = std::env::var("GIT_PROTOCOL").unwrap_or_default();
    if !version.split(':').any(|word| word == "version=2") {
        return Err(BridgeError::Version { who: "this client" });
    }
    let headers = "Git-Protocol: version=2\r\n";
    let (first, mut rest) = advertisement(remote, "git-upload-pack", headers)?;
    if first.get(4..) != Some(b"version 2\n") {
        return Err(BridgeError::Version { who: "the server" });
    }
    output.write_all(&first).map_err(BridgeError::Git)?;
    relay(&mut rest, output).map_err(BridgeError::Git)?;
    let path = format!("{}/git-upload-pack", remote.front_end());
    let headers = format!(
        "{headers}Content-Type: application/x-git-upload-pack-request\r\nAccept: application/x-git-upload-pack-result\r\n"
    );
    loop {
        let request = request(input)?;
        // A flush alone, or the end of the stream, is how a client says that it has what it wanted.
        if request.is_empty() || request == FLUSH {
            return Ok(());
        }
        let mut answer = Exchange::post(&path, &headers, &request)?.answer()?;
        relay(&mut answer, output).map_err(BridgeError::Git)?;
    }
}

/// One request: packets up to a flush, which belongs to it.
fn request(input: &mut impl Read) -> Result<Vec<u8>, BridgeError> {
    let mut request = Vec::new();
    loop {
        let packet = pktline::read_raw(input).map_err(BridgeError::Git)?;
        request.extend_from_slice(&packet);
        if packet.is_empty() || packet == FLUSH {
            return Ok(request);
        }
        if request.len() > MAX_REQUEST {
            return Err(HttpError::Malformed.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_with_its_flush() {
        let mut stream: &[u8] = b"0014command=ls-refs\n00010009peel\n00000000";
        assert_eq!(request(&mut stream).expect("a request"), b"0014command=ls-refs\n00010009peel\n0000");
        assert_eq!(request(&mut stream).expect("the client is done"), FLUSH);
        assert_eq!(request(&mut stream).expect("the stream's end"), b"");
        assert!(request(&mut &b"0014comm"[..]).is_err());
    }
}
