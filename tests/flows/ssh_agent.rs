//! The session's ssh-agent: off by default; where a policy has one, it logs in where the policy says and signs nothing
//! else. The clients are OpenSSH's own, against a real server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use keyhatch_protocol::agent::put;
use keyhatch_tests::testnet::{SERVER, TestNet, network_policy};
use keyhatch_tests::{Finished, Running, SshServer, SshVersion, World, raw};
use serde_json::Value;

/// A user with a key for a server, and a session whose policy names both.
struct Scene {
    world: World,
    _server: SshServer,
    url: String,
    port: String,
    socket: PathBuf,
    session: Running,
}

impl Scene {
    /// `named` is the host of the policy; none for the server itself.
    fn new(named: Option<&str>) -> Self {
        Self::with(named, "")
    }

    /// With more of the policy's `[ssh_agent]`.
    fn with(named: Option<&str>, more: &str) -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let url = server.url(Path::new("/"));
        let port = url.rsplit(':').next().expect("a port").trim_end_matches('/').to_owned();
        let directory = world.path(&format!("sshd-{port}"));
        world.make_directory("home/.ssh");
        let known = std::fs::read_to_string(directory.join("known_hosts")).expect("known hosts");
        world.write("home/.ssh/known_hosts", &known);
        let key = directory.join("id").display().to_string();
        world.keyhatch(&["credential", "add", "ssh", "login", "--file", &key]).ok();
        let host = named.map_or_else(|| format!("127.0.0.1:{port}"), str::to_owned);
        let policy = format!(
            "name = \"logs-in\"\ndescription = \"Logs in.\"\n[ssh_agent]\nkeys = [\"login\"]\nhosts = [\"{host}\"]\n{more}"
        );
        world.policy("logs-in", &policy);
        let project = world.project("p", "https://git.invalid/p");
        let session = world.start(
            &project,
            "logs-in",
            "echo $SSH_AUTH_SOCK > started; ssh-add -L > listed; while ! test -e go; do sleep 0.1; done",
        );
        world.wait_until("the session lists its keys", || {
            std::fs::read_to_string(world.path("p/listed")).is_ok_and(|listed| !listed.is_empty())
        });
        let socket = raw::http_socket(&world).with_file_name("agent.sock");
        Self { world, _server: server, url, port, socket, session }
    }

    /// A client that has the session's socket and no key of its own, as one inside with a route to the server has.
    fn client(&self, program: &str, arguments: &[&str]) -> Finished {
        let mut command = self.world.command(program);
        command.env("SSH_AUTH_SOCK", &self.socket).args(arguments);
        command.output().expect("it runs").into()
    }

    fn ssh(&self, options: &[&str], command: &str) -> Finished {
        let known = self.world.path("home/.ssh/known_hosts").display().to_string();
        let destination = format!("{}@127.0.0.1", self.world.user.name);
        let known = format!("-oUserKnownHostsFile={known}");
        let mut arguments = vec!["-F", "/dev/null", "-oBatchMode=yes", &known, "-p", &self.port];
        arguments.extend(options);
        arguments.extend([destination.as_str(), command]);
        self.client("/usr/bin/ssh", &arguments)
    }

    fn refusals(&self) -> Vec<String> {
        let refused = |record: &Value| record["event"] == "login-refused";
        let records = self.world.audit().into_iter().filter(refused);
        records.map(|record| record["reason"].as_str().expect("a reason").to_owned()).collect()
    }

    fn end(self) {
        self.world.write("p/go", "");
        self.session.finish().ok();
    }
}

#[test]
fn without_a_word_in_the_policy_there_is_no_agent() {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let done = world.run(&project, "default", "echo \"[$SSH_AUTH_SOCK]\"; ls /run/keyhatch").ok();
    assert!(done.stdout.contains("[]") && !done.stdout.contains("agent.sock"), "{done:?}");
}

