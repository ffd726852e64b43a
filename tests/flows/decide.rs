//! Deciding from another terminal: what is listed, what a decision names, and every way in which one comes to nothing.

use std::path::PathBuf;

use keyhatch_tests::{Running, SshServer, World};
use serde_json::Value;

struct Scene {
    world: World,
    server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (world, server, upstream, project) = World::behind_ssh();
        Self { world, server, upstream, project }
    }

    fn push(&self, policy: &str) -> Running {
        self.world.start(&self.project, policy, "git push --porcelain origin main 2>&1; echo code $?")
    }
}

#[test]
fn the_list_is_an_array_of_objects_with_everything_that_is_promised() {
    let scene = Scene::new();
    let world = &scene.world;
    assert_eq!(world.keyhatch(&["pending", "--json"]).ok().stdout, "[]\n");
    let mut wait = world.command(world.path("bin/keyhatch"));
    wait.args(["pending", "--json", "--wait"]);
    let wait = world.spawn(wait);
    let push = scene.push("default");
    let listed: Value = serde_json::from_str(&wait.finish().ok().stdout).expect("JSON");
    let asked = &listed[0];
    for field in ["id", "session", "operation", "remote", "digest", "created", "expires", "updates"] {
        assert!(!asked[field].is_null(), "{field}: {asked}");
    }
    let update = &asked["updates"][0];
    assert_eq!((update["ref"].as_str(), update["kind"].as_str()), (Some("refs/heads/main"), Some("create")));
    assert_eq!(update["old"].as_str(), Some("0".repeat(40).as_str()));
    assert_eq!(update["new"].as_str(), Some(world.tip(&scene.project, "main").as_str()));
    assert_eq!(asked["expires"].as_u64().expect("a time") - asked["created"].as_u64().expect("a time"), 600);
    let id = asked["id"].as_str().expect("an id");
    let shown = world.keyhatch(&["show", id, "--diff"]).ok();
    for expected in
        ["refs/heads/main", "new at", "Add README", "+hello", "credential  host", "rule        own remotes"]
    {
        assert!(shown.stdout.contains(expected), "{expected}: {shown:?}");
    }
    world.keyhatch(&["deny", id]).ok();
    push.finish();
}

#[test]
fn deciding_twice_late_wrongly_or_on_an_unknown_id_fails_with_a_sentence() {
    let scene = Scene::new();
    let world = &scene.world;
    let none = world.keyhatch(&["approve", "123456"]).fails();
    assert!(none.stderr.contains("no broker is running"), "{none:?}");
    let push = scene.push("default");
    let id = world.pending_id();
    let unknown = world.keyhatch(&["approve", "000000"]).fails();
    assert!(unknown.stderr.contains("no approval request 000000 is pending"), "{unknown:?}");
    assert!(unknown.stderr.contains("hint: keyhatch pending lists what waits"), "{unknown:?}");
    let not_an_id = world.keyhatch(&["approve", "../../x"]).fails();
    assert!(not_an_id.stderr.contains("6 lower-case hexadecimal digits"), "{not_an_id:?}");
    let other = world.keyhatch(&["approve", &id, "--digest", &"0".repeat(64)]).fails();
    assert!(other.stderr.contains("is not the operation that was shown"), "{other:?}");
    let digest = world.pending()["digest"].as_str().expect("a digest").to_owned();
    world.keyhatch(&["approve", &id, "--digest", &digest]).ok();
    for verb in ["approve", "deny"] {
        let twice = world.keyhatch(&[verb, &id]).fails();
        assert!(twice.stderr.contains(&format!("request {id} was already approved")), "{twice:?}");
    }
    assert!(push.finish().ok().stdout.contains("code 0"));
}

#[test]
fn no_answer_in_time_is_a_no() {
    let scene = Scene::new();
    let world = &scene.world;
    let shipped = include_str!("../../policies/default.toml");
    let text = shipped.replace("name        = \"default\"", "name = \"impatient\"");
    world.policy("impatient", &format!("{text}\n[approval]\ntimeout = \"2s\"\n"));
    let pushed = scene.push("impatient").finish();
    assert!(pushed.stdout.contains("nobody answered in time"), "{pushed:?}");
    assert!(pushed.stdout.contains("code 1"), "{pushed:?}");
    assert_eq!(world.tip(&scene.upstream, "main"), "");
}

