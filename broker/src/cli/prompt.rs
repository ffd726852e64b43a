//! The prompt over the agent's own terminal: the agent's screen is put aside, ours is shown, keys are ours.
//!
//! Typed-ahead keys never approve: what was typed before the prompt is thrown away, and the approving key counts only
//! after the prompt has been on the screen for a moment without a key.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyhatch_protocol::SessionId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{QueueSelector, tcflush};

use super::stdio::Gate;
use crate::approval::Scope;
use crate::control::client::Client;
use crate::control::{Reply, Request, RequestView, Verdict};
use crate::paths::Paths;
use crate::signer::LockedKey;
use crate::surface;

/// How long the prompt must have been seen, without a key, before a key can approve.
const ARMING: Duration = Duration::from_millis(700);
/// How often the queue is asked while a prompt is open: somebody else may decide.
const TICK: Duration = Duration::from_millis(200);

/// How often it is asked whether a key waits for its passphrase.
const LOCKS: Duration = Duration::from_secs(1);
/// The alternate screen: the agent's own comes back as it was.
const ASIDE: &str = "\x1b[?1049h\x1b[H\x1b[2J";
const BACK: &str = "\x1b[?1049l";

/// The thread that asks.
pub(super) struct Prompting {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Whether a person is there: input and output are a terminal.
pub(super) fn is_possible() -> bool {
    rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stdout())
}

impl Prompting {
    /// Starts asking for this session's requests.
    pub(super) fn start(paths: Paths, session: SessionId, gate: Arc<Gate>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut left_alone = Vec::new();
            let (mut told, mut looked) = (Vec::new(), Instant::now());
            while !stopping.load(Ordering::Relaxed) {
                let next = waiting(&paths, &session).into_iter().find(|r| !left_alone.contains(&r.id));
                match next {
                    Some(request) => {
                        gate.set_shut(true);
                        if let Err(error) = ask(&paths, &request, &stopping) {
                            tracing::debug!(%error, "the prompt failed");
                        }
                        gate.set_shut(false);
                        left_alone.push(request.id);
                    }
                    None if looked.elapsed() > LOCKS => {
                        looked = Instant::now();
                        tell_of_locked(&paths, &session, (&gate, &stopping), &mut told);
                    }
                    None => std::thread::sleep(TICK),
                }
            }
        });
        Self { stop, thread }
    }

    /// Stops asking.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
    }
}

/// What of this session waits, and is still held by a client.
fn waiting(paths: &Paths, session: &SessionId) -> Vec<RequestView> {
    let asked = Client::connect(paths).and_then(|mut client| client.ask(Request::Pending { wait: false }));
    match asked {
        Ok(Reply::Pending(listing)) => {
            listing.requests.into_iter().filter(|r| &r.session == session && !r.withdrawn).collect()
        }
        // A broker that is gone has nothing to ask.
        _ => Vec::new(),
    }
}

/// The keys that this session's signatures wait for.
fn locked(paths: &Paths, session: &SessionId) -> Vec<LockedKey> {
    match Client::connect(paths).and_then(|mut client| client.ask(Request::Locked)) {
        Ok(Reply::Locked { keys }) => keys.into_iter().filter(|key| key.sessions.contains(session)).collect(),
        _ => Vec::new(),
    }
}

/// Says once of each key that it waits for its passphrase. It is not asked for here: the agent can draw the same on this
/// terminal, and would be given it the next time.
fn tell_of_locked(
    paths: &Paths,
    session: &SessionId,
    (gate, stop): (&Gate, &AtomicBool),
    told: &mut Vec<String>,
) {
    let waiting = locked(paths, session);
    // A key that was opened, and waits again in a later session of the broker's, is news.
    told.retain(|known| waiting.iter().any(|key| &key.fingerprint == known));
    let Some(key) = waiting.into_iter().find(|key| !told.contains(&key.fingerprint)) else { return };
    gate.set_shut(true);
    if let Err(error) = notice(paths, session, (&key, stop)) {
        tracing::debug!(%error, "the notice failed");
    }
    gate.set_shut(false);
    told.push(key.fingerprint);
}

