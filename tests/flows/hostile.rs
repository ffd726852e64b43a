//! Bad input and faults: a clear error, nothing lost, the broker alive.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keyhatch_tests::raw::{exchange, get, http_socket, pkt, post};
use keyhatch_tests::{HttpsServer, Running, SshServer, SshVersion, World};

const ZERO: &str = "0000000000000000000000000000000000000000";
const ONE: &str = "1111111111111111111111111111111111111111";

struct Scene {
    world: World,
    server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.allow_policy();
        Self { world, server, upstream, project }
    }

    /// A session that stays open until it is dropped.
    fn session(&self) -> Running {
        let run = self.world.start(&self.project, "allow", "echo > ready; sleep 600");
        self.world.wait_until("the session is open", || self.project.join("ready").exists());
        run
    }

    fn front_end(&self) -> String {
        self.server.url(&self.upstream).replacen("://", "/", 1)
    }

    /// The proof that nothing broke: an ordinary push still works, and the audit log verifies.
    #[track_caller]
    fn still_works(&self) {
        let pushed =
            self.world.run(&self.project, "allow", "git push origin HEAD:refs/heads/still-works 2>&1").ok();
        assert!(!self.world.tip(&self.upstream, "still-works").is_empty(), "{pushed:?}");
        self.world.keyhatch(&["audit", "verify"]).ok();
        let spool = self.world.home().join(".local/state/keyhatch/spool");
        assert_eq!(std::fs::read_dir(spool).expect("a spool").count(), 0, "nothing is left in the spool");
    }
}

#[test]
fn malformed_pushes_are_refused_with_a_reason() {
    let scene = Scene::new();
    let _session = scene.session();
    let socket = http_socket(&scene.world);
    let command = |ref_name: &str| pkt(&format!("{ZERO} {ONE} {ref_name}\0report-status"));
    let pack = |objects: u32| [&b"PACK\0\0\0\x02"[..], &objects.to_be_bytes()].concat();
    let whole = |ref_name: &str, pack: &[u8]| [command(ref_name).as_bytes(), b"0000", pack].concat();
    for (body, reason) in [
        (b"zzzz".to_vec(), "malformed"),
        (b"0003".to_vec(), "malformed"),
        (b"00ffabc".to_vec(), "ended early"),
        (whole("refs/heads/a..b", &pack(0)), "a ref that git forbids"),
        (whole("main", &pack(0)), "a ref that git forbids"),
        (whole("refs/heads/x.lock", &pack(0)), "a ref that git forbids"),
        (whole("refs/heads/x", b""), "the pack is malformed"),
        (whole("refs/heads/x", b"PACK"), "the pack is malformed"),
        (whole("refs/heads/x", &pack(3)), "the pack is malformed"),
        (whole("refs/heads/x", &[pack(1), vec![0x3f; 100]].concat()), "the pack is malformed"),
        (whole("refs/heads/x", &pack(u32::MAX)), "objects, more than the limit"),
        (whole("refs/heads/x", &pack(3_000_000)), "objects, more than the limit"),
    ] {
        let answer = exchange(&socket, &post(&scene.front_end(), &body));
        assert!(answer.contains(reason), "{reason}: {answer}");
    }
    // An empty pack is a legal one; what the command names is not in it.
    let empty = [pack(0), sha1_of_empty_pack()].concat();
    let answer = exchange(&socket, &post(&scene.front_end(), &whole("refs/heads/x", &empty)));
    assert!(
        answer.contains("ng refs/heads/x keyhatch: refs/heads/x would point to an object that was not sent"),
        "{answer}"
    );
    scene.still_works();
}

fn sha1_of_empty_pack() -> Vec<u8> {
    let digits = "029d08823bd8a8eab510ad6ac75c823cfd3ed31e";
    (0..20).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).expect("hex")).collect()
}

#[test]
fn hostile_urls_are_refused_before_any_connection() {
    let scene = Scene::new();
    let _session = scene.session();
    let socket = http_socket(&scene.world);
    for path in [
        "https/user:pw@h.example/r",
        "ssh/-oProxyCommand=touch%20x/r",
        "ssh/-oProxyCommand=x/r",
        "https/h.example/a%0ab",
        "https/h.example/a%00b",
        "https/h.example/../etc",
        "scp/git@h/-x",
        "file/etc/passwd",
        "ext/x/sh",
        "https/h.example:0/x",
        "https/h.exa\u{430}mple/x",
    ] {
        let answer = exchange(&socket, &get(path, "git-upload-pack"));
        let refused = answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{path}: {answer}");
    }
    let other = exchange(&socket, &get("https/other.example/r", "git-receive-pack"));
    assert!(
        other.contains("keyhatch: push denied: denied by policy: no rule allows pushing to this remote"),
        "{other}"
    );
    scene.still_works();
}

