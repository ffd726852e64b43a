//! The proxy's SOCKS5 (RFC 1928): CONNECT without authentication, names resolved on the host.
//!
//! Comes in: bytes of untrusted processes. A name is a counted string here, which may hold anything: it becomes a
//! [`Destination`] by the strict parser, or nothing.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use keyhatch_protocol::{Destination, DestinationError, DestinationHost};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::door::{self, NoWayKind};
use super::{Served, tunnel};

/// How long a client may take for its two messages.
const PATIENCE: Duration = Duration::from_secs(20);

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// The reply field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyCode {
    Succeeded = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    TimedOut = 6,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

/// What a client asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Connect(Destination),
    /// It asks for what is no destination.
    Odd(DestinationError),
    /// It is answered with this and nothing else.
    Unserved(ReplyCode),
}

/// Serves one connection.
pub(super) async fn serve(served: &Served, mut stream: TcpStream, from: SocketAddr) {
    let asked = match tokio::time::timeout(PATIENCE, negotiate(&mut stream)).await {
        Ok(Ok(asked)) => asked,
        // Too slow, gone, or not SOCKS5: there is nothing to answer.
        Ok(Err(_)) | Err(_) => return,
    };
    let code = match asked {
        Asked::Unserved(code) => code,
        Asked::Odd(error) => {
            door::odd(served, error, from).await;
            ReplyCode::NotAllowed
        }
        Asked::Connect(asked) => match door::open(served, &asked, from).await {
            Ok(open) => {
                if reply(&mut stream, ReplyCode::Succeeded).await.is_ok() {
                    tunnel::run(served, (stream, Bytes::new()), open).await;
                }
                return;
            }
            Err(no_way) => match no_way.kind {
                NoWayKind::Refused | NoWayKind::Limit => ReplyCode::NotAllowed,
                NoWayKind::Unreachable => ReplyCode::HostUnreachable,
                NoWayKind::TimedOut => ReplyCode::TimedOut,
            },
        },
    };
    if let Err(error) = reply(&mut stream, code).await {
        tracing::debug!(%error, "a SOCKS client went away before its answer");
    }
}

/// Both messages of the client's.
async fn negotiate(stream: &mut TcpStream) -> io::Result<Asked> {
    let methods = greeting(stream).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::ErrorKind::Unsupported.into());
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    request(stream).await
}

async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    expect_version(stream).await?;
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    Ok(methods)
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Asked> {
    expect_version(stream).await?;
    let (command, _reserved, kind) =
        (stream.read_u8().await?, stream.read_u8().await?, stream.read_u8().await?);
    let host = match kind {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            Ok(DestinationHost::Address(Ipv4Addr::from(octets).into()))
        }
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            let text = std::str::from_utf8(&name).map_err(|_| DestinationError::Name);
            text.and_then(DestinationHost::parse)
        }
        4 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            Ok(DestinationHost::Address(Ipv6Addr::from(octets).into()))
        }
        _ => return Ok(Asked::Unserved(ReplyCode::NoSuchAddress)),
    };
    let port = stream.read_u16().await?;
    if command != CONNECT {
        return Ok(Asked::Unserved(ReplyCode::NoSuchCommand));
    }
    Ok(match host.and_then(|host| Destination::new(host, port)) {
        Ok(asked) => Asked::Connect(asked),
        Err(error) => Asked::Odd(error),
    })
}

async fn expect_version(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match stream.read_u8().await? {
        VERSION => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Replies with no bound address: it is nobody's business which of the host's was used.
async fn reply(stream: &mut TcpStream, code: ReplyCode) -> io::Result<()> {
    stream.write_all(&[VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bytes: &[u8]) -> io::Result<Asked> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(request(&mut &bytes[..]))
    }

    fn by_name(name: &[u8]) -> Asked {
        let length = u8::try_from(name.len()).expect("a short name");
        let bytes = [&[5, 1, 0, 3, length], name, &[0x01, 0xbb]].concat();
        asked(&bytes).expect("a whole request")
    }

    #[test]
    fn names_and_addresses_are_asked_for() {
        let to = |text| Asked::Connect(Destination::parse(text).expect(text));
        assert_eq!(by_name(b"API.example.org"), to("api.example.org:443"));
        assert_eq!(asked(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).expect("whole"), to("192.0.2.1:80"));
    }

    #[test]
    fn a_name_with_a_nul_or_a_number_in_disguise_is_not_allowed() {
        let names: [&[u8]; 6] =
            [b"evil.net\0.example.org", b"", b"2130706433", b"0x7f000001", b"\xff\xfe", b"a.example.org\n"];
        for name in names {
            assert!(matches!(by_name(name), Asked::Odd(_)), "{name:?}");
        }
        let port_zero = asked(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0]).expect("whole");
        assert_eq!(port_zero, Asked::Odd(DestinationError::Port));
    }

    #[test]
    fn other_commands_kinds_and_versions_are_not_served() {
        let with = |command, kind| asked(&[5, command, 0, kind, 192, 0, 2, 1, 0, 80]).expect("whole");
        for command in [0, 2, 3, 255] {
            assert_eq!(with(command, 1), Asked::Unserved(ReplyCode::NoSuchCommand));
        }
        assert_eq!(with(1, 9), Asked::Unserved(ReplyCode::NoSuchAddress));
        assert!(asked(&[4, 1, 0, 1]).is_err() && asked(&[5, 1, 0, 3, 9, b'x']).is_err());
    }
}
