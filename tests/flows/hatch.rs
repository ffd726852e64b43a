//! Tier C: no namespaces, and a Landlock that cannot tell sockets apart, so that the command has none. git goes through the
//! session's hatch, and whatever the command does to the hatch hurts itself alone.
//!
//! Real on every kernel with a Landlock of ABI 6 to 8; on a newer one the runner's test switch caps it at 8.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Finished, HttpsServer, Running, World};

/// The newest Landlock that cannot tell local sockets apart.
const NEWEST: u64 = 8;

/// A directory below which files can be made: the project's top holds what is protected.
fn make_room(world: &World, project: &Path) {
    std::fs::create_dir(project.join("src")).expect("a directory");
    world.user.owns(&project.join("src"));
}

fn start(world: &World, project: &Path, policy: &str, script: &str) -> Running {
    if world.landlock() > NEWEST {
        world.switch(&format!("abi {NEWEST}"));
    }
    world.start_unnamespaced(project, policy, script)
}

/// Ran, in the tier that this suite is about.
#[track_caller]
fn in_tier_c(ran: Finished) -> Finished {
    assert!(ran.stderr.contains("keyhatch: tier C: "), "{ran:#?}");
    ran
}

fn run(world: &World, project: &Path, script: &str) -> Finished {
    in_tier_c(start(world, project, "allow", script).finish())
}

/// The same with a Python script, which knows the hatch: `door`, `calls`, and `status()`, which must be answered.
fn attack(world: &World, project: &Path, script: &str) -> Finished {
    let name = project.strip_prefix(world.path("")).expect("a path in the world").join("attack.py");
    world.write(&name.to_string_lossy(), &format!("{ATTACKER}{script}"));
    run(world, project, "python3 attack.py")
}

const ATTACKER: &str = r#"
import os, stat, subprocess, sys, time
hatch = os.environ["KEYHATCH_HATCH"]
door, calls = hatch + "/door", hatch + "/calls"
name = lambda number: "attack%010d" % number
def knock(line, flags=0):
    end = os.open(door, os.O_WRONLY | flags)
    os.write(end, line)
    os.close(end)
def status(what):
    done = subprocess.run([os.environ["KEYHATCH_HELPER"], "status"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "through the pipes" in done.stdout, (what, done)
def wait(what, condition):
    for _ in range(600):
        if condition(): return
        time.sleep(0.05)
    raise SystemExit("never: " + what)
"#;

fn plain() -> (World, PathBuf) {
    let world = World::new();
    world.allow_policy();
    let project = world.project("p", "https://git.invalid/p");
    (world, project)
}

#[test]
fn without_any_socket_a_signed_commit_is_pushed_over_ssh_and_fetched_again() {
    let (world, _server, upstream, project) = World::behind_ssh();
    world.allow_policy();
    let key = world.signing_key();
    world.configure(&[("commit.gpgsign", "true")]);
    let ran = run(
        &world,
        &project,
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX)' 2>&1 | tail -1; \
         git commit -qm 'by the agent' --allow-empty && git push origin main && git verify-commit HEAD \
         && git fetch origin && git rev-parse origin/main; cat ~/id_signing; $KEYHATCH_HELPER status; $KEYHATCH_HELPER forward || echo no forward",
    );
    assert!(ran.stdout.contains("PermissionError"), "not one socket: {ran:#?}");
    assert!(ran.stderr.contains("Good \"git\" signature for ada@example.org"), "{ran:#?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"), "{ran:#?}");
    assert!(ran.stdout.contains(&world.tip(&project, "main")), "{ran:#?}");
    let secret = std::fs::read_to_string(key).expect("the key");
    assert!(!ran.all().contains(secret.lines().nth(2).expect("a line")), "{ran:#?}");
    assert!(ran.stdout.contains("git's front end: through the pipes in "), "{ran:#?}");
    assert!(ran.stdout.contains("no forward") && ran.stderr.contains("has no sockets (tier C)"), "{ran:#?}");
    for event in ["signed", "push-sending", "push-sent"] {
        assert!(world.events().iter().any(|one| one == event), "{event}: {:?}", world.events());
    }
}

#[test]
fn without_any_socket_a_large_push_reaches_an_https_upstream_with_the_hosts_login() {
    let world = World::new();
    world.allow_policy();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    make_room(&world, &project);
    let ran = run(
        &world,
        &project,
        "head -c 8000000 /dev/urandom > src/large && git add src && git commit -qm large && git push origin main \
         && url=$(git remote get-url origin) && git clone -q \"$url\" src/again && cmp src/large src/again/src/large && echo the same",
    );
    assert!(ran.stdout.contains("the same"), "{ran:#?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"), "{ran:#?}");
    assert!(!ran.all().contains(HttpsServer::PASSWORD), "{ran:#?}");
}

