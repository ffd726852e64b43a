//! The prompt over the agent's own terminal: the agent's screen is put aside, ours is shown, keys are ours.
//!
//! No key decides that was not pressed alone, after the question had been on the screen for a moment without anything typed:
//! not one that was typed ahead, pasted, or sent by the terminal. "Later" is never for good: it is asked again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyhatch_protocol::SessionId;
use keyhatch_terminal::{Key, Row, Size};

use super::display::{Gate, Taken, window};
use super::keyboard::{Keyboard, Pressed};
use crate::approval::Scope;
use crate::control::client::Client;
use crate::control::{Reply, Request, RequestView, ShownRequest, Verdict};
use crate::paths::Paths;
use crate::signer::LockedKey;
use crate::surface;
use crate::surface::question::{Offer, View, farewell, layout};

/// How often the queue is asked while a prompt is open: somebody else may decide.
const TICK: Duration = Duration::from_millis(200);
/// How often it is asked whether a key waits for its passphrase.
const LOCKS: Duration = Duration::from_secs(1);
/// How long a request that was left for later waits before it is asked again; twice as long each time.
const AGAIN: Duration = Duration::from_secs(30);
/// How long it is said how to get a request back, unless a key is pressed.
const FAREWELL: Duration = Duration::from_secs(3);

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
        let asker = Asker { paths, session, gate, stop: stop.clone() };
        let thread = std::thread::spawn(move || asker.run());
        Self { stop, thread }
    }

    /// Stops asking.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
    }
}

/// Whoever asks for one session on one terminal.
struct Asker {
    paths: Paths,
    session: SessionId,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
}

/// A request that was left undecided.
struct Left {
    /// The request that was shown: its digest.
    digest: String,
    /// When it is asked again.
    until: Instant,
    /// How long it waits then.
    next: Duration,
}

/// How a question ended.
enum Ended {
    /// It was decided, here or elsewhere, or it is gone.
    Over,
    /// The person will decide later.
    Later,
    /// Whoever asked went away: it can still be decided.
    Withdrawn,
}

