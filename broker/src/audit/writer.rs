//! The two threads of the log: one writes records in the order in which they come, one has the disk take them.
//!
//! ```text
//! append ─► queue ─► writer: write(2) ─► "written" ─► flusher: fdatasync, head ─► "flushed", for all that waited
//! ```
//!
//! A slow disk holds up the flusher alone: records that nobody waits for are in the chain meanwhile, and what came while
//! one flush went is taken by the next.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc as threads;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::AuditError;
use super::chain::{BROKEN, Broken, Head, HeadFile, Last, TORN, Tail, Torn, hash, head_path};

/// Records that may wait for the writer; whoever has one more waits too.
pub(super) const QUEUE: usize = 256;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    /// To append a record.
    Record(Entry),
    /// That pushes of an earlier broker have their outcome.
    Concluded,
}

/// One record on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: String,
    pub(super) fields: Map<String, Value>,
    /// Told the record's number once it is in the chain.
    pub(super) written: oneshot::Sender<Result<u64, AuditError>>,
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// It has every record up to this number.
    To(u64),
    /// It failed: which records it has is not known any more. The kernel says so once, and a later flush that goes well
    /// would hide it, so that nothing is recorded until the next start has read the log again.
    Failed,
}

/// The ends of a log whose threads run. They end when the queue's sender is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) queue: mpsc::Sender<Order>,
    pub(super) flushed: watch::Receiver<Flushed>,
}

/// Opens a log, records what is wrong with it, and starts its threads.
pub(super) fn start(path: &Path) -> io::Result<Threads> {
    let (head_file, head) = HeadFile::open(&head_path(path))?;
    let (writer, to_flush) = Writer::open(path, head)?;
    let (flushed, flushed_to) = watch::channel(Flushed::To(0));
    let flusher = Flusher { file: writer.file.try_clone()?, head_file, flushed: flushed.clone() };
    let (queue, orders) = mpsc::channel(QUEUE);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("audit-flusher").spawn(move || flusher.run(&to_flush))?;
    thread("audit-writer").spawn(move || writer.run(orders, &flushed))?;
    Ok(Threads { queue, flushed: flushed_to })
}

/// Appends records. The only one who writes to the log.
struct Writer {
    file: File,
    /// How long the log is, by what was written: what else is in it somebody else wrote.
    length: u64,
    last: Last,
    unanswered: Unanswered,
    flusher: threads::Sender<Head>,
}

