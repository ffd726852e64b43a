//! Ways around the list: other protocols than the proxy's, other spellings than the policy's, other answers than the first.

use keyhatch_tests::World;
use keyhatch_tests::testnet::{SERVER, SERVER_V6, TestNet, USER_MACHINE, network_policy};

/// Addresses that the servers have, and that must be refused after resolution: each would answer.
const REFUSED: &[(&str, &str)] = &[
    ("10.9.8.7", "a private address"),
    ("192.168.7.7", "a private address"),
    ("172.16.5.5", "a private address"),
    ("100.64.0.9", "a private address"),
    ("169.254.169.254", "a link-local or metadata address"),
    ("198.18.0.7", "a reserved address"),
    ("127.0.0.1", "a loopback address"),
    ("0.0.0.0", "an address of this machine"),
    (USER_MACHINE, "an address of this machine"),
    ("fd12::7", "a private address"),
    ("::1", "a loopback address"),
    ("::ffff:127.0.0.1", "a loopback address"),
    ("::ffff:10.9.8.7", "a private address"),
    ("64:ff9b::a09:807", "a private address"),
    ("2002:a09:807::1", "a private address"),
    ("2001:db8:1::1", "an address of this machine"),
];

/// bash: says bytes to the proxy and prints what it answers.
const SPEAK: &str =
    "speak() { exec 3<>/dev/tcp/127.0.0.1/8418; printf \"$1\" >&3; timeout 10 cat <&3; exec 3>&-; }; ";

#[test]
fn the_kernel_has_no_way_out_for_a_program_that_asks_nobody() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _echo = net.serve("echo", 9000, &[]);
    let _beside = net.serve_beside_the_broker("echo", 9000);
    let _dns = net.serve("dns", 53, &["leak.example.org=203.0.113.10"]);
    let project = world.project("p", "https://h.example/p.git");
    let source = world.write("ways_out.c", include_str!("../peers/ways_out.c"));
    let mut compiler = world.command("cc");
    compiler.args(["-static", "-w", "-o"]).arg(project.join("ways_out")).arg(source);
    world.spawn(compiler).finish().ok();
    let arguments = format!("{SERVER} 9000 {SERVER_V6} leak.example.org");
    // First from the user's own machine: the ways are ways, where there is no sandbox.
    let mut direct = net.command(&project, "sh");
    direct.args(["-c", &format!("./ways_out {arguments}")]);
    let direct = world.spawn(direct).finish().ok();
    for way in ["tcp", "tcp6", "tcp-mapped", "mptcp", "fast-open", "udp", "dns", "decimal", "name"] {
        assert!(direct.stdout.contains(&format!("{way}: WORKED")), "{way}: {direct:?}");
    }
    // Six connections, a datagram, and a name's two questions.
    world.wait_until("all have arrived", || net.arrived().len() == 9);
    let before = net.arrived().len();
    for what in ["echo 9000 connection", "echo 9000 datagram", "dns 53 A leak.example.org"] {
        assert!(net.arrived().iter().any(|line| line == what), "{what}: {:?}", net.arrived());
    }
    for (name, section) in
        [("none", "network = \"none\""), ("web", "[network]\nallow = [\"web.example.org:9000\"]")]
    {
        world.policy(name, &network_policy(name, section));
        let script = format!(
            "./ways_out {arguments}; ./ways_out {USER_MACHINE} 9000 2001:db8:1::1; ./ways_out 127.0.0.1 9000 ::1; \
             ./ways_out 169.254.169.254 9000 fe80::1"
        );
        let ran = net.run(&project, name, &script).ok();
        let worked: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("WORKED")).collect();
        // A datagram to the sandbox's own loopback leaves, and nobody is there; a name has an address that leads nowhere.
        let to_itself = |line: &&str| {
            ["udp: WORKED", "dns: WORKED"].contains(line) || line.starts_with("name: WORKED 198.18.0.")
        };
        assert!(worked.iter().all(to_itself) && worked.len() <= 3, "{name}: {ran:?}");
    }
    assert_eq!(net.arrived().len(), before, "{:?}", net.arrived());
}

