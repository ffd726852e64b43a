//! Between the host's loopback and the sandbox's: servers inside, published ports, services of the host, the host's network.

use keyhatch_tests::testnet::network_policy;
use keyhatch_tests::{World, free_port};

fn get(world: &World, url: &str) -> String {
    let mut curl = world.command("curl");
    curl.args(["-sS", "-m", "20", url]);
    let got = world.spawn(curl).finish();
    format!("{}{}", got.stdout, got.stderr)
}

#[test]
fn a_server_inside_is_reached_inside_and_from_the_host_only_where_it_is_published() {
    let world = World::new();
    let (published, private) = (free_port(), free_port());
    let section = format!("[network]\npublish = [{published}]");
    world.policy("dev", &network_policy("dev", &section));
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/index.html", "from the sandbox\n");
    // One on 127.0.0.1, and the published one on ::1 only, where tools listen when told "localhost".
    let script = format!(
        "python3 -m http.server {private} --bind 127.0.0.1 2>/dev/null & python3 -m http.server {published} --bind ::1 2>/dev/null & \
         until curl -gsf http://[::1]:{published}/index.html && curl -sf http://127.0.0.1:{private}/index.html; do sleep 0.1; done; \
         touch up; while ! test -e down; do sleep 0.1; done"
    );
    let run = world.start(&project, "dev", &script);
    world.wait_until("the servers are up", || project.join("up").exists());
    let url = format!("http://127.0.0.1:{published}/index.html");
    // More, one after the other, than there are sockets to connect with: they are used again.
    for _ in 0..40 {
        assert_eq!(get(&world, &url), "from the sandbox\n");
    }
    assert!(get(&world, &format!("http://127.0.0.1:{private}/")).contains("Failed to connect"));
    // A second session cannot have the same port, and says so.
    let second = world.run(&project, "dev", "true").fails();
    assert!(
        second.stderr.contains(&format!("port {published} of this machine cannot be used")),
        "{second:?}"
    );
    assert!(second.stderr.contains("hint: another program or session uses it"), "{second:?}");
    world.write("p/down", "");
    let ran = run.finish().ok();
    assert!(
        ran.stderr.contains(&format!("http://127.0.0.1:{published}/ is port {published} of the sandbox")),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("40 to published ports"), "{ran:?}");
    assert!(get(&world, &url).contains("Failed to connect"), "the port goes with its session");
}

#[test]
fn a_published_port_carries_bytes_both_ways_and_many_at_once() {
    let world = World::new();
    let port = free_port();
    world.policy("dev", &network_policy("dev", &format!("[network]\npublish = [{port}]")));
    let project = world.project("p", "https://h.example/p.git");
    let echo = "import socketserver\n\
                class Echo(socketserver.BaseRequestHandler):\n\
                \x20   def handle(self):\n\
                \x20       while data := self.request.recv(65536): self.request.sendall(data)\n\
                class Server(socketserver.ThreadingTCPServer):\n\
                \x20   request_queue_size = 64\n\
                import os\n\
                server = Server(('127.0.0.1', int(os.environ['PORT'])), Echo)\n\
                open('up', 'w').close()\n\
                server.serve_forever()\n";
    world.write("p/echo.py", echo);
    let run = world.start(&project, "dev", &format!("PORT={port} exec python3 echo.py"));
    world.wait_until("the server is up", || project.join("up").exists());
    let sent: Vec<u8> = (0..2_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let talk = |sent: &[u8]| {
        use std::io::{Read, Write};
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it is published");
        let mut writer = stream.try_clone().expect("a second descriptor");
        let bytes = sent.to_vec();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).expect("it takes everything");
            writer.shutdown(std::net::Shutdown::Write).expect("it can be half closed");
        });
        let mut back = Vec::new();
        (&stream).read_to_end(&mut back).expect("it answers");
        writing.join().expect("the writer ends");
        back == sent
    };
    std::thread::scope(|scope| {
        let talks: Vec<_> = (0..20).map(|_| scope.spawn(|| talk(&sent[..200_000]))).collect();
        assert!(talks.into_iter().all(|talk| talk.join().expect("it ends")));
    });
    assert!(talk(&sent));
    run.signal(libc::SIGTERM);
    run.finish();
}

