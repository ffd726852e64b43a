//! What of the host's disk the pushes of one session may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many pushes of the largest size a session's disk has room for: one that waits for a person, and others meanwhile.
const AT_ONCE: u64 = 4;

/// What of the host's disk a session's pushes may take together, in bytes, while they wait or are sent.
#[derive(Debug)]
pub struct SpoolQuota {
    limit: u64,
    used: AtomicU64,
}

/// The quota is used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuotaExceeded {
    /// What the pushes may take together, in bytes.
    pub(super) limit: u64,
}

impl SpoolQuota {
    /// Room for a few pushes of the size that the policy allows, in bytes.
    #[must_use]
    pub fn of(largest: u64) -> Arc<Self> {
        Arc::new(Self { limit: largest.saturating_mul(AT_ONCE), used: AtomicU64::new(0) })
    }
}

/// What one push takes of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    quota: Arc<SpoolQuota>,
    bytes: u64,
}

impl Reservation {
    /// Takes nothing yet.
    pub(super) fn new(quota: &Arc<SpoolQuota>) -> Self {
        Self { quota: quota.clone(), bytes: 0 }
    }

    /// Takes more.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), QuotaExceeded> {
        let limit = self.quota.limit;
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.quota.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(QuotaExceeded { limit }),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