#[test]
fn ssh_and_scp_log_in_to_a_named_host_with_a_named_key_and_it_is_recorded() {
    let scene = Scene::new(None);
    let inside = std::fs::read_to_string(scene.world.path("p/started")).expect("a name");
    assert_eq!(inside.trim(), "/run/keyhatch/agent.sock");
    let key =
        std::fs::read_to_string(scene.world.path(&format!("sshd-{}/id.pub", scene.port))).expect("a key");
    let listed = std::fs::read_to_string(scene.world.path("p/listed")).expect("a list");
    assert_eq!(listed.lines().count(), 1);
    assert_eq!(listed.split(' ').nth(1), key.split(' ').nth(1));
    assert_eq!(scene.ssh(&[], "echo hello").ok().stdout, "hello\n");
    scene.world.write("home/sent", "a file\n");
    let known = format!("-oUserKnownHostsFile={}", scene.world.path("home/.ssh/known_hosts").display());
    let to = format!(
        "scp://{}@127.0.0.1:{}/{}",
        scene.world.user.name,
        scene.port,
        scene.world.path("home/got").display()
    );
    scene.client("/usr/bin/scp", &["-O", "-F", "/dev/null", "-oBatchMode=yes", &known, "sent", &to]).ok();
    assert_eq!(std::fs::read_to_string(scene.world.path("home/got")).expect("it came"), "a file\n");
    let audit = scene.world.audit();
    let logins: Vec<&Value> = audit.iter().filter(|record| record["event"] == "login-signed").collect();
    assert_eq!(logins.len(), 2);
    assert_eq!(logins[0]["host"], format!("127.0.0.1:{}", scene.port));
    assert_eq!(logins[0]["user"], scene.world.user.name);
    assert!(scene.url.contains(&scene.port));
    scene.end();
}

#[test]
fn rsync_logs_in_with_it() {
    let scene = Scene::new(None);
    scene.world.make_directory("home/tree");
    scene.world.write("home/tree/a", "a file\n");
    let known = scene.world.path("home/.ssh/known_hosts").display().to_string();
    let shell =
        format!("/usr/bin/ssh -F /dev/null -oBatchMode=yes -oUserKnownHostsFile={known} -p {}", scene.port);
    let to = format!("{}@127.0.0.1:{}/", scene.world.user.name, scene.world.path("home/copy").display());
    scene.client("/usr/bin/rsync", &["-a", "-e", &shell, "tree/", &to]).ok();
    assert_eq!(std::fs::read_to_string(scene.world.path("home/copy/a")).expect("it came"), "a file\n");
    scene.end();
}

/// curl is linked with libssh2, which sends no `session-bind@openssh.com`.
const CURL: &str = "/usr/bin/curl -sS -k --connect-timeout 20 --disable";

#[test]
fn a_libssh2_client_whose_connection_nobody_sees_is_refused_with_the_reason() {
    let version = std::process::Command::new("/usr/bin/curl")
        .arg("-V")
        .output()
        .expect("curl is missing: run ./test.sh");
    assert!(
        String::from_utf8_lossy(&version.stdout).contains("libssh2/"),
        "this curl has no libssh2: {version:?}"
    );
    let scene = Scene::new(None);
    scene.world.write("home/file", "a file\n");
    let url = format!(
        "scp://{}:@127.0.0.1:{}{}",
        scene.world.user.name,
        scene.port,
        scene.world.path("home/file").display()
    );
    let words: Vec<&str> = CURL.split(' ').skip(1).chain([url.as_str()]).collect();
    let refused = scene.client("/usr/bin/curl", &words).fails();
    assert!(!refused.stdout.contains("a file"), "{refused:?}");
    assert!(
        scene.refusals().iter().any(|why| why.contains("the client sends no session-bind@openssh.com")),
        "{:?}",
        scene.refusals()
    );
    scene.end();
}

#[test]
fn libssh2_and_ssh_log_in_from_inside_where_the_server_proves_itself_on_the_way() {
    let scene = Scene::new(None);
    let (port, user) = (scene.port.clone(), scene.world.user.name.clone());
    let file = scene.world.write("home/file", "a file\n").display().to_string();
    let policy = |hosts: &str| {
        format!(
            "name = \"inside\"\ndescription = \"Logs in from inside.\"\n[ssh_agent]\nkeys = [\"login\"]\nhosts = [\"{hosts}\"]\n\
             [network]\nhost_services = [{{ address = \"127.0.0.1:{port}\", reason = \"the server\" }}]\n"
        )
    };
    let curl = format!("{CURL} scp://{user}:@127.0.0.1:{port}{file}");
    let ssh = format!(
        "/usr/bin/ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking=no -p {port} {user}@127.0.0.1 cat {file}"
    );
    let project = scene.world.make_directory("other");
    scene.world.policy("inside", &policy(&format!("127.0.0.1:{port}")));
    let done = scene.world.run(&project, "inside", &format!("{curl} && {ssh}")).ok();
    assert_eq!(done.stdout, "a file\na file\n", "{done:?}");
    let audit = scene.world.audit();
    let logins: Vec<&Value> = audit.iter().filter(|record| record["event"] == "login-signed").collect();
    assert_eq!(logins.len(), 2);
    assert!(logins.iter().all(|login| login["host"] == format!("127.0.0.1:{port}")), "{logins:?}");
    // A server that the policy does not name proves nothing that counts, and neither does one that is revoked.
    scene.world.policy("inside", &policy("git.example.org"));
    scene.world.run(&project, "inside", &curl).fails();
    scene.world.policy("inside", &policy(&format!("127.0.0.1:{port}")));
    let known = scene.world.path("home/.ssh/known_hosts");
    let text = std::fs::read_to_string(&known).expect("known hosts");
    scene.world.write(
        "home/.ssh/known_hosts",
        &format!("{text}@revoked * {}", text.split_once(' ').expect("a line").1),
    );
    scene.world.run(&project, "inside", &curl).fails();
    assert!(
        scene.refusals().iter().any(|why| why.contains("is revoked in known_hosts")),
        "{:?}",
        scene.refusals()
    );
    scene.end();
}

