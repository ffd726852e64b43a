//! Sessions of containers on the control socket: opened, kept until they are closed or their time is up, and closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyhatch_policies::Policy;
use keyhatch_protocol::SessionId;
use tokio::net::UnixStream;

use super::server::{client_left, failed, write};
use super::{Known, OpenedContainer, Reply};
use crate::approval::seconds;
use crate::broker::Broker;
use crate::cause::chain;
use crate::limits::room::{self, Room};
use crate::limits::{self, Hit};
use crate::session::container::{self, Container};
use crate::session::report::SessionReport;
use crate::session::{self, Session, gitdir};
use crate::{front, intake, ssh_agent};

/// How often the clock is looked at: a machine that slept has not waited, but its time has passed.
const CLOCK: Duration = Duration::from_secs(15);

/// What was asked for.
pub(super) struct Asked {
    pub(super) project: Option<PathBuf>,
    pub(super) origin: String,
    pub(super) policy: String,
    pub(super) container: Container,
}

/// Opens a session, and keeps it as long as it was asked to.
pub(super) async fn open(stream: &mut UnixStream, broker: &Arc<Broker>, asked: Asked) -> Option<Reply> {
    let Asked { project, origin, policy, container } = asked;
    // Held until the session can be found by its name: who asks meanwhile gets the same one.
    let claim = match &container.name {
        Some(name) => Some(broker.names.claim(name).await),
        None => None,
    };
    if let Some(name) = &container.name
        && let Some(session) =
            broker.sessions().into_iter().find(|session| session.name.as_ref() == Some(name))
    {
        return Some(again(&session, project));
    }
    let policy = match Policy::parse(&policy, &origin) {
        Ok(policy) => policy,
        Err(error) => {
            return Some(failed(&error.to_string(), "keyhatch policy check FILE shows every error"));
        }
    };
    let session = match make(broker, project, policy, &container).await {
        Ok(session) => session,
        Err(reply) => return Some(reply),
    };
    drop(claim);
    let id = session.id.clone();
    let opened = session.told.get().cloned();
    let below = broker.paths.git_directories().join(id.as_str());
    let own = opened.as_ref().map(|opened| room::git_directories(&opened.mounts, &below)).unwrap_or_default();
    let room = Room::watch(own, session.policy.session_limits());
    let opened = opened.map(|opened| Reply::OpenedForContainer(Box::new(opened)));
    if container.bound {
        let mut hit = None;
        if let Some(opened) = opened
            && write(stream, &opened).await.is_ok()
        {
            tokio::select! {
                () = client_left(stream) => {}
                reached = over(&session, &room) => hit = reached,
            }
        }
        end(broker, &id, hit).await;
        return None;
    }
    let broker = broker.clone();
    tokio::spawn(async move {
        let hit = over(&session, &room).await;
        end(&broker, &session.id, hit).await;
    });
    opened
}

/// Waits until a session has ended or must end, and says which limit it is for, where it is one.
async fn over(session: &Session, room: &Room) -> Option<Hit> {
    tokio::select! {
        () = session.ended() => None,
        () = expired(session) => {
            tracing::info!(session = %session.id, "a container's session has expired");
            None
        }
        hit = room.exceeded(|| session.bytes_brought()) => {
            tracing::warn!(session = %session.id, %hit, "a container's session has filled its git directory and is closed");
            Some(hit)
        }
    }
}

/// Ends a session, if nobody else did.
async fn end(broker: &Arc<Broker>, id: &SessionId, hit: Option<Hit>) {
    broker.end(id, (limits::section(hit.as_slice()).into_iter().collect(), Vec::new())).await;
}

/// The open session of a name, for a command that is run each time a container starts.
fn again(session: &Session, project: Option<PathBuf>) -> Reply {
    match session.told.get() {
        Some(told) if project.is_none_or(|project| project == session.directory) => {
            Reply::OpenedForContainer(Box::new(told.clone()))
        }
        _ => failed(
            &format!("a session of that name is open for {}", session.directory.display()),
            &format!("keyhatch session close {} ends it; or choose another name", session.id),
        ),
    }
}

