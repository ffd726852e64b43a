//! What a session's own git directory costs: the start of a session, and the time from a commit inside to the ref
//! outside, in an empty repository and in a large one, in turns.
//!
//! cargo build --release && cargo bench -p keyhatch-tests --bench gitdir

use std::time::{Duration, Instant};

use keyhatch_tests::World;
use keyhatch_tests::measure::{Times, compare};

/// How often each, in turns.
const TURNS: usize = 9;
/// Files and refs of the large repository.
const FILES: usize = 300_000;
const REFS: usize = 100_000;
/// Directories that the files lie in.
const DIRECTORIES: usize = 3000;

fn main() {
    let world = World::new();
    let (small, large) = (world.project("small", "https://h.example/p.git"), world.make_directory("large"));
    let make = format!(
        "git init -q; for d in $(seq {DIRECTORIES}); do mkdir d$d; (cd d$d; for f in $(seq {}); do echo $f > $f; done); done; \
         git add -A; git commit -qm all; git gc -q; h=$(git rev-parse HEAD); \
         (echo '# pack-refs with: sorted '; for n in $(seq 100000 {}); do echo \"$h refs/heads/n$n\"; done) > .git/packed-refs; \
         echo $h > .git/refs/heads/main",
        FILES / DIRECTORIES,
        100_000 + REFS - 1
    );
    let mut maker = world.command("sh");
    maker.current_dir(&large).args(["-c", &make]);
    world.spawn(maker).finish().ok();

    let (mut of_small, mut of_large) = (Times::default(), Times::default());
    let (mut to_small, mut to_large) = (Times::default(), Times::default());
    for _ in 0..TURNS {
        for (project, starts, arrives) in
            [(&small, &mut of_small, &mut to_small), (&large, &mut of_large, &mut to_large)]
        {
            let (start, arrival) = once(&world, project);
            starts.add(start);
            arrives.add(arrival);
        }
    }
    compare("start, 300,000 files and 100,000 refs", &of_large, ("nearly empty", &of_small), None);
    compare("commit inside to ref outside, the large one", &to_large, ("nearly empty", &to_small), None);
}

/// From the command to the first line inside; from the commit's end inside to the host's ref.
fn once(world: &World, project: &std::path::Path) -> (Duration, Duration) {
    for name in ["started", "made", "go"] {
        std::fs::remove_file(project.join(name)).ok();
    }
    let script = "echo x > started; git commit -q --allow-empty -m x; git rev-parse HEAD > made; while ! test -e go; do sleep 0.02; done";
    let began = Instant::now();
    let run = world.start(project, "default", script);
    let reference = project.join(".git/refs/heads/main");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    wait(|| project.join("started").exists());
    let start = began.elapsed();
    wait(|| read(&project.join("made")).len() > 40);
    let made = Instant::now();
    wait(|| read(&reference) == read(&project.join("made")));
    let arrival = made.elapsed();
    std::fs::write(project.join("go"), "").expect("a file can be written");
    run.finish().ok();
    (start, arrival)
}

fn wait(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_micros(500));
    }
}
