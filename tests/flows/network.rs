//! The network by name: what the policy lists is reached, by every tool's own way; nothing else is, and the reason is found.

use keyhatch_tests::World;
use keyhatch_tests::testnet::{TestNet, network_policy};

/// What a session's report says about the network.
fn network_of(ran: &keyhatch_tests::Finished) -> String {
    ran.stderr.lines().filter(|line| line.contains("network:")).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_allowed_host_is_reached_by_connect_by_plain_http_by_socks_and_by_git() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _https = net.serve_https(8443);
    let _http = net.serve("http", 8080, &[]);
    world.policy(
        "web",
        &network_policy("web", "[network]\nallow = [\"web.example.org:8443\", \"*.example.org:8080\"]"),
    );
    let project = world.project("p", "https://h.example/p.git");
    net.ca_in(&project);
    let bare = world.upstream("files.git", "sha1");
    world.git(&project, &["push", "--quiet", &bare.to_string_lossy(), "main"]).ok();
    world.git(&bare, &["update-server-info"]).ok();
    world.make_directory("net/files");
    std::os::unix::fs::symlink(&bare, world.path("net/files/r.git")).expect("a link");
    let script = "curl -sS --cacert test-ca.crt https://web.example.org:8443/a && \
                  curl -sS http://files.example.org:8080/b && \
                  curl -sS --noproxy '' --socks5-hostname 127.0.0.1:8418 http://web.example.org:8080/c && \
                  curl -sS --proxytunnel http://WEB.example.org:8080/d && \
                  git -c http.sslCAInfo=test-ca.crt clone -q https://web.example.org:8443/files/r.git /tmp/r && cat /tmp/r/README";
    let ran = net.run(&project, "web", script).ok();
    for expected in [
        "hello from https 8443, asked for web.example.org:8443",
        "hello from http 8080, asked for files.example.org:8080",
        "hello from http 8080, asked for web.example.org:8080",
        "hello\n",
    ] {
        assert!(ran.stdout.contains(expected), "{expected}: {ran:?}");
    }
    let events = world.events();
    assert_eq!(events.iter().filter(|event| *event == "network-allowed").count(), 3, "{events:?}");
    let audit = world.audit();
    let sums = audit.iter().find(|record| record["event"] == "network-summary").expect("sums are recorded");
    assert_eq!(sums["destinations"]["web.example.org:8080"]["connected"], 2, "{sums}");
    assert!(sums["destinations"]["web.example.org:8443"]["received"].as_u64() > Some(100), "{sums}");
    world.keyhatch(&["audit", "verify"]).ok();
}

#[test]
fn what_is_not_listed_is_refused_with_the_line_that_would_allow_it() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _other = net.serve("http", 8081, &[]);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"web.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    let script = "curl -sS http://files.example.org:8080/; curl -sS -o /dev/null -w '%{http_code}\\n' http://web.example.org:8081/; \
                  curl -sS --proxytunnel http://files.example.org:8080/; echo code $?; \
                  curl -sS --noproxy '' --socks5-hostname 127.0.0.1:8418 http://files.example.org:8080/; echo code $?";
    let ran = net.run(&project, "web", script);
    assert!(
        ran.stdout.contains("files.example.org:8080: it is not in the policy's [network] allow list"),
        "{ran:?}"
    );
    let line = "[network] allow = [\"web.example.org:8080\", \"files.example.org:8080\"]";
    assert!(ran.stdout.contains(line), "{ran:?}");
    assert!(
        ran.stdout.contains("403\n") && ran.stdout.contains("code 56") && ran.stdout.contains("code 97"),
        "{ran:?}"
    );
    let report = network_of(&ran);
    assert!(report.contains("files.example.org:8080, 3 times (by curl -sS"), "{report}");
    assert!(report.contains("web.example.org:8081, once") && report.contains(line), "{report}");
    assert_eq!(net.arrived(), Vec::<String>::new());
    // Said again on demand, whole, and as data.
    let session = world.audit()[0]["session"].as_str().expect("a session").to_owned();
    let shown = world.keyhatch(&["session", "show", &session, "--network"]).ok();
    assert!(shown.stdout.contains("files.example.org:8080, 3 times (by curl"), "{shown:?}");
    let json: serde_json::Value =
        serde_json::from_str(&world.keyhatch(&["session", "show", &session, "--json"]).ok().stdout)
            .expect("JSON");
    let section = json["sections"].as_array().expect("sections").iter().find(|s| s["name"] == "network");
    let counted = &section.expect("a section")["data"]["destinations"]["files.example.org:8080"];
    assert_eq!(counted["refused"], 3, "{json}");
    assert!(world.events().contains(&"network-refused".to_owned()));
}

