//! The broker's state: sessions, the approval queue, the audit log. One a user.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::OptionFuture;
use keyhatch_host::random::random;
use keyhatch_protocol::{RequestId, SessionId};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::RwLock;

use crate::approval::{Queue, seconds};
use crate::audit::share::{self, Refusal, Shares};
use crate::audit::{Appended, AuditError, AuditLog};
use crate::cause::chain;
use crate::credential::HostGit;
use crate::inspect::{self, Schedule};
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
    /// Whose push is inspected.
    pub inspections: Schedule,
    /// Whose commit is looked at before it is signed.
    pub looks: Schedule,
    /// Where what sessions ask for is done, apart from what the user asks for.
    sessions_runtime: Handle,
    audit: AuditLog,
    /// What of the audit log each session may fill.
    shares: Shares,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// Held by each session that is ending: the daemon waits for them.
    ending: Arc<RwLock<()>>,
}

impl Broker {
    /// Opens the audit log and starts with no session.
    ///
    /// # Errors
    /// When the audit log cannot be opened: a broker that cannot record must not act.
    pub fn new(paths: Paths, host_git: HostGit, sessions_runtime: Handle) -> Result<Self, AuditError> {
        let audit = AuditLog::open(&paths.audit())?;
        Ok(Self {
            paths,
            queue: Queue::default(),
            locks: Locks::default(),
            made: Made::default(),
            clients: Clients::default(),
            host_git,
            names: NameClaims::default(),
            inspections: Schedule::new(inspect::AT_ONCE),
            looks: Schedule::new(inspect::LOOKS_AT_ONCE),
            sessions_runtime,
            audit,
            shares: Shares::default(),
            sessions: Mutex::default(),
            ending: Arc::default(),
        })
    }

    /// Records what a session is about to be given; it is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written, or the session has filled its share of the log: what was to happen must not.
    pub async fn record(
        &self,
        session: &SessionId,
        event: &str,
        fields: Vec<(&str, Value)>,
    ) -> Result<u64, AuditError> {
        let fields = self.counted(session, event, fields);
        if !self.shares.take(session, length(&fields), Instant::now()) {
            return Err(AuditError::Full);
        }
        self.audit.record(event, fields).await
    }

