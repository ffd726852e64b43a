//! The room of a container's session: its own git directories are the host's disk, and nothing of keyhatch's runs in the
//! container that could be ended. A session that fills them is closed, and with it they go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyhatch_policies::SessionLimits;
use keyhatch_policies::rules::Mount;
use tokio::time::{MissedTickBehavior, interval};

use super::growth::{Bound, Counts, Growth};
use super::{Hit, Limit};

/// How often it is asked whether the limit was hit.
const TICK: Duration = Duration::from_millis(200);

/// The watch over it. Ends when dropped.
#[derive(Debug)]
pub struct Room {
    watched: Option<(Growth, Limit)>,
}

/// What of a session's mounts are its own git directories: what it can write and lies below a directory of ours.
#[must_use]
pub fn git_directories(mounts: &[Mount], below: &Path) -> Vec<PathBuf> {
    let own = mounts.iter().filter(|mount| !mount.read_only && mount.source.starts_with(below));
    own.map(|mount| mount.source.clone()).collect()
}

/// How far they may grow: as the project may, of which they are a part; where the policy says nothing of that, as files
/// outside of it may.
pub(super) fn of_git_directories(
    directories: Vec<PathBuf>,
    limits: &SessionLimits,
) -> Option<(Bound, Limit)> {
    let (most, limit) =
        limits.growth.map_or((limits.disk, Limit::Disk(limits.disk)), |most| (most, Limit::Growth(most)));
    let bound = Bound { directories, most, counts: Counts::More };
    (!bound.directories.is_empty()).then_some((bound, limit))
}

impl Room {
    /// Starts to watch.
    #[must_use]
    pub fn watch(directories: Vec<PathBuf>, limits: &SessionLimits) -> Self {
        let watched = of_git_directories(directories, limits);
        Self { watched: watched.map(|(bound, limit)| (Growth::watch(bound, None), limit)) }
    }

    /// Waits until they have grown beyond the limit, or what was brought from them to the host's has.
    pub async fn exceeded(&self, brought: impl Fn() -> u64) -> Hit {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some((growth, limit)) = &self.watched else { return std::future::pending().await };
            let most = match limit {
                Limit::Growth(most) | Limit::Disk(most) => *most,
                _ => u64::MAX,
            };
            if growth.is_exceeded() || brought() > most {
                return Hit { limit: *limit, killed: true, by_cgroup: false };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_directories_may_grow_as_the_project_may_or_else_as_other_files() {
        let mount = |source: &str, read_only| Mount { source: source.into(), target: "/x".into(), read_only };
        let mounts = [mount("/s/1/0/git", false), mount("/s/1/empty", true), mount("/home/u/p", false)];
        let own = git_directories(&mounts, Path::new("/s/1"));
        assert_eq!(own, [PathBuf::from("/s/1/0/git")]);
        let limits = SessionLimits { disk: 7, ..SessionLimits::default() };
        let limit =
            |limits| of_git_directories(own.clone(), &limits).map(|(bound, limit)| (bound.most, limit));
        assert_eq!(limit(limits), Some((7, Limit::Disk(7))));
        assert_eq!(limit(SessionLimits { growth: Some(3), ..limits }), Some((3, Limit::Growth(3))));
        assert!(of_git_directories(Vec::new(), &limits).is_none());
    }
}
