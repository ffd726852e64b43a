//! git-lfs over the hatch: real git-lfs inside, a server of its protocol behind a login on the host.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use keyhatch_tests::{Container, ContainerSession, HttpsServer, Image, World};

struct Stage {
    world: World,
    https: HttpsServer,
    upstream: PathBuf,
    project: PathBuf,
    /// The SHA-256 of the large file that upstream has.
    large: String,
}

impl Stage {
    /// A user whose project has a large file, which upstream has too.
    fn new(elsewhere: &str) -> Self {
        let world = World::new();
        world.allow_policy();
        let https = HttpsServer::start_with_large_files(&world, elsewhere);
        https.trust(&world);
        https.log_in(&world);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &https.url("r.git"));
        let script = "git lfs install --local; git lfs track '*.bin'; head -c 3000000 /dev/urandom > a.bin; git add .; \
                      git commit -qm large; GIT_LFS_SKIP_PUSH=1 git push -q origin main; \
                      cp .git/lfs/objects/*/*/* ../large/; sha256sum < a.bin";
        let mut shell = world.command("sh");
        shell.current_dir(&project).args(["-ec", script]);
        let done = keyhatch_tests::Finished::from(shell.output().expect("sh runs")).ok();
        let large = done.stdout.lines().last().expect("a line").trim_end_matches(" -").trim().to_owned();
        assert_eq!(large.len(), 64, "{done:?}");
        Self { world, https, upstream, project, large }
    }

    /// Clones with git-lfs in force and names the file's content.
    fn clone(&self) -> String {
        format!(
            "export HOME=/tmp/h; mkdir $HOME; git lfs install --skip-repo; git config --global lfs.transfer.maxretries 1; cd /tmp; git clone -q {} c && sha256sum c/a.bin",
            self.https.url("r.git")
        )
    }
}

/// Nothing that opens something was inside.
#[track_caller]
fn no_secret(text: &str) {
    for secret in [HttpsServer::PASSWORD, HttpsServer::LINK] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn a_clone_has_its_large_files_and_no_link_of_the_servers_is_seen_inside() {
    let stage = Stage::new("https://127.0.0.1:1");
    let script = format!("export GIT_CURL_VERBOSE=1 GIT_TRACE=1; {}; git lfs locks", stage.clone());
    let ran = stage.world.run(&stage.project, "allow", &script);
    assert!(ran.stdout.contains(&format!("{}  c/a.bin", stage.large)), "{ran:?}");
    assert!(ran.stderr.contains("/info/lfs/keyhatch/"), "{ran:?}");
    no_secret(&ran.all());
    let allowed = stage.world.events().iter().filter(|event| *event == "fetch-allowed").count();
    assert_eq!(allowed, 1, "files and commits are one fetch");
}

#[test]
fn a_container_that_keyhatch_did_not_make_has_its_large_files_too() {
    let stage = Stage::new("https://127.0.0.1:1");
    let session = ContainerSession::open(&stage.world, &stage.project, "allow");
    let lfs = [(PathBuf::from("/usr/bin/git-lfs"), "/tmp/git-lfs".to_owned(), true)];
    let mut container = Container::new(Image::Bookworm, &[&session.mounts[..], &lfs].concat(), &session.env);
    let script = format!("export PATH=/tmp:$PATH; {}", stage.clone());
    let ran = container.runc(&stage.world, &script);
    assert!(ran.stdout.contains(&format!("{}  c/a.bin", stage.large)), "{ran:?}");
    no_secret(&ran.all());
    // One that is too old to be told who carries files asks over ssh for a place to go.
    let without = "sed '/^\\[lfs /,+1d' /run/keyhatch/gitconfig >/tmp/older; export GIT_CONFIG_SYSTEM=/tmp/older PATH=/tmp:$PATH; unset GIT_CONFIG_PARAMETERS";
    let older = format!("{without}; {}", stage.clone());
    let refused = container.runc(&stage.world, &older).fails();
    assert!(refused.stderr.contains("keyhatch-helper forward puts it there"), "{refused:?}");
    container.env.push(("KEYHATCH_FORWARD".into(), "1".into()));
    let ran = container.runc(&stage.world, &older);
    assert!(ran.stdout.contains(&format!("{}  c/a.bin", stage.large)), "{ran:?}");
    no_secret(&ran.all());
}

#[test]
fn without_namespaces_large_files_come_by_the_sessions_own_way_and_none_is_sent() {
    let stage = Stage::new("https://127.0.0.1:1");
    std::fs::create_dir(stage.project.join("src")).expect("a directory");
    stage.world.user.owns(&stage.project.join("src"));
    let script = format!(
        "python3 -c 'import socket; socket.socket()' 2>&1 | tail -1; git lfs install --skip-repo; cd $TMPDIR; \
         git clone -q {} c && sha256sum c/a.bin; cd - >/dev/null; git lfs install --local; \
         head -c 100000 /dev/urandom >src/b.bin; git add src; git commit -qm more; git push origin main || echo not pushed",
        stage.https.url("r.git")
    );
    let ran = stage.world.run_unnamespaced(&stage.project, "allow", &script);
    assert!(ran.stdout.contains("PermissionError"), "no internet socket: {ran:?}");
    assert!(ran.stdout.contains(&format!("{}  c/a.bin", stage.large)), "{ran:?}");
    let said = "keyhatch: git-lfs does not send files from here yet";
    assert!(ran.stdout.contains("not pushed") && ran.stderr.contains(said), "{ran:?}");
    no_secret(&ran.all());
}

#[test]
fn a_fetch_that_the_policy_denies_brings_no_large_file() {
    let stage = Stage::new("https://127.0.0.1:1");
    stage.world.policy("nothing", "name = \"nothing\"\ndescription = \"a test\"\n");
    let authority = stage.https.url("r.git").trim_start_matches("https://").to_owned();
    let batch = format!(
        "{{\"operation\":\"download\",\"objects\":[{{\"oid\":\"{}\",\"size\":3000000}}]}}",
        stage.large
    );
    let ask = format!("curl -s -d '{batch}' http://127.0.0.1:8417/https/{authority}/info/lfs/objects/batch");
    let ran = stage.world.run(&stage.project, "nothing", &ask).ok();
    assert!(ran.stdout.contains("keyhatch: fetch denied: denied by policy"), "{ran:?}");
    // The same question has an answer where fetching is allowed.
    let ran = stage.world.run(&stage.project, "allow", &ask).ok();
    assert!(ran.stdout.contains("\"download\":{\"href\":\"http://127.0.0.1:8417/https/"), "{ran:?}");
    no_secret(&ran.all());
}

#[test]
fn a_server_that_sends_the_broker_to_this_machine_is_not_followed() {
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    trap.set_nonblocking(true).expect("it can be asked");
    let port = trap.local_addr().expect("an address").port();
    for place in [
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
        format!("http://192.0.2.1:{port}"),
    ] {
        let stage = Stage::new(&place);
        let at = stage.world.path("large").join(&stage.large);
        std::fs::rename(&at, at.with_extension("elsewhere")).expect("a file");
        let ran = stage.world.run(&stage.project, "allow", &stage.clone()).fails();
        assert!(
            ran.stderr.contains("has its large files at a place that is not reached from here")
                || ran.stderr.contains("cannot be reached"),
            "{place}: {ran:?}"
        );
        assert!(trap.accept().is_err(), "{place}: nobody knocked");
        no_secret(&ran.all());
    }
}

#[test]
fn a_link_that_sends_on_is_followed_where_a_link_is_and_where_to_is_not_said() {
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    trap.set_nonblocking(true).expect("it can be asked");
    let port = trap.local_addr().expect("an address").port();
    let stage = Stage::new("https://127.0.0.1:1");
    let at = stage.world.path("large").join(&stage.large);
    std::fs::rename(&at, at.with_extension("kept")).expect("a file");
    let sends_to = |place: &str| std::fs::write(at.with_extension("moved"), place).expect("a file");
    sends_to(&stage.https.url(&format!("r.git/info/lfs/get/{}", stage.large)));
    let ran = stage.world.run(&stage.project, "allow", &stage.clone());
    assert!(ran.stdout.contains(&format!("{}  c/a.bin", stage.large)), "{ran:?}");
    for place in [
        format!("https://127.0.0.1:{port}/?{}", HttpsServer::LINK),
        format!("http://192.0.2.1/?{}", HttpsServer::LINK),
        stage.https.url(&format!("r.git/info/lfs/moved/{}", stage.large)),
    ] {
        sends_to(&place);
        let ran = stage.world.run(&stage.project, "allow", &stage.clone()).fails();
        assert!(
            ran.stderr.contains("has its large files at a place that is not reached from here"),
            "{place}: {ran:?}"
        );
        assert!(trap.accept().is_err(), "{place}: nobody knocked");
        no_secret(&ran.all());
    }
}

/// A proxy of the user's that connects to whatever is asked for, and its port: what was asked for.
fn proxy() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (asks, asked) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let asks = asks.clone();
            std::thread::spawn(move || tunnel(client, |place| asks.send(place.to_owned()).ok()));
        }
    });
    (port, asked)
}

