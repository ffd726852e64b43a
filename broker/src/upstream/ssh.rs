//! SSH upstream: the host's own `ssh` in batch mode, so that its configuration, keys, agent and CAs work as for the
//! user. Nothing that a session chose becomes an option or a shell word: hosts are parsed, the path is quoted.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use keyhatch_protocol::{ObjectFormat, ObjectId, Remote, SessionId};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::{
    Advertisement, Answer, Held, HeldConnection, MAX_ADVERTISEMENT, OpenPush, Service, Upstream,
    UpstreamError, Way, cache, head, held,
};
use crate::approval::PushBody;
use crate::pktline::{Packet, Packets};

/// Longest time to the end of an advertisement: a hardware key may want a touch.
const ADVERTISES: Duration = Duration::from_secs(90);
/// How long a login outlives its last connection: from a push's advertisement to its pack, where nobody is asked.
const SHARED: Duration = Duration::from_secs(15);
/// Most of ssh's standard error that is kept.
const MAX_SAID: u64 = 8 * 1024;
/// Hexadecimal digits of a shared login's name.
const LOGIN_NAME: usize = 40;
/// Most bytes of a fetch request, plain: its haves.
pub(super) const MAX_REQUEST: usize = 64 * 1024 * 1024;

/// What the broker adds to every ssh: no prompt, no forwarding, no command of the configuration's on the host.
pub(super) const OPTIONS: &[&str] = &[
    "-T",
    "-a",
    "-x",
    "-oBatchMode=yes",
    "-oStrictHostKeyChecking=yes",
    "-oPermitLocalCommand=no",
    "-oClearAllForwardings=yes",
    "-oRequestTTY=no",
    "-oForwardAgent=no",
    "-oUpdateHostKeys=no",
    "-oSendEnv=GIT_PROTOCOL",
];

/// A running service on the other end.
#[derive(Debug)]
pub(crate) struct Connection {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Connection {
    /// Whether ssh still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

pub(super) async fn advertisement(
    upstream: &Upstream,
    service: Service,
    git_protocol: Option<&str>,
) -> Result<Advertisement, UpstreamError> {
    let mut connection = connect(upstream, service)?;
    let bytes = read_advertisement(upstream, &mut connection).await?;
    if service == Service::ReceivePack
        && let Some(nonce) = held::nonce(&bytes)
    {
        let connection = HeldConnection(Way::Ssh(connection));
        return Ok(Advertisement { bytes, held: Some(Held { nonce, connection }) });
    }
    // gitprotocol-pack(5): a flush instead of a request ends the conversation cleanly.
    goodbye(connection).await;
    if service == Service::UploadPack && !speaks_v2(&bytes) {
        return cache::advertisement(upstream, git_protocol).await;
    }
    Ok(Advertisement::of(bytes))
}

/// Opens what a push is sent on.
pub(super) async fn open_push(upstream: &Upstream) -> Result<OpenPush, UpstreamError> {
    let mut connection = connect(upstream, Service::ReceivePack)?;
    let advertisement = read_advertisement(upstream, &mut connection).await?;
    Ok(OpenPush { advertisement, connection: Some(HeldConnection(Way::Ssh(connection))) })
}

/// Where the default branch is, on one connection.
pub(super) async fn head(
    upstream: &Upstream,
    format: ObjectFormat,
) -> Result<Option<ObjectId>, UpstreamError> {
    let mut connection = connect(upstream, Service::UploadPack)?;
    let mut refs = read_advertisement(upstream, &mut connection).await?;
    if speaks_v2(&refs) {
        let asked = connection.stdin.write_all(&head::ls_head(format)).await;
        asked.map_err(|source| UpstreamError::Host { what: "ask over ssh", source })?;
        refs = read_advertisement(upstream, &mut connection).await?;
    }
    goodbye(connection).await;
    Ok(head::head_of(&refs))
}

pub(super) async fn upload_pack<S>(
    upstream: &Upstream,
    content_encoding: Option<&str>,
    body: S,
) -> Result<Answer, UpstreamError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let request = cache::whole_request(&upstream.remote, content_encoding, body).await?;
    let mut connection = connect(upstream, Service::UploadPack)?;
    if !speaks_v2(&read_advertisement(upstream, &mut connection).await?) {
        goodbye(connection).await;
        return cache::rpc(upstream, request).await;
    }
    Ok(converse(connection, futures_util::stream::once(std::future::ready(Ok(request)))))
}

pub(super) async fn receive_pack(upstream: &Upstream, body: PushBody) -> Result<Answer, UpstreamError> {
    let mut connection = connect(upstream, Service::ReceivePack)?;
    read_advertisement(upstream, &mut connection).await?;
    Ok(converse(connection, body))
}

/// Sends the body while the answer is read; the answer ends when the service does.
pub(super) fn converse<S>(connection: Connection, body: S) -> Answer
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let Connection { child, mut stdin, stdout, stderr } = connection;
    tokio::spawn(async move {
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let Ok(chunk) = chunk else { break };
            if let Err(error) = stdin.write_all(&chunk).await {
                tracing::debug!(%error, "an upstream stopped reading");
                break;
            }
        }
    });
    tokio::spawn(async move { drop(said(stderr).await) });
    answer_of(child, stdout)
}

