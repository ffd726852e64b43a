//! A push (gitprotocol-pack(5)): the advertisement, then one POST whose body and whose answer are streamed as they come.
//!
//! The answer is read while the body is still sent: the broker reports on the way, and refuses before it has everything.

use std::io::{Read, Write};

use keyhatch_protocol::pktline::{Packet, Packets, read_raw};
use keyhatch_protocol::{RefUpdate, Remote};

use super::{BridgeError, advertisement};
use crate::http::{BodyWriter, Exchange, HttpError, relay};

/// Most bytes before the pack: more than the broker takes.
const MAX_HEAD: usize = 8 * 1024 * 1024;

/// Bridges one push.
pub(super) fn bridge(
    remote: &Remote,
    input: &mut (impl Read + Send),
    output: &mut impl Write,
) -> Result<(), BridgeError> {
    let (first, mut rest) = advertisement(remote, "git-receive-pack", "")?;
    output.write_all(&first).map_err(BridgeError::Git)?;
    relay(&mut rest, output).map_err(BridgeError::Git)?;
    let head = Head::read(input)?;
    if head.bytes.len() <= 4 {
        // Everything is up to date: a flush and nothing else.
        return Ok(());
    }
    let path = format!("{}/git-receive-pack", remote.front_end());
    let headers = "Content-Type: application/x-git-receive-pack-request\r\nAccept: application/x-git-receive-pack-result\r\n";
    let (exchange, body) = Exchange::post_stream(&path, headers)?;
    std::thread::scope(|scope| {
        scope.spawn(|| send(&head, input, body));
        let mut answer = exchange.answer()?;
        relay(&mut answer, output).map_err(BridgeError::Git)
    })
}

/// Sends the request's body. One that broke off does not end, so that it is not taken for whole.
fn send(head: &Head, input: &mut impl Read, mut body: BodyWriter) {
    let sent = body.write_all(&head.bytes);
    let sent = sent.and_then(|()| if head.has_pack { relay(input, &mut body) } else { Ok(()) });
    // A broker that is gone, or has enough, is noticed where its answer is read.
    drop(if sent.is_ok() { body.end() } else { body.abort() });
}

/// What a push sends before its pack: commands, then push options where the client chose to send them.
struct Head {
    bytes: Vec<u8>,
    /// A push that only deletes has no pack, and git waits for the report with its end of the stream open.
    has_pack: bool,
}

impl Head {
    fn read(input: &mut impl Read) -> Result<Self, BridgeError> {
        let mut head = Self { bytes: Vec::new(), has_pack: false };
        let mut options = false;
        head.section(input, |head, line| {
            let (command, capabilities) = match line.iter().position(|byte| *byte == 0) {
                Some(nul) => (&line[..nul], &line[nul + 1..]),
                None => (line, &b""[..]),
            };
            options |= capabilities.split(|b| b.is_ascii_whitespace()).any(|word| word == b"push-options");
            // The lines of a push certificate are commands among others; nothing else has their form.
            let command = command.strip_suffix(b"\n").unwrap_or(command);
            head.has_pack |= RefUpdate::parse(command).is_ok_and(|update| !update.new.is_zero());
        })?;
        if options {
            head.section(input, |_, _| {})?;
        }
        Ok(head)
    }

    /// Reads packets up to a flush, or to the stream's end.
    fn section(
        &mut self,
        input: &mut impl Read,
        mut look: impl FnMut(&mut Self, &[u8]),
    ) -> Result<(), BridgeError> {
        loop {
            let packet = read_raw(input).map_err(BridgeError::Git)?;
            self.bytes.extend_from_slice(&packet);
            match Packets::new(&packet).next_packet() {
                Ok(Some(Packet::Data(line))) => look(self, line),
                _ => return Ok(()),
            }
            if self.bytes.len() > MAX_HEAD {
                return Err(HttpError::Malformed.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| keyhatch_protocol::pktline::write(&mut bytes, line.as_bytes()));
        bytes.extend_from_slice(b"0000");
        bytes
    }

    #[test]
    fn a_pack_follows_unless_every_command_deletes_and_options_belong_to_the_head() {
        let (zero, one) = ("0".repeat(40), "1".repeat(40));
        let head = |bytes: &[u8]| Head::read(&mut &bytes[..]).expect("a head");
        let create = packets(&[&format!("{zero} {one} refs/heads/a\0 report-status\n")]);
        assert!(head(&[&create[..], b"PACK"].concat()).has_pack);
        assert_eq!(head(&[&create[..], b"PACK"].concat()).bytes, create);
        let delete = packets(&[&format!("{one} {zero} refs/heads/a\0 report-status\n")]);
        assert!(!head(&delete).has_pack);
        let with_options =
            packets(&[&format!("{one} {zero} refs/heads/a\0report-status push-options agent=x\n")]);
        let both = [with_options, packets(&["ci.skip"])].concat();
        assert_eq!(head(&both).bytes, both);
        let signed = packets(&[
            "push-cert\0report-status push-options\n",
            "certificate version 0.1\n",
            "\n",
            &format!("{zero} {one} refs/heads/a\n"),
            "push-cert-end\n",
        ]);
        let signed = [signed, packets(&[])].concat();
        assert!(head(&signed).has_pack && head(&signed).bytes == signed);
        assert_eq!(head(b"0000").bytes, b"0000");
    }
}
