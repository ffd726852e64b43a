//! `keyhatch run --policy snippet --json -- python3 -`: what was just written runs, and one object says what came of it.

use keyhatch_tests::World;
use serde_json::Value;

fn snippet(world: &World, code: &str) -> Value {
    let mut command = world.command(world.path("bin/keyhatch"));
    command.args(["run", "--policy", "snippet", "--json", "--", "python3", "-"]);
    let ran = world.with_input(command, code.as_bytes());
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[test]
fn what_it_prints_and_how_it_ends_is_in_the_result() {
    let world = World::new();
    let good = snippet(&world, "import sys\nprint(6 * 7)\nprint('warned', file=sys.stderr)\n");
    assert_eq!(
        (&good["ok"], &good["exit_code"], &good["stdout"]),
        (&true.into(), &0.into(), &"42\n".into()),
        "{good}"
    );
    assert_eq!((&good["stderr"], &good["timed_out"]), (&"warned\n".into(), &false.into()), "{good}");
    assert!(good["resource_exceeded"].is_null() && good["killed"].is_null(), "{good}");
    assert!(good["peak_memory"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{good}");
    for time in ["wall_ms", "user_ms", "system_ms"] {
        assert!(good[time].is_u64(), "{good}");
    }
    let bad = snippet(&world, "raise SystemExit(3)");
    assert_eq!((&bad["ok"], &bad["exit_code"]), (&false.into(), &3.into()), "{bad}");
    let syntax = snippet(&world, "def (");
    assert!(syntax["stderr"].as_str().is_some_and(|text| text.contains("SyntaxError")), "{syntax}");
}

#[test]
fn a_snippet_has_no_project_no_network_and_nothing_of_the_users() {
    let world = World::new();
    world.write("home/.canary", "canary-home");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let code = format!(
        "import os, socket\nprint(sorted(os.listdir('.')), sorted(k for k in os.environ if 'TOKEN' in k))\n\
         for what in (lambda: open('{}').read(), lambda: socket.create_connection(('127.0.0.1', {port}), 2),\n\
         \tlambda: socket.create_connection(('192.0.2.1', 80), 2), lambda: open('/etc/x', 'w')):\n\
         \ttry: print('worked', what())\n\texcept OSError as e: print('refused')\n",
        world.home().join(".canary").display()
    );
    let ran = snippet(&world, &code);
    assert_eq!(ran["stdout"], "[] []\nrefused\nrefused\nrefused\nrefused\n", "{ran}");
}

#[test]
fn an_endless_snippet_is_timed_out_and_a_greedy_one_is_named() {
    let world = World::new();
    let endless = snippet(&world, "while True: pass");
    assert_eq!((&endless["ok"], &endless["timed_out"]), (&false.into(), &true.into()), "{endless}");
    assert_eq!(endless["killed"], "killed: time 10 s");
    assert!(endless["resource_exceeded"].is_null() && endless["exit_code"].is_null(), "{endless}");

    let greedy = snippet(&world, "x = []\nwhile True: x.append(bytearray(1 << 20))");
    assert_eq!(
        (&greedy["resource_exceeded"], &greedy["timed_out"]),
        (&"memory".into(), &false.into()),
        "{greedy}"
    );
    assert!(greedy["peak_memory"].as_u64().is_some_and(|bytes| bytes > 200 << 20), "{greedy}");

    let loud = snippet(&world, "while True: print('x' * 1000)");
    assert_eq!(
        (&loud["resource_exceeded"], &loud["output_cut"]),
        (&"output".into(), &true.into()),
        "{}",
        loud["killed"]
    );
    assert_eq!(loud["stdout"].as_str().map(str::len), Some(1 << 20));
}
