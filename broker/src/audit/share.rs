//! What of the audit log one session may fill: the disk is the user's, and a session can be refused as often as it likes.
//!
//! Comes in: events that a session caused. Goes out: whether each is written by itself, counted for a sum, or refused.
//! Refusals are written one by one while they are few, in bounded length, then counted: every one is in the log, most as
//! a number. What was done is always written, so that what a session may do ends where its share does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keyhatch_protocol::SessionId;
use serde_json::{Map, Value};

/// Most bytes of records of what one session did in an hour: 60,000 signatures, or 30 pushes of 10,000 refs.
pub const HOURLY_BYTES: u64 = 64 * 1024 * 1024;
/// Refusals of one kind that are written one by one in an hour: people look at each of them, agents try in loops.
const HOURLY_REFUSALS: u64 = 20;
/// How often the sum of those that are not is written.
pub const SUM_EVERY: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Longest text in a refusal's record, in characters.
const MAX_TEXT: usize = 500;
/// Most elements of a list in a refusal's record.
const MAX_ELEMENTS: usize = 20;

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is written by itself.
    Written,
    /// It is counted, and is the first since the last sum: somebody must write the next.
    CountedFirst,
    /// It is counted.
    Counted,
}

/// The shares of all open sessions. Made when a session is added, dropped when it has ended.
#[derive(Debug, Default)]
pub struct Shares(Mutex<HashMap<SessionId, Share>>);

#[derive(Debug)]
struct Share {
    since: Instant,
    bytes: u64,
    /// By event.
    refusals: BTreeMap<&'static str, Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    /// In this hour.
    written: u64,
    /// Since the last sum.
    counted: u64,
}

impl Share {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, refusals: BTreeMap::new() }
    }

    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= HOUR {
            self.since = now;
            self.bytes = 0;
            self.refusals.values_mut().for_each(|refusals| refusals.written = 0);
        }
    }
}

impl Shares {
    /// Gives a session its share.
    pub fn add(&self, session: &SessionId) {
        self.lock().insert(session.clone(), Share::new(Instant::now()));
    }

    /// Takes so many bytes for a record of what a session does; false where its share of this hour has no room for them.
    /// A session without a share has ended: what it began is written.
    #[must_use]
    pub fn take(&self, session: &SessionId, bytes: u64, now: Instant) -> bool {
        let mut shares = self.lock();
        let Some(share) = shares.get_mut(session) else { return true };
        share.refresh(now);
        let fits = share.bytes + bytes <= HOURLY_BYTES;
        if fits {
            share.bytes += bytes;
        }
        fits
    }

    /// Counts a refusal; none for a session that has ended.
    #[must_use]
    pub fn refuse(&self, session: &SessionId, event: &'static str, now: Instant) -> Option<Refusal> {
        let mut shares = self.lock();
        let share = shares.get_mut(session)?;
        share.refresh(now);
        let refusals = share.refusals.entry(event).or_default();
        if refusals.written < HOURLY_REFUSALS {
            refusals.written += 1;
            return Some(Refusal::Written);
        }
        refusals.counted += 1;
        Some(if refusals.counted == 1 { Refusal::CountedFirst } else { Refusal::Counted })
    }

    /// Takes the sum of refusals of a kind that were counted since the last one; 0 where there are none.
    #[must_use]
    pub fn sum(&self, session: &SessionId, event: &'static str) -> u64 {
        let mut shares = self.lock();
        let refusals = shares.get_mut(session).and_then(|share| share.refusals.get_mut(event));
        refusals.map_or(0, |refusals| std::mem::take(&mut refusals.counted))
    }

    /// Ends a session's share, and takes its last sums, by event.
    #[must_use]
    pub fn remove(&self, session: &SessionId) -> Vec<(&'static str, u64)> {
        let share = self.lock().remove(session);
        let refusals = share.map(|share| share.refusals).unwrap_or_default().into_iter();
        refusals.map(|(event, refusals)| (event, refusals.counted)).filter(|(_, sum)| *sum > 0).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fields of a refusal's record, cut to a bounded length: what was refused is the session's own word.
#[must_use]
pub fn bounded(fields: Map<String, Value>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name, short(value, 0))).collect()
}

