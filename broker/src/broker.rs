//! The broker's state: sessions, the approval queue, the audit log. One a user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use keyhatch_host::random::random;
use keyhatch_protocol::{RequestId, SessionId};
use serde_json::{Map, Value};
use tokio::sync::RwLock;

use crate::approval::{Queue, seconds};
use crate::audit::{AuditError, AuditLog};
use crate::cause::chain;
use crate::credential::HostGit;
use crate::network;
use crate::observe::Attempt;
use crate::paths::Paths;
use crate::session::Session;
use crate::session::container::NameClaims;
use crate::session::report::{self, Section, SessionReport};
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
    /// Names for which a container's session is being opened.
    pub names: NameClaims,
    audit: AuditLog,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Held by each session that is ending: the daemon waits for them.
    ending: RwLock<()>,
}

impl Broker {
    /// Opens the audit log and starts with no session.
    ///
    /// # Errors
    /// When the audit log cannot be opened: a broker that cannot record must not act.
    pub fn new(paths: Paths, host_git: HostGit) -> Result<Self, AuditError> {
        let audit = AuditLog::open(&paths.audit())?;
        Ok(Self {
            paths,
            queue: Queue::default(),
            locks: Locks::default(),
            made: Made::default(),
            clients: Clients::default(),
            host_git,
            names: NameClaims::default(),
            audit,
            sessions: Mutex::default(),
            ending: RwLock::default(),
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
        self.audit.record(event, self.counted(session, event, fields))
    }

    /// Records an event of which nothing is done that cannot be undone: it is written when this returns, and nobody waits
    /// for the disk. Where the disk then fails, the session ends.
    ///
    /// # Errors
    /// When it could not be written: what was to happen must not.
    pub fn note(
        self: &Arc<Self>,
        session: &SessionId,
        event: &str,
        fields: Vec<(&str, Value)>,
    ) -> Result<(), AuditError> {
        self.audit.write(event, self.counted(session, event, fields))?;
        let (broker, session) = (self.clone(), session.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = broker.audit.flush() {
                tracing::error!(%session, error = %chain(&error), "a session ends: its record is not on disk");
                tokio::spawn(async move { broker.end(&session, Default::default()).await });
            }
        });
        Ok(())
    }

    /// The fields of a record, whose event is counted for the session's report.
    fn counted(&self, session: &SessionId, event: &str, fields: Vec<(&str, Value)>) -> Map<String, Value> {
        if let Some(session) = self.session(session) {
            session.count(event);
        }
        let mut map = Map::new();
        map.insert("session".into(), session.as_str().into());
        map.extend(fields.into_iter().map(|(key, value)| (key.to_owned(), value)));
        map
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
        self: &Arc<Self>,
        id: &SessionId,
        (more, attempts): (Vec<Section>, Vec<Attempt>),
    ) -> Option<SessionReport> {
        let _ending = self.ending.read().await;
        let session = {
            let mut sessions = self.lock_sessions();
            let session = sessions.remove(id)?;
            // In one step: whoever opens the next session of its name finds either both or neither.
            session.unlink();
            session
        };
        self.queue.forget(id);
        let left = session.end().await;
        network::settle(self, &session, attempts);
        let now = SystemTime::now();
        let lasted = now.duration_since(session.opened).unwrap_or_default().as_secs();
        let summary =
            network::report::audit_fields(&session.network).map(|fields| ("network-summary", fields));
        let closed = ("session-closed", vec![("seconds", lasted.into())]);
        for (event, fields) in summary.into_iter().chain([closed]) {
            if let Err(error) = self.audit.write(event, self.counted(id, event, fields)) {
                tracing::error!(session = %id, %error, event, "a session's end could not be recorded");
            }
        }
        let mut report = SessionReport::of(&session);
        report.closed = Some(seconds(now));
        report.sections.extend(left);
        report.sections.extend(more);
        if let Err(error) = report.keep(&self.paths.reports()) {
            tracing::warn!(session = %id, %error, "a session's report is not kept");
        }
        let broker = self.clone();
        // Whoever waits for the report need not wait for the disk.
        tokio::task::spawn_blocking(move || broker.settle());
        Some(report)
    }

    /// Has the disk take the last records, and drops reports that are too many.
    fn settle(&self) {
        if let Err(error) = self.audit.flush() {
            tracing::error!(error = %chain(&error), "the last records are not on disk");
        }
        if let Err(error) = report::drop_oldest(&self.paths.reports()) {
            tracing::warn!(%error, "old reports stay");
        }
    }

    /// Ends every session, and waits until all that end have ended and their last records are on disk.
    pub async fn end_all(self: &Arc<Self>) {
        for session in self.sessions() {
            self.end(&session.id, Default::default()).await;
        }
        let _ended = self.ending.write().await;
        self.settle();
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