#[test]
fn git_finds_the_projects_repository_and_each_other_one_where_it_is() {
    let (world, project) = plain();
    make_room(&world, &project);
    world.make_directory("p/other");
    let nested = world.project("p/other/nested", "https://git.invalid/nested");
    world.commit(&project, "kept", "kept\n");
    let script = "git rev-parse --show-toplevel; cd src; git log --format=%s -1; git init -q -b main made; cd made; \
         git rev-parse --show-toplevel; git commit -q --allow-empty -m made; git log --format=%s; cd ../../other/nested; \
         git rev-parse --show-toplevel; git commit -q --allow-empty -m inside; cd ../../src; \
         git worktree add -q tree; git -C tree rev-parse --show-toplevel; git -C tree commit -q --allow-empty -m linked; \
         git clone -q made cloned; git -C cloned log --format=%s; cd /; git rev-parse || true; \
         git -C $OLDPWD log --format=%s -1; git --git-dir=$OLDPWD/made/.git log --format=%s; $KEYHATCH_HELPER git -C $OLDPWD log --format=%s -1";
    let ran = run(&world, &project, script);
    let at = |below: &str| project.join(below).display().to_string();
    let expected = [
        &project.display().to_string(),
        "Add kept",
        &at("src/made"),
        "made",
        &at("other/nested"),
        &at("src/tree"),
        "made",
        "Add kept",
        "made",
        "Add kept",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected, "{ran:#?}");
    assert_eq!(ran.stderr.matches("not a git repository").count(), 1, "{ran:#?}");
    // What was committed in each is on the host.
    let subject =
        |repository: &Path, name: &str| world.git(repository, &["log", "--format=%s", "-1", name]).stdout;
    assert_eq!(subject(&nested, "main"), "inside\n", "{ran:#?}");
    assert_eq!(subject(&project, "tree"), "linked\n", "{ran:#?}");
    assert_eq!(subject(&project, "main"), "Add kept\n", "{ran:#?}");
}

#[test]
fn what_the_policy_gives_and_nothing_inside_can_have_is_said_at_the_start() {
    let (world, project) = plain();
    let network = "what the policy's [network] opens is out of reach";
    let ran = run(&world, &project, "true").ok();
    assert!(!ran.stderr.contains(network) && !ran.stderr.contains("ssh-agent"), "{ran:#?}");
    world.policy(
        "wants",
        "name = \"wants\"\ndescription = \"a test\"\n[network]\nallow = [{ to = \"api.example.org:443\", reason = \"a test\" }]\n\
         [ssh_agent]\nkeys = [\"login\"]\nhosts = [\"git.example.org\"]\n",
    );
    let script = "echo agent=$SSH_AUTH_SOCK; keyhatch-helper status";
    let ran = in_tier_c(start(&world, &project, "wants", script).finish()).ok();
    assert!(ran.stderr.contains(network), "{ran:#?}");
    assert!(ran.stderr.contains("the session's ssh-agent is out of reach"), "{ran:#?}");
    assert!(ran.stdout.contains("agent=\n"), "{ran:#?}");
    assert!(ran.stdout.contains("no network that the policy opens, no ssh-agent"), "{ran:#?}");
}

#[test]
fn twenty_calls_at_once_are_answered() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    world.allow_policy();
    let ran = run(
        &world,
        &project,
        "git push -q origin main; for i in $(seq 20); do (git ls-remote origin main && $KEYHATCH_HELPER status >/dev/null && echo ok) & done; wait",
    );
    assert_eq!(ran.stdout.matches("refs/heads/main").count(), 20, "{ran:#?}");
    assert_eq!(ran.stdout.lines().filter(|line| *line == "ok").count(), 20, "{ran:#?}");
}

#[test]
fn a_push_that_waits_is_withdrawn_when_its_client_goes_and_goes_through_when_tried_again() {
    let (world, _server, upstream, project) = World::behind_ssh();
    let script = "git push origin main & push=$!; until [ -e src/go ]; do sleep 0.1; done; kill $push; wait; \
        until [ -e src/again ]; do sleep 0.1; done; git push origin main";
    make_room(&world, &project);
    let session = start(&world, &project, "default", script);
    let id = world.pending_id();
    world.write("p/src/go", "");
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    world.approve(&id, &[]).ok();
    world.write("p/src/again", "");
    in_tier_c(session.finish()).ok();
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}