#[test]
fn libssh2_logs_in_to_another_machine_through_the_sessions_proxy() {
    let world = World::new();
    let net = TestNet::new(&world);
    world.make_directory("home/.ssh");
    for name in ["host", "login"] {
        let path = world.path("home").join(name);
        let made =
            world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
        assert!(made.expect("ssh-keygen runs").success());
    }
    let at = |name: &str| world.path("home").join(name).display().to_string();
    let config = format!(
        "Port 2222\nListenAddress {SERVER}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n",
        at("host"),
        at("login.pub")
    );
    let config = world.write("home/sshd_config", &config);
    let mut sshd = net.server("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(config);
    let _sshd = world.spawn(sshd);
    world.wait_until("sshd answers", || {
        let mut scan = net.command(&world.home(), "ssh-keyscan");
        scan.args(["-p", "2222", SERVER]).output().is_ok_and(|scanned| !scanned.stdout.is_empty())
    });
    let host = std::fs::read_to_string(world.path("home/host.pub")).expect("a host key");
    world.write("home/.ssh/known_hosts", &format!("[web.example.org]:2222 {host}"));
    world.keyhatch(&["credential", "add", "ssh", "login", "--file", &at("login")]).ok();
    let policy = "[ssh_agent]\nkeys = [\"login\"]\nhosts = [\"web.example.org:2222\"]\n\
                  [network]\nallow = [\"web.example.org:2222\", \"files.example.org:2222\"]";
    world.policy("away", &network_policy("away", policy));
    let project = world.make_directory("plain");
    let file = world.write("home/file", "a file\n").display().to_string();
    let curl = |host: &str| format!("{CURL} scp://{}:@{host}:2222{file}", world.user.name);
    let done = net.run(&project, "away", &curl("web.example.org")).ok();
    assert_eq!(done.stdout, "a file\n", "{done:?}");
    let audit = world.audit();
    let login = audit.iter().find(|record| record["event"] == "login-signed").expect("a record");
    assert_eq!(login["host"], "web.example.org:2222");
    // The same server by a name that the ssh-agent's policy does not have: nobody looks, and nothing is signed.
    net.run(&project, "away", &curl("files.example.org")).fails();
    let refused =
        world.audit().into_iter().find(|record| record["event"] == "login-refused").expect("a record");
    assert!(refused["reason"].as_str().expect("a reason").contains("is not bound to a server"), "{refused}");
}

#[test]
fn a_host_that_the_policy_does_not_name_gets_no_login() {
    let scene = Scene::new(Some("git.example.org"));
    let refused = scene.ssh(&[], "echo hello").fails();
    assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    assert!(
        scene.refusals()[0].contains("is not known for a host that the policy names"),
        "{:?}",
        scene.refusals()
    );
    scene.end();
}

#[test]
fn a_user_that_the_policy_does_not_name_gets_no_login() {
    let scene = Scene::with(None, "users = [\"git\"]\n");
    scene.ssh(&[], "echo hello").fails();
    let expected = format!("the policy names no user {}", scene.world.user.name);
    assert_eq!(scene.refusals()[0], expected);
    scene.end();
    let name = World::new().user.name.clone();
    let scene = Scene::with(None, &format!("users = [\"git\", \"{name}\"]\n"));
    assert_eq!(scene.ssh(&[], "echo hello").ok().stdout, "hello\n");
    scene.end();
}

#[test]
fn a_known_hosts_that_cannot_be_read_lets_nobody_log_in() {
    let scene = Scene::new(None);
    // The server is known by the first file; the second one, which ssh reads too, is none.
    scene.world.make_directory("home/.ssh/known_hosts2");
    scene.ssh(&[], "echo hello").fails();
    assert!(scene.refusals()[0].contains("known_hosts cannot be read"), "{:?}", scene.refusals());
    scene.end();
}

#[test]
fn a_revoked_server_gets_no_login() {
    let scene = Scene::new(None);
    let known = scene.world.path("home/.ssh/known_hosts");
    let text = std::fs::read_to_string(&known).expect("known hosts");
    let key = text.split_once(' ').expect("a line").1;
    // The client reads another file: what counts is the user's own.
    let client = scene.world.write("home/client_hosts", &text);
    scene.world.write("home/.ssh/known_hosts", &format!("{text}@revoked * {key}"));
    let option = format!("-oUserKnownHostsFile={}", client.display());
    let destination = format!("{}@127.0.0.1", scene.world.user.name);
    let refused = scene.client(
        "/usr/bin/ssh",
        &["-F", "/dev/null", "-oBatchMode=yes", &option, "-p", &scene.port, &destination, "true"],
    );
    refused.fails();
    assert!(scene.refusals()[0].contains("is revoked in known_hosts"), "{:?}", scene.refusals());
    scene.end();
}

#[test]
fn signatures_additions_locks_and_forwarding_are_refused() {
    let scene = Scene::new(None);
    let public = scene.world.path(&format!("sshd-{}/id.pub", scene.port));
    let public = public.display().to_string();
    let other = scene.world.path("home/other").display().to_string();
    let made =
        scene.world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &other]).status();
    assert!(made.expect("ssh-keygen runs").success());
    scene.world.write("home/data", "data\n");
    // SSHSIG with the private half out of reach: only the agent could sign.
    scene.world.write("home/only.pub", &std::fs::read_to_string(&public).expect("a key"));
    for namespace in ["git", "file"] {
        scene.client("ssh-keygen", &["-Y", "sign", "-n", namespace, "-f", "only.pub", "-U", "data"]).fails();
    }
    assert!(!scene.world.path("home/data.sig").exists());
    scene.client("ssh-add", &["-q", &other]).fails();
    scene.client("ssh-add", &["-q", "-D"]).fails();
    scene.client("ssh-add", &["-q", "-d", &public]).fails();
    scene.client("ssh-add", &["-T", &public]).fails();
    let before = scene.refusals();
    assert!(before.iter().any(|why| why == "only logins are signed here"), "{before:?}");
    assert!(before.iter().any(|why| why == "only listing and logging in are served"), "{before:?}");
    // Forwarded, the agent is good for nothing on the other machine.
    let hop = format!(
        "ssh -F /dev/null -oBatchMode=yes -oStrictHostKeyChecking=no -p {} 127.0.0.1 echo HOPPED",
        scene.port
    );
    let hopped = scene.ssh(&["-A"], &hop);
    assert!(!hopped.stdout.contains("HOPPED"), "{hopped:?}");
    let refusals = scene.refusals();
    assert!(refusals.iter().any(|why| why.contains("is not forwarded to another machine")), "{refusals:?}");
    scene.end();
}