#[test]
fn an_inflated_file_is_bounded_and_a_deep_chain_of_deltas_is_read() {
    let scene = Scene::new();
    // 700 MiB of zeros are under 1 MiB in a pack.
    let script = "head -c 700M /dev/zero > zeros && git add zeros && git commit -qm zeros && git push origin main 2>&1; echo code $?; \
                  git rm -q --cached zeros; rm zeros; \
                  for i in $(seq 300); do echo $i >> deep; git add deep; git commit -qm $i; done; git repack -qadf --depth=4000 --window=50; \
                  git push origin main 2>&1; echo code $?";
    let ran = scene.world.run(&scene.project, "allow", script);
    assert_eq!(ran.stdout.matches("code 0").count(), 2, "{ran:?}");
    assert_eq!(scene.world.tip(&scene.upstream, "main"), scene.world.tip(&scene.project, "main"));
    scene.still_works();
}

#[test]
fn six_hundred_connections_of_one_session_do_not_keep_another_out() {
    let scene = Scene::new();
    let _session = scene.session();
    let socket = http_socket(&scene.world);
    let open: Vec<UnixStream> = (0..600)
        .filter_map(|_| {
            // The backlog is finite too: what does not fit is the flood's own problem.
            let stream = nonblocking_connect(&socket)?;
            (&stream).write_all(b"GET /").ok()?;
            Some(stream)
        })
        .collect();
    assert!(open.len() > 64, "{}", open.len());
    let other = scene.world.project("other", &scene.server.url(&scene.upstream));
    let started = Instant::now();
    scene.world.run(&other, "allow", "git ls-remote origin").ok();
    assert!(started.elapsed() < Duration::from_secs(15), "it did not wait for the flood to time out");
    drop(open);
    scene.still_works();
}

fn nonblocking_connect(socket: &Path) -> Option<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&stream, &SocketAddrUnix::new(socket).ok()?).ok()?;
    Some(stream.into())
}

#[test]
fn a_client_that_sends_its_header_by_the_drop_is_cut_off() {
    let scene = Scene::new();
    let _session = scene.session();
    let mut stream = UnixStream::connect(http_socket(&scene.world)).expect("the session's socket");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let started = Instant::now();
    let closed = loop {
        if stream.write_all(b"x").is_err() {
            break true;
        }
        match stream.read(&mut [0; 64]) {
            Ok(_) => break true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break true,
        }
        if started.elapsed() > Duration::from_secs(60) {
            break false;
        }
    };
    assert!(closed, "it is cut off");
    scene.still_works();
}

#[test]
fn an_upstream_that_dies_in_the_middle_leaves_an_unknown_outcome() {
    let scene = Scene::new();
    let hook = "#!/bin/sh\nkill -9 $PPID\n";
    std::fs::create_dir_all(scene.upstream.join("hooks")).expect("a directory");
    scene.world.write_mode("srv/r.git/hooks/pre-receive", hook, 0o755);
    let ran = scene.world.run(&scene.project, "allow", "git push origin main 2>&1");
    assert!(ran.stdout.contains("whether it took the push is unknown"), "{ran:?}");
    assert_ne!(ran.code(), 0);
    let sent =
        scene.world.audit().into_iter().find(|record| record["event"] == "push-sent").expect("a record");
    assert_eq!(sent["outcome"], "unknown");
    std::fs::remove_file(scene.upstream.join("hooks/pre-receive")).expect("a hook");
    scene.still_works();
}

#[test]
fn redirects_wrong_passwords_and_unknown_certificates_are_told_apart() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    let untrusted = world.run(&project, "default", "git ls-remote origin").fails();
    assert!(untrusted.stderr.contains("the certificate of 127.0.0.1"), "{untrusted:?}");
    assert!(untrusted.stderr.contains("hint: the user names its CA in http.sslCAInfo"), "{untrusted:?}");
    server.trust(&world);
    world.keyhatch(&["broker", "--stop"]).ok();
    let unknown = world.run(&project, "default", "git ls-remote origin").fails();
    assert!(unknown.stderr.contains("no credential is known for 127.0.0.1"), "{unknown:?}");
    // A helper that always answers, and wrongly; it writes down what it was told.
    let told = world.path("told");
    let helper = format!(
        "#!/bin/sh\necho \"$1\" >> {}\ncat > /dev/null\n[ \"$1\" = get ] && printf 'username=alice\\npassword=wrong-canary\\n'\n",
        told.display()
    );
    let helper = world.write_mode("bin/helper", &helper, 0o755);
    world.git(&world.home(), &["config", "--global", "credential.helper", &helper.to_string_lossy()]).ok();
    let refused = world.run(&project, "default", "git ls-remote origin").fails();
    assert!(refused.stderr.contains("refused the credential"), "{refused:?}");
    assert!(!refused.all().contains("wrong-canary"));
    let told = std::fs::read_to_string(told).expect("the helper was called");
    assert_eq!(
        told.lines().filter(|verb| *verb == "erase").count(),
        told.lines().filter(|verb| *verb == "get").count(),
        "{told}"
    );
    assert!(!told.contains("store"), "{told}");
}

