//! The broker's state: sessions, the approval queue, the audit log. One a user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use keyhatch_protocol::{RequestId, SessionId};
use serde_json::{Map, Value};

use crate::approval::{Queue, seconds};
use crate::audit::{AuditError, AuditLog};
use crate::credential::HostGit;
use crate::network;
use crate::observe::Attempt;
use crate::paths::Paths;
use crate::session::Session;
use crate::session::report::{Section, SessionReport};
use crate::signer::{Locks, Made};
use crate::upstream::Clients;

/// How long a request stays decidable after its client went away.
pub const WITHDRAWN: Duration = Duration::from_secs(15 * 60);

/// The state that every connection shares.
#[derive(Debug)]
pub struct Broker {
    /// Where things are kept.
    pub paths: Paths,
    /// What waits for a person.
    pub queue: Queue,
    /// Keys that wait for their passphrase.
    pub locks: Locks,
    /// Which signatures were made.
    pub made: Made,
    /// HTTPS clients, shared by all sessions.
    pub clients: Clients,
    /// The host's git and its credential helpers.
    pub host_git: HostGit,
    audit: Mutex<AuditLog>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
}

impl Broker {
    /// Opens the audit log and starts with no session.
    ///
    /// # Errors
    /// When the audit log cannot be opened: a broker that cannot record must not act.
    pub fn new(paths: Paths, host_git: HostGit) -> Result<Self, AuditError> {
        let audit = Mutex::new(AuditLog::open(&paths.audit())?);
        Ok(Self {
            paths,
            queue: Queue::default(),
            locks: Locks::default(),
            made: Made::default(),
            clients: Clients::default(),
            host_git,
            audit,
            sessions: Mutex::default(),
        })
    }

    /// Records an event; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written: what was to happen must not.
    pub fn record(
        &self,
        session: &SessionId,
        event: &str,
        fields: Vec<(&str, Value)>,
    ) -> Result<u64, AuditError> {
        if let Some(session) = self.session(session) {
            session.count(event);
        }
        let mut map = Map::new();
        map.insert("session".into(), session.as_str().into());
        map.extend(fields.into_iter().map(|(key, value)| (key.to_owned(), value)));
        // The chain needs one writer at a time; a record is one short write and one flush.
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).record(event, map)
    }

    /// Adds a session.
    pub fn add(&self, session: Arc<Session>) {
        self.lock_sessions().insert(session.id.clone(), session);
    }

    /// Finds a session.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.lock_sessions().get(id).cloned()
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.lock_sessions().values().cloned().collect()
    }

    /// Ends a session: its sockets, its requests, its grants. Returns its report, which is kept; none where it ended
    /// before. `more` and `attempts` are what the command that ran it knows.
    pub async fn end(
        &self,
        id: &SessionId,
        (more, attempts): (Vec<Section>, Vec<Attempt>),
    ) -> Option<SessionReport> {
        let session = self.lock_sessions().remove(id)?;
        self.queue.forget(id);
        session.close();
        let finishing = session.clone();
        let left = tokio::task::spawn_blocking(move || finishing.finish()).await.unwrap_or_default();
        network::settle(self, &session, attempts);
        let now = SystemTime::now();
        let lasted = now.duration_since(session.opened).unwrap_or_default().as_secs();
        if let Some(fields) = network::report::audit_fields(&session.network)
            && let Err(error) = self.record(id, "network-summary", fields)
        {
            tracing::error!(session = %id, %error, "a session's connections could not be recorded");
        }
        if let Err(error) = self.record(id, "session-closed", vec![("seconds", lasted.into())]) {
            tracing::error!(session = %id, %error, "a session's end could not be recorded");
        }
        let mut report = SessionReport::of(&session);
        report.closed = Some(seconds(now));
        report.sections.extend(left);
        report.sections.extend(more);
        if let Err(error) = report.keep(&self.paths.reports()) {
            tracing::warn!(session = %id, %error, "a session's report is not kept");
        }
        Some(report)
    }

    /// A fresh session id.
    #[must_use]
    pub fn new_session_id() -> SessionId {
        SessionId::from_random(random())
    }

    /// A fresh request id.
    #[must_use]
    pub fn new_request_id() -> RequestId {
        RequestId::from_random(random())
    }

    fn lock_sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes from the kernel.
///
/// # Panics
/// When the kernel has no randomness to give: nothing may go on without.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(read, Ok(N), "the kernel gives no random bytes");
    bytes
}
