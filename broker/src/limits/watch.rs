//! The watch over one running session: time, idleness, disk, growth, output, and memory where no cgroup holds it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyhatch_policies::{Policy, ProjectAccess, SessionLimits};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::growth::{Bound, Counts, Growth};
use super::room::of_git_directories;
use super::sample::{self, Sample};
use super::{Hit, Limit};

/// How often a session with little memory is looked at: it fills it in no time.
const OFTEN: Duration = Duration::from_millis(40);
/// How often any other is.
const SELDOM: Duration = Duration::from_millis(200);
/// Little memory.
const LITTLE: u64 = 1 << 30;
/// Processor time that is work: a twentieth of the time. A prompt that blinks is idle.
const WORK: u32 = 20;

/// Bytes that passed through the relay, in either direction.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the command.
    pub output: AtomicU64,
    /// To the command.
    pub input: AtomicU64,
}

impl Traffic {
    fn both(&self) -> u64 {
        self.output.load(Ordering::Relaxed) + self.input.load(Ordering::Relaxed)
    }
}

/// What is watched.
#[derive(Debug)]
pub struct Watched {
    /// The runner's process.
    pub runner: u32,
    /// The home inside.
    pub home: PathBuf,
    /// The directory of the host that is the home, where it is kept.
    pub kept_home: Option<PathBuf>,
    /// The project, where there is one.
    pub project: Option<PathBuf>,
    /// The session's own git directories.
    pub git_directories: Vec<PathBuf>,
    /// What passes.
    pub traffic: Arc<Traffic>,
    /// Whether a cgroup holds memory and processes.
    pub cgroup: bool,
}

/// The watch. Ends with the session.
#[derive(Debug)]
pub struct Watch {
    watched: Watched,
    limits: SessionLimits,
    started: Instant,
    ticks: Interval,
    growth: Vec<(Growth, Limit)>,
    active: Active,
    peak: u64,
    reached: Vec<Hit>,
}

#[derive(Debug)]
struct Active {
    at: Instant,
    looked: Instant,
    traffic: u64,
    cpu: Duration,
}

impl Watch {
    /// Starts watching.
    #[must_use]
    pub fn start(policy: &Policy, watched: Watched) -> Self {
        let limits = *policy.session_limits();
        let often = limits.memory.is_some_and(|bytes| bytes <= LITTLE);
        let mut ticks = interval(if often { OFTEN } else { SELDOM });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let writable = policy.sandbox().project == ProjectAccess::Write;
        let project = watched.project.clone().filter(|_| writable);
        let young = |directory, most| Bound { directories: vec![directory], most, counts: Counts::Young };
        let bounds = [
            project.zip(limits.growth).map(|(directory, most)| (young(directory, most), Limit::Growth(most))),
            watched.kept_home.clone().map(|home| (young(home, limits.disk), Limit::Disk(limits.disk))),
            of_git_directories(watched.git_directories.clone(), &limits),
        ];
        let growth = bounds
            .into_iter()
            .flatten()
            .map(|(bound, limit)| (Growth::watch(bound, Some(watched.runner)), limit));
        let now = Instant::now();
        Self {
            growth: growth.collect(),
            watched,
            limits,
            started: now,
            ticks,
            active: Active { at: now, looked: now, traffic: 0, cpu: Duration::ZERO },
            peak: 0,
            reached: Vec::new(),
        }
    }

    /// Waits until a limit is hit for which the session must end.
    pub async fn hit(&mut self) -> Hit {
        loop {
            self.ticks.tick().await;
            if let Some(limit) = self.look() {
                return Hit { limit, killed: true, by_cgroup: false };
            }
        }
    }

    /// What was hit on the way, and the session went on.
    #[must_use]
    pub fn reached(&self) -> &[Hit] {
        &self.reached
    }

    /// The most memory that was seen.
    #[must_use]
    pub const fn peak(&self) -> u64 {
        self.peak
    }

    /// How long it has run.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        self.started.elapsed()
    }

    fn look(&mut self) -> Option<Limit> {
        let limits = self.limits;
        if let Some(time) = limits.time.filter(|time| self.started.elapsed() >= *time) {
            return Some(Limit::Time(time));
        }
        let passed = self.watched.traffic.output.load(Ordering::Relaxed);
        if let Some(output) = limits.output.filter(|most| passed > *most) {
            return Some(Limit::Output(output));
        }
        if let Some((_, limit)) = self.growth.iter().find(|(growth, _)| growth.is_exceeded()) {
            return Some(*limit);
        }
        let sample = sample::take(self.watched.runner, &self.watched.home);
        self.peak = self.peak.max(sample.memory);
        if let Some(idle) = limits.idle
            && self.idle_for(sample) >= idle
        {
            return Some(Limit::Idle(idle));
        }
        if sample.disk_full {
            self.remember(Limit::Disk(limits.disk));
        }
        if self.watched.cgroup {
            return None;
        }
        // The runner and init are in the same user namespace, and the kernel counts them.
        if sample.tasks + 2 >= limits.processes {
            self.remember(Limit::Processes(limits.processes));
        }
        limits.memory.filter(|most| sample.memory > *most).map(Limit::Memory)
    }

    fn idle_for(&mut self, sample: Sample) -> Duration {
        let (now, traffic) = (Instant::now(), self.watched.traffic.both());
        let span = now.duration_since(self.active.looked);
        let moved = traffic != self.active.traffic;
        // The kernel counts in hundredths of a second: a shorter span would see none, or too many.
        if moved || span >= Duration::from_secs(1) {
            let worked = sample.cpu.saturating_sub(self.active.cpu);
            let at = if moved || worked * WORK > span { now } else { self.active.at };
            self.active = Active { at, looked: now, traffic, cpu: sample.cpu };
        }
        now.duration_since(self.active.at)
    }

    fn remember(&mut self, limit: Limit) {
        if !self.reached.iter().any(|hit| hit.limit == limit) {
            self.reached.push(Hit { limit, killed: false, by_cgroup: false });
        }
    }
}