#[test]
fn an_address_that_leads_back_or_nearby_is_refused_after_resolution_in_every_form() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _beside = net.serve_beside_the_broker("http", 8080);
    let mut allow = Vec::new();
    let mut script = String::new();
    for (n, (address, _)) in REFUSED.iter().enumerate() {
        net.name(&format!("n{n}.example.org"), address);
        let literal = if address.contains(':') { format!("[{address}]") } else { (*address).to_owned() };
        allow.push(format!("\"{literal}:8080\""));
        script.push_str(&format!(
            "echo n{n}; curl -gsS -m 20 http://n{n}.example.org:8080/; echo l{n}; curl -gsS -m 20 'http://{literal}:8080/'; "
        ));
    }
    // The policy allows every one of them, by name and by number: only the look at the address is left.
    let section = format!("[network]\nallow = [\"*.example.org:8080\", {}]", allow.join(", "));
    world.policy("all", &network_policy("all", &section));
    let project = world.project("p", "https://h.example/p.git");
    let ran = net.run(&project, "all", &format!("export NO_PROXY= no_proxy=; {script}"));
    for (n, (address, why)) in REFUSED.iter().enumerate() {
        for mark in [format!("n{n}\n"), format!("l{n}\n")] {
            let answer =
                ran.stdout.split(&mark).nth(1).unwrap_or_default().lines().next().unwrap_or_default();
            assert!(
                answer.contains(&format!("the host resolves it to {why}")),
                "{address}: {answer}: {ran:?}"
            );
        }
    }
    assert!(!ran.stdout.contains("hello from"), "{ran:?}");
    assert_eq!(net.arrived(), Vec::<String>::new());
}

#[test]
fn a_private_host_is_reached_only_where_the_policy_says_so_by_name() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    net.name("git.corp.example.org", "10.9.8.7");
    net.name("meta.corp.example.org", "169.254.169.254");
    let section = "[network]\nallow = [\n\
                   { to = \"git.corp.example.org:8080\", private = true, reason = \"our forge\" },\n\
                   { to = \"meta.corp.example.org:8080\", private = true, reason = \"not even so\" },\n]";
    world.policy("corp", &network_policy("corp", section));
    let project = world.project("p", "https://h.example/p.git");
    let ran =
        net.run(&project, "corp", "for h in git meta; do curl -sS http://$h.corp.example.org:8080/; done");
    assert!(ran.stdout.starts_with("hello from http 8080"), "{ran:?}");
    assert!(ran.stdout.contains("the host resolves it to a link-local or metadata address"), "{ran:?}");
}

#[test]
fn a_name_that_changes_its_mind_is_connected_to_the_address_that_was_looked_at() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _beside = net.serve_beside_the_broker("http", 8080);
    let _dns = net.serve(
        "dns",
        53,
        &["turns.example.net=203.0.113.11,127.0.0.1", "back.example.net=10.9.8.7,203.0.113.11"],
    );
    world.policy("re", &network_policy("re", "[network]\nallow = [\"*.example.net:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    let script = "curl -sS http://turns.example.net:8080/1; curl -sS http://turns.example.net:8080/2; \
                  curl -sS http://back.example.net:8080/3; curl -sS http://back.example.net:8080/4";
    let ran = net.run(&project, "re", script);
    let answers: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with("hint")).collect();
    assert!(answers[0].starts_with("hello") && answers[3].starts_with("hello"), "{ran:?}");
    assert!(answers[1].contains("a loopback address") && answers[2].contains("a private address"), "{ran:?}");
    // One question a connection: what was looked at is what was connected to.
    let questions = net.arrived().iter().filter(|line| line.contains("A turns.example.net")).count();
    assert_eq!(questions, 2, "{:?}", net.arrived());
    let requests: Vec<String> =
        net.arrived().into_iter().filter(|line| line.starts_with("http") && line.contains("GET")).collect();
    assert_eq!(requests.len(), 2, "{requests:?}");
}

