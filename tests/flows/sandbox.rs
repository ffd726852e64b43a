//! The sandbox: what is there, what is not, and how the command's life passes through.

use std::os::unix::fs::PermissionsExt;

use keyhatch_tests::World;

#[test]
fn nothing_of_the_users_is_visible() {
    let world = World::new();
    world.write("home/.ssh-canary", "canary-home");
    world.write("run/socket-canary", "canary-run");
    world.write("outside-canary", "canary-tmp");
    let project = world.project("home/p", "https://h.example/p.git");
    let script = format!(
        "cat {home}/.ssh-canary; cat {run}/socket-canary; cat {dir}/outside-canary; ls -A {home}; ls -A /tmp /run /home /root; \
         ls -A {dir}; cat /etc/shadow /etc/ssh/sshd_config; cat README",
        home = world.home().display(),
        run = world.path("run").display(),
        dir = world.path("").display()
    );
    let ran = world.run(&project, "default", &script);
    assert!(!ran.all().contains("canary-home"), "{ran:?}");
    assert!(!ran.all().contains("canary-run") && !ran.all().contains("canary-tmp"), "{ran:?}");
    assert!(ran.stdout.contains("hello"), "the project is there: {ran:?}");
    assert!(!ran.stdout.contains("root:"), "{ran:?}");
    let home = ran.stdout.lines().find(|line| line.starts_with('.'));
    assert_eq!(home, None, "the home is empty but for the way to the project: {ran:?}");
}

#[test]
fn the_project_is_writable_and_the_system_is_not() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let ran = world.run(&project, "default", "echo x > new && echo made; echo y > /usr/x");
    assert!(ran.stdout.contains("made"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(project.join("new")).expect("a file"), "x\n");
    assert!(!std::path::Path::new("/usr/x").exists());
}

#[test]
fn there_is_no_network_but_the_front_end() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener on the host");
    let port = listener.local_addr().expect("an address").port();
    let script = format!(
        "git ls-remote http://127.0.0.1:{port}/x; git ls-remote https://192.0.2.1/x; ls /sys/class/net; \
         cat /proc/net/dev | tail -n +3 | cut -d: -f1; cat /proc/net/tcp | wc -l"
    );
    let ran = world.run(&project, "default", &script);
    assert!(ran.stderr.contains("Failed to connect to 127.0.0.1"), "{ran:?}");
    assert!(ran.stderr.contains("Failed to connect to 192.0.2.1"), "{ran:?}");
    assert!(ran.stdout.contains("lo"), "{ran:?}");
    assert!(!ran.stdout.contains("eth"), "{ran:?}");
}

#[test]
fn the_environment_is_the_allow_list() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let mut command = world.command(world.path("bin/keyhatch"));
    command
        .current_dir(&project)
        .envs([("GITHUB_TOKEN", "canary-token"), ("SSH_AUTH_SOCK", "/canary/agent"), ("LD_PRELOAD", "")])
        .envs([("AWS_SECRET_ACCESS_KEY", "canary-aws"), ("HTTPS_PROXY", "http://canary"), ("TERM", "dumb")])
        .args(["run", "--", "sh", "-c", "env; cat /proc/self/environ /proc/1/environ | tr '\\0' '\\n'"]);
    let ran = world.spawn(command).finish();
    assert!(!ran.all().contains("canary"), "{ran:?}");
    assert!(ran.stdout.contains("TERM=dumb") && ran.stdout.contains("HOME="), "{ran:?}");
}

#[test]
fn exit_codes_and_deaths_by_signal_pass_through() {
    let world = World::new();
    let project = world.make_directory("plain");
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(world.run(&project, "default", script).code(), code, "{script}");
    }
    let missing = world.keyhatch(&["run", "--project", &project.to_string_lossy(), "--", "no-such-program"]);
    assert_eq!(missing.code(), 127, "{missing:?}");
    for said in [
        "cannot run no-such-program: No such file or directory",
        "hint: what is in your home is inside where",
    ] {
        assert!(missing.stderr.contains(said), "{said}: {missing:?}");
    }
    let directory = world.keyhatch(&["run", "--project", &project.to_string_lossy(), "--", "/usr"]);
    assert_eq!(directory.code(), 126, "{directory:?}");
}