    /// Records what became of something that was recorded before it was done, or what was taken from a session: it is
    /// written whatever the session's share. It is on disk when this returns.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn record_outcome(
        &self,
        session: &SessionId,
        event: &str,
        fields: Vec<(&str, Value)>,
    ) -> Result<u64, AuditError> {
        self.audit.record(event, self.counted(session, event, fields)).await
    }

    /// Records an event of which nothing is done that cannot be undone: it is in the log when this returns, and nobody
    /// waits for the disk. Where the disk then fails, the session ends.
    ///
    /// # Errors
    /// When it could not be written: what was to happen must not.
    pub async fn note(
        self: &Arc<Self>,
        session: &SessionId,
        event: &str,
        fields: Vec<(&str, Value)>,
    ) -> Result<(), AuditError> {
        let appended = self.audit.append(event, self.counted(session, event, fields)).await?;
        let (broker, session) = (self.clone(), session.clone());
        tokio::spawn(async move {
            if let Err(error) = appended.flushed().await {
                tracing::error!(%session, error = %chain(&error), "a session ends: its record is not on disk");
                broker.end(&session, Default::default()).await;
            }
        });
        Ok(())
    }

    /// Records that a session was refused something: by itself while such refusals are few, then in a sum. Nobody waits
    /// for the disk, and one that cannot be recorded is a refusal all the same.
    pub async fn refuse(
        self: &Arc<Self>,
        session: &SessionId,
        event: &'static str,
        fields: Vec<(&str, Value)>,
    ) {
        let fields = self.counted(session, event, fields);
        match self.shares.refuse(session, event, Instant::now()) {
            Some(Refusal::Written) => {
                if let Err(error) = self.audit.append(event, share::bounded(fields)).await {
                    tracing::error!(%session, error = %chain(&error), event, "a refusal could not be recorded");
                }
            }
            Some(Refusal::CountedFirst) => {
                let (broker, session) = (self.clone(), session.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(share::SUM_EVERY).await;
                    let sum = broker.shares.sum(&session, event);
                    broker.record_sum(&session, event, sum).await;
                });
            }
            Some(Refusal::Counted) | None => {}
        }
    }

    async fn record_sum(&self, session: &SessionId, event: &'static str, sum: u64) {
        if sum == 0 {
            return;
        }
        let fields = [("session", session.as_str().into()), ("of", event.into()), ("count", sum.into())];
        let fields =
            fields.map(|(name, value): (&str, Value)| (name.to_owned(), value)).into_iter().collect();
        if let Err(error) = self.audit.append("refusals", fields).await {
            tracing::error!(%session, error = %chain(&error), event, sum, "refusals could not be recorded");
        }
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

    /// Starts what serves a session: its sockets and tasks live on a runtime of their own, so that nothing which sessions do
    /// takes a thread from the user's commands.
    pub fn on_sessions_runtime<T>(&self, start: impl FnOnce() -> T) -> T {
        let _entered = self.sessions_runtime.enter();
        start()
    }

    /// Adds a session.
    pub fn add(&self, session: Arc<Session>) {
        self.shares.add(&session.id);
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
        let ending = self.ending.clone().read_owned().await;
        let session = {
            let mut sessions = self.lock_sessions();
            let session = sessions.remove(id)?;
            // In one step: whoever opens the next session of its name finds either both or neither.
            session.unlink();
            session
        };
        self.queue.forget(id);
        let left = session.end().await;
        network::settle(self, &session, attempts).await;
        for (event, sum) in self.shares.remove(id) {
            self.record_sum(id, event, sum).await;
        }
        let now = SystemTime::now();
        let lasted = now.duration_since(session.opened).unwrap_or_default().as_secs();
        let summary =
            network::report::audit_fields(&session.network).map(|fields| ("network-summary", fields));
        let closed = ("session-closed", vec![("seconds", lasted.into())]);
        let mut last = None;
        for (event, fields) in summary.into_iter().chain([closed]) {
            match self.audit.append(event, self.counted(id, event, fields)).await {
                Ok(appended) => last = Some(appended),
                Err(error) => {
                    tracing::error!(session = %id, %error, event, "a session's end could not be recorded");
                }
            }
        }
        let mut report = SessionReport::of(&session);
        report.closed = Some(seconds(now));
        report.sections.extend(left);
        report.sections.extend(more);
        let report = self.keep(report).await;
        // Whoever waits for the report need not wait for the disk.
        let (id, reports) = (id.clone(), self.paths.reports());
        tokio::spawn(async move {
            let _ending = ending;
            if let Some(Err(error)) = OptionFuture::from(last.map(Appended::flushed)).await {
                tracing::error!(session = %id, error = %chain(&error), "the last records are not on disk");
            }
            let dropped = tokio::task::spawn_blocking(move || report::drop_oldest(&reports)).await;
            if let Err(error) = dropped.unwrap_or_else(|error| Err(io::Error::other(error))) {
                tracing::warn!(%error, "old reports stay");
            }
        });
        Some(report)
    }

    /// Writes a report where the user finds it.
    async fn keep(&self, report: SessionReport) -> SessionReport {
        let (report, reports) = (Arc::new(report), self.paths.reports());
        let kept = report.clone();
        let kept = tokio::task::spawn_blocking(move || kept.keep(&reports)).await;
        if let Err(error) = kept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(session = %report.session, %error, "a session's report is not kept");
        }
        Arc::unwrap_or_clone(report)
    }

    /// Ends every session, and waits until all that end have ended and their last records are on disk.
    pub async fn end_all(self: &Arc<Self>) {
        for session in self.sessions() {
            self.end(&session.id, Default::default()).await;
        }
        let _ended = self.ending.write().await;
    }

    /// Says that every push of an earlier broker has its outcome.
    ///
    /// # Errors
    /// When the log's writer has ended.
    pub async fn concluded(&self) -> Result<(), AuditError> {
        self.audit.concluded().await
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

/// How long a record of these fields is, about.
fn length(fields: &Map<String, Value>) -> u64 {
    /// Number, time, the hash of the record before, and the event's name.
    const REST: usize = 200;
    let mut counting = Counting(REST);
    // Counting cannot fail.
    drop(serde_json::to_writer(&mut counting, fields));
    counting.0 as u64
}

struct Counting(usize);

impl io::Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
