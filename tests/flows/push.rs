//! A push from inside: what upstream has, what the audit says, and what the agent reads.

use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World};

fn ssh_world() -> (World, SshServer) {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    (world, server)
}

#[test]
fn an_approved_push_reaches_an_ssh_upstream_and_is_recorded_before_and_after() {
    let (world, server) = ssh_world();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let push = world.start(
        &project,
        "default",
        "echo inside > inside && git add . && git commit -qm inside && git push origin main",
    );
    let request = world.pending();
    assert_eq!(request["operation"], "push");
    assert_eq!(request["updates"][0]["ref"], "refs/heads/main");
    assert_eq!(request["updates"][0]["kind"], "create");
    world.approve_next();
    let pushed = push.finish().ok();
    assert!(pushed.stderr.contains("keyhatch: waiting for approval"), "{pushed:?}");
    assert!(pushed.stderr.contains("* [new branch]      main -> main"), "{pushed:?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
    let events = world.events();
    let at = |name: &str| {
        events.iter().position(|event| event == name).unwrap_or_else(|| panic!("{name}: {events:?}"))
    };
    assert!(at("session-opened") < at("push-sending") && at("push-sending") < at("push-sent"));
    world.keyhatch(&["audit", "verify"]).ok();
    assert!(pushed.stderr.contains("keyhatch:   git: pushes sent upstream: 1"), "{pushed:?}");
    let session = request["session"].as_str().expect("a session");
    let shown = world.keyhatch(&["session", "show", session, "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(report["sections"][0]["data"]["push-sent"], 1, "{report}");
    world.keyhatch(&["broker", "--stop"]).ok();
    assert_eq!(world.keyhatch(&["session", "show", session, "--json"]).ok().stdout, shown.stdout);
}

#[test]
fn what_became_of_a_push_is_recorded_while_its_client_still_waits() {
    let (world, server) = ssh_world();
    world.allow_policy();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    // git reports before it runs this hook, and the client waits for both.
    let go = world.path("go");
    let hook = format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\n", go.display());
    world.write_mode("srv/r.git/hooks/post-receive", &hook, 0o755);
    let push = world.start(&project, "allow", "git push -q origin main; echo came back");
    world.wait_until("it is recorded", || world.events().iter().any(|event| event == "push-sent"));
    std::fs::write(&go, "").expect("a file");
    assert!(push.finish().ok().stdout.contains("came back"));
    assert_eq!(world.events().iter().filter(|event| *event == "push-sent").count(), 1);
}

#[test]
fn a_session_that_nothing_passed_through_ends_without_a_word() {
    let (world, _server) = ssh_world();
    let project = world.project("p", "https://h.example/p.git");
    let ran = world.run(&project, "default", "true").ok();
    assert_eq!(ran.all(), "", "as without keyhatch");
    let unknown = world.keyhatch(&["session", "show", "00000000"]).fails();
    assert!(unknown.stderr.contains("no report of session 00000000 is kept"), "{unknown:?}");
}

#[test]
fn an_approved_push_reaches_an_https_upstream_with_the_hosts_credential() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    let push = world.start(&project, "default", "git push origin main; echo code $?; git ls-remote origin");
    world.approve_next();
    let pushed = push.finish().ok();
    assert!(pushed.stdout.contains("code 0"), "{pushed:?}");
    assert!(pushed.stdout.contains("refs/heads/main"), "{pushed:?}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
    assert!(!pushed.all().contains(HttpsServer::PASSWORD));
}

#[test]
fn a_refused_push_never_reaches_upstream_and_git_shows_the_reason() {
    let (world, server) = ssh_world();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let push = world.start(&project, "default", "git push --porcelain origin main");
    let id = world.pending_id();
    world.keyhatch(&["deny", &id, "--reason", "not on a Friday"]).ok();
    let pushed = push.finish().fails();
    assert_eq!(pushed.code(), 1);
    let line = "!\trefs/heads/main:refs/heads/main\t[remote rejected] (keyhatch: refused by the user: not on a Friday)";
    assert!(pushed.stdout.contains(line), "{pushed:?}");
    assert_eq!(world.tip(&upstream, "main"), "");
    assert!(world.events().contains(&"push-refused".to_owned()));
}

#[test]
fn a_push_whose_client_was_killed_goes_through_once_when_it_is_run_again() {
    let (world, server) = ssh_world();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "timeout -s KILL 3 git push origin main; echo first $?; while ! test -e go; do sleep 0.1; done; \
                  git push origin main; echo second $?; git commit -q --amend -m other; git push -f origin main; echo third $?";
    let run = world.start(&project, "default", script);
    let id = world.pending_id();
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    world.approve(&id, &[]).ok();
    assert_eq!(world.tip(&upstream, "main"), "", "nothing is sent for a client that is gone");
    world.write("p/go", "");
    world.wait_until("the second push lands", || !world.tip(&upstream, "main").is_empty());
    // The approval is used up: another push is another request.
    let other = world.pending_id();
    assert_ne!(other, id);
    world.keyhatch(&["deny", &other]).ok();
    let ran = run.finish();
    assert!(
        ran.stdout.contains("first 137") && ran.stdout.contains("second 0") && ran.stdout.contains("third 1"),
        "{ran:?}"
    );
}

#[test]
fn a_denied_branch_is_refused_at_once_and_nobody_is_asked() {
    let (world, server) = ssh_world();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let pushed =
        world.run(&project, "feature-branches", "git push origin main main:refs/heads/agent/x").fails();
    assert!(pushed.stderr.contains("main -> main (keyhatch: denied by policy"), "{pushed:?}");
    assert!(pushed.stderr.contains("main -> agent/x (keyhatch: not sent"), "{pushed:?}");
    assert_eq!(world.tip(&upstream, "main"), "");
    assert_eq!(world.keyhatch(&["pending", "--json"]).stdout.trim(), "[]");
    let read_only = world.run(&project, "read-only", "git ls-remote origin && git push origin main").fails();
    assert!(read_only.stderr.contains("push denied"), "{read_only:?}");
}

#[test]
fn an_approval_for_the_session_covers_later_fast_forwards_and_nothing_else() {
    let (world, server) = ssh_world();
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "git push origin main; echo one $?; git commit -q --allow-empty -m two; git push origin main; echo two $?; \
                  git push origin main:other; echo three $?; git commit -q --allow-empty -m four; git push origin main; echo four $?";
    let run = world.start(&project, "default", script);
    let id = world.pending_id();
    world.approve(&id, &["--session"]).ok();
    world.wait_until("the new branch asks", || world.pending_id() != id);
    let other = world.pending();
    assert_eq!(other["updates"][0]["ref"], "refs/heads/other");
    // It is listed, and what it covered is asked again once it is taken back.
    let listed = world.keyhatch(&["grant", "list", "--json"]).ok();
    let grants: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(
        (grants[0]["id"].as_str(), grants[0]["refs"][0].as_str()),
        (Some(id.as_str()), Some("refs/heads/main"))
    );
    world.keyhatch(&["grant", "revoke", &id]).ok();
    assert!(world.keyhatch(&["grant", "revoke", &id]).fails().stderr.contains("stands"));
    let denied = other["id"].as_str().expect("an id").to_owned();
    world.keyhatch(&["deny", &denied]).ok();
    world.wait_until("the covered push asks again", || world.pending_id() != denied);
    world.keyhatch(&["deny", &world.pending_id()]).ok();
    let ran = run.finish();
    for expected in ["one 0", "two 0", "three 1", "four 1"] {
        assert!(ran.stdout.contains(expected), "{expected}: {ran:?}");
    }
}
