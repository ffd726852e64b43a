//! A download through the session's tunnel beside the same download without a sandbox, in turns, in one run.
//!
//! cargo build --release && cargo bench -p keyhatch-tests --bench network
//!
//! Server and client are the same both times; what is added is the broker between them. Without a line in between, all three
//! share the machine's processors, and the tunnel's copy competes with the download itself: that is the worst case.

use std::time::Duration;

use keyhatch_tests::World;
use keyhatch_tests::measure::{Times, compare};
use keyhatch_tests::testnet::{TestNet, network_policy};

/// How often each, in turns.
const TURNS: usize = 7;

fn main() {
    downloads(None, 1 << 30, "no line, 1 GiB");
    // As most lines are at best: here the tunnel has time for its copy.
    downloads(Some("1gbit"), 1 << 27, "1 Gbit/s, 128 MiB");
}

fn downloads(rate: Option<&str>, bytes: u64, line: &str) {
    let world = World::new();
    let net = TestNet::with_rate(&world, rate);
    let _http = net.serve("http", 8080, &[]);
    let _https = net.serve_https(8443);
    let policy = "[network]\nallow = [\"web.example.org:8080\", \"web.example.org:8443\"]";
    world.policy("web", &network_policy("web", policy));
    let project = world.project("p", "https://h.example/p.git");
    net.ca_in(&project);
    for (scheme, port) in [("http", 8080), ("https", 8443)] {
        let url = format!("{scheme}://web.example.org:{port}/big?bytes={bytes}");
        let curl = |option: &str| {
            format!("curl -sf {option} --cacert test-ca.crt -o /dev/null -w '%{{time_total}}\\n' '{url}'")
        };
        let (mut ours, mut direct) = (Times::default(), Times::default());
        for _ in 0..TURNS {
            ours.add(seconds(&net.run(&project, "web", &curl("--proxytunnel")).ok().stdout));
            let mut outside = net.command(&project, "sh");
            outside.args(["-c", &curl("")]);
            direct.add(seconds(&world.spawn(outside).finish().ok().stdout));
        }
        compare(&format!("{scheme} tunnel, {line}"), &ours, ("direct", &direct), Some(1.1));
    }
}

fn seconds(printed: &str) -> Duration {
    Duration::from_secs_f64(printed.trim().parse().expect("curl prints seconds"))
}
