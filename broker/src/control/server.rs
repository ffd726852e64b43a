//! The broker's end of the control socket.
//!
//! Comes in: frames from processes of the same uid. A request counts only with the token.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyhatch_policies::{Policy, PolicyError};
use keyhatch_protocol::frame::{self, FrameError, MAX_CONTROL_FRAME};
use keyhatch_protocol::{RequestId, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use super::{
    Envelope, Listing, OpenedSession, Reply, Request, RequestView, SessionView, ShownRequest, VERSION,
    Verdict, container,
};
use crate::approval::{Asked, DecideError, Decision, Outcome, seconds};
use crate::broker::Broker;
use crate::cause::chain;
use crate::front;
use crate::intake;
use crate::network;
use crate::registries::Answer;
use crate::session;
use crate::session::report::SessionReport;
use crate::ssh_agent;
use crate::sys;

/// How long a client may take to say what it wants.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long `pending --wait` may wait before it is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Accepts connections for ever.
pub async fn accept(listener: UnixListener, broker: Arc<Broker>, token: String) {
    let token: Arc<str> = token.into();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, broker.clone(), token.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: give the others time to end.
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(mut stream: UnixStream, broker: Arc<Broker>, token: Arc<str>) {
    let uid = rustix::process::getuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == uid) {
        tracing::warn!("another user reached the control socket");
        return;
    }
    let envelope = tokio::time::timeout(FIRST_MESSAGE, read::<Envelope>(&mut stream)).await;
    let reply = match envelope {
        Ok(Ok(envelope)) if !same_token(&envelope.token, &token) => {
            failed("the control token is wrong", "the broker was restarted: run the command again")
        }
        Ok(Ok(envelope)) if envelope.version != VERSION => failed(
            "this command and the running broker are of different versions",
            "stop the old broker, then run the command again",
        ),
        Ok(Ok(envelope)) => match answer(&mut stream, &broker, envelope.request).await {
            Some(reply) => reply,
            None => return,
        },
        Ok(Err(FrameError::Io(_))) | Err(_) => return,
        Ok(Err(error)) => failed(&error.to_string(), "this is not a keyhatch command's message"),
    };
    let written = match write(&mut stream, &reply).await {
        // Nothing of it was written: whoever asked is told, and does not wait for an answer that cannot come.
        Err(FrameError::TooLong { .. }) => {
            let too_long =
                failed("the answer is too long for one message", "keyhatch audit log has what happened");
            write(&mut stream, &too_long).await
        }
        written => written,
    };
    if let Err(error) = written {
        tracing::debug!(%error, "a command went away before its answer");
    }
}

/// Compares in constant time: a confined process of the same uid could otherwise measure its way in.
fn same_token(given: &str, real: &str) -> bool {
    given.len() == real.len() && given.bytes().zip(real.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

async fn answer(stream: &mut UnixStream, broker: &Arc<Broker>, request: Request) -> Option<Reply> {
    Some(match request {
        Request::Ping => Reply::Pong { pid: std::process::id() },
        Request::OpenSession { project, policy_origin, policy, registries } => {
            return open_session(stream, broker, (project, policy_origin, policy), registries).await;
        }
        Request::OpenForContainer { project, policy_origin, policy, container } => {
            let asked = container::Asked { project, origin: policy_origin, policy, container };
            return container::open(stream, broker, asked).await;
        }
        Request::CloseSession { session, known } => container::close(broker, &session, known).await,
        Request::ShowSession { session } => show_session(broker, &session),
        Request::AttachSockets { session, runner } => attach(stream, broker, (&session, runner)).await,
        Request::Pending { wait } => pending(stream, broker, wait).await?,
        Request::Show { id } => {
            let render = |asked: &Asked| ShownRequest::of(asked, broker.queue.now());
            match broker.queue.show(&id, render) {
                Ok(Some(shown)) => Reply::Shown(Box::new(shown)),
                Ok(None) => failed(
                    &format!("request {id} cannot be shown, so it cannot be approved"),
                    &format!("keyhatch deny {id}"),
                ),
                Err(error) => undecidable(&error),
            }
        }
        Request::Decide { id, digest, decision } => {
            let decision = match decision {
                Verdict::Approve { scope } => Decision::Approved(scope),
                Verdict::Deny { reason } => Decision::Refused(reason),
            };
            match broker.queue.decide(&id, digest.as_deref(), decision) {
                Ok(asked) => {
                    Reply::Decided { request: Box::new(RequestView::of(&asked, broker.queue.now())) }
                }
                Err(error) => undecidable(&error),
            }
        }
        Request::Locked => Reply::Locked { keys: broker.locks.locked() },
        Request::Unlock { fingerprint, passphrase } => {
            match broker.locks.open(&fingerprint, passphrase.reveal()).await {
                Ok(()) => Reply::Unlocked,
                Err(error) => failed(&error.to_string(), "keyhatch credential unlock asks again"),
            }
        }
        Request::Grants => Reply::Grants { grants: broker.queue.grants() },
        Request::RevokeGrant { id } => revoke(broker, &id).await,
        Request::Sessions => Reply::Sessions {
            sessions: broker
                .sessions()
                .iter()
                .map(|session| SessionView {
                    id: session.id.clone(),
                    project: session.directory.clone(),
                    policy: session.policy.name().to_owned(),
                    opened: seconds(session.opened),
                    expires: session.expires.map(seconds),
                    name: session.name.clone(),
                })
                .collect(),
        },
    })
}

/// Opens a session and keeps it until the command that opened it goes away.
async fn open_session(
    stream: &mut UnixStream,
    broker: &Arc<Broker>,
    (project, origin, text): (Option<PathBuf>, String, String),
    registries: Vec<Answer>,
) -> Option<Reply> {
    let policy = match parsed(&text, &origin) {
        Ok(policy) => policy,
        Err(error) => {
            return Some(failed(&error.to_string(), "keyhatch policy check FILE shows every error"));
        }
    };
    let policy_name = policy.name().to_owned();
    let id = Broker::new_session_id();
    let opening = session::Opening { id: id.clone(), project, policy };
    let (session, furniture) = match session::open(&broker.paths, opening, registries).await {
        Ok(opened) => opened,
        Err(error) => {
            return Some(failed(&chain(&error), "check the project's directory and its .git/config"));
        }
    };
    let opened = OpenedSession {
        session: id.clone(),
        sockets: session.sockets().clone(),
        mounts: furniture.mounts,
        files: furniture.files,
        env: furniture.env,
        notes: furniture.notes,
    };
    let session = Arc::new(session);
    broker.add(session.clone());
    let fields =
        vec![("project", session.directory.display().to_string().into()), ("policy", policy_name.into())];
    if let Err(error) = broker.note(&id, "session-opened", fields).await {
        broker.end(&id, Default::default()).await;
        return Some(failed(&chain(&error), "check that the state directory is writable and has room"));
    }
    let listening = broker.on_sessions_runtime(|| {
        front::listen_on_socket(broker, &session)
            .and_then(|()| intake::listen(broker, &session))
            .and_then(|()| ssh_agent::listen(broker, &session))
    });
    if let Err(error) = listening {
        broker.end(&id, Default::default()).await;
        return Some(failed(&chain(&error), "check that the runtime directory's path is short"));
    }
    if let Some(on_host) = furniture.on_host {
        broker.on_sessions_runtime(|| front::listen_on_host(broker, &session, on_host));
    }
    if let Err(error) = broker.on_sessions_runtime(|| network::publish(&session)) {
        broker.end(&id, Default::default()).await;
        return Some(failed(
            &chain(&error),
            "another program or session uses it: end that, or publish another port",
        ));
    }
    if write(stream, &Reply::Opened(Box::new(opened))).await.is_ok() {
        // The command says nothing more; when its end closes, however it died, the session is over.
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
    broker.end(&id, Default::default()).await;
    None
}

/// Parses a policy, or remembers it: users have few, and to parse one takes longer than to make what a session is of.
fn parsed(text: &str, origin: &str) -> Result<Policy, PolicyError> {
    static LAST: Mutex<Option<(String, Policy)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((from, policy)) = &*last
        && from == origin
        && policy.text() == text
    {
        return Ok(policy.clone());
    }
    let policy = Policy::parse(text, origin)?;
    *last = Some((origin.to_owned(), policy.clone()));
    Ok(policy)
}

async fn revoke(broker: &Broker, id: &RequestId) -> Reply {
    let Some(grant) = broker.queue.revoke(id) else {
        return failed(&format!("no grant {id} stands"), "keyhatch grant list names those that do");
    };
    let fields = vec![("grant", id.as_str().into()), ("remote", grant.remote.to_string().into())];
    if let Err(error) = broker.record_outcome(&grant.session, "grant-revoked", fields).await {
        // It is gone all the same: less is allowed now, not more.
        tracing::error!(%error, "a revocation could not be recorded");
    }
    Reply::Grants { grants: vec![grant] }
}

fn show_session(broker: &Broker, id: &SessionId) -> Reply {
    let open = broker.session(id).map(|session| SessionReport::of(&session));
    match open.map_or_else(|| SessionReport::read(&broker.paths.reports(), id), Ok) {
        Ok(report) => Reply::Report(Box::new(report)),
        Err(error) => failed(&chain(&error), "keyhatch audit log has what older sessions did"),
    }
}

async fn attach(stream: &mut UnixStream, broker: &Arc<Broker>, (id, runner): (&SessionId, u32)) -> Reply {
    let Some(session) = broker.session(id) else {
        return failed("no such session is open", "it may have ended; start it again");
    };
    let receive = stream.async_io(Interest::READABLE, || sys::receive_descriptors(stream.as_fd()));
    let sockets = match tokio::time::timeout(FIRST_MESSAGE, receive).await {
        Ok(Ok(descriptors)) => descriptors,
        Ok(Err(_)) | Err(_) => {
            return failed("no sockets were handed over", "start the session again");
        }
    };
    match broker.on_sessions_runtime(|| network::serve(broker, &session, (sockets, runner))) {
        Ok(()) => Reply::Attached,
        Err(error) => failed(&chain(&error), "start the session again"),
    }
}

async fn pending(stream: &UnixStream, broker: &Broker, wait: bool) -> Option<Reply> {
    let mut changes = broker.queue.changes();
    let deadline = tokio::time::Instant::now() + LONGEST_WAIT;
    loop {
        changes.borrow_and_update();
        let pending = broker.queue.pending();
        if !wait || !pending.is_empty() {
            return Some(Reply::Pending(Listing::of(&pending, broker.queue.now())));
        }
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = tokio::time::sleep_until(deadline) => return Some(Reply::Pending(Listing::default())),
            () = client_left(stream) => return None,
        }
    }
}

/// Waits until the client closes its end. Being readable is a hint that can be stale: only a read tells.
pub(super) async fn client_left(stream: &UnixStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It says nothing more after its request: an end, an error, or a client that is none of ours.
            _ => return,
        }
    }
}

fn undecidable(error: &DecideError) -> Reply {
    let hint = match error {
        DecideError::NotShown(id) => return Reply::NotShown { id: id.clone() },
        DecideError::Over { outcome: Outcome::Replaced(by), .. } => {
            format!("look at what it is now: keyhatch show {by}")
        }
        DecideError::Unknown(_) | DecideError::Over { .. } => "keyhatch pending lists what waits".to_owned(),
        DecideError::DigestDiffers(id) => format!("look at it again: keyhatch show {id}"),
        DecideError::OnceOnly { .. } => "approve it once, without --session".to_owned(),
    };
    failed(&error.to_string(), &hint)
}

pub(super) fn failed(message: &str, hint: &str) -> Reply {
    Reply::Failed { message: message.to_owned(), hint: Some(hint.to_owned()) }
}

async fn read<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> Result<T, FrameError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; frame::body_length(header, MAX_CONTROL_FRAME)?];
    stream.read_exact(&mut body).await?;
    frame::decode(&body)
}

pub(super) async fn write(stream: &mut UnixStream, reply: &Reply) -> Result<(), FrameError> {
    let bytes = frame::encode(reply, MAX_CONTROL_FRAME)?;
    let written: io::Result<()> = stream.write_all(&bytes).await;
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_remembered_is_the_one_that_was_asked_for() {
        let text = |name: &str| Policy::shipped(name).expect("it is shipped").text().to_owned();
        let (one, other) = (text("default"), text("read-only"));
        for (text, name) in [(&one, "default"), (&one, "default"), (&other, "read-only"), (&one, "default")] {
            let policy = parsed(text, "here").expect("it is a policy");
            assert_eq!((policy.name(), policy.text()), (name, text.as_str()));
        }
        let broken = format!("{one}\nnonsense = 1\n");
        assert!(parsed(&broken, "here").expect_err("it is none").to_string().contains("here"));
        assert!(parsed(&broken, "there").expect_err("it is none").to_string().contains("there"));
    }
}