/// A client of a test's own: one message and its answer.
fn ask(stream: &mut UnixStream, message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    put(&mut framed, message);
    stream.write_all(&framed).expect("writes");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    parts.iter().for_each(|part| put(&mut bytes, part));
    bytes
}

#[test]
fn a_login_on_a_connection_that_no_server_proved_its_own_is_refused() {
    const FAILURE: &[u8] = &[5];
    let scene = Scene::new(None);
    let connect = || UnixStream::connect(&scene.socket).expect("the session's socket");
    // 12, the number of keys, then the first key as a string.
    let listed = ask(&mut connect(), &[11]);
    let length = u32::from_be_bytes(listed[5..9].try_into().expect("a length")) as usize;
    let key = &listed[9..9 + length];
    let mut login = strings(&[b"session"]);
    login.push(50);
    login.extend(strings(&[b"root", b"ssh-connection", b"publickey"]));
    login.push(1);
    login.extend(strings(&[b"ssh-ed25519", key]));
    let sign = [&[13][..], &strings(&[key, &login]), &[0; 4]].concat();
    assert_eq!(ask(&mut connect(), &sign), FAILURE, "no server at all");
    // The server's own key, and a signature that somebody made up.
    let proof = strings(&[b"ssh-ed25519", &[7; 64]]);
    let mut forged = connect();
    let bind = [&[27][..], &strings(&[b"session-bind@openssh.com", key, b"session", &proof]), &[0]].concat();
    assert_eq!(ask(&mut forged, &bind), FAILURE);
    assert_eq!(ask(&mut forged, &sign), FAILURE, "and it stays refused");
    let refusals = scene.refusals();
    assert!(refusals.iter().any(|why| why.contains("not bound to a server")), "{refusals:?}");
    assert!(refusals.iter().any(|why| why.contains("did not sign this connection")), "{refusals:?}");
    scene.end();
}
