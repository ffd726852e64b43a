//! The keeper: one thread a session that watches both sides, plays a round when either moved, and finishes at the end.
//!
//! Watching is asking the file system for a few dozen times of change: it needs no watch that a session could use up,
//! and costs less than one round.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use keyhatch_protocol::RefName;
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

use super::beneath::{Beneath, Stamp};
use super::guard::guarded;
use super::host::tree_directory;
use super::refs;
use super::state::{Record, State};
use super::sync::{Children, Round};
use super::touched::{Touched, Watch};
use super::{admit, adopt, changes, coming, kept, lock, nested, placeholder, report, untouched};
use crate::cause::chain;
use crate::session::report::Section;
use crate::session::told::Told;

/// How often both sides are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a side that cannot be read is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Rounds of the end: the first brings what is new, the next one what a lock had held up.
const LAST_ROUNDS: usize = 3;

/// The order to finish.
#[derive(Debug)]
struct Order {
    /// Whether nothing of the session runs any more.
    over: bool,
    answer: oneshot::Sender<Vec<Section>>,
}

/// A session's hold on its keeper.
#[derive(Debug)]
pub struct Keeper {
    /// None once it was told to finish.
    orders: Mutex<Option<Sender<Order>>>,
    record: Arc<Mutex<Record>>,
    enclosed: Arc<AtomicBool>,
}

/// Where the objects of one repository lie.
#[derive(Debug)]
pub struct Directories {
    /// The session's git directory: hostile.
    pub session: PathBuf,
    /// The host's object stores.
    pub host: Vec<PathBuf>,
}

impl Keeper {
    /// Starts to watch. `project` tells whether anything in the project was touched; none where it is looked at in any case.
    ///
    /// # Errors
    /// When no thread can be had, or the record not be written.
    pub fn start(
        directory: &Path,
        record: Record,
        told: Arc<Told>,
        project: Option<Watch>,
    ) -> io::Result<Self> {
        record.keep(directory)?;
        let enclosed = Arc::new(AtomicBool::new(false));
        let (orders, received) = channel();
        let record = Arc::new(Mutex::new(record));
        let (directory, shared) = (directory.to_owned(), Arc::clone(&record));
        let is_enclosed = Arc::clone(&enclosed);
        thread::Builder::new().name("gitdir".into()).spawn(move || {
            let mut work = Work::new(directory, shared, told);
            (work.project, work.enclosed) = (project, is_enclosed);
            work.watch(&received);
        })?;
        Ok(Self { orders: Mutex::new(Some(orders)), record, enclosed })
    }

    /// Takes note that nothing of the host could be written by the session but what it mounted.
    pub fn was_enclosed(&self) {
        self.enclosed.store(true, Ordering::Release);
    }

    /// The repositories of the session.
    #[must_use]
    pub fn directories(&self) -> Vec<Directories> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |state: &State| Directories { session: state.session(), host: state.stores.clone() };
        record.repositories.iter().map(of).collect()
    }

    /// Bytes of objects that were brought so far.
    #[must_use]
    pub fn bytes_brought(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.repositories.iter().map(|state| state.brought).sum()
    }

    /// What was brought so far.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        report::sections(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the last rounds played from now on; what it returns waits for what had to stay, and a second call's waits for
    /// nothing. The session's directory goes after the answer. `over` is whether nothing of a container runs any more.
    pub fn finish(&self, over: bool) -> impl Future<Output = Vec<Section>> + use<> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answered = orders.map(|orders| {
            let (answer, answered) = oneshot::channel();
            // A keeper that died drops the order, and the wait is over at once.
            drop(orders.send(Order { over, answer }));
            answered
        });
        async {
            let Some(answered) = answered else { return Vec::new() };
            answered.await.unwrap_or_else(|_| {
                tracing::error!("a session's keeper died; what it did not bring is in the state directory");
                Vec::new()
            })
        }
    }
}

/// What is to be said at the end, and what is left to do after it.
struct Finished {
    sections: Vec<Section>,
    /// Directories that are gone from the project.
    gone: Vec<OwnedFd>,
    /// Whether all was brought: then nobody needs the session's directory.
    done: bool,
}