impl Writer {
    fn open(path: &Path, head: Option<Head>) -> io::Result<(Self, threads::Receiver<Head>)> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let length = file.metadata()?.len();
        let answered = head.as_ref().map_or(0, |head| head.answered).min(length);
        let (flusher, to_flush) = threads::channel();
        let unanswered = Unanswered { since: BTreeMap::new(), before: Some(answered) };
        let mut writer = Self { file, length, last: Last::genesis(), unanswered, flusher };
        let tail = writer.tail()?;
        let broken = match &head {
            Some(head) => tail.against(head),
            None => (length > 0).then_some(Broken::HeadLost),
        };
        writer.resume(tail, broken, head.as_ref())?;
        Ok((writer, to_flush))
    }

    fn tail(&mut self) -> io::Result<Tail> {
        self.length = self.file.metadata()?.len();
        Tail::read(&self.file, self.length)
    }

    /// Goes on after what is in the log now, and records where that is not what was written.
    fn resume(&mut self, tail: Tail, broken: Option<Broken>, head: Option<&Head>) -> io::Result<()> {
        let found = tail.last.seq;
        self.last = tail.last;
        if let Some(torn) = tail.torn {
            self.close(&torn)?;
        }
        let Some(what) = broken else { return Ok(()) };
        let fields = [
            ("what", json!(what)),
            ("found", found.into()),
            ("expected", json!(head.map(|head| head.seq))),
            ("hash", json!(head.map(|head| &head.hash))),
        ];
        // Numbers are not used again: what is missing has its own.
        self.last.seq = self.last.seq.max(head.map_or(0, |head| head.seq));
        self.append(BROKEN, named(fields)).map(drop)
    }

    /// Ends a line that its broker could not finish, and names it.
    fn close(&mut self, torn: &Torn) -> io::Result<()> {
        (&self.file).write_all(b"\n")?;
        self.length += 1;
        self.append(TORN, named([("torn", json!(torn.hash)), ("bytes", torn.bytes.into())])).map(drop)
    }

    fn run(mut self, mut orders: mpsc::Receiver<Order>, flushed: &watch::Sender<Flushed>) {
        while let Some(order) = orders.blocking_recv() {
            let Order::Record(Entry { event, fields, written }) = order else {
                self.unanswered.before = None;
                continue;
            };
            let failed = matches!(*flushed.borrow(), Flushed::Failed);
            let result = if failed { Err(AuditError::Failed) } else { self.take(&event, fields) };
            // Whoever does not wait any more has no use for the number.
            drop(written.send(result));
        }
    }

    fn take(&mut self, event: &str, fields: Map<String, Value>) -> Result<u64, AuditError> {
        self.guard().and_then(|()| self.append(event, fields)).map_err(AuditError::Disk)
    }

    /// Notices what another program did to the log since the last record.
    fn guard(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.length {
            return Ok(());
        }
        tracing::error!("another program wrote to the audit log");
        let Last { seq, hash } = self.last.clone();
        let head = Head { seq, hash, answered: 0 };
        let tail = self.tail()?;
        let what = tail.against(&head).unwrap_or(Broken::AnotherWriter);
        self.resume(tail, Some(what), Some(&head))
    }

    /// Writes one record. What could not be written whole is taken back.
    fn append(&mut self, event: &str, fields: Map<String, Value>) -> io::Result<u64> {
        let at = self.length;
        let mut entry = Map::new();
        entry.insert("seq".into(), (self.last.seq + 1).into());
        entry.insert("time".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
        entry.insert("prev".into(), self.last.hash.clone().into());
        entry.insert("event".into(), event.into());
        entry.extend(fields);
        let pushed = Unanswered::key(&entry);
        let mut line = Value::Object(entry).to_string();
        let hash = hash(line.as_bytes());
        line.push('\n');
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            self.file.set_len(at)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        self.unanswered.see(at, event, pushed);
        self.last = Last { seq: self.last.seq + 1, hash };
        let head = Head {
            seq: self.last.seq,
            hash: self.last.hash.clone(),
            answered: self.unanswered.from(self.length),
        };
        // The flusher ends after us.
        drop(self.flusher.send(head));
        Ok(self.last.seq)
    }
}

fn named<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// Pushes that are being sent: where in the log the oldest of them begins.
#[derive(Debug)]
struct Unanswered {
    since: BTreeMap<(String, String), u64>,
    /// Where those of an earlier broker may begin, until this one has concluded them.
    before: Option<u64>,
}

impl Unanswered {
    /// What names a push.
    fn key(entry: &Map<String, Value>) -> (String, String) {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("session"), text("digest"))
    }

    fn see(&mut self, at: u64, event: &str, push: (String, String)) {
        match event {
            "push-sending" => {
                self.since.entry(push).or_insert(at);
            }
            "push-sent" | "push-unknown" => {
                self.since.remove(&push);
            }
            _ => {}
        }
    }

    /// The byte before which every push has its outcome, in a log of so many bytes.
    fn from(&self, length: u64) -> u64 {
        let oldest = self.since.values().copied().chain(self.before).min();
        oldest.unwrap_or(length)
    }
}

/// Has the disk take what was written.
struct Flusher {
    file: File,
    head_file: HeadFile,
    flushed: watch::Sender<Flushed>,
}

impl Flusher {
    fn run(mut self, heads: &threads::Receiver<Head>) {
        while let Ok(first) = heads.recv() {
            // All that came meanwhile goes with it.
            let head = heads.try_iter().last().unwrap_or(first);
            // Second: a log that is shorter than its head says is one that was cut.
            let result = self.file.sync_data().and_then(|()| self.head_file.write(&head));
            match result {
                Ok(()) => drop(self.flushed.send_replace(Flushed::To(head.seq))),
                Err(error) => {
                    tracing::error!(%error, "the audit log is not on disk");
                    self.flushed.send_replace(Flushed::Failed);
                    return;
                }
            }
        }
    }
}
