//! What a session's own git directory costs: the start of a session, and the time from a commit inside to the ref
//! outside, in a nearly empty repository and in larger and larger ones, in turns.
//!
//! cargo build --release && KEYHATCH_BIN=$PWD/target/release cargo bench -p keyhatch-tests --bench gitdir

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhatch_tests::World;
use keyhatch_tests::measure::{Times, compare};

/// How often each, in turns.
const TURNS: usize = 9;
/// Files, the directories that they lie in, and refs.
const SIZES: [(usize, usize, usize); 4] =
    [(1, 1, 0), (1000, 10, 0), (30_000, 300, 10_000), (300_000, 3000, 100_000)];
/// How much later than a nearly empty one the largest may start.
const AIM: f64 = 60.0;

/// One repository and what was measured in it.
struct Subject {
    name: String,
    project: PathBuf,
    start: Times,
    arrival: Times,
    /// The broker's time on a processor until the command runs, and starts that it was for.
    processor: (Duration, u32),
}

fn main() {
    let world = World::new();
    let mut subjects: Vec<Subject> = SIZES.iter().map(|size| subject(&world, *size)).collect();
    for turn in 0..=TURNS {
        for subject in &mut subjects {
            let (start, arrival, processor) = once(&world, &subject.project);
            // The first turn finds directories that were just made, which are looked at again.
            if turn > 0 {
                subject.start.add(start);
                subject.arrival.add(arrival);
                subject.processor = (subject.processor.0 + processor, subject.processor.1 + 1);
            }
        }
    }
    let empty = &subjects[0];
    for subject in &subjects[1..] {
        let (mine, theirs) = (&subject.start, &empty.start);
        compare(&format!("start, {}", subject.name), mine, ("nearly empty", theirs), None);
        println!(
            "{:<34} later by {:.1} ms, the fastest of each by {:.1} ms  (aim: at most {AIM:.0}); broker's processor time {:.1} ms, nearly empty {:.1} ms",
            "",
            milliseconds(mine.median()) - milliseconds(theirs.median()),
            milliseconds(mine.shortest()) - milliseconds(theirs.shortest()),
            milliseconds(subject.processor.0 / subject.processor.1),
            milliseconds(empty.processor.0 / empty.processor.1),
        );
        let what = format!("commit inside to ref outside, {}", subject.name);
        compare(&what, &subject.arrival, ("nearly empty", &empty.arrival), None);
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn subject(world: &World, (files, directories, refs): (usize, usize, usize)) -> Subject {
    let name = format!("{files} files, {refs} refs");
    let project = world.project(&format!("of-{files}"), "https://h.example/p.git");
    let make = format!(
        "for d in $(seq {directories}); do mkdir d$d; (cd d$d; for f in $(seq {}); do echo $f > $f; done); done; \
         git add -A; git commit -qm all; git gc -q; h=$(git rev-parse HEAD); \
         (echo '# pack-refs with: sorted '; for n in $(seq 100000 {}); do echo \"$h refs/heads/n$n\"; done) > .git/packed-refs; \
         mkdir -p .git/refs/heads; echo $h > .git/refs/heads/main",
        files / directories,
        99_999 + refs
    );
    let mut maker = world.command("sh");
    maker.current_dir(&project).args(["-c", &make]);
    world.spawn(maker).finish().ok();
    Subject {
        name,
        project,
        start: Times::default(),
        arrival: Times::default(),
        processor: (Duration::ZERO, 0),
    }
}

/// From the command to the first line inside; from the commit's end inside to the host's ref; the broker's time on a
/// processor until the first line.
fn once(world: &World, project: &Path) -> (Duration, Duration, Duration) {
    for name in ["started", "made", "go"] {
        std::fs::remove_file(project.join(name)).ok();
    }
    let script = "echo x > started; git commit -q --allow-empty -m x; git rev-parse HEAD > made; while ! test -e go; do sleep 0.02; done";
    // The first of all starts the broker too.
    let broker = world.processes("keyhatch broker").first().copied();
    let before = broker.map(processor_time);
    let began = Instant::now();
    let run = world.start(project, "default", script);
    let reference = project.join(".git/refs/heads/main");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    wait(|| project.join("started").exists());
    let start = began.elapsed();
    let after = broker.map(processor_time);
    wait(|| read(&project.join("made")).len() > 40);
    let made = Instant::now();
    wait(|| read(&reference) == read(&project.join("made")));
    let arrival = made.elapsed();
    std::fs::write(project.join("go"), "").expect("a file can be written");
    run.finish().ok();
    (start, arrival, after.zip(before).map(|(after, before)| after - before).unwrap_or_default())
}

/// What a process had of the processors, in all its threads.
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

fn wait(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_micros(500));
    }
}