struct Work {
    directory: PathBuf,
    record: Arc<Mutex<Record>>,
    told: Arc<Told>,
    seen: Vec<Vec<Stamp>>,
    attempts: Vec<BTreeMap<RefName, u8>>,
    /// What happens in the project; none where nobody watches.
    project: Option<Watch>,
    enclosed: Arc<AtomicBool>,
    touched: Touched,
}

impl Work {
    fn new(directory: PathBuf, record: Arc<Mutex<Record>>, told: Arc<Told>) -> Self {
        let count = record.lock().unwrap_or_else(PoisonError::into_inner).repositories.len();
        Self {
            directory,
            record,
            told,
            seen: vec![Vec::new(); count],
            attempts: vec![BTreeMap::new(); count],
            project: None,
            enclosed: Arc::default(),
            touched: Touched::Perhaps,
        }
    }

    fn watch(&mut self, orders: &Receiver<Order>) {
        // What both sides look like at the start is what they agreed on.
        self.seen = self.states().iter().map(stamps).collect();
        let mut wait = TICK;
        let mut owned = false;
        loop {
            match orders.recv_timeout(wait) {
                Ok(Order { over, answer }) => {
                    let Finished { sections, gone, done } = self.finish(over);
                    // Whoever asked may be gone; the report is kept all the same.
                    drop(answer.send(sections));
                    drop(gone);
                    if done {
                        self.clear();
                    }
                    self.rest();
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Not before the command is on its way: of 300,000 files it is 30 MB.
            owned = owned || self.own_agreed();
            if let Some(project) = &mut self.project
                && guarded("the watch over the project", || project.look()).is_err()
            {
                // Nobody watches any more: at the end all of it is looked at.
                self.project = None;
            }
            wait = if self.rounds(false) { TICK } else { AFTER_FAILURE };
        }
    }

    fn own_agreed(&self) -> bool {
        let owned = self.states().iter().try_for_each(State::own_agreed);
        if let Err(error) = &owned {
            tracing::warn!(%error, "what was agreed on with the host is still the host's own file");
        }
        owned.is_ok()
    }

    /// Plays a round for every repository in which something moved. Returns whether all could be played.
    fn rounds(&mut self, last: bool) -> bool {
        let mut well = guarded("the look for a new repository", || self.adopt()).unwrap_or(false);
        for (at, state) in self.states().into_iter().enumerate() {
            let now = stamps(&state);
            let same = if last {
                guarded("the last look", || untouched::is(&state)).unwrap_or(false)
            } else {
                self.seen.get(at) == Some(&now)
            };
            if same {
                continue;
            }
            // From before the round: what moves while it is played is looked at again.
            match self.round(at, state, last) {
                Ok(changed) => {
                    if !changed && let Some(seen) = self.seen.get_mut(at) {
                        *seen = now;
                    }
                }
                Err(error) => {
                    well = false;
                    tracing::warn!(error = %chain(&error), "a session's git directory is not in step");
                }
            }
        }
        well
    }

    /// Where the session made a repository of a project that had none, the host gets one too.
    fn adopt(&mut self) -> bool {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(blank) = record.blank.clone() else { return true };
        match adopt::adopt(&blank) {
            Ok(None) => return true,
            Ok(Some(state)) => {
                record.blank = None;
                record.repositories.push(state);
                self.seen.push(Vec::new());
                self.attempts.push(BTreeMap::new());
            }
            Err(error) => {
                tracing::warn!(%error, "a repository that a session made cannot be taken");
                return false;
            }
        }
        match record.keep(&self.directory) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a session's record cannot be written");
                false
            }
        }
    }

    fn round(&mut self, at: usize, mut state: State, last: bool) -> Result<bool, super::sync::SyncError> {
        let (session, limits, project) = {
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            (record.session.clone(), record.limits, record.project.clone())
        };
        let mut none = BTreeMap::new();
        let attempts = self.attempts.get_mut(at).unwrap_or(&mut none);
        let mut round = Round {
            state: &mut state,
            project: &project,
            session: &session,
            limits,
            last,
            attempts,
            told: &self.told,
            children: Children::CONFINED,
        };
        let played = guarded("a round", || round.play()).map_err(Into::into).and_then(|played| played);
        // Also after a failure: what was done until then was done.
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = record.repositories.get_mut(at)
            && *kept != state
        {
            kept.clone_from(&state);
            record.keep(&self.directory)?;
        }
        if played.is_ok() {
            coming::done(&state)?;
        }
        played
    }

