//! One session cannot starve, blind or kill another, or the user: whatever eight of them do, and whatever servers send.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhatch_tests::raw::{exchange, get, pkt, post};
use keyhatch_tests::{HttpsServer, Running, SshServer, SshVersion, World};
use rustix::process::{Pid, Signal, kill_process};

const ZERO: &str = "0000000000000000000000000000000000000000";
const ONE: &str = "1111111111111111111111111111111111111111";
/// What is a hang: a command of the user's takes some milliseconds, on a busy machine some hundred.
const HUNG: Duration = Duration::from_secs(5);
/// What the broker may hold while servers and clients do their worst. It has about 20 MiB to begin with.
const MOST_MEMORY: u64 = 160 * 1024 * 1024;

/// A session that stays open, and its socket.
struct Session {
    running: Running,
    socket: PathBuf,
}

fn open(world: &World, project: &Path) -> Session {
    let known = sockets(world);
    let running = world.start(project, "allow", "echo > ready; sleep 600");
    world.wait_until("the session is open", || project.join("ready").exists());
    let socket = sockets(world).into_iter().find(|socket| !known.contains(socket)).expect("a session");
    Session { running, socket }
}

fn sockets(world: &World) -> BTreeSet<PathBuf> {
    let sessions = fs::read_dir(world.path("run/keyhatch/sessions")).into_iter().flatten();
    sessions.filter_map(Result::ok).map(|session| session.path().join("http.sock")).collect()
}

/// The inspectors that a broker runs.
fn inspectors(broker: i32) -> BTreeSet<i32> {
    let numbers = fs::read_dir("/proc").expect("/proc can be read").filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim() == broker.to_string();
        (line.ends_with("\0inspect\0") && parent && !status.contains("(zombie)")).then_some(pid)
    });
    numbers.collect()
}

fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Stops every inspector as soon as it appears: an inspection that lasts.
fn freeze(broker: i32, frozen: &mut BTreeSet<i32>) {
    for pid in inspectors(broker) {
        if !frozen.contains(&pid) && signal(pid, Signal::STOP) {
            frozen.insert(pid);
        }
    }
}

/// A project whose next push takes some time to look at.
fn large_project(world: &World, name: &str, server: &SshServer) -> PathBuf {
    let upstream = world.upstream(&format!("{name}.git"), "sha1");
    let project = world.project(name, &server.url(&upstream));
    let script = "for i in $(seq 3000); do echo $i > file-$i; done; git add .; git commit -qm many";
    let mut shell = world.command("sh");
    shell.current_dir(&project).args(["-c", script]);
    keyhatch_tests::Finished::from(shell.output().expect("sh runs")).ok();
    project
}

struct Scene {
    world: World,
    server: SshServer,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        world.allow_policy();
        Self { world, server }
    }
}

/// Pushes a project's `main` to so many refs at once; what each said is in `out-N`.
fn push_at_once(world: &World, project: &Path, count: usize) -> Running {
    let one = |n: usize| format!("git push origin main:refs/heads/b{n} > out-{n} 2>&1 && touch done-{n} &");
    let pushes: String = (0..count).map(one).collect();
    world.start(project, "allow", &format!("{pushes} wait"))
}

fn said(project: &Path, n: usize) -> String {
    fs::read_to_string(project.join(format!("out-{n}"))).unwrap_or_default()
}

