//! Killing the runner: at no moment of a start does a kill leave anything behind, and nothing inside outlives it.

use std::time::{Duration, Instant};

use keyhatch_tests::World;

/// Moments that are spread over one and a half starts, as long as one takes here and now.
const MOMENTS: u32 = 60;

#[test]
fn a_runner_that_is_killed_at_any_moment_leaves_nothing_behind() {
    let world = World::new();
    let project = world.make_directory("plain");
    world.run(&project, "default", "true").ok();
    let (mut early, mut late) = (0, 0);
    let mut whole = Duration::ZERO;
    for moment in 0..=MOMENTS {
        let mark = format!("61{:07}{moment:03}", std::process::id());
        let run = world.start(&project, "default", &format!("setsid sleep {mark} & sleep {mark}"));
        let started = Instant::now();
        let runner = loop {
            if let Some(runner) = world.processes("keyhatch-run --rules-fd").first() {
                break *runner;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no runner starts");
        };
        let seen = Instant::now();
        // The first one runs, and says how long a start takes.
        while moment == 0 && processes_of(&format!("sleep {mark}")).is_empty() {
            whole = seen.elapsed();
            assert!(whole < Duration::from_secs(60), "no command starts");
        }
        while seen.elapsed() < whole * 3 / 2 * moment / MOMENTS {
            std::hint::spin_loop();
        }
        if processes_of(&format!("sleep {mark}")).is_empty() {
            early += 1
        } else {
            late += 1
        }
        let runner = rustix::process::Pid::from_raw(runner).expect("a pid");
        rustix::process::kill_process(runner, rustix::process::Signal::KILL).ok();
        run.finish();
        world.wait_until("everything of the runner is gone", || {
            world.processes("keyhatch-run --rules-fd").is_empty()
                && processes_of(&format!("sleep {mark}")).is_empty()
        });
    }
    assert!(early > 0 && late > 0, "{early} kills before the command ran, {late} after: both must be tried");
}

/// Processes with exactly this command line, zombies apart: who has the line is not dead.
fn processes_of(line: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has_line = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|found| found.replace('\0', " ").trim() == line)
    };
    numbers.filter(has_line).collect()
}