#[test]
fn a_redirect_is_not_followed_with_a_credential() {
    let world = World::new();
    let server = HttpsServer::start_redirecting(&world, "https://other.example/");
    server.trust(&world);
    server.log_in(&world);
    let project = world.project("p", &server.url("r.git"));
    let refused = world.run(&project, "default", "git ls-remote origin; git push origin main").fails();
    assert!(refused.stderr.contains("redirects to https://other.example/"), "{refused:?}");
    assert!(refused.stderr.contains("a redirect is not followed"), "{refused:?}");
}

#[test]
fn a_broker_that_is_killed_while_it_sends_says_unknown_when_it_is_back() {
    let scene = Scene::new();
    let (world, project) = (&scene.world, &scene.project);
    let hook = format!(
        "#!/bin/sh\ntouch {0}/reached; while ! test -e {0}/go; do sleep 0.05; done\n",
        world.path("").display()
    );
    std::fs::create_dir_all(scene.upstream.join("hooks")).expect("a directory");
    world.write_mode("srv/r.git/hooks/pre-receive", &hook, 0o755);
    let push = world.start(project, "allow", "git push origin main 2>&1");
    world.wait_until("upstream has the push", || world.path("reached").exists());
    kill(world.broker());
    world.write("go", "");
    let pushed = push.finish();
    assert_ne!(pushed.code(), 0, "{pushed:?}");
    std::fs::remove_file(scene.upstream.join("hooks/pre-receive")).expect("a hook");
    scene.still_works();
    let events = world.events();
    assert_eq!(events.iter().filter(|event| *event == "push-unknown").count(), 1, "{events:?}");
    // Said once: another start does not say it again.
    world.keyhatch(&["broker", "--stop"]).ok();
    scene.still_works();
    assert_eq!(world.events().iter().filter(|event| *event == "push-unknown").count(), 1);
}

#[test]
fn a_broker_that_is_killed_while_it_holds_a_push_has_sent_nothing() {
    let scene = Scene::new();
    let (world, project) = (&scene.world, &scene.project);
    let push = world.start(project, "default", "git push origin main 2>&1");
    let id = world.pending_id();
    kill(world.broker());
    let pushed = push.finish();
    assert_ne!(pushed.code(), 0, "{pushed:?}");
    assert_eq!(world.tip(&scene.upstream, "main"), "");
    assert!(!world.events().contains(&"push-sending".to_owned()));
    scene.still_works();
    let late = world.keyhatch(&["approve", &id]).fails();
    assert!(late.stderr.contains(&id), "{late:?}");
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
    let gone = || {
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .map_or(true, |s| s.contains(") Z"))
    };
    while !gone() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_in_the_spool_refuses_the_push_and_nothing_else() {
    let scene = Scene::new();
    let (world, project) = (&scene.world, &scene.project);
    let spool = world.home().join(".local/state/keyhatch/spool");
    world.run(project, "allow", "true").ok();
    world.keyhatch(&["broker", "--stop"]).ok();
    // A file system of 1 MiB for the spool, in a mount namespace of the broker's own; the second namespace gives the
    // user its number back.
    let ids = std::fs::metadata(project).expect("the project");
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&ids), std::os::unix::fs::MetadataExt::gid(&ids));
    let mut broker = world.command("unshare");
    broker.args(["-Urm", "sh", "-c"]).arg(format!(
        "mount -t tmpfs -o size=1m,mode=700 tmpfs {} && exec unshare -U --map-user={uid} --map-group={gid} {} broker",
        spool.display(),
        world.path("bin/keyhatch").display()
    ));
    let broker = world.spawn(broker);
    world.wait_until("the broker is up", || world.path("run/keyhatch/control.sock").exists());
    let script = "head -c 3M /dev/urandom > big; git add big; git commit -qm big; git push origin main 2>&1; echo code $?; \
                  git push origin HEAD~1:refs/heads/small 2>&1; echo code $?";
    let ran = world.run(project, "allow", script);
    assert!(ran.stdout.contains("the push cannot be kept on the host's disk"), "{ran:?}");
    assert!(ran.stdout.contains("code 1") && ran.stdout.contains("code 0"), "{ran:?}");
    drop(broker);
    scene.still_works();
}