#[test]
fn whatever_is_written_to_the_door_the_next_call_is_answered() {
    let (world, project) = plain();
    let ran = attack(
        &world,
        &project,
        r#"
for line in [b"\0\xff" * 2000, b"http ", b"http abcdefghijklmnop", b"\n" * 4000, b"broker ../../../../etc/passw\n",
             b"http attack0000000000\n" * 100, os.urandom(4096), b"http " + b"a" * 4000]:
    knock(line)
    status(line[:20])
print("the session goes on")
"#,
    );
    assert!(ran.stdout.contains("the session goes on"), "{ran:#?}");
}

#[test]
fn the_door_cannot_be_read_removed_or_replaced_and_beside_it_there_are_only_pipes() {
    let (world, project) = plain();
    let ran = attack(
        &world,
        &project,
        r#"
import socket
def denied(what, act):
    try: act()
    except OSError as error: print(what, "denied:", error.errno in (1, 13, 18))
    else: print(what, "WORKED")
denied("read", lambda: os.open(door, os.O_RDONLY | os.O_NONBLOCK))
denied("remove", lambda: os.unlink(door))
denied("rename", lambda: os.rename(door, calls + "/x"))
denied("replace", lambda: os.mkfifo(hatch + "/door2"))
denied("file", lambda: open(calls + "/x", "w"))
denied("link", lambda: os.symlink("/etc/passwd", calls + "/x"))
denied("directory", lambda: os.mkdir(calls + "/x"))
denied("device", lambda: os.mknod(calls + "/x", 0o600 | stat.S_IFCHR, os.makedev(1, 5)))
denied("hard link", lambda: os.link(door, calls + "/x"))
denied("list", lambda: os.listdir(calls))
status("after")
"#,
    );
    assert_eq!(ran.stdout.matches("denied: True").count(), 10, "{ran:#?}");
    assert!(ran.status.success(), "{ran:#?}");
}

#[test]
fn ten_thousand_calls_whose_pipes_are_missing_or_never_used_hold_nothing_up() {
    let (world, project) = plain();
    let ran = attack(
        &world,
        &project,
        r#"
for number in range(10000):
    knock(b"http %s\n" % name(number).encode())
status("ten thousand that were never made")
# Made, and opened at neither end, at one end, and at the wrong one.
for number in range(20000, 20300):
    for end in "up", "down":
        os.mkfifo("%s/%s.%s" % (calls, name(number), end))
    if number % 3 == 1: os.open("%s/%s.up" % (calls, name(number)), os.O_RDONLY | os.O_NONBLOCK)
    knock(b"broker %s\n" % name(number).encode())
status("three hundred that nobody opens")
wait("their names are removed", lambda: not os.path.exists("%s/%s.down" % (calls, name(20299))))
print("the session goes on")
"#,
    );
    assert!(ran.stdout.contains("the session goes on"), "{ran:#?}");
}

#[test]
fn connections_that_are_held_open_are_sixty_four_and_the_next_one_waits_for_its_turn() {
    let (world, project) = plain();
    let ran = attack(
        &world,
        &project,
        r#"
held = []
def call(number):
    up, down = ("%s/%s.%s" % (calls, name(number), end) for end in ("up", "down"))
    os.mkfifo(up); os.mkfifo(down)
    ends = [os.open(down, os.O_RDONLY | os.O_NONBLOCK), os.open(up, os.O_RDWR), down]
    knock(b"http %s\n" % name(number).encode())
    held.append(ends)
def answered(ends):
    try: return os.read(ends[0], 1) == b"\0"
    except BlockingIOError: return False
for number in range(64): call(number)
for ends in held: wait("an answer", lambda: answered(ends))
call(64)
time.sleep(1)
print("the last one waits:", not answered(held[64]) and os.path.exists(held[64][2]))
# Slowly, byte by byte, on one that is held.
for byte in b"GET / HTTP/1.0\r\n": os.write(held[5][1], bytes([byte])); time.sleep(0.01)
os.close(held[0][0]); os.close(held[0][1])
wait("its turn", lambda: answered(held[64]))
os.write(held[5][1], b"\r\n")
answer = []
def whole():
    try: answer.append(os.read(held[5][0], 4096))
    except BlockingIOError: return False
    return answer[-1] == b""
wait("the slow one's answer", whole)
print("the slow one is answered:", b"".join(answer).startswith(b"HTTP/1.0 "))
for ends in held[1:]: os.close(ends[0]); os.close(ends[1])
status("after")
"#,
    );
    assert!(ran.stdout.contains("the last one waits: True"), "{ran:#?}");
    assert!(ran.stdout.contains("the slow one is answered: True"), "{ran:#?}");
    assert!(ran.status.success(), "{ran:#?}");
}