impl Asker {
    fn run(&self) {
        let mut left: Vec<Left> = Vec::new();
        let (mut told, mut looked) = (Vec::new(), Instant::now());
        while !self.stopped() {
            let waiting = self.waiting();
            left.retain(|left| waiting.iter().any(|request| request.digest == left.digest));
            let is_due = |request: &&RequestView| {
                let known = left.iter().find(|left| left.digest == request.digest);
                !request.withdrawn && known.is_none_or(|left| left.until <= Instant::now())
            };
            match waiting.iter().find(is_due) {
                Some(request) => {
                    let again = left.iter().find(|left| left.digest == request.digest).map(|left| left.next);
                    let wait = again.unwrap_or(AGAIN);
                    if let Err(error) = self.ask(request, wait) {
                        tracing::debug!(%error, "the prompt failed");
                    }
                    left.retain(|left| left.digest != request.digest);
                    left.push(Left {
                        digest: request.digest.clone(),
                        until: Instant::now() + wait,
                        next: wait.saturating_mul(2),
                    });
                }
                None if looked.elapsed() > LOCKS => {
                    looked = Instant::now();
                    self.tell_of_locked(&mut told);
                }
                None => std::thread::sleep(TICK),
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What of this session waits.
    fn waiting(&self) -> Vec<RequestView> {
        let asked =
            Client::connect(&self.paths).and_then(|mut client| client.ask(Request::Pending { wait: false }));
        match asked {
            Ok(Reply::Pending(listing)) => {
                listing.requests.into_iter().filter(|request| request.session == self.session).collect()
            }
            // A broker that is gone has nothing to ask.
            _ => Vec::new(),
        }
    }

    /// A request with all that is shown of one; a listing has less.
    fn shown(&self, request: &RequestView) -> Option<ShownRequest> {
        let show = Request::Show { id: request.id.clone() };
        match Client::connect(&self.paths).and_then(|mut client| client.ask(show)) {
            Ok(Reply::Shown(shown)) if shown.request.digest == request.digest => Some(*shown),
            _ => None,
        }
    }

    fn ask(&self, request: &RequestView, wait: Duration) -> io::Result<()> {
        let shown = self.shown(request);
        let request = shown.as_ref().map_or(request, |shown| &shown.request);
        let mut screen = self.gate.take()?;
        let mut keyboard = Keyboard::take()?;
        let ended = Question::new(self, request).run(&mut screen, &mut keyboard);
        let why = match ended {
            Ok(Ended::Later) => Some(format!("it is asked again here in {} s", wait.as_secs())),
            Ok(Ended::Withdrawn) => Some("whoever asked has gone; run it again then".to_owned()),
            _ => None,
        };
        if let Some(why) = why {
            self.show_until_key(&mut screen, &mut keyboard, |size| farewell(request, &why, size))?;
        }
        keyboard.give_back();
        ended.map(drop)
    }

    fn decide(
        &self,
        request: &RequestView,
        decision: Verdict,
    ) -> Result<(), crate::control::client::ClientError> {
        let decide =
            Request::Decide { id: request.id.clone(), digest: Some(request.digest.clone()), decision };
        Client::connect(&self.paths).and_then(|mut client| client.ask(decide)).map(drop)
    }

    /// Shows a screen until a key is pressed, but not for long.
    fn show_until_key(
        &self,
        screen: &mut Taken<'_>,
        keyboard: &mut Keyboard,
        rows: impl Fn(Size) -> Vec<Row>,
    ) -> io::Result<()> {
        let since = Instant::now();
        let mut drawn = None;
        while since.elapsed() < FAREWELL && !self.stopped() {
            let size = window();
            if drawn != Some(size) {
                screen.draw(&rows(size), size)?;
                drawn = Some(size);
            }
            if keyboard.key()?.is_some_and(|pressed| pressed.key != Key::Other) {
                break;
            }
        }
        Ok(())
    }
}

/// A request on the screen.
struct Question<'a> {
    asker: &'a Asker,
    request: &'a RequestView,
    scroll: usize,
    seen: usize,
    /// The request with its diff, while that is what scrolls.
    diff: Option<ShownRequest>,
}

impl<'a> Question<'a> {
    fn new(asker: &'a Asker, request: &'a RequestView) -> Self {
        Self { asker, request, scroll: 0, seen: 0, diff: None }
    }

    fn run(mut self, screen: &mut Taken<'_>, keyboard: &mut Keyboard) -> io::Result<Ended> {
        let mut asked_broker = Instant::now();
        let (mut drawn, mut diff) = (None, None);
        let mut laid = layout(self.request, View::default(), window());
        while !self.asker.stopped() {
            if asked_broker.elapsed() > TICK {
                asked_broker = Instant::now();
                match self.asker.waiting().iter().find(|other| other.digest == self.request.digest) {
                    None => return Ok(Ended::Over),
                    Some(now) if now.withdrawn => return Ok(Ended::Withdrawn),
                    Some(_) => {}
                }
            }
            let size = window();
            if drawn != Some(size) {
                if diff.is_none() || drawn.is_some_and(|before: Size| before.columns != size.columns) {
                    let columns = usize::from(size.columns);
                    diff = self.diff.as_ref().map(|shown| surface::diff_rows(shown, columns));
                    self.seen = 0;
                }
                let view = View { scroll: self.scroll, diff: diff.as_deref(), seen: self.seen };
                laid = layout(self.request, view, size);
                (self.seen, self.scroll) = (laid.seen, self.scroll.min(laid.furthest));
                screen.draw(&laid.rows, size)?;
                if drawn.is_some_and(|before| before != size) {
                    // Another size shows something else in the places that were read.
                    keyboard.disarm();
                }
                drawn = Some(size);
            }
            let Some(pressed) = keyboard.key()? else { continue };
            match self.answer(pressed, laid.offer) {
                Some(Answer::Later) => return Ok(Ended::Later),
                Some(Answer::Decide(decision)) => {
                    if let Err(error) = self.asker.decide(self.request, decision) {
                        let why = error.to_string();
                        let rows = |size| farewell(self.request, &why, size);
                        self.asker.show_until_key(screen, keyboard, rows)?;
                    }
                    return Ok(Ended::Over);
                }
                None => {}
            }
            if self.moves(pressed.key, laid.viewer, laid.furthest) {
                drawn = None;
            }
            if pressed.key == Key::Character('v') && laid.offer != Offer::TooSmall {
                self.turn();
                (drawn, diff) = (None, None);
            }
        }
        Ok(Ended::Over)
    }

    fn answer(&self, pressed: Pressed, offer: Offer) -> Option<Answer> {
        if !pressed.decides {
            return None;
        }
        let approve = |scope| Some(Answer::Decide(Verdict::Approve { scope }));
        match (pressed.key, offer) {
            (Key::Character('l') | Key::Interrupt, _) => Some(Answer::Later),
            (_, Offer::TooSmall) => None,
            (Key::Character('a'), Offer::Decide) => approve(Scope::Once),
            (Key::Character('s'), Offer::Decide) if !self.request.once_only => approve(Scope::Session),
            (Key::Character('d'), _) => Some(Answer::Decide(Verdict::Deny { reason: None })),
            _ => None,
        }
    }

    /// Scrolls, and says whether it did.
    fn moves(&mut self, key: Key, viewer: usize, furthest: usize) -> bool {
        let page = viewer.saturating_sub(1).max(1);
        let to = match key {
            Key::Down | Key::Enter | Key::Character('j') => self.scroll + 1,
            Key::Up | Key::Character('k') => self.scroll.saturating_sub(1),
            Key::PageDown | Key::Character(' ') => self.scroll + page,
            Key::PageUp | Key::Character('b') => self.scroll.saturating_sub(page),
            Key::Home | Key::Character('g') => 0,
            Key::End | Key::Character('G') => furthest,
            _ => return false,
        };
        let to = to.min(furthest);
        std::mem::replace(&mut self.scroll, to) != to
    }

    /// Turns between the details and the diff.
    fn turn(&mut self) {
        self.scroll = 0;
        if self.diff.take().is_some() {
            return;
        }
        self.diff = self.asker.shown(self.request);
    }
}

/// What a key decides.
enum Answer {
    Decide(Verdict),
    Later,
}

impl Asker {
    /// The keys that this session's signatures wait for.
    fn locked(&self) -> Vec<LockedKey> {
        match Client::connect(&self.paths).and_then(|mut client| client.ask(Request::Locked)) {
            Ok(Reply::Locked { keys }) => {
                keys.into_iter().filter(|key| key.sessions.contains(&self.session)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Says once of each key that it waits for its passphrase. It is not asked for here: the agent can draw the same on
    /// this terminal, and would be given it the next time.
    fn tell_of_locked(&self, told: &mut Vec<String>) {
        let waiting = self.locked();
        // A key that was opened, and waits again in a later session of the broker's, is news.
        told.retain(|known| waiting.iter().any(|key| &key.fingerprint == known));
        let Some(key) = waiting.into_iter().find(|key| !told.contains(&key.fingerprint)) else { return };
        if let Err(error) = self.notice(&key) {
            tracing::debug!(%error, "the notice failed");
        }
        told.push(key.fingerprint);
    }

    fn notice(&self, key: &LockedKey) -> io::Result<()> {
        let mut screen = self.gate.take()?;
        let mut keyboard = Keyboard::take()?;
        let (mut looked, mut drawn) = (Instant::now(), None);
        while !self.stopped() {
            let size = window();
            if drawn != Some(size) {
                screen.draw(&notice_rows(key, size), size)?;
                drawn = Some(size);
            }
            // Whatever else is typed here is thrown away: it may be a passphrase after all.
            if keyboard.key()?.is_some_and(|pressed| matches!(pressed.key, Key::Enter | Key::Interrupt)) {
                break;
            }
            if looked.elapsed() > TICK {
                looked = Instant::now();
                if !self.locked().iter().any(|one| one.fingerprint == key.fingerprint) {
                    break;
                }
            }
        }
        keyboard.give_back();
        Ok(())
    }
}

fn notice_rows(key: &LockedKey, size: Size) -> Vec<Row> {
    let text = format!("keyhatch: {}\n  Enter  back to the agent", surface::locked(key));
    let mut rows: Vec<Row> = text.lines().map(Row::keyhatch).collect();
    rows.resize(usize::from(size.rows), Row::keyhatch(""));
    rows
}
