//! Denials explained: what the command wanted and did not get, and the policy line that would allow it.

use std::path::Path;

use keyhatch_tests::{Finished, World};
use serde_json::Value;

fn explain(world: &World, project: &Path, policy: &str, script: &str) -> Finished {
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(project).args(["run", "--explain", "--policy", policy, "--", "sh", "-c", script]);
    world.spawn(command).finish()
}

#[test]
fn a_missing_tool_a_hidden_file_and_a_secret_are_told_apart() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/.env", "TOKEN=canary");
    world.make_directory("home/.mytool");
    world.write_mode("home/.mytool/run", "#!/bin/sh\necho tool-ran\n", 0o755);
    world.make_directory("home/.ssh");
    world.write_mode("home/.ssh/id_rsa", "canary-key", 0o600);
    let script = "~/.mytool/run; cat .env; cat ~/.ssh/id_rsa; cat ~/.nothing-anywhere; cat README; exit 1";
    let ran = explain(&world, &project, "default", script);
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stdout.contains("hello") && !ran.all().contains("canary"), "{ran:?}");
    for said in [
        ".mytool/run (by sh): it is yours, and not shown; policy: [sandbox] tools = [\"~/.mytool\"]",
        ".env (by cat): it is hidden: shown empty; policy: [sandbox] show = [\".env\"]",
        ".ssh/id_rsa (by cat): secrets live there: no session sees them; no policy allows it",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    assert!(
        !ran.stderr.contains("denials: /home/nothing") && !ran.stderr.contains(".nothing-anywhere (by"),
        "{ran:?}"
    );

    // The line that was named is the line that helps.
    world.policy(
        "more",
        "name = \"more\"\ndescription = \"a test\"\n[sandbox]\ntools = [\"~/.mytool\"]\nshow = [\".env\"]\n",
    );
    let ran = explain(&world, &project, "more", "~/.mytool/run; cat .env");
    assert!(ran.stdout.contains("tool-ran") && ran.stdout.contains("TOKEN=canary"), "{ran:?}");
}

#[test]
fn without_namespaces_paths_are_told_apart_too() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/.env", "TOKEN=canary");
    for name in ["home/.mytool", "home/.ssh", "p/src"] {
        world.make_directory(name);
    }
    world.write_mode("home/.mytool/run", "#!/bin/sh\necho tool-ran\n", 0o755);
    world.write_mode("home/.ssh/id_rsa", "canary-key", 0o600);
    let script = "~/.mytool/run; cat .env; cat ~/.ssh/id_rsa; cat ~/.nothing-anywhere; cat README; echo in >src/in; cat src/in; \
                  echo x >new; echo x >/usr/x; ls /tmp; exit 1";
    let mut command = world.unnamespaced(&["run", "--explain", "--", "sh", "-c", script]);
    command.current_dir(&project);
    let ran = world.spawn(command).finish();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stdout.contains("hello\nin\n") && !ran.all().contains("canary"), "{ran:?}");
    for said in [
        ".mytool/run (by sh): it is yours, and not shown; policy: [sandbox] tools = [\"~/.mytool\"]",
        ".env (by cat): it is hidden, and cannot be opened; policy: [sandbox] show = [\".env\"]",
        ".ssh/id_rsa (by cat): secrets live there: no session sees them; no policy allows it",
        "/p/new (by sh): its directory holds what is protected, and without namespaces nothing new can be made beside that",
        "/usr/x (by sh): it can only be read; no policy allows it",
        "/tmp (by ls): /tmp is out of reach without namespaces: TMPDIR names another",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    for silent in [".nothing-anywhere (by", "README (by", "src/in (by", "/fallback/"] {
        let denials: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("denials:")).collect();
        assert!(!denials.iter().any(|line| line.contains(silent)), "{silent}: {denials:#?}");
    }
}

#[test]
fn refused_calls_addresses_and_writes_are_named_and_repeated_on_demand() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let script = "unshare -Ur true; echo x > /usr/x; python3 -c 'import socket; socket.create_connection((\"192.0.2.1\", 443), 2)'; exit 1";
    let ran = explain(&world, &project, "default", script);
    for said in [
        "system call unshare (namespaces) (by unshare): a sandbox inside the sandbox opens the whole kernel to attack; no policy allows it",
        "192.0.2.1:443, once (by python3 -c import socket",
        "/usr/x (by sh): its directory can only be read; no policy allows it",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    assert!(ran.stderr.contains("Operation not permitted"), "what is refused is refused: {ran:?}");
    let opened = world.audit().into_iter().rev().find(|record| record["event"] == "session-opened");
    let id = opened.expect("a session")["session"].as_str().expect("an id").to_owned();
    let shown = world.keyhatch(&["session", "show", &id, "--denials"]).ok();
    assert!(shown.stdout.contains("system call unshare"), "{shown:?}");
    let report = world.keyhatch(&["session", "show", &id, "--denials", "--json"]).ok();
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let section = |name: &str| {
        let sections = report["sections"].as_array().expect("sections");
        sections.iter().find(|section| section["name"] == name).expect("a section")["data"].clone()
    };
    let denials = section("denials").as_array().expect("denials").clone();
    assert!(denials.iter().any(|denial| denial["object"] == "/usr/x"), "{report}");
    assert_eq!(section("network")["destinations"]["192.0.2.1:443"]["refused"], 1, "{report}");
}

