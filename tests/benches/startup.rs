//! `keyhatch run -- true` with the broker running, session opening included, beside other ways to start a sandbox; in an
//! empty project and in one of 300,000 files. Tools take turns, so that a slow moment of the machine is everybody's.
//!
//! cargo build --release -p keyhatch-broker && packaging/static-helper.sh
//! KEYHATCH_BIN=$PWD/target/release cargo bench -p keyhatch-tests --bench startup
//!
//! Peers that are not installed are named and left out: firejail (Debian), podman (Debian; rootless, from a root file system
//! that tests/images/build.sh makes), srt (npm @anthropic-ai/sandbox-runtime) and sandlock (PyPI; a library, so Python starts
//! with it), the last two looked for in the PATH of the one who runs this.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use keyhatch_tests::measure::{Times, compare};
use keyhatch_tests::{Container, Image, World};

const ROUNDS: usize = 25;
const DIRECTORIES: usize = 300;
const FILES_EACH: usize = 1000;
/// What the runner may take while the agent runs.
const MEMORY_AIM: u64 = 4096;

/// One way to start `true`.
struct Peer<'w> {
    name: &'static str,
    /// Slow ones are started less often.
    rounds: usize,
    /// Starts it and says whether it succeeded; none where it is not installed.
    start: Option<Box<dyn Fn() -> bool + 'w>>,
}

fn peers<'w>(world: &'w World, directory: &'w Path) -> Vec<Peer<'w>> {
    let project = directory.to_string_lossy().into_owned();
    let of = |name, program: &str, rounds, arguments: &[&str]| {
        let (program, arguments) = (PathBuf::from(program), arguments.iter().map(|a| (*a).to_owned()));
        let arguments: Vec<String> = arguments.collect();
        let is_there = program.is_file();
        let start = move || {
            let mut command: Command = world.command(&program);
            command.current_dir(directory).args(&arguments).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().expect("it starts").success()
        };
        Peer { name, rounds, start: is_there.then(|| Box::new(start) as Box<dyn Fn() -> bool>) }
    };
    let keyhatch = world.path("bin/keyhatch").to_string_lossy().into_owned();
    let bwrap = [
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--ro-bind",
        "/usr",
        "/usr",
        "--ro-bind",
        "/etc",
        "/etc",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/home",
        "--bind",
        &project,
        &project,
        "--chdir",
        &project,
        "true",
    ];
    let sandlock = format!(
        "from sandlock import Sandbox\n\
         r = Sandbox(fs_readable=['/usr', '/lib', '/lib64', '/etc', '/bin'], fs_writable=['{project}']).run(['true'])\n\
         raise SystemExit(not r.success)"
    );
    vec![
        of("keyhatch", &keyhatch, ROUNDS, &["run", "--", "true"]),
        of("bwrap", "/usr/bin/bwrap", ROUNDS, &bwrap),
        of("unshare", "/usr/bin/unshare", ROUNDS, &["-UcpfmniuC", "--mount-proc", "true"]),
        of("firejail", "/usr/bin/firejail", ROUNDS, &["--noprofile", "--net=none", "--quiet", "true"]),
        of("srt", &found("srt"), 5, &["-c", "true"]),
        of("sandlock", &python_of("sandlock-mcp"), 10, &["-c", &sandlock]),
        podman(world, directory),
        of("true, bare", "/usr/bin/true", ROUNDS, &[]),
    ]
}

/// Where the one who runs this has a program.
fn found(name: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').map(|directory| format!("{directory}/{name}"));
    places
        .into_iter()
        .find(|place| Path::new(place).is_file())
        .unwrap_or_else(|| format!("/nonexistent/{name}"))
}

/// The Python that a program of the one who runs this belongs to.
fn python_of(program: &str) -> String {
    Path::new(&found(program)).with_file_name("python").to_string_lossy().into_owned()
}

/// Rootless podman, with the project mounted, without a network.
fn podman<'w>(world: &'w World, project: &Path) -> Peer<'w> {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images/bookworm.tar");
    let is_there = Path::new("/usr/bin/podman").is_file() && image.is_file();
    let project = project.to_owned();
    let start = move || {
        let mount = (project.clone(), project.to_string_lossy().into_owned(), false);
        let options = ["--read-only", "--tmpfs", "/tmp:rw,mode=1777"];
        let container = Container::new(Image::Bookworm, &[mount], &[]);
        container.start_podman(world, &options, "true").finish().status.success()
    };
    Peer { name: "podman", rounds: 5, start: is_there.then(|| Box::new(start) as Box<dyn Fn() -> bool>) }
}

fn start(peer: &Peer<'_>) -> Option<std::time::Duration> {
    let begun = Instant::now();
    let succeeded = (peer.start.as_ref()?)();
    let taken = begun.elapsed();
    assert!(succeeded, "{} fails", peer.name);
    Some(taken)
}

fn compete(world: &World, project: &Path, what: &str) {
    let (there, missing): (Vec<Peer<'_>>, Vec<Peer<'_>>) =
        peers(world, project).into_iter().partition(|peer| peer.start.is_some());
    for peer in &missing {
        println!("{what:<34} {} is not installed here", peer.name);
    }
    let mut times: Vec<Times> = there.iter().map(|_| Times::default()).collect();
    for round in 0..=ROUNDS {
        for (peer, times) in there.iter().zip(&mut times) {
            if round <= peer.rounds {
                let taken = start(peer);
                // The first round fills caches.
                if let Some(taken) = taken.filter(|_| round > 0) {
                    times.add(taken);
                }
            }
        }
    }
    for (peer, theirs) in there.iter().zip(&times).skip(1) {
        let aim = (peer.name == "bwrap").then_some(0.8);
        compare(what, &times[0], (peer.name, theirs), aim);
    }
}

fn fill(project: &Path) {
    for directory in 0..DIRECTORIES {
        let directory = project.join(format!("d{directory}"));
        std::fs::create_dir(&directory).expect("a directory");
        for file in 0..FILES_EACH {
            std::fs::File::create(directory.join(format!("f{file}"))).expect("a file");
        }
    }
}

/// Prints what the runner's processes hold in memory while a command runs.
fn weigh(world: &World, project: &Path) {
    let run = world.start(project, "default", "echo ready > ready; exec sleep 60");
    world.wait_until("the command runs", || project.join("ready").exists());
    let mut total = 0;
    for pid in world.processes("keyhatch-run --rules-fd") {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        println!(
            "{:<34} process {pid}: {} KiB resident, {} KiB its share",
            "runner's memory",
            field("Rss:"),
            field("Pss:")
        );
        total += field("Pss:");
    }
    println!("{:<34} {total} KiB together  (aim: under {MEMORY_AIM})", "runner's memory");
    run.signal(libc::SIGTERM);
    run.finish();
}

fn main() {
    let world = World::new();
    let empty = world.project("empty", "https://h.example/p.git");
    world.run(&empty, "default", "true").ok();
    compete(&world, &empty, "start in an empty project");
    weigh(&world, &empty);
    let large = world.project("large", "https://h.example/l.git");
    fill(&large);
    world.run(&large, "default", "true").ok();
    compete(&world, &large, "start among 300,000 files");
}