    fn states(&self) -> Vec<State> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).repositories.clone()
    }

    /// Brings what is left to bring, and says what must be said.
    fn finish(&mut self, over: bool) -> Finished {
        let mut well = false;
        for _ in 0..LAST_ROUNDS {
            let before = self.states();
            well = self.rounds(true);
            if well && self.states() == before {
                break;
            }
        }
        let mut more = guarded("the look at the project", || self.said_of_the_project())
            .unwrap_or_else(|panicked| vec![report::unseen(&panicked)]);
        if !well {
            more.push(report::left(&self.directory));
            return Finished { sections: more, gone: Vec::new(), done: false };
        }
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.state_directory().map(|state| state.join("kept").join(record.session.as_str()));
        let keep = |place: PathBuf| kept::keep(&self.directory, &record, &place);
        let keep = |place| guarded("the look at new repositories", || keep(place)).map_err(io::Error::other);
        match place.map(|place| keep(place).and_then(|kept| kept)) {
            Some(Err(error)) => {
                tracing::warn!(%error, "a repository that a session set up cannot be kept");
                more.push(report::left(&self.directory));
                return Finished { sections: more, gone: Vec::new(), done: false };
            }
            kept => more.extend(kept.and_then(Result::ok).flatten()),
        }
        let (covered, gone) = self.uncover(&record, over);
        more.extend(covered);
        // The record first: without one, what a death leaves from here on is nothing to be brought, and the next start
        // removes it.
        let forgotten = Record::forget(&self.directory);
        if let Err(error) = &forgotten {
            tracing::warn!(%error, "a session's git directory is left behind");
        }
        Finished { sections: more, gone, done: forgotten.is_ok() }
    }

    /// Removes the session's directory. Nobody waits for it: of a large project it takes a while.
    fn clear(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "a session's git directory is left behind");
        }
    }

    /// What was seen of the project is of use to the next session in it. Nobody waits for this either.
    fn rest(&mut self) {
        if let (Some(project), Some(cache)) = (self.project.take(), self.known_of_projects()) {
            // What was caught is in the log; the next session looks again.
            drop(guarded("what is remembered of the project", || project.rest(self.touched, &cache)));
        }
    }

    /// Removes what was made to mount on, unless a container may still run that would then be free to make it.
    fn uncover(&self, record: &Record, over: bool) -> (Option<Section>, Vec<OwnedFd>) {
        let kept = self.state_directory().map(|state| state.join("placeholders"));
        if let Some(kept) = kept.filter(|_| record.container && !over && !record.placeholders.is_empty()) {
            match placeholder::keep(&kept, &record.placeholders, &record.session) {
                Ok(()) => return (Some(report::covered(record)), Vec::new()),
                Err(error) => tracing::warn!(%error, "what is mounted on is not kept for a container"),
            }
        }
        (None, placeholder::remove(&record.placeholders, &record.session))
    }

    /// The sessions' directories and what is known of projects lie side by side in it.
    fn state_directory(&self) -> Option<&Path> {
        self.directory.parent().and_then(Path::parent)
    }

    /// Where it is remembered what is in projects.
    fn known_of_projects(&self) -> Option<PathBuf> {
        self.state_directory().map(|state| state.join("nested"))
    }

    /// What changed in the project that the host runs later. The repositories inside are remembered for the next start.
    fn said_of_the_project(&mut self) -> Vec<Section> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let enclosed = self.enclosed.load(Ordering::Acquire);
        let watch = self.project.as_mut();
        self.touched = watch.map_or(Touched::Perhaps, |watch| watch.touched(record.opened, enclosed));
        let repositories: Vec<PathBuf> = match (&self.project, self.touched) {
            (Some(watch), Touched::Nothing) => watch.found().repositories.iter().cloned().collect(),
            _ => {
                let cache = self.known_of_projects();
                let found = cache.map(|cache| nested::behind(&record.project, &cache, None));
                found.unwrap_or_default().repositories.into_iter().collect()
            }
        };
        changes::section(&record, self.touched, &repositories).into_iter().collect()
    }
}