async fn make(
    broker: &Arc<Broker>,
    project: Option<PathBuf>,
    policy: Policy,
    container: &Container,
) -> Result<Arc<Session>, Reply> {
    let id = Broker::new_session_id();
    let opening = session::Opening { id: id.clone(), project, policy };
    let (session, furniture) = session::open_for_container(&broker.paths, opening, container)
        .await
        .map_err(|error| failed(&chain(&error), hint(&error)))?;
    let fields = vec![
        ("project", session.directory.display().to_string().into()),
        ("policy", session.policy.name().into()),
        ("container", true.into()),
        ("expires", session.expires.map(seconds).into()),
    ];
    let session = Arc::new(session);
    broker.add(session.clone());
    if let Err(error) = broker.record(&id, "session-opened", fields).await {
        // Nobody was told of it: what was made in the project goes at once.
        session.is_over();
        broker.end(&id, Default::default()).await;
        return Err(failed(&chain(&error), "check that the state directory is writable and has room"));
    }
    let opened = OpenedContainer {
        session: id.clone(),
        project: session.directory.clone(),
        policy: session.policy.name().to_owned(),
        target: container.target.clone(),
        files: broker.paths.files().join(id.as_str()),
        mounts: furniture.mounts,
        env: furniture.env,
        warnings: furniture.warnings,
        expires: session.expires.map(seconds).unwrap_or_default(),
    };
    let listening = broker
        .on_sessions_runtime(|| {
            front::listen_on_socket(broker, &session)
                .and_then(|()| intake::listen(broker, &session))
                .and_then(|()| ssh_agent::listen(broker, &session))
        })
        .map_err(|error| chain(&error))
        .and_then(|()| container::let_all_connect(session.sockets()).map_err(|error| error.to_string()))
        .and_then(|()| session.link(&broker.paths.named()).map_err(|error| error.to_string()));
    if let Err(why) = listening {
        broker.end(&id, Default::default()).await;
        return Err(failed(&why, "check that the runtime directory's path is short"));
    }
    if session.told.set(opened).is_err() {
        tracing::error!("a new session was told about twice");
    }
    Ok(session)
}

fn hint(error: &session::OpenError) -> &'static str {
    use container::{ContainerError, ProgramError};
    match error {
        session::OpenError::Container(ContainerError::Program(ProgramError::Copy(_))) => {
            "check that the runtime directory has room"
        }
        session::OpenError::Container(ContainerError::Program(_)) => {
            "packaging/static-helper.sh builds a static keyhatch-helper: put it beside keyhatch"
        }
        session::OpenError::Container(ContainerError::Bare) => "keyhatch run works in a bare repository",
        _ => "check the project's directory and its .git/config",
    }
}

async fn expired(session: &Session) {
    let Some(expires) = session.expires else { return std::future::pending().await };
    while let Ok(left) = expires.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(CLOCK)).await;
    }
}

/// Ends a session, and says what it did.
pub(super) async fn close(
    broker: &Arc<Broker>,
    id: &SessionId,
    Known { sections, attempts, is_over, enclosed }: Known,
) -> Reply {
    if enclosed && let Some(session) = broker.session(id) {
        session.was_enclosed();
    }
    if is_over && let Some(session) = broker.session(id) {
        session.is_over();
    }
    if let Some(report) = broker.end(id, (sections, attempts)).await {
        return Reply::Report(Box::new(report));
    }
    let no_such = || failed("no such session is open", "keyhatch session list names the open ones");
    // It may have ended before its container did.
    if !is_over || !gitdir::forget_placeholders(&broker.paths.placeholders(), id) {
        return no_such();
    }
    SessionReport::read(&broker.paths.reports(), id)
        .map_or_else(|_| no_such(), |report| Reply::Report(report.into()))
}