#[test]
fn two_inspections_run_at_once_one_of_a_session_and_they_end_with_their_client() {
    let scene = Scene::new();
    let world = &scene.world;
    world.run(&large_project(world, "warm", &scene.server), "allow", "true").ok();
    let broker = world.broker();
    let [a, b, c] = ["a", "b", "c"].map(|name| large_project(world, name, &scene.server));
    let mut frozen = BTreeSet::new();
    let greedy = push_at_once(world, &a, 3);
    world.wait_until("the first is inspected", || {
        freeze(broker, &mut frozen);
        frozen.len() == 1
    });
    let others = [push_at_once(world, &b, 1), push_at_once(world, &c, 1)];
    let waits = |project: &Path, n| said(project, n).contains("keyhatch: waiting for an inspection");
    world.wait_until("another session's turn comes, and the rest wait", || {
        freeze(broker, &mut frozen);
        let of_greedy = (0..3).filter(|n| waits(&a, *n)).count();
        frozen.len() == 2 && of_greedy == 2 && (waits(&b, 0) || waits(&c, 0))
    });
    assert_eq!(inspectors(broker).len(), 2);
    let first = *frozen.first().expect("an inspector");
    // The client of the first goes, its session with it: so does its inspector, and all that waited.
    drop(greedy);
    world.wait_until("its inspector is gone", || !inspectors(broker).contains(&first));
    world.wait_until("the next one's turn comes", || {
        freeze(broker, &mut frozen);
        frozen.len() == 3
    });
    for pid in inspectors(broker) {
        assert!(signal(pid, Signal::CONT));
    }
    for other in others {
        other.finish().ok();
    }
    assert!(b.join("done-0").exists() && c.join("done-0").exists(), "{} {}", said(&b, 0), said(&c, 0));
    assert!((0..3).all(|n| !a.join(format!("done-{n}")).exists()));
    assert!(inspectors(broker).is_empty());
}

#[test]
fn an_inspection_outlives_the_threads_that_other_sessions_were_opened_on() {
    let scene = Scene::new();
    let world = &scene.world;
    let other = world.project("other", "https://example.invalid/x.git");
    world.run(&other, "allow", "true").ok();
    let broker = world.broker();
    let project = large_project(world, "p", &scene.server);
    let mut frozen = BTreeSet::new();
    let pushing = push_at_once(world, &project, 1);
    world.wait_until("it is inspected", || {
        freeze(broker, &mut frozen);
        frozen.len() == 1
    });
    // An idle thread ends after ten seconds.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(25) {
        world.run(&other, "allow", "true").ok();
        let pause = begun.elapsed() + Duration::from_secs(11);
        while begun.elapsed() < pause && inspectors(broker) == frozen {
            std::thread::yield_now();
        }
        assert_eq!(inspectors(broker), frozen, "it goes on");
    }
    for pid in frozen {
        assert!(signal(pid, Signal::CONT));
    }
    pushing.finish().ok();
    assert!(project.join("done-0").exists(), "{}", said(&project, 0));
}

/// A push of so many refs, of an object that nobody has.
fn many_refs(count: usize) -> Vec<u8> {
    let mut body: String = (0..count)
        .map(|n| {
            let capabilities = if n == 0 { "\0report-status" } else { "" };
            pkt(&format!("{ZERO} {ONE} refs/heads/branch-{n}{capabilities}"))
        })
        .collect();
    body.push_str("0000");
    let mut body = body.into_bytes();
    body.extend_from_slice(b"PACK\0\0\0\x02\0\0\0\0");
    let digits = "029d08823bd8a8eab510ad6ac75c823cfd3ed31e";
    body.extend((0..20).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).expect("hex")));
    body
}

/// Opens connections that ask and never read, or never ask.
fn hold(socket: &PathBuf, request: &[u8], count: usize) -> Vec<UnixStream> {
    let connections = (0..count).filter_map(|_| {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.write_all(request).ok()?;
        Some(stream)
    });
    connections.collect()
}