#[test]
fn a_no_sticks_for_the_same_push_and_names_itself() {
    let scene = Scene::new();
    let world = &scene.world;
    let script = "git push --porcelain origin main; git push --porcelain origin main; echo again $?";
    let run = world.start(&scene.project, "default", script);
    let id = world.pending_id();
    world.keyhatch(&["deny", &id, "--reason", "ask me tomorrow"]).ok();
    let ran = run.finish();
    assert_eq!(ran.stdout.matches("refused by the user: ask me tomorrow").count(), 2, "{ran:?}");
}

#[test]
fn what_a_session_wrote_is_shown_escaped_and_refs_stay_in_view() {
    let scene = Scene::new();
    let world = &scene.world;
    let script = "printf 'a\\033[2Jb' > \"$(printf 'x\\033]0;title\\007y')\"; git add -A; \
                  git commit -qm \"$(printf 'subject\\033[31m\\342\\200\\256evil %0500d' 1)\"; git push -q origin HEAD:refs/heads/evil";
    let push = world.start(&scene.project, "default", script);
    let id = world.pending_id();
    let shown = world.keyhatch(&["show", &id, "--diff"]).ok();
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains('\u{202e}'), "{shown:?}");
    assert!(shown.stdout.contains("\\u{1b}[31m\\u{202e}evil"), "{shown:?}");
    let at = |text: &str| shown.stdout.find(text).unwrap_or_else(|| panic!("{text}: {shown:?}"));
    assert!(at("refs/heads/evil") < at("text that the session wrote"));
    assert!(at("text that the session wrote") < at("subject"));
    world.keyhatch(&["deny", &id]).ok();
    push.finish();
}

#[test]
fn a_notify_command_is_told_of_each_request_once_and_decides_nothing() {
    let scene = Scene::new();
    let world = &scene.world;
    let told = world.path("home/told");
    let mut broker = world.command(world.path("bin/keyhatch"));
    let command = format!("{{ echo \"id $KEYHATCH_REQUEST\"; cat; }} >> {}; exit 1", told.display());
    broker.args(["broker", "--notify-command", &command]);
    let _broker = world.spawn(broker);
    world.wait_until("the broker listens", || world.path("run/keyhatch/control.sock").exists());
    let push = scene.push("default");
    let id = world.pending_id();
    let text = || std::fs::read_to_string(&told).unwrap_or_default();
    world.wait_until("it is told", || text().ends_with("}\n"));
    let said = text();
    let (first, rest) = said.split_once('\n').expect("two lines");
    assert_eq!(first, format!("id {id}"));
    let request: Value = serde_json::from_str(rest).expect("one object");
    assert_eq!(request["updates"][0]["ref"], "refs/heads/main");
    assert_eq!(request["id"], *id);
    // While the first one waits, a second one is told of, and the first not again.
    let other = world.start(&scene.project, "default", "git push origin main:other");
    let ids = || text().lines().filter(|line| line.starts_with("id ")).map(str::to_owned).collect::<Vec<_>>();
    world.wait_until("the second one is told", || ids().len() >= 2);
    let second = ids()[1].trim_start_matches("id ").to_owned();
    world.keyhatch(&["deny", &second]).ok();
    world.keyhatch(&["deny", &id]).ok();
    push.finish();
    other.finish().fails();
    assert_eq!(ids(), [format!("id {id}"), format!("id {second}")]);
    assert!(second != id && !world.events().contains(&"push-sent".to_owned()));
}