#[test]
fn a_request_that_two_readers_could_read_differently_is_refused_or_goes_to_the_allowed_host_alone() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _evil = net.serve("http", 8081, &[]);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"web.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    let requests = [
        "CONNECT web.example.org:8080@web.example.org:8081 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org:8081#web.example.org:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org\\x00.x:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org%%00:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org.:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org HTTP/1.1\\r\\nHost: web.example.org:8080\\r\\n\\r\\n",
        "CONNECT 3405803786:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT 0xcb00710a:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT 203.0.28938:8080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org:08080 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT web.example.org:8081 HTTP/1.1\\r\\nHost: web.example.org:8080\\r\\n\\r\\n",
        "GET http://web.example.org:8081/ HTTP/1.1\\r\\nHost: web.example.org:8080\\r\\n\\r\\n",
        "GET http://web.example.org:8080@web.example.org:8081/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
        "GET / HTTP/1.1\\r\\nHost: web.example.org:8080\\r\\n\\r\\n",
        "GET ftp://web.example.org:8080/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
        // A tunnel into the proxy itself, and a second CONNECT behind a refused one.
        "CONNECT 127.0.0.1:8418 HTTP/1.1\\r\\n\\r\\nCONNECT web.example.org:8081 HTTP/1.1\\r\\n\\r\\n",
    ];
    let mut script = String::from(SPEAK);
    for request in requests {
        script.push_str(&format!("speak '{request}'; echo; "));
    }
    let ran = net.run(&project, "web", &script);
    let first_lines = ran.stdout.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect::<Vec<_>>();
    assert!(first_lines.len() >= requests.len() - 2, "{ran:?}");
    assert!(
        first_lines.iter().all(|line| line.contains(" 400 ") || line.contains(" 403 ")),
        "{first_lines:?}"
    );
    assert_eq!(net.arrived(), Vec::<String>::new());

    // What is legal and mean: two lengths, a Host of another's, headers for the proxy. The server sees one request, for it.
    let mean = "GET http://web.example.org:8080/headers HTTP/1.1\\r\\nHost: evil.example\\r\\nProxy-Authorization: Basic eDp5\\r\\n\
                Connection: close, X-Drop\\r\\nX-Drop: 1\\r\\nTransfer-Encoding: chunked\\r\\nContent-Length: 5\\r\\n\\r\\n\
                0\\r\\n\\r\\nGET http://web.example.org:8081/smuggled HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n";
    let ran = net.run(&project, "web", &format!("{SPEAK} speak '{mean}'"));
    assert!(!ran.stdout.contains("hello from http 8081"), "{ran:?}");
    assert!(!ran.stdout.contains("proxy-authorization") && !ran.stdout.contains("x-drop"), "{ran:?}");
    let arrived = net.arrived();
    assert!(
        arrived.iter().all(|line| line == "http 8080 GET /headers host=web.example.org:8080"),
        "{arrived:?}"
    );
}

#[test]
fn a_nul_in_a_socks_name_and_commands_that_are_not_connect_are_refused() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _evil = net.serve("http", 8081, &[]);
    net.name("evil.example.net", SERVER);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"*.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    // Greeting, then CONNECT by name: length, name, port 8080. The reply's second byte says how it went.
    let request = |name: &str, length: usize| {
        format!("\\x05\\x01\\x00\\x05\\x01\\x00\\x03\\x{length:02x}{name}\\x1f\\x90")
    };
    let cases = [
        ("nul", request("evil.example.net\\x00.example.org", 29), "0500 0502"),
        ("newline", request("evil.example.net\\n.example.org", 29), "0500 0502"),
        ("decimal", request("3405803786", 10), "0500 0502"),
        ("unlisted", request("evil.example.net", 16), "0500 0502"),
        ("bind", "\\x05\\x01\\x00\\x05\\x02\\x00\\x01\\xcb\\x00\\x71\\x0a\\x1f\\x90".to_owned(), "0500 0507"),
        ("udp", "\\x05\\x01\\x00\\x05\\x03\\x00\\x01\\xcb\\x00\\x71\\x0a\\x1f\\x90".to_owned(), "0500 0507"),
        ("password", "\\x05\\x01\\x02".to_owned(), "05ff"),
        ("allowed", request("web.example.org", 15) + "GET /socks HTTP/1.0\\r\\n\\r\\n", "0500 0500"),
    ];
    let mut script = String::from(SPEAK);
    for (name, bytes, _) in &cases {
        script.push_str(&format!("echo \"{name} $(speak '{bytes}' | head -c 4 | xxd -p)\"; "));
    }
    let ran = net.run(&project, "web", &script.replace("xxd -p", "od -An -tx1 | tr -d ' \\n'"));
    for (name, _, reply) in &cases {
        assert!(ran.stdout.contains(&format!("{name} {}", reply.replace(' ', ""))), "{name}: {ran:?}");
    }
    let arrived = net.arrived();
    assert!(arrived.iter().all(|line| line.starts_with("http 8080 GET /socks")), "{arrived:?}");
    assert!(ran.stderr.contains("(not a destination), 3 times"), "{ran:?}");
}

