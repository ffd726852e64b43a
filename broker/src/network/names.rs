//! Questions for names inside a sandbox: answered at once with an address that leads nowhere, and remembered.
//!
//! Tools that know the proxy never ask. One that asks knows no proxy, and would otherwise hang for ten seconds and leave
//! no trace: its connection to the answer fails at once, and tells which port it wanted. Nothing is resolved, so no data
//! leaves in a question.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use keyhatch_policies::network::NetworkMode;
use keyhatch_protocol::DnsName;
use tokio::net::UdpSocket;

use super::Served;
use super::plan::PROXY_PORT;
use super::process::Table;
use super::tally::Miss;

/// Longest question: RFC 1035 4.2.1, without extensions.
const MAX_QUESTION: usize = 512;
/// How long a resolver may remember an answer, in seconds: it is the same as long as the session lives.
const REMEMBERED: u32 = 60;
/// Type A and class IN, RFC 1035 3.2.
const ADDRESS: [u8; 4] = [0, 1, 0, 1];
/// The header, RFC 1035 4.1.1.
const HEADER: usize = 12;

/// Answers until the session ends.
pub(super) async fn serve(served: Arc<Served>, socket: UdpSocket) {
    let mut buffer = [0; MAX_QUESTION];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = served.session.ended() => return,
        };
        // An error is about an answer that nobody waited for.
        let Ok((length, from)) = received else { continue };
        let Some(question) = Question::parse(&buffer[..length]) else { continue };
        if question.name.as_ref().is_some_and(is_somewhere) {
            note(&served, &question, from).await;
        }
        let stand_in = question.name.as_ref().and_then(|name| served.network().stand_in(name));
        let answer = stand_in.map_or_else(|| question.no_such_name(), |address| question.answer(address));
        if let Err(error) = socket.send_to(&answer, from).await {
            tracing::debug!(%error, "a question's answer was not taken");
        }
    }
}

/// Whether a name is a host's: reverse questions are a resolver's own.
fn is_somewhere(name: &DnsName) -> bool {
    name.labels().next_back() != Some("arpa")
}

async fn note(served: &Served, question: &Question<'_>, from: SocketAddr) {
    let Some(host) = &question.name else { return };
    let name = host.as_str();
    let rules = &served.network().rules;
    let reason = match rules.mode {
        NetworkMode::Allow => format!(
            "a tool asked for this name itself, instead of the proxy at http://127.0.0.1:{PROXY_PORT}: it ignores \
             HTTPS_PROXY and its like, and needs an option of its own"
        ),
        NetworkMode::None | NetworkMode::Host => "the policy opens no network".to_owned(),
    };
    // Which port it wants is not known before it connects; some tools never do.
    let listed = rules.allow.iter().any(|entry| entry.pattern.names(host));
    let line = (!listed).then(|| format!("[network] allow = [\"{name}:443\"], or the port that it needs"));
    if served.network().tally.missed(name, Miss::Refused, (&reason, line.as_deref())) {
        let fields = vec![("name", name.into()), ("reason", "asked for by name; nothing is resolved".into())];
        served.broker.refuse(&served.session.id, "network-refused", fields).await;
    }
    served.find_process(name, from, Table::Datagram).await;
}

/// One question.
struct Question<'m> {
    /// Header and question as they came, to be repeated.
    bytes: &'m [u8],
    /// What is asked for, where it is a host's name.
    name: Option<DnsName>,
}

impl<'m> Question<'m> {
    /// Reads a message with at least one question; none for anything else, which gets no answer.
    fn parse(message: &'m [u8]) -> Option<Self> {
        let header = message.get(..HEADER)?;
        let is_query = header[2] & 0x80 == 0;
        if !is_query || u16::from_be_bytes([header[4], header[5]]) == 0 {
            return None;
        }
        let (mut labels, mut at) = (Vec::new(), HEADER);
        loop {
            // A pointer (0xc0) has no place in a first question: there is nothing before it to point to.
            match usize::from(*message.get(at)?) {
                0 => break,
                length @ 1..=63 => {
                    labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).into_owned());
                    at += 1 + length;
                }
                _ => return None,
            }
        }
        let end = at + 1 + 4;
        let name = DnsName::parse(&labels.join(".")).ok();
        Some(Self { bytes: message.get(..end)?, name })
    }

    /// The same question with an address; with nothing where another kind of record was asked for (RFC 2308 2.2).
    fn answer(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut answer = self.bytes.to_vec();
        answer[2] = 0x80 | (answer[2] & 0x79);
        answer[3] = 0x80;
        let is_asked_for = self.bytes.ends_with(&ADDRESS);
        answer[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(is_asked_for), 0, 0, 0, 0]);
        if is_asked_for {
            // The name is the question's, by a pointer to it (RFC 1035 4.1.4).
            answer.extend_from_slice(&[0xc0, 0x0c]);
            answer.extend_from_slice(&ADDRESS);
            answer.extend_from_slice(&REMEMBERED.to_be_bytes());
            answer.extend_from_slice(&[0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        answer
    }

    /// The same question with NXDOMAIN: resolvers ask again after anything milder.
    fn no_such_name(&self) -> Vec<u8> {
        let mut answer = self.bytes.to_vec();
        answer[2] = 0x80 | (answer[2] & 0x79);
        answer[3] = 0x80 | 3;
        answer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(labels: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in labels {
            message.push(u8::try_from(label.len()).expect("a short label"));
            message.extend_from_slice(label);
        }
        message.extend_from_slice(&[0, 0, 1, 0, 1, 0, 0, 41]);
        message
    }

    #[test]
    fn a_question_is_answered_with_no_such_name_or_with_what_stands_for_it() {
        let message = query(&[b"API", b"example", b"org"]);
        let question = Question::parse(&message).expect("a question");
        assert_eq!(question.name.as_ref().map(DnsName::as_str), Some("api.example.org"));
        let answer = question.no_such_name();
        assert_eq!(answer[..HEADER], [0xab, 0xcd, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[HEADER..], message[HEADER..message.len() - 3]);
        let answer = question.answer(Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(answer[..HEADER], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[message.len() - 3..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 1]);
        // AAAA: there is such a name, and no such address.
        let mut message = message;
        let at = message.len() - 6;
        message[at] = 28;
        let question = Question::parse(&message).expect("a question");
        let answer = question.answer(Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!((&answer[3..8], answer.len()), (&[0x80, 0, 1, 0, 0][..], message.len() - 3));
    }

    #[test]
    fn odd_questions_have_no_name_and_broken_ones_no_answer() {
        let odd = query(&[b"a\0b", b"example"]);
        assert!(Question::parse(&odd).is_some_and(|question| question.name.is_none()));
        let message = query(&[b"a", b"example"]);
        for cut in 0..message.len() - 3 {
            assert!(Question::parse(&message[..cut]).is_none(), "{cut}");
        }
        let pointer = [&message[..HEADER], &[0xc0, 0x0c, 0, 1, 0, 1]].concat();
        assert!(Question::parse(&pointer).is_none());
    }
}