/// The output of a program as a stream; the program is killed when the stream is dropped.
pub(super) fn answer_of(child: Child, stdout: ChildStdout) -> Answer {
    /// One read of a pipe.
    const CHUNK: usize = 64 * 1024;
    Box::pin(futures_util::stream::unfold((child, stdout), |(mut child, mut stdout)| async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => {
                if let Err(error) = child.wait().await {
                    tracing::debug!(%error, "a program's end was not seen");
                }
                None
            }
            Ok(_) => Some((Ok(buffer.freeze()), (child, stdout))),
            Err(error) => Some((Err(error), (child, stdout))),
        }
    }))
}

fn connect(upstream: &Upstream, service: Service) -> Result<Connection, UpstreamError> {
    let mut ssh = command(upstream, service);
    let host = |source| UpstreamError::Host { what: "run ssh", source };
    let mut child =
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(host)?;
    match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok(Connection { child, stdin, stdout, stderr }),
        _ => Err(host(io::ErrorKind::BrokenPipe.into())),
    }
}

fn command(upstream: &Upstream, service: Service) -> Command {
    let remote = &upstream.remote;
    let mut ssh = upstream.broker.host_git.program("ssh");
    ssh.args(OPTIONS);
    if service == Service::UploadPack {
        ssh.env("GIT_PROTOCOL", "version=2");
    }
    ssh.args(login_options(upstream));
    if let Some(port) = remote.port() {
        ssh.arg(format!("-p{port}"));
    }
    // Brackets belong to URLs; ssh takes an IPv6 address bare.
    let host = remote.host().as_str().trim_start_matches('[').trim_end_matches(']');
    let destination = remote.user().map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
    ssh.arg("--").arg(destination);
    ssh.arg(format!("git-{} {}", service.word(), quoted(&remote.ssh_path())));
    ssh
}

/// How ssh logs in for an upstream, whatever the user's configuration says of shared connections: those would be found by
/// the resolved host, and be another alias's login.
pub(super) fn login_options(upstream: &Upstream) -> Vec<String> {
    if upstream.uses_host_credential() {
        return shared(&upstream.broker.paths.ssh(), &login_name(&upstream.session.id, &upstream.remote));
    }
    // Anonymous: whatever the configuration offers, no key is tried, and no open login is used.
    let no_login = ["PubkeyAuthentication=no", "GSSAPIAuthentication=no", "HostbasedAuthentication=no"]
        .map(|no| format!("-o{no}"));
    not_shared().into_iter().chain(no_login).collect()
}

fn not_shared() -> Vec<String> {
    vec!["-oControlMaster=no".into(), "-oControlPath=none".into()]
}

/// Names a login that may be shared: of one session, at one host or alias as the remote has it, with one user and port.
/// Never by what the alias stands for: two aliases of one host are two keys.
fn login_name(session: &SessionId, remote: &Remote) -> String {
    let name = format!("{session} {}", remote.authority());
    Sha256::digest(name).iter().take(LOGIN_NAME / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// Lets the few connections of one git command share one login, ssh_config(5) ControlMaster. The socket is in a
/// directory that only this user enters and no session sees; an anonymous connection never gets at it.
fn shared(directory: &Path, login: &str) -> Vec<String> {
    // The name, and a suffix while the socket is made; ssh refuses what does not fit into sun_path.
    const NEEDS: usize = 1 + LOGIN_NAME + 18;
    const SUN_PATH: usize = 108;
    let path = directory.to_string_lossy();
    if path.len() + NEEDS >= SUN_PATH || path.contains(['%', '"', ' ', '$']) {
        return not_shared();
    }
    vec![
        "-oControlMaster=auto".into(),
        format!("-oControlPath={path}/{login}"),
        format!("-oControlPersist={}", SHARED.as_secs()),
    ]
}

/// Quotes for a POSIX shell on the other end, as git does: `'` and `!` leave the quotes.
pub(super) fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''").replace('!', r"'\!'"))
}

async fn read_advertisement(
    upstream: &Upstream,
    connection: &mut Connection,
) -> Result<Vec<u8>, UpstreamError> {
    let reading = read_to_flush(&mut connection.stdout);
    match tokio::time::timeout(ADVERTISES, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) | Err(_) => {
            let last = tokio::time::timeout(Duration::from_secs(2), said(&mut connection.stderr)).await;
            Err(why(&upstream.remote, last.unwrap_or_default()))
        }
    }
}