/// What a repository looks like on both sides.
fn stamps(state: &State) -> Vec<Stamp> {
    let mut stamps = Vec::new();
    if let Ok(inside) = Beneath::hostile(&state.session()) {
        stamps.extend(refs::stamps(&inside));
        stamps.push(inside.stamp("logs/refs/stash"));
        // A directory's own time changes with every file that git replaces in it: HEAD, index, locks.
        stamps.extend(state.trees.iter().map(|tree| inside.stamp(&tree.within)));
    }
    if let Ok(host) = Beneath::own(&state.common) {
        // Another session that starts gives these two a second name for a while, which is no change of theirs.
        stamps.extend(refs::stamps(&host).into_iter().map(Stamp::of_content));
        stamps.push(host.stamp("logs/refs/stash"));
    }
    for tree in &state.trees {
        if let Ok(host) = Beneath::own(&tree_directory(state, &tree.within)) {
            stamps.push(host.stamp("HEAD"));
            stamps.push(host.stamp("index").of_content());
            stamps.push(host.stamp("."));
        }
    }
    stamps
}

/// Brings what a broker that died had not: at the start of the next one, for every session that it left.
///
/// A session whose sandbox still runs (its command holds the lock) is kept in step until it ends.
pub fn recover(directory: &Path, finished: impl Fn(&Record, Vec<Section>) + Send + Clone + 'static) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    if let Some(state) = directory.parent() {
        placeholder::adopt_kept(&state.join("placeholders"));
    }
    let mut left = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        match Record::read(&path) {
            Ok(record) => {
                for store in record.repositories.iter().filter_map(|state| state.stores.first()) {
                    if let Err(error) = admit::sweep(store) {
                        tracing::warn!(%error, "a part of an object is left behind");
                    }
                }
                placeholder::adopt(&record.placeholders, &record.session);
                left.push((path, record));
            }
            // One that cannot be read is not one that is not there: what the session committed may be in there alone.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let place = path.display();
                tracing::error!(%error, %place, "a session's record cannot be read; its directory stays");
            }
            // It died before there was anything to lose.
            Err(_) => {
                if let Err(error) = fs::remove_dir_all(&path) {
                    tracing::warn!(%error, "a session's directory is left behind");
                }
            }
        }
    }
    for (path, record) in left {
        let finished = finished.clone();
        let recovering = thread::Builder::new().name("gitdir".into()).spawn(move || {
            for state in &record.repositories {
                for tree in &state.trees {
                    let directory = tree_directory(state, &tree.within);
                    if let Err(error) = lock::remove_stale(&directory, record.session.as_str()) {
                        tracing::warn!(%error, "a lock is left behind");
                    }
                }
            }
            let shared = Arc::new(Mutex::new(record.clone()));
            // What upstreams told the broker that died is lost: a fetch on the host tells it again.
            let mut work = Work::new(path.clone(), shared, Arc::default());
            work.own_agreed();
            while !is_over(&path) {
                work.rounds(false);
                thread::sleep(TICK * 5);
            }
            let Finished { sections: left, gone, done } = work.finish(false);
            drop(gone);
            if done {
                work.clear();
            }
            let record = work.record.lock().unwrap_or_else(PoisonError::into_inner);
            finished(&record, report::sections(&record).into_iter().chain(left).collect());
        });
        if let Err(error) = recovering {
            tracing::error!(%error, "a session cannot be recovered now; the next start tries again");
        }
    }
}

/// Where the command that runs a sandbox holds a lock for as long as it lives.
#[must_use]
pub fn lock_file(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Takes the lock for the life of this process.
///
/// # Errors
/// When it cannot be opened or is held.
pub fn hold(directory: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(lock_file(directory))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
    Ok(file)
}

fn is_over(directory: &Path) -> bool {
    match File::open(lock_file(directory)) {
        Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => true,
    }
}