#[test]
fn an_empty_list_and_no_list_allow_nothing() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    world.policy("empty", &network_policy("empty", "[network]\nmode = \"allow\"\nallow = []"));
    world.policy("none", &network_policy("none", "network = \"none\""));
    let project = world.project("p", "https://h.example/p.git");
    let script = "env | grep -ci proxy; curl -sS -m 5 http://web.example.org:8080/; \
                  curl -sS -m 5 --noproxy '*' http://203.0.113.10:8080/; curl -sS -m 5 --proxy http://127.0.0.1:8418 http://web.example.org:8080/";
    let empty = net.run(&project, "empty", script);
    assert!(empty.stdout.contains("it is not in the policy's [network] allow list"), "{empty:?}");
    let none = net.run(&project, "none", script);
    assert!(none.stdout.starts_with("0\n"), "{none:?}");
    assert!(none.stderr.contains("Failed to connect to web.example.org port 8080"), "{none:?}");
    assert!(none.stderr.contains("Failed to connect to 127.0.0.1 port 8418"), "{none:?}");
    assert!(network_of(&none).contains("web.example.org:8080, "), "{none:?}");
    assert!(network_of(&none).contains("the policy opens no network"), "{none:?}");
    assert_eq!(net.arrived(), Vec::<String>::new());
}

#[test]
fn a_tool_that_knows_no_proxy_fails_at_once_and_the_report_names_host_port_process_and_line() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"web.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    let dial = compiled(&world, &project, ("dial", include_str!("../peers/dial.c")));
    world.write("p/ask.py", "import socket\nsocket.create_connection(('db.example.net', 5432))\n");
    world.write("p/ask.mjs", "await fetch('http://model.example.net:11434/')\n");
    // Ten seconds is what a resolver without an answer takes; `timeout` would end the tool with 124.
    let script = format!(
        "timeout 9 {dial} api.example.net 6379; echo dial $?; timeout 9 {dial} 203.0.113.10 8080; echo literal $?; \
         timeout 9 {dial} 2001:db8:1::10 8081; echo six $?; timeout 9 {dial} 169.254.169.254 80; echo metadata $?; \
         timeout 9 python3 ask.py; echo python $?; timeout 9 env -u NODE_USE_ENV_PROXY node ask.mjs; echo node $?; \
         timeout 9 curl -sS --noproxy '*' http://web.example.org:8080/; echo curl $?; \
         timeout 9 getent hosts looked-up.example.net; echo getent $?; \
         timeout 9 python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((\"203.0.113.53\", 123))'; \
         timeout 9 {dial} db 80; {dial} 127.0.0.1 9 ; {dial} 0.0.0.0 9; exit 3"
    );
    let ran = net.run(&project, "web", &script);
    assert_eq!(ran.code(), 3, "{ran:?}");
    for expected in ["dial 1", "literal 1", "six 1", "metadata 1", "python 1", "node 1", "curl 7"] {
        assert!(ran.stdout.contains(expected), "{expected}: {ran:?}");
    }
    assert!(ran.stdout.contains("api.example.net: Network is unreachable"), "{ran:?}");
    assert!(ran.stdout.contains("db: Name or service not known"), "{ran:?}");
    assert!(ran.stderr.contains("OSError: [Errno 101] Network is unreachable"), "{ran:?}");
    let session = world.audit()[0]["session"].as_str().expect("a session").to_owned();
    let shown = world.keyhatch(&["session", "show", &session, "--network"]).ok().stdout;
    let by_itself = "a tool tried it itself, past the proxy at http://127.0.0.1:8418";
    for (what, who, line) in [
        ("api.example.net:6379", "dial api.example.net 6379", "\"api.example.net:6379\""),
        ("203.0.113.10:8080", "dial 203.0.113.10 8080", "\"203.0.113.10:8080\""),
        ("[2001:db8:1::10]:8081", "dial 2001:db8:1::10 8081", "\"[2001:db8:1::10]:8081\""),
        ("db.example.net:5432", "python3 ask.py", "\"db.example.net:5432\""),
        ("model.example.net:11434", "node ask.mjs", "\"model.example.net:11434\""),
    ] {
        for said in [&shown, &network_of(&ran)] {
            let said = said.lines().find(|line| line.contains(&format!("{what}, once (by ")));
            let said = said.unwrap_or_else(|| panic!("{what}: {shown}{ran:?}"));
            let line = format!("to allow it: [network] allow = [\"web.example.org:8080\", {line}]");
            assert!(said.contains(who) && said.contains(by_itself) && said.contains(&line), "{said}");
        }
    }
    // It is allowed: the cause is the tool, and no line would help. And what no line opens.
    let said = |what: &str| {
        shown.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {shown}"))
    };
    let allowed = said("web.example.org:8080, once (by curl");
    assert!(allowed.contains(by_itself) && !allowed.contains("allow = "), "{allowed}");
    let metadata = said("169.254.169.254:80, once");
    assert!(metadata.contains("which no policy opens") && !metadata.contains("allow = "), "{metadata}");
    assert!(said("203.0.113.53:123 (UDP), once").contains("nothing carries UDP out"), "{shown}");
    // One that only asks for a name is named by that alone; the sandbox's own loopback is nobody's business.
    assert!(said("looked-up.example.net, ").contains("by getent hosts looked-up"), "{shown}");
    assert!(
        !shown.contains("api.example.net,") && !shown.contains("127.0.0.1:9") && !shown.contains("0.0.0.0"),
        "{shown}"
    );
    let refused = |destination: &str| {
        world
            .audit()
            .iter()
            .any(|record| record["event"] == "network-refused" && record["destination"] == destination)
    };
    assert!(refused("api.example.net:6379") && refused("203.0.113.10:8080"), "{:?}", world.audit());
    assert_eq!(net.arrived(), Vec::<String>::new(), "nothing got out, and nothing was asked of a resolver");
}