/// Reads packets up to and with the first flush.
pub(super) async fn read_to_flush(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let start = bytes.len();
        bytes.resize(start + 4, 0);
        from.read_exact(&mut bytes[start..]).await?;
        let mut packets = Packets::new(&bytes[start..]);
        match packets.next_packet().map_err(|_| malformed())? {
            Some(Packet::Flush) => return Ok(bytes),
            Some(_) => {}
            None => {
                let digits = std::str::from_utf8(&bytes[start..]).map_err(|_| malformed())?;
                let length = usize::from_str_radix(digits, 16).map_err(|_| malformed())?;
                if start + length > MAX_ADVERTISEMENT {
                    return Err(malformed());
                }
                bytes.resize(start + length, 0);
                from.read_exact(&mut bytes[start + 4..]).await?;
            }
        }
    }
}

async fn goodbye(connection: Connection) {
    let Connection { mut child, mut stdin, .. } = connection;
    // The other end may have gone first; either way it is over.
    if stdin.write_all(b"0000").await.is_ok() {
        drop(stdin.shutdown().await);
    }
    drop(stdin);
    // Not waited for: the next request need not wait for ssh to say goodbye.
    tokio::spawn(async move { drop(tokio::time::timeout(Duration::from_secs(10), child.wait()).await) });
}

pub(super) fn speaks_v2(advertisement: &[u8]) -> bool {
    let first = Packets::new(advertisement).next_packet();
    matches!(first, Ok(Some(Packet::Data(line))) if line.trim_ascii_end() == b"version 2")
}

/// What ssh said, bounded.
async fn said(stderr: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stderr.take(MAX_SAID).read_to_end(&mut bytes).await {
        tracing::debug!(%error, "ssh's words are lost");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sorts ssh's words. They come from this host's ssh, before the other end has said anything that counts.
fn why(remote: &Remote, said: String) -> UpstreamError {
    let authority = remote.authority();
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no answer");
    if said.contains("Host key verification failed") {
        UpstreamError::HostKey { authority }
    } else if last.contains("Permission denied (") {
        UpstreamError::Refused { authority }
    } else if last.starts_with("ssh: ") {
        UpstreamError::Unreachable { authority, source: last.into() }
    } else {
        UpstreamError::Ssh { authority, said: keyhatch_protocol::text::shown(last).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_shared_by_session_alias_user_and_port_alone() {
        let sessions = ["6af40671", "6af40672"].map(|id| id.parse::<SessionId>().expect("an id"));
        let name =
            |session: usize, url: &str| login_name(&sessions[session], &Remote::parse(url).expect(url));
        assert_eq!(name(0, "work:a"), name(0, "ssh://work/b"));
        assert_eq!(name(0, "work:a").len(), LOGIN_NAME);
        for other in ["personal:a", "git@work:a", "ssh://work:2222/a"] {
            assert_ne!(name(0, "work:a"), name(0, other), "{other}");
        }
        assert_ne!(name(0, "work:a"), name(1, "work:a"));
    }

    #[test]
    fn a_path_cannot_leave_its_quotes() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/o'r; id/y!"), r"'/o'\''r; id/y'\!''");
    }

    #[tokio::test]
    async fn an_advertisement_ends_with_its_flush_and_no_byte_later() {
        let mut from: &[u8] = b"0008abcd00000123";
        assert_eq!(read_to_flush(&mut from).await.expect("reads"), b"0008abcd0000");
        assert_eq!(from, b"0123");
        assert!(read_to_flush(&mut &b"0003"[..]).await.is_err());
        assert!(read_to_flush(&mut &b"0008ab"[..]).await.is_err());
    }
}
