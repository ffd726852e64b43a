//! Whose turn it is to be inspected: few at once, and one of each session, since an inspection may take minutes and
//! gigabytes.
//!
//! Comes in: sessions that have something to be looked at. Goes out: turns, to the session that had none for longest. One
//! that twenty pushes wait for thus holds up another by one inspection at most. Whoever does not wait any more leaves the
//! queue by dropping the wait.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyhatch_protocol::SessionId;
use tokio::sync::oneshot;

/// Sessions whose last turn is remembered; the others count as if they had none.
const REMEMBERED: usize = 1000;

/// Gives turns.
#[derive(Debug, Clone)]
pub struct Schedule {
    most: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: HashSet<SessionId>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// When each session last had a turn, counted in turns.
    served: HashMap<SessionId, u64>,
    turns: u64,
}

#[derive(Debug)]
struct Waiting {
    session: SessionId,
    turn: oneshot::Sender<Turn>,
}

/// A turn; it ends when dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    schedule: Schedule,
    session: SessionId,
}

impl Schedule {
    /// Gives at most so many turns at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, state: Arc::default() }
    }

    /// Waits for a turn of this session's. `waits` says so meanwhile.
    pub async fn turn(&self, session: &SessionId, waits: &AtomicBool) -> Turn {
        waits.store(true, Ordering::Relaxed);
        let turn = self.next_turn(session).await;
        waits.store(false, Ordering::Relaxed);
        turn
    }

    async fn next_turn(&self, session: &SessionId) -> Turn {
        loop {
            let (turn, given) = oneshot::channel();
            self.lock().waiting.push(Waiting { session: session.clone(), turn });
            self.give();
            // A sender is only dropped after it was used.
            if let Ok(turn) = given.await {
                return turn;
            }
        }
    }

    /// Gives turns while there are some to give.
    fn give(&self) {
        while let Some(Waiting { session, turn }) = self.next() {
            // One that is not waited for any more is dropped here, and ends.
            drop(turn.send(Turn { schedule: self.clone(), session }));
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut state = self.lock();
        let state = &mut *state;
        state.waiting.retain(|one| !one.turn.is_closed());
        if state.running.len() >= self.most {
            return None;
        }
        let last = |one: &Waiting| state.served.get(&one.session).copied().unwrap_or(0);
        let ready = state.waiting.iter().enumerate().filter(|(_, one)| !state.running.contains(&one.session));
        let (at, _) = ready.min_by_key(|(_, one)| last(one))?;
        let next = state.waiting.remove(at);
        state.turns += 1;
        if state.served.len() >= REMEMBERED {
            state.served.clear();
        }
        state.served.insert(next.session.clone(), state.turns);
        state.running.insert(next.session.clone());
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.schedule.lock().running.remove(&self.session);
        self.schedule.give();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    struct Wait(Pin<Box<dyn Future<Output = Turn> + Send>>);

    impl std::fmt::Debug for Wait {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a wait")
        }
    }

    fn session(byte: u8) -> SessionId {
        SessionId::from_random([byte; 4])
    }

    /// Begins to wait, as a task that was polled once does.
    fn wait(schedule: &Schedule, byte: u8) -> Result<Turn, Wait> {
        let schedule = schedule.clone();
        let mut wait =
            Wait(Box::pin(async move { schedule.turn(&session(byte), &AtomicBool::default()).await }));
        ready(&mut wait).ok_or(wait)
    }

    fn ready(wait: &mut Wait) -> Option<Turn> {
        (&mut wait.0).now_or_never()
    }

    #[test]
    fn a_session_with_twenty_pushes_delays_another_by_one_inspection_at_most() {
        let schedule = Schedule::new(1);
        let first = wait(&schedule, 1).expect("nobody is before it");
        let mut many: Vec<Wait> = (0..19).map(|_| wait(&schedule, 1).expect_err("one at once")).collect();
        let mut other = wait(&schedule, 2).expect_err("one at once");
        drop(first);
        let turn = ready(&mut other).expect("it is next");
        assert!(many.iter_mut().all(|wait| ready(wait).is_none()));
        drop(turn);
        assert_eq!(many.iter_mut().filter_map(ready).count(), 19, "each ends and gives way to the next");
    }

    #[test]
    fn a_session_has_one_turn_at_once_and_all_have_as_many_as_there_are() {
        let schedule = Schedule::new(2);
        let one = wait(&schedule, 1).expect("free");
        let mut again = wait(&schedule, 1).expect_err("one of a session");
        let two = wait(&schedule, 2).expect("free");
        let mut three = wait(&schedule, 3).expect_err("two at once");
        drop(two);
        let three = ready(&mut three).expect("its turn");
        assert!(ready(&mut again).is_none());
        drop(one);
        assert!(ready(&mut again).is_some());
        drop(three);
    }

    #[test]
    fn whoever_does_not_wait_any_more_leaves_the_queue_and_turns_are_never_lost() {
        let schedule = Schedule::new(1);
        let first = wait(&schedule, 1).expect("free");
        let gone = wait(&schedule, 2).expect_err("one at once");
        let mut third = wait(&schedule, 3).expect_err("one at once");
        drop(gone);
        drop(first);
        let third = ready(&mut third).expect("its turn");
        // Given, and gone before it was noticed.
        let unnoticed = wait(&schedule, 4).expect_err("one at once");
        drop(third);
        drop(unnoticed);
        assert!(wait(&schedule, 5).is_ok());
    }
}