#[test]
fn a_named_service_of_the_host_is_reached_and_no_other() {
    let world = World::new();
    let (named, other) = (free_port(), free_port());
    world.make_directory("srv-named");
    world.write("srv-named/index.html", "the database\n");
    let server = |port: u16| {
        let mut server = world.command("python3");
        server.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]);
        server.current_dir(world.path("srv-named"));
        world.spawn(server)
    };
    let _servers = [server(named), server(other)];
    for port in [named, other] {
        let url = format!("http://127.0.0.1:{port}/index.html");
        world.wait_until("the service is up", || get(&world, &url) == "the database\n");
    }
    let section = format!(
        "[network]\nallow = [\"localhost:{other}\", \"127.0.0.1:{other}\"]\n\
         host_services = [{{ address = \"127.0.0.1:{named}\", reason = \"the tests' database\" }}]"
    );
    world.policy("db", &network_policy("db", &section));
    let project = world.project("p", "https://h.example/p.git");
    let script = format!(
        "curl -sS http://127.0.0.1:{named}/index.html; curl -sS http://127.0.0.1:{other}/index.html; \
         NO_PROXY= no_proxy= curl -sS http://localhost:{other}/index.html; NO_PROXY= no_proxy= curl -sS http://127.0.0.1:{other}/index.html"
    );
    let ran = world.run(&project, "db", &script);
    assert!(ran.stdout.starts_with("the database\n"), "{ran:?}");
    assert_eq!(ran.stdout.matches("the database").count(), 1, "{ran:?}");
    assert_eq!(ran.stdout.matches("the host resolves it to a loopback address").count(), 2, "{ran:?}");
    let said = format!("the agent reaches 127.0.0.1:{named} of this machine: the tests' database");
    assert!(ran.stderr.contains(&said), "{ran:?}");
    assert!(ran.stderr.contains(&format!("1 to 127.0.0.1:{named} of this machine")), "{ran:?}");
    assert!(world.events().contains(&"network-service".to_owned()));
}

#[test]
fn the_hosts_network_says_what_it_opens_and_keeps_the_brokers_sockets_out_of_reach() {
    let world = World::new();
    let port = free_port();
    world.make_directory("srv-host");
    world.write("srv-host/index.html", "on the host\n");
    let mut server = world.command("python3");
    server.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"]);
    server.current_dir(world.path("srv-host"));
    let _server = world.spawn(server);
    let url = format!("http://127.0.0.1:{port}/index.html");
    world.wait_until("the service is up", || get(&world, &url) == "on the host\n");
    world.policy("open", &network_policy("open", "network = \"host\"\n\n[[fetch]]\nname = \"own\"\nremote = \"{remotes}\"\ndecision = \"allow\"\nreason = \"a test\""));
    let upstream = keyhatch_tests::HttpsServer::start(&world);
    upstream.trust(&world);
    upstream.log_in(&world);
    world.upstream("r.git", "sha1");
    let project = world.project("p", &upstream.url("r.git"));
    let own = world.path("run/keyhatch");
    let script = format!(
        "curl -sS {url}; env | grep -c -i http_proxy; ls {own} 2>&1; ls /run/keyhatch; git ls-remote origin; echo git $?; \
         front=$(git config --system --get-regexp 'url.*insteadof' | grep -o 'http://127.0.0.1:[0-9]*' | head -1); \
         curl -s -o /dev/null -w '%{{http_code}}\\n' $front/https/127.0.0.1/x/info/refs?service=git-upload-pack",
        own = own.display()
    );
    let ran = world.run(&project, "open", &script);
    assert!(ran.stdout.starts_with("on the host\n0\n"), "{ran:?}");
    assert!(ran.stdout.contains("No such file or directory"), "{ran:?}");
    assert!(
        ran.stderr.contains("network = \"host\": the agent reaches what this machine reaches"),
        "{ran:?}"
    );
    // git works through the front end, which on the host's loopback answers only to the session's own word.
    assert!(ran.stdout.contains("git 0\n"), "{ran:?}");
    assert!(ran.stdout.ends_with("403\n"), "{ran:?}");
}