#[test]
fn the_users_commands_are_answered_while_eight_sessions_do_their_worst_on_a_slow_disk() {
    let scene = Scene::new();
    let world = &scene.world;
    let https = HttpsServer::start_hostile(world);
    https.trust(world);
    let mut broker = world.command("strace");
    broker.args(["-f", "-qqq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]);
    broker.args(["-e", "inject=fdatasync,fsync:delay_enter=1500000"]);
    broker.arg(world.path("bin/keyhatch")).arg("broker");
    let _broker = world.spawn(broker);
    world.wait_until("the broker answers", || world.path("run/keyhatch/control.sock").exists());
    let upstream = world.upstream("r.git", "sha1");
    let many = https.url("hostile/many/r.git");
    let projects: Vec<PathBuf> = (0..8)
        .map(|n| {
            let project = world.project(&format!("p{n}"), &scene.server.url(&upstream));
            world.git(&project, &["remote", "add", "many", &many]).ok();
            project
        })
        .collect();
    let sessions: Vec<Session> = projects.iter().map(|project| open(world, project)).collect();
    let ask = || {
        let begun = Instant::now();
        world.keyhatch(&["pending"]).ok();
        begun.elapsed()
    };
    let idle: Vec<Duration> = (0..5).map(|_| ask()).collect();
    let path = scene.server.url(&upstream).replacen("://", "/", 1);
    let push = post(&path, &many_refs(10_000));
    let unread = get(&many.replacen("://", "/", 1), "git-receive-pack");
    let denied = get("https/other.example/r", "git-upload-pack");
    // Kept until the end: who asks and does not read, and who begins to ask.
    let mut held = Vec::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        for session in &sessions {
            held.extend(hold(&session.socket, &unread, 6));
            held.extend(hold(&session.socket, b"GET /", 20));
            held.extend(hold(&session.socket.with_file_name("broker.sock"), b"\0\0", 40));
            for request in [&push, &denied, &denied] {
                let (socket, stop) = (&session.socket, &stop);
                scope.spawn(move || {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        drop(exchange(socket, request));
                    }
                });
            }
        }
        let busy: Vec<Duration> = (0..20).map(|_| ask()).collect();
        // Another session opens, and ends, meanwhile.
        let other = world.project("other", "https://example.invalid/x.git");
        world.run(&other, "allow", "true").ok();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(std::mem::take(&mut held));
        for session in &sessions {
            session.running.signal(libc::SIGTERM);
        }
        busy
    });
    println!("`keyhatch pending`: idle {idle:?}, busy {busy:?}");
    assert!(busy.iter().all(|took| *took < HUNG), "{busy:?}");
}

/// The most memory that a process held of its own since it began, or holds now.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a number");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn what_servers_advertise_and_nobody_reads_costs_the_broker_little_memory() {
    let world = World::new();
    world.allow_policy();
    let https = HttpsServer::start_hostile(&world);
    https.trust(&world);
    let kinds = ["many", "endless", "no-line", "no-packet", "flushes"];
    let project = world.project("p", &https.url("hostile/many/r.git"));
    for kind in &kinds[1..] {
        world.git(&project, &["remote", "add", kind, &https.url(&format!("hostile/{kind}/r.git"))]).ok();
    }
    let session = open(&world, &project);
    let broker = world.broker();
    let mut held = Vec::new();
    for kind in kinds {
        let path = https.url(&format!("hostile/{kind}/r.git")).replacen("://", "/", 1);
        for service in ["git-receive-pack", "git-upload-pack"] {
            held.extend(hold(&session.socket, &get(&path, service), 3));
        }
    }
    // One that reads gets all of it, rewritten.
    let path = https.url("hostile/many/r.git").replacen("://", "/", 1);
    let mut reader = UnixStream::connect(&session.socket).expect("the session's socket");
    reader.write_all(&get(&path, "git-receive-pack")).expect("it asks");
    let (mut total, mut last, mut buffer) = (0u64, Vec::new(), vec![0; 1 << 20]);
    loop {
        let read = reader.read(&mut buffer).expect("it reads");
        if read == 0 {
            break;
        }
        total += read as u64;
        last.extend_from_slice(&buffer[read.saturating_sub(100)..read]);
        last.drain(..last.len().saturating_sub(100));
    }
    assert!(total > 120 * 1000 * 1000, "{total}");
    let end = String::from_utf8_lossy(&last).into_owned();
    assert!(end.ends_with("0000\r\n0\r\n\r\n"), "{end}");
    let most = memory(broker);
    println!("the broker held at most {} MiB", most / 1024 / 1024);
    assert!(most < MOST_MEMORY, "{} MiB", most / 1024 / 1024);
    drop(held);
    drop(session);
    world.keyhatch(&["audit", "verify"]).ok();
}
