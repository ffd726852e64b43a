//! Canaries: secrets of every kind that the host has, and everything that a session, a log or `/proc` can show.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyhatch_tests::{HttpsServer, World};

/// Every planted secret holds this word.
const CANARY: &str = "canary-5e1f";

/// What an agent that looks for secrets looks at. Not `/usr`, which is the same on every machine.
const SEARCH: &str = "env; git config --list --show-origin; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; \
    cat /proc/keys; git remote -v; grep -rIs . /etc /run /tmp /home /root \"$HOME\" .git/config .git/hooks | head -c 8000000; \
    for f in ~/.ssh/id_ed25519 ~/.git-credentials ~/.netrc ~/.config/gh/hosts.yml ~/.local/state/keyhatch/audit.jsonl; do cat $f; done; \
    printf 'protocol=https\\nhost=127.0.0.1:PORT\\n\\n' | git credential fill";

fn plant(world: &World) {
    for (name, text) in [
        (".ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary-5e1f-key\n"),
        (".netrc", "machine h.example login u password canary-5e1f-netrc\n"),
        (".config/gh/hosts.yml", "github.com:\n  oauth_token: canary-5e1f-gh\n"),
    ] {
        let path = Path::new("home").join(name);
        world.make_directory(&path.parent().expect("a directory").to_string_lossy());
        world.write_mode(&path.to_string_lossy(), text, 0o600);
    }
    let global = |key: &str, value: &str| world.git(&world.home(), &["config", "--global", key, value]).ok();
    global("http.https://elsewhere.example/.extraHeader", "X-Token: canary-5e1f-header");
    global("alias.leak", "!echo canary-5e1f-alias");
}

/// Greps the command lines and environments of every process for the canary while something runs.
fn watched<T>(act: impl FnOnce() -> T) -> (T, Vec<String>) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
                    for file in ["cmdline", "environ"] {
                        let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
                        // The server is sent what it is sent, and the test's own variables are nobody else's.
                        let not_ours = ["PLANTED_BY_THE_TEST", "GIT_PROJECT_ROOT"];
                        if text.contains(CANARY) && !not_ours.iter().any(|mark| text.contains(mark)) {
                            seen.push(format!("{}/{file}: {text}", entry.path().display()));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        (done, watcher.join().expect("the watcher ends"))
    })
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

#[test]
fn a_token_in_a_remotes_url_is_used_upstream_and_is_nowhere_else() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    plant(&world);
    let upstream = world.upstream("r.git", "sha1");
    assert!(HttpsServer::PASSWORD.contains(CANARY));
    let url =
        format!("https://{}:{}@127.0.0.1:{}/r.git", HttpsServer::USER, HttpsServer::PASSWORD, server.port);
    let project = world.project("p", &url);
    world.git(&project, &["config", "http.extraHeader", "X-Project: canary-5e1f-project"]).ok();
    world.allow_policy();
    let script = format!(
        "{}; git push --porcelain origin main; echo code $?",
        SEARCH.replace("PORT", &server.port.to_string())
    );
    let (ran, seen) = watched(|| {
        let mut command = world.command(world.path("bin/keyhatch"));
        command
            .current_dir(&project)
            .envs([("GITHUB_TOKEN", "canary-5e1f-env"), ("PLANTED_BY_THE_TEST", "1")])
            .args(["run", "--policy", "allow", "--", "sh", "-c", &script]);
        world.spawn(command).finish().ok()
    });
    assert!(ran.stdout.contains("code 0"), "the token was used: {ran:?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
    let leak = ran.all().lines().find(|line| line.contains(CANARY)).map(str::to_owned);
    assert_eq!(leak, None);
    assert!(seen.is_empty(), "{seen:?}");
    let mut written = Vec::new();
    files(&world.home().join(".local/state/keyhatch"), &mut written);
    files(&world.path("run"), &mut written);
    assert!(written.iter().any(|path| path.ends_with("audit.jsonl")), "{written:?}");
    for path in written {
        let bytes = std::fs::read(&path).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{}", path.display());
    }
}

#[test]
fn an_extra_header_of_the_project_goes_upstream_alone() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    // base64("alice:canary-5e1f-token-of-alice"), as continuous integration writes it into a checkout.
    let login = "YWxpY2U6Y2FuYXJ5LTVlMWYtdG9rZW4tb2YtYWxpY2U=";
    let key = format!("http.https://127.0.0.1:{}/.extraHeader", server.port);
    world.git(&project, &["config", &key, &format!("Authorization: Basic {login}")]).ok();
    world.allow_policy();
    let ran = world
        .run(&project, "allow", "git config --list; cat .git/config; git push -q origin main; echo code $?")
        .ok();
    assert!(ran.stdout.contains("code 0") && !ran.all().contains(login), "{ran:?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}

#[test]
fn the_broker_leaves_no_core_and_shows_neither_environment_nor_memory() {
    let world = World::new();
    let project = world.make_directory("plain");
    world.run(&project, "default", "true").ok();
    let broker = world.broker();
    let limits = std::fs::read_to_string(format!("/proc/{broker}/limits")).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
    for file in ["environ", "mem", "maps"] {
        let mut read = world.command("cat");
        read.arg(format!("/proc/{broker}/{file}"));
        world.spawn(read).finish().fails();
    }
    let pid = rustix::process::Pid::from_raw(broker).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).expect("it can be signalled");
    world.wait_until("the broker is gone", || world.processes("keyhatch broker").is_empty());
    let mut left = Vec::new();
    files(&world.path(""), &mut left);
    let cores: Vec<_> = left
        .iter()
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("core")))
        .collect();
    assert!(cores.iter().all(|path| !path.ends_with("core")), "{cores:?}");
}