#[test]
fn what_is_refused_is_named_without_being_asked_for_and_said_where_the_command_failed() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/try.py", TRIES);
    let failed = world.run(
        &project,
        "default",
        "python3 try.py; touch file; chmod u+s file; ping -c 1 127.0.0.1; exit 1",
    );
    assert!(failed.stdout.contains("tried 6, refused 6, without a word 0"), "{failed:?}");
    let said = [
        "system call socket (vsock) (by python3): such sockets are not kept apart by the kernel",
        "system call socket (raw) (by ",
        "system call socket (packets) (by python3)",
        "system call prlimit64 (of another process) (by python3)",
        "system call ioctl (of a terminal or its keyboard) (by python3)",
        "system call personality (by python3)",
        "system call keyctl (by python3): it reaches past the sandbox's walls; no policy allows it",
        "system call fchmodat (setuid) (by chmod)",
    ];
    for said in said {
        assert!(failed.stderr.contains(said), "{said}: {failed:?}");
    }
    // The proof before the start tries the same, and is not the command.
    assert!(
        !failed.stderr.contains("(by keyhatch-run)") && !failed.stderr.contains("io_uring"),
        "{failed:?}"
    );

    // Many a program tries what it can do without: who succeeds is left alone, and can be asked.
    let fine = world.run(&project, "default", "python3 try.py").ok();
    assert!(!fine.stderr.contains("denials"), "{fine:?}");
    let opened = world.audit().into_iter().rev().find(|record| record["event"] == "session-opened");
    let id = opened.expect("a session")["session"].as_str().expect("an id").to_owned();
    let shown = world.keyhatch(&["session", "show", &id, "--denials"]).ok();
    assert!(shown.stdout.contains("system call socket (vsock) (by python3)"), "{shown:?}");
}

/// Calls that are refused for their number or for their arguments; each must say "not permitted".
const TRIES: &str = "\
import ctypes, errno, fcntl, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    if libc.syscall(*[ctypes.c_long(number) for number in numbers]) == -1: raise OSError(ctypes.get_errno(), '')
tries = [
    lambda: socket.socket(40, 1, 0),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    lambda: call(302, os.getppid(), 7, 0, 0),
    lambda: call(135, 0x0040000),
    lambda: call(250, 0, -3),
]
refused = 0
for one in tries:
    try: one()
    except OSError as error: refused += error.errno == errno.EPERM
silent = 0
try: fcntl.ioctl(0, 0x5412, b'x'); silent += 1
except OSError as error: silent += error.errno != errno.EPERM
print(f'tried {len(tries)}, refused {refused}, without a word {silent}')
";

#[test]
fn a_command_that_gets_what_it_wants_is_slower_and_nothing_else() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let script = "git status --short; git log --oneline | wc -l; python3 -c 'print(6*7)'; for i in 1 2 3; do sh -c 'echo $0' $i; done; \
                  mkdir d && echo x > d/f && mv d/f d/g && cat d/g && rm -r d; exit 7";
    let plain = world.run(&project, "default", script);
    let observed = explain(&world, &project, "default", script);
    assert_eq!((observed.code(), &observed.stdout), (plain.code(), &plain.stdout), "{observed:?}");
    assert!(plain.stdout.contains("42\n1\n2\n3\nx\n"), "{plain:?}");
}

#[test]
fn a_policy_is_learned_round_by_round_and_holds_no_secret() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    for directory in ["home/.mytool", "home/.second", "home/.ssh"] {
        world.make_directory(directory);
    }
    world.write_mode(
        "home/.mytool/run",
        "#!/bin/sh\n~/.second/run && cat ~/.ssh/id_rsa; echo tools-ran\n",
        0o755,
    );
    world.write_mode("home/.second/run", "#!/bin/sh\necho second-ran\n", 0o755);
    world.write_mode("home/.ssh/id_rsa", "canary-key", 0o600);
    let file = world.path("learned.toml").display().to_string();
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(&project).args([
        "policy",
        "learn",
        "--output",
        &file,
        "--",
        "sh",
        "-c",
        "~/.mytool/run",
    ]);
    let learned = world.spawn(command).finish();
    assert!(learned.stdout.contains("second-ran\ntools-ran"), "{learned:?}");
    assert!(!learned.all().contains("canary"), "{learned:?}");
    let text = std::fs::read_to_string(&file).expect("a policy was written");
    assert!(text.contains("tools = [\"~/.mytool\", \"~/.second\"]") && !text.contains(".ssh"), "{text}");
    assert!(
        !text.contains("[[push]]") && text.contains("network     = \"none\""),
        "no more than it needed: {text}"
    );
    world.keyhatch(&["policy", "check", &file]).ok();
    let ran = world.run(&project, &file, "~/.mytool/run");
    assert!(ran.stdout.contains("second-ran\ntools-ran") && !ran.all().contains("canary"), "{ran:?}");
}