#[test]
fn signals_reach_the_command_and_killing_keyhatch_kills_it_all() {
    let world = World::new();
    let project = world.make_directory("plain");
    let run = world.start(
        &project,
        "default",
        "trap 'echo got-term; exit 9' TERM; echo ready > r; sleep 60 & wait",
    );
    world.wait_until("the command is ready", || project.join("r").exists());
    run.signal(libc::SIGTERM);
    let ran = run.finish();
    assert_eq!((ran.code(), ran.stdout.trim()), (9, "got-term"), "{ran:?}");

    let mark = format!("86{}", std::process::id());
    let run = world.start(&project, "default", &format!("echo ready > s; sleep {mark}"));
    world.wait_until("the command is ready", || project.join("s").exists());
    let sleeping = || processes_of(&format!("sleep {mark}"));
    world.wait_until("it sleeps", || !sleeping().is_empty());
    run.signal(libc::SIGKILL);
    world.wait_until("everything is gone", || sleeping().is_empty());
}

fn processes_of(line: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.map(|found| found.replace('\0', " ").trim().to_owned()).filter(|found| found == line).collect()
}

#[test]
fn a_child_that_outlives_the_command_ends_with_it() {
    let world = World::new();
    let project = world.make_directory("plain");
    let mark = format!("87{}", std::process::id());
    let ran = world.run(&project, "default", &format!("setsid sleep {mark} >/dev/null 2>&1 & exit 3"));
    assert_eq!(ran.code(), 3);
    world.wait_until("the child is gone", || processes_of(&format!("sleep {mark}")).is_empty());
}

#[test]
fn descriptors_and_standard_files_of_the_host_do_not_cross() {
    let world = World::new();
    let project = world.make_directory("plain");
    let input = world.write("input", "from-the-host\n");
    let mut command = world.command("sh");
    let keyhatch = world.path("bin/keyhatch");
    let script = format!(
        "exec 7< {0}; {1} run --project {2} -- sh -c 'ls -l /proc/self/fd; cat; echo overwritten > /proc/self/fd/0' < {0}",
        input.display(),
        keyhatch.display(),
        project.display()
    );
    command.args(["-c", &script]);
    let ran = world.spawn(command).finish();
    assert!(ran.stdout.contains("from-the-host"), "{ran:?}");
    assert!(!ran.stdout.contains("input"), "{ran:?}");
    assert!(!ran.stdout.contains(" 7 ->"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(&input).expect("a file"), "from-the-host\n");
}

#[test]
fn powers_are_gone_and_forbidden_calls_fail() {
    let world = World::new();
    let project = world.make_directory("plain");
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; unshare -Ur true; echo unshare $?; \
                  mount -t tmpfs x /tmp; echo mount $?; cat /proc/1/environ; echo init $?; ls /proc | grep -c '^[0-9]'; \
                  ulimit -c; cat /proc/keys | wc -l; su -c true; echo su $?";
    let ran = world.run(&project, "default", script);
    for expected in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(ran.stdout.contains(expected), "{expected} {ran:?}");
    }
    for refused in ["unshare 1", "mount 32", "init 1"] {
        assert!(ran.stdout.contains(refused), "{refused} {ran:?}");
    }
    assert!(!ran.stdout.contains("su 0"), "{ran:?}");
}

#[test]
fn a_home_or_the_root_is_no_project_and_root_is_refused() {
    let world = World::new();
    let home = world.keyhatch(&["run", "--", "true"]).fails();
    assert!(home.stderr.contains("holds your home directory"), "{home:?}");
    let root = world.keyhatch(&["run", "--project", "/", "--", "true"]).fails();
    assert!(root.stderr.contains("hint: run this in one project's directory"), "{root:?}");
    if rustix::process::getuid().is_root() {
        let program = std::process::Command::new(world.path("bin/keyhatch")).args(["pending"]).output();
        let program = program.expect("it runs");
        assert!(String::from_utf8_lossy(&program.stderr).contains("refusing to run as root"));
    }
}

#[test]
fn the_broker_starts_once_for_two_first_runs_and_the_next_one_finds_it() {
    let world = World::new();
    let project = world.make_directory("plain");
    let runs: Vec<_> = (0..4).map(|_| world.start(&project, "default", "sleep 0.3")).collect();
    for run in runs {
        run.finish().ok();
    }
    assert_eq!(world.processes("keyhatch broker").len(), 1);
    world.keyhatch(&["broker", "--stop"]).ok();
    assert_eq!(world.processes("keyhatch broker").len(), 0);
    world.run(&project, "default", "true").ok();
}

#[test]
fn a_session_that_does_not_open_says_why_once_and_leaves_no_runner() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let config = project.join(".git/config");
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o000)).expect("a mode");
    let ran = world.run(&project, "default", "echo started").fails();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(".git/config"), "{ran:?}");
    assert!(lines[1].starts_with("hint: ") && ran.stdout.is_empty(), "{ran:?}");
    world.wait_until("its runner is gone", || world.processes("keyhatch-run --rules-fd").is_empty());
}