fn tunnel(mut client: TcpStream, asked: impl FnOnce(&str) -> Option<()>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first).ok()?;
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let place = first.strip_prefix("CONNECT ")?.split(' ').next()?;
    asked(place)?;
    let mut server = TcpStream::connect(place).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let mut up = server.try_clone().ok()?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
    std::io::copy(&mut server, &mut client).ok().map(drop)
}

#[test]
fn the_users_proxy_is_asked_for_no_name_of_this_machine() {
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stage = Stage::new(&format!("https://localhost:{}", trap.local_addr().expect("an address").port()));
    let at = stage.world.path("large").join(&stage.large);
    std::fs::rename(&at, at.with_extension("elsewhere")).expect("a file");
    let (port, asked) = proxy();
    let setting = ["config", "--global", "http.proxy", &format!("http://127.0.0.1:{port}")];
    stage.world.git(&stage.world.home(), &setting).ok();
    let ran = stage.world.run(&stage.project, "allow", &stage.clone()).fails();
    assert!(ran.stderr.contains("this machine's or a private network's"), "{ran:?}");
    let asked: Vec<String> = asked.try_iter().collect();
    let own = format!("127.0.0.1:{}", stage.https.port);
    assert!(!asked.is_empty() && asked.iter().all(|place| *place == own), "{asked:?}");
}

#[test]
fn a_push_of_large_files_is_refused_with_a_reason_that_git_lfs_shows() {
    let stage = Stage::new("https://127.0.0.1:1");
    let world = &stage.world;
    let script = "git lfs install --local; head -c 100000 /dev/urandom > b.bin; git add .; git commit -qm more; git push origin main";
    let ran = world.run(&stage.project, "allow", script).fails();
    let said = "git-lfs does not send files from here yet. Large files that are committed here come to the host with their commits";
    assert!(ran.stderr.contains(said), "{ran:?}");
    assert!(!ran.stderr.contains("proper access"), "advice about a login leads nowhere: {ran:?}");
    assert_ne!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
}
