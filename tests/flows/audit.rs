//! The audit log: what a session can make it take, and what is noticed of a log that is not what was written.

use std::fs;
use std::path::PathBuf;

use keyhatch_tests::raw::{exchange, get, http_socket};
use keyhatch_tests::{Running, World};
use serde_json::Value;

const LOG: &str = "home/.local/state/keyhatch/audit.jsonl";
/// Most bytes that a flood of one kind of refusal may add: the first ones whole, then sums.
const FLOOD: u64 = 256 * 1024;

struct Scene {
    world: World,
    project: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let project = world.project("p", "https://example.invalid/x.git");
        world.allow_policy();
        Self { world, project }
    }

    fn session(&self) -> Running {
        let run = self.world.start(&self.project, "allow", "echo > ready; sleep 600");
        self.world.wait_until("the session is open", || self.project.join("ready").exists());
        run
    }

    fn run(&self) {
        self.world.run(&self.project, "default", "true").ok();
    }

    fn stop_broker(&self) {
        self.world.keyhatch(&["broker", "--stop"]).ok();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.path(LOG)).expect("a log")
    }

    fn write_log(&self, text: &str) {
        self.world.write_mode(LOG, text, 0o600);
    }

    fn verify(&self) -> keyhatch_tests::Finished {
        self.world.keyhatch(&["audit", "verify"])
    }
}

#[test]
fn thousands_of_denied_requests_stay_small_in_the_log_and_every_one_is_counted() {
    const EACH: u64 = 1500;
    let scene = Scene::new();
    let session = scene.session();
    let socket = http_socket(&scene.world);
    let before = fs::metadata(scene.world.path(LOG)).expect("a log").len();
    // Three kinds: a fetch that no rule names, such a push, and long names, which must not make long records.
    let long = format!("https/other.example/{}", "x".repeat(900));
    for (path, service) in [
        ("https/other.example/r", "git-upload-pack"),
        ("https/other.example/r", "git-receive-pack"),
        (long.as_str(), "git-upload-pack"),
    ] {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (socket, request) = (socket.clone(), get(path, service));
                std::thread::spawn(move || {
                    for _ in 0..EACH / 8 + 1 {
                        let answer = exchange(&socket, &request);
                        assert!(answer.contains("denied"), "{answer}");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("its requests are answered"));
    }
    let each = (EACH / 8 + 1) * 8;
    drop(session);
    scene.world.wait_until("the session is over", || {
        scene.world.events().iter().any(|event| event == "session-closed")
    });
    let grown = fs::metadata(scene.world.path(LOG)).expect("a log").len() - before;
    assert!(grown < FLOOD, "the log has grown by {grown} bytes");
    // One by one, or in a sum: none is lost.
    let counted = |kind: &str| -> u64 {
        let one = |record: &Value| match record["event"].as_str() {
            Some(event) if event == kind => 1,
            Some("refusals") if record["of"] == kind => record["count"].as_u64().expect("a number"),
            _ => 0,
        };
        scene.world.audit().iter().map(one).sum()
    };
    assert_eq!((counted("fetch-denied"), counted("push-denied")), (2 * each, each));
    scene.verify().ok();
}

#[test]
fn a_cut_tail_is_recorded_by_the_next_broker_and_verification_goes_on_saying_so() {
    let scene = Scene::new();
    scene.run();
    scene.run();
    scene.stop_broker();
    scene.verify().ok();
    let whole = scene.log();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 4, "{whole}");
    scene.write_log(&format!("{}\n{}\n", lines[0], lines[1]));
    assert!(scene.verify().fails().stderr.contains("its tail was cut"));
    for round in 0..2 {
        scene.run();
        scene.stop_broker();
        let said = scene.verify().fails();
        assert!(said.stderr.contains("the log was cut after record 2"), "{round}: {said:?}");
        assert!(said.stderr.contains("record 4 was written"), "{round}: {said:?}");
    }
    let cuts: Vec<Value> = scene.world.audit().into_iter().filter(|r| r["event"] == "audit-broken").collect();
    assert_eq!(cuts.len(), 1, "said once: {cuts:?}");
    assert_eq!((&cuts[0]["found"], &cuts[0]["expected"]), (&2.into(), &4.into()));
}

#[test]
fn a_log_that_is_gone_and_one_without_its_head_are_recorded_too() {
    let scene = Scene::new();
    scene.run();
    scene.stop_broker();
    fs::remove_file(scene.world.path(LOG)).expect("a log");
    scene.run();
    scene.stop_broker();
    assert!(scene.verify().fails().stderr.contains("the log was cut after record 0"));
    let other = Scene::new();
    other.run();
    other.stop_broker();
    fs::remove_file(other.world.path("home/.local/state/keyhatch/audit.head")).expect("a head");
    other.run();
    other.stop_broker();
    assert!(other.verify().fails().stderr.contains("its head was lost"));
}

#[test]
fn a_torn_last_line_is_closed_by_name_and_verification_passes_with_it() {
    let scene = Scene::new();
    scene.run();
    scene.stop_broker();
    let whole = scene.log();
    scene.write_log(&format!("{whole}{{\"event\":\"push-sen"));
    let torn = scene.verify().fails();
    assert!(torn.stderr.contains("not a whole record"), "{torn:?}");
    scene.run();
    scene.stop_broker();
    let said = scene.verify().ok();
    assert!(said.stdout.contains("line 3 was torn when a broker died"), "{said:?}");
    // Only what was named is excused.
    let closed = scene.log();
    scene.write_log(&closed.replace("\"push-sen", "\"push-xxx"));
    assert!(scene.verify().fails().stderr.contains("line 3"));
}

#[test]
fn two_writers_and_a_changed_line_are_told_apart() {
    let scene = Scene::new();
    scene.run();
    scene.run();
    scene.stop_broker();
    let whole = scene.log();
    let lines: Vec<&str> = whole.lines().collect();
    // What a second writer would have written after the first line.
    let twin = lines[1].replace("session-closed", "session-ended");
    scene.write_log(&format!("{}\n{}\n{twin}\n{}\n{}\n", lines[0], lines[1], lines[2], lines[3]));
    let said = scene.verify().fails();
    assert!(said.stderr.contains("line 3: two writers"), "{said:?}");
    scene.write_log(&whole.replacen("\"seq\":2,", "\"seq\":2, ", 1));
    let said = scene.verify().fails();
    assert!(said.stderr.contains("line 3: it does not follow from the line before"), "{said:?}");
}

#[test]
fn a_line_that_another_program_adds_while_the_broker_runs_is_recorded() {
    let scene = Scene::new();
    scene.run();
    let whole = scene.log();
    scene.write_log(&format!("{whole}{{\"event\":\"forged\"}}\n"));
    scene.run();
    let said = scene.verify().fails();
    assert!(said.stderr.contains("line 3"), "{said:?}");
    let broken = scene.world.audit().into_iter().find(|record| record["event"] == "audit-broken");
    assert_eq!(broken.expect("it is recorded")["what"], "another-writer");
}