#[test]
fn a_tool_that_resolves_by_itself_and_then_asks_the_proxy_reaches_the_name_that_it_means() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    world.policy("web", &network_policy("web", "[network]\nallow = [\"web.example.org:8080\"]"));
    let project = world.project("p", "https://h.example/p.git");
    // SOCKS5 without the h: curl asks the resolver, and the proxy for an address.
    let script = "curl -sS --noproxy '' --socks5 127.0.0.1:8418 http://web.example.org:8080/; \
                  curl -sS --noproxy '' --socks5 127.0.0.1:8418 http://files.example.org:8080/; echo code $?";
    let ran = net.run(&project, "web", script);
    assert!(ran.stdout.starts_with("hello from http 8080") && ran.stdout.contains("code 97"), "{ran:?}");
    let report = network_of(&ran);
    assert!(
        report.contains("files.example.org:8080, once (by curl") && !report.contains("198.18."),
        "{report}"
    );
    assert_eq!(net.arrived().len(), 1, "{:?}", net.arrived());
}

/// Compiles a program, static, into the project.
fn compiled(world: &World, project: &std::path::Path, (name, source): (&str, &str)) -> String {
    let source = world.write(&format!("{name}.c"), source);
    let program = project.join(name);
    let mut compiler = world.command("cc");
    compiler.args(["-static", "-w", "-o"]).arg(&program).arg(source);
    world.spawn(compiler).finish().ok();
    program.display().to_string()
}

#[test]
fn limits_on_bytes_and_connections_end_what_goes_beyond() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _http = net.serve("http", 8080, &[]);
    let _echo = net.serve("echo", 9000, &[]);
    let section = "[network]\nallow = [\"web.example.org:8080\", \"web.example.org:9000\"]\n\
                   limits = { connections = 2, received = \"1MiB\", idle = \"1h\" }";
    world.policy("small", &network_policy("small", section));
    let project = world.project("p", "https://h.example/p.git");
    let script = "hold() { printf 'CONNECT web.example.org:9000 HTTP/1.1\\r\\n\\r\\n' >&$1; read -r -u $1 line; echo \"$line\"; }; \
                  status() { curl -s -m 20 --proxytunnel http://web.example.org:8080/ -o /dev/null -w '%{http_connect}\\n'; }; \
                  exec 3<>/dev/tcp/127.0.0.1/8418 4<>/dev/tcp/127.0.0.1/8418; hold 3; hold 4; status; exec 3>&- 4>&-; \
                  for n in $(seq 100); do test $(status) = 200 && break; sleep 0.1; done; echo again $(status); \
                  curl -s --proxytunnel 'http://web.example.org:8080/big?bytes=3000000' -o /dev/null; echo big $?; status";
    let ran = net.run(&project, "small", script);
    assert!(ran.stdout.contains("200 OK\r\nHTTP/1.1 200 OK\r\n503\nagain 200\n"), "{ran:?}");
    assert!(!ran.stdout.contains("big 0") && ran.stdout.ends_with("503\n"), "{ran:?}");
    let report = network_of(&ran);
    assert!(
        report.contains("used up its bytes received") && report.contains("[network.limits] received"),
        "{report}"
    );
}

#[test]
fn a_tool_that_takes_long_to_name_its_registry_does_not_cost_the_session() {
    let world = World::new();
    world.policy("npm", &network_policy("npm", "[network]\nregistries = [\"npm\"]"));
    let project = world.project("p", "https://h.example/p.git");
    // Longer than the broker waits for a request that was announced by a connection.
    let slow = "#!/bin/sh\nsleep 11; echo '{\"registry\":\"https://npm.example.org/\"}'\n";
    world.write_mode("bin/npm", slow, 0o755);
    let ran = world.run(&project, "npm", "echo started; echo $npm_config_registry").ok();
    assert_eq!(ran.stdout, "started\nhttps://npm.example.org/\n", "{ran:?}");
}