#[test]
fn a_request_that_nobody_looked_at_is_not_approved_by_its_id_and_the_hint_works() {
    let scene = Scene::new();
    let world = &scene.world;
    let push = scene.push("default");
    let id = world.pending_id();
    let blind = world.keyhatch(&["approve", &id]).fails();
    assert!(blind.stderr.contains(&format!("request {id} was not shown yet")), "{blind:?}");
    assert!(blind.stderr.contains(&format!("hint: look at it: keyhatch show {id};")), "{blind:?}");
    assert_eq!(world.tip(&scene.upstream, "main"), "");
    let shown = world.keyhatch(&["show", &id]).ok();
    let line = shown.stdout.lines().find(|line| line.starts_with("decide:")).expect("what to do");
    let command = line.trim_start_matches("decide:").split(" or ").next().expect("a command").trim();
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let digest = world.pending()["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(words, ["approve", &id, "--digest", &digest[..12]]);
    world.keyhatch(&words).ok();
    assert!(push.finish().ok().stdout.contains("code 0"));
}

#[test]
fn what_a_session_pushes_in_the_place_of_a_request_is_another_request_and_the_old_one_is_over() {
    let scene = Scene::new();
    let world = &scene.world;
    let script = "timeout -s KILL 3 git push origin main; while ! test -e go; do sleep 0.1; done; \
                  git commit -q --amend -m other; git push --porcelain origin main; echo code $?";
    let run = world.start(&scene.project, "default", script);
    let id = world.pending_id();
    world.keyhatch(&["show", &id]).ok();
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    world.write("p/go", "");
    world.wait_until("the other push asks", || world.pending_id() != id);
    let other = world.pending_id();
    let late = world.keyhatch(&["approve", &id]).fails();
    assert!(late.stderr.contains(&format!("pushes something else now, as request {other}")), "{late:?}");
    let hint = late.stderr.lines().find_map(|line| line.split("hint: ").nth(1)).expect("a hint");
    assert_eq!(hint.rsplit("keyhatch ").next(), Some(format!("show {other}").as_str()), "{late:?}");
    assert_eq!(world.tip(&scene.upstream, "main"), "");
    // What was shown of the old one is not the new one: that has to be looked at.
    assert!(world.keyhatch(&["approve", &other]).fails().stderr.contains("was not shown yet"));
    assert!(world.keyhatch(&["show", &other]).ok().stdout.contains(" other"));
    world.keyhatch(&["approve", &other]).ok();
    assert!(run.finish().stdout.contains("code 0"));
    assert_eq!(world.git(&scene.upstream, &["log", "-1", "--format=%s", "main"]).stdout, "other\n");
}

#[test]
fn a_request_that_is_made_to_be_too_large_hides_no_other_and_can_be_shown_and_denied() {
    let scene = Scene::new();
    let world = &scene.world;
    // A link whose target is 9 MiB, in a pack of a few kB; two hundred long paths that are risks; a long subject.
    let script = "link=$(head -c 9437184 /dev/zero | tr '\\0' x | sed 's|^|../|' | git hash-object -w --stdin); \
                  git update-index --add --cacheinfo 120000,$link,big; \
                  blob=$(printf ../../x | git hash-object -w --stdin); long=$(printf %0200d 1); \
                  for i in $(seq 200); do git update-index --add --cacheinfo 120000,$blob,$long/$i; done; \
                  git commit -qm \"$(printf %05000d 1)\"; git push --porcelain origin HEAD:refs/heads/large; echo code $?";
    let large = world.start(&scene.project, "default", script);
    let first = world.pending();
    let id = first["id"].as_str().expect("an id").to_owned();
    assert_eq!(first["updates"][0]["ref"], "refs/heads/large", "{first:#}");
    assert!(first["risk_count"].as_u64() >= first["risks"].as_array().map(|list| list.len() as u64));
    assert!(first.to_string().len() < 300 * 1024, "{} bytes", first.to_string().len());
    let project = world.project("q", &scene.server.url(&scene.upstream));
    let ordinary = world.start(&project, "default", "git push origin HEAD:refs/heads/ordinary; echo code $?");
    world.wait_until("both are listed", || {
        let listed = world.keyhatch(&["pending"]);
        listed.stdout.contains("refs/heads/ordinary") && listed.stdout.contains("refs/heads/large")
    });
    let shown = world.keyhatch(&["show", &id, "--diff"]).ok();
    assert!(
        shown.stdout.contains("symlink") && shown.stdout.contains("refs/heads/large"),
        "{:.3000}",
        shown.stdout
    );
    world.keyhatch(&["deny", &id]).ok();
    assert!(large.finish().ok().stdout.contains("code 1"));
    let other = world.pending();
    assert_eq!(
        (&other["updates"][0]["ref"], &other["risk_count"]),
        (&"refs/heads/ordinary".into(), &0.into())
    );
    world.approve(other["id"].as_str().expect("an id"), &[]).ok();
    assert!(ordinary.finish().ok().stdout.contains("code 0"));
}
