//! Measuring: our figure beside what it is compared with, in one run, as a ratio. Nothing here asserts on time.

use std::time::Duration;

/// Durations of one thing, done several times.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Reads nanoseconds, one a line; other lines are not times.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter_map(|line| line.trim().parse().ok()).map(Duration::from_nanos).collect())
    }

    /// The middle one; of an even number, the lower of the two.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        *sorted.get((sorted.len().max(1) - 1) / 2).expect("something was measured")
    }

    /// The shortest: what is left where nothing else was running.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.0.iter().min().copied().expect("something was measured")
    }
}

/// Prints a comparison: what, ours, theirs, the ratio of the middle ones and what it aims at, and that of the shortest, which
/// say more on a machine that does other things too.
pub fn compare(what: &str, ours: &Times, (name, theirs): (&str, &Times), aim: Option<f64>) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (mine, other) = (milliseconds(ours.median()), milliseconds(theirs.median()));
    let (least, others) = (milliseconds(ours.shortest()), milliseconds(theirs.shortest()));
    let aim = aim.map(|aim| format!("  (aim: at most {aim:.1})")).unwrap_or_default();
    println!(
        "{what:<34} keyhatch {mine:>9.1} ms   {name:<24} {other:>9.1} ms   ratio {:.2}{aim}   shortest {least:.1} and \
         {others:.1} ms, ratio {:.2}",
        mine / other,
        least / others
    );
}
