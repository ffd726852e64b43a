//! The clock that approvals and grants run out by: time since boot, the machine's sleep included.
//!
//! Whoever sets the wall clock, the user's own time daemon among them, makes no approval last longer. The wall clock is
//! for display alone.

use std::fmt;
use std::ops::Add;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment by `CLOCK_BOOTTIME`: the time since the machine started, suspended or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// A moment so long after the machine's start.
    #[must_use]
    pub const fn since_boot(since: Duration) -> Self {
        Self(since)
    }

    /// Now, by the kernel.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        // The kernel's is never negative.
        Self(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    /// How long after an earlier moment; zero where that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The wall clock's time at this moment, by what it says now.
    #[must_use]
    pub fn on_wall(self, now: Self, wall: SystemTime) -> SystemTime {
        let there =
            if self >= now { wall.checked_add(self.since(now)) } else { wall.checked_sub(now.since(self)) };
        there.unwrap_or(wall)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Where the queue reads the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> BootTime;
}

/// The kernel's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelClock;

impl Clock for KernelClock {
    fn now(&self) -> BootTime {
        BootTime::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_by_what_the_wall_clock_says_now() {
        let at = |seconds| BootTime::since_boot(Duration::from_secs(seconds));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(at(70).on_wall(at(60), wall), wall + Duration::from_secs(10));
        assert_eq!(at(50).on_wall(at(60), wall), wall - Duration::from_secs(10));
        assert_eq!(at(70).since(at(60)), Duration::from_secs(10));
        assert_eq!(at(60).since(at(70)), Duration::ZERO);
    }
}