#[test]
fn a_server_that_never_answers_costs_the_session_its_patience_and_nobody_else() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _silent = net.serve("silent", 9000, &[]);
    let _http = net.serve("http", 8080, &[]);
    // Nobody has this address, but the wire takes what is sent there.
    net.name("hole.example.org", "203.0.113.99");
    let section = "[network]\nallow = [\"*.example.org:8080\", \"web.example.org:9000\"]\nlimits = { connect = \"1s\", idle = \"1s\" }";
    world.policy("web", &network_policy("web", section));
    let project = world.project("p", "https://h.example/p.git");
    let script = "curl -sS http://hole.example.org:8080/; curl -sS http://web.example.org:9000/; \
                  curl -sS --proxytunnel http://web.example.org:9000/; echo code $?; curl -sS http://web.example.org:8080/";
    let ran = net.run(&project, "web", script);
    let unanswered = ran.stdout.contains("hole.example.org:8080: it did not answer in 1 s")
        || ran.stdout.contains("hole.example.org:8080: it cannot be reached");
    assert!(unanswered, "{ran:?}");
    assert!(ran.stdout.contains("web.example.org:9000: it did not answer in 1 s"), "{ran:?}");
    assert!(ran.stdout.contains("code 52") && ran.stdout.contains("hello from http 8080"), "{ran:?}");
    assert!(ran.stderr.contains("hole.example.org:8080, once"), "{ran:?}");
}

#[test]
fn two_thousand_connections_of_one_session_leave_the_others_and_the_user_alone() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"web.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    let other = world.project("q", "https://h.example/q.git");
    let flood = "import socket, time, os\n\
                 held = []\n\
                 for n in range(2000):\n\
                 \x20   s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.1', 8418)); held.append(s)\n\
                 open('flooded', 'w').close()\n\
                 while not os.path.exists('enough'): time.sleep(0.05)\n\
                 for s in held: s.close()\n";
    world.write("p/flood.py", flood);
    let run = net.start(
        &project,
        "web",
        "python3 flood.py; for n in $(seq 200); do curl -sS -m 5 http://web.example.org:8080/ && break; sleep 0.1; done",
    );
    world.wait_until("the flood is there", || project.join("flooded").exists());
    let neighbour = net.run(&other, "web", "curl -sS http://web.example.org:8080/").ok();
    assert!(neighbour.stdout.contains("hello from http 8080"), "{neighbour:?}");
    let listed = net.keyhatch(&["session", "list"]).ok();
    assert_eq!(listed.stdout.lines().count(), 1, "{listed:?}");
    // The broker shows them to nobody but root.
    let list = world.as_root("ls").arg(format!("/proc/{}/fd", world.broker())).output().expect("ls runs");
    let descriptors = list.stdout.split(|byte| *byte == b'\n').count();
    assert!(list.status.success() && descriptors < 600, "what waits costs the broker nothing: {descriptors}");
    world.write("p/enough", "");
    let ran = run.finish();
    assert!(ran.stdout.contains("hello from http 8080"), "{ran:?}");
}