/// Cuts a value. Deeper than three lists there is nothing in our records.
fn short(value: Value, depth: usize) -> Value {
    match value {
        Value::String(text) if text.chars().nth(MAX_TEXT).is_some() => {
            let kept: String = text.chars().take(MAX_TEXT).collect();
            format!("{kept}… ({} bytes)", text.len()).into()
        }
        Value::Array(_) | Value::Object(_) if depth > 3 => Value::Null,
        Value::Array(mut elements) => {
            let more = elements.len().saturating_sub(MAX_ELEMENTS);
            elements.truncate(MAX_ELEMENTS);
            let mut kept: Vec<Value> =
                elements.into_iter().map(|element| short(element, depth + 1)).collect();
            if more > 0 {
                kept.push(format!("… and {more} more").into());
            }
            Value::Array(kept)
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().take(MAX_ELEMENTS);
            Value::Object(fields.map(|(name, value)| (name, short(value, depth + 1))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(byte: u8) -> SessionId {
        SessionId::from_random([byte; 4])
    }

    #[test]
    fn the_first_refusals_are_written_the_rest_counted_and_none_is_lost() {
        let (shares, one, other, now) = (Shares::default(), session(1), session(2), Instant::now());
        shares.add(&one);
        shares.add(&other);
        let refuse = |session: &SessionId, now| shares.refuse(session, "fetch-denied", now).expect("a share");
        for _ in 0..HOURLY_REFUSALS {
            assert_eq!(refuse(&one, now), Refusal::Written);
        }
        assert_eq!(refuse(&one, now), Refusal::CountedFirst);
        assert_eq!(refuse(&one, now), Refusal::Counted);
        // Neither another session nor another kind pays for it.
        assert_eq!(refuse(&other, now), Refusal::Written);
        assert_eq!(shares.refuse(&one, "push-denied", now), Some(Refusal::Written));
        assert_eq!(shares.sum(&one, "fetch-denied"), 2);
        assert_eq!(refuse(&one, now), Refusal::CountedFirst);
        assert_eq!(refuse(&one, now + HOUR * 2), Refusal::Written);
        assert_eq!(shares.remove(&one), [("fetch-denied", 1)]);
        assert_eq!(shares.refuse(&one, "fetch-denied", now), None);
    }

    #[test]
    fn a_share_is_an_hours() {
        let (shares, one, now) = (Shares::default(), session(1), Instant::now());
        shares.add(&one);
        assert!(shares.take(&one, HOURLY_BYTES, now));
        assert!(!shares.take(&one, 1, now));
        assert!(shares.take(&one, 1, now + HOUR * 2));
        assert!(
            shares.take(&session(2), HOURLY_BYTES * 2, now),
            "it has ended, and what it began is written"
        );
    }

    #[test]
    fn a_refusals_record_is_short_whatever_was_refused() {
        let name = "ä".repeat(100_000);
        let updates: Vec<Value> = (0..10_000).map(|n| json!({"ref_name": name, "n": n})).collect();
        let deep = (0..200).fold(json!(name), |inner, _| json!([inner]));
        let fields = json!({"remote": name, "updates": updates, "deep": deep});
        let Value::Object(fields) = fields else { unreachable!() };
        let short = Value::Object(bounded(fields)).to_string();
        assert!(short.len() < 32 * 1024, "{}", short.len());
        assert!(short.contains("… and 9980 more") && short.contains("(200000 bytes)"));
        let plain = json!({"remote": "https://h.example/r", "reasons": [["refs/heads/m", "no"]]});
        let Value::Object(fields) = plain.clone() else { unreachable!() };
        assert_eq!(Value::Object(bounded(fields)), plain);
    }
}