fn notice(paths: &Paths, session: &SessionId, (key, stop): (&LockedKey, &AtomicBool)) -> io::Result<()> {
    tcflush(io::stdin(), QueueSelector::IFlush)?;
    let mut out = io::stdout();
    let text = surface::locked(key).replace('\n', "\r\n");
    write!(out, "{ASIDE}keyhatch: {text}\r\n  Enter  back to the agent\r\n")?;
    out.flush()?;
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // Whatever else is typed here is thrown away: it may be a passphrase after all.
        if let Some(b'\r' | b'\n' | 0x03) = self::key()? {
            break;
        }
        if looked.elapsed() > TICK {
            looked = Instant::now();
            if !locked(paths, session).iter().any(|one| one.fingerprint == key.fingerprint) {
                break;
            }
        }
    }
    write!(out, "{BACK}")?;
    out.flush()
}

fn ask(paths: &Paths, request: &RequestView, stop: &AtomicBool) -> io::Result<()> {
    tcflush(io::stdin(), QueueSelector::IFlush)?;
    let mut out = io::stdout();
    write!(out, "{ASIDE}")?;
    let text = surface::request(request).replace('\n', "\r\n");
    let session = if request.once_only { "" } else { "   s  approve for this session" };
    write!(out, "keyhatch: the agent wants to\r\n\r\n{text}\r\n")?;
    write!(out, "  a  approve once{session}   d  deny   v  view the diff   l  decide later\r\n")?;
    out.flush()?;
    let verdict = read_verdict(paths, request, stop)?;
    if let Some(decision) = verdict {
        let decide =
            Request::Decide { id: request.id.clone(), digest: Some(request.digest.clone()), decision };
        let answer = Client::connect(paths).and_then(|mut client| client.ask(decide));
        if let Err(error) = answer {
            write!(out, "\r\nkeyhatch: {error}\r\n")?;
            out.flush()?;
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    write!(out, "{BACK}")?;
    out.flush()
}

fn read_verdict(paths: &Paths, request: &RequestView, stop: &AtomicBool) -> io::Result<Option<Verdict>> {
    let mut quiet_since = Instant::now();
    let mut asked_broker = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if asked_broker.elapsed() > TICK {
            asked_broker = Instant::now();
            if !waiting(paths, &request.session).iter().any(|r| r.id == request.id) {
                // Decided elsewhere, withdrawn or expired.
                return Ok(None);
            }
        }
        let Some(key) = key()? else { continue };
        let armed = quiet_since.elapsed() >= ARMING;
        quiet_since = Instant::now();
        match key {
            b'a' if armed => return Ok(Some(Verdict::Approve { scope: Scope::Once })),
            b's' if armed && !request.once_only => {
                return Ok(Some(Verdict::Approve { scope: Scope::Session }));
            }
            b'd' => return Ok(Some(Verdict::Deny { reason: None })),
            b'l' | 0x1b | 0x03 => return Ok(None),
            b'v' => show_diff(paths, request)?,
            _ => {}
        }
    }
}

fn show_diff(paths: &Paths, request: &RequestView) -> io::Result<()> {
    let shown = Client::connect(paths).and_then(|mut c| c.ask(Request::Show { id: request.id.clone() }));
    if let Ok(Reply::Shown(shown)) = shown {
        let mut out = io::stdout();
        write!(out, "\r\n{}\r\n", surface::diff(&shown).replace('\n', "\r\n"))?;
        out.flush()?;
    }
    Ok(())
}

fn key() -> io::Result<Option<u8>> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    if poll(&mut polled, Some(&tick))? == 0 {
        return Ok(None);
    }
    let mut byte = [0];
    let read = rustix::io::read(&stdin, &mut byte)?;
    Ok((read == 1).then_some(byte[0]))
}
