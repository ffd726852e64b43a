//! Names that look like other names: marked wherever they are shown, and never sent by a rule that allows.

use keyhatch_tests::World;

/// As the policy for tests, with a person asked where there is a risk.
const CAREFUL: &str = r#"
name = "careful"
description = "Everything but main, unless there is a risk."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"

[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward"]
decision = "allow"
reason = "a test"

[[push]]
name = "not main"
remote = "{remotes}"
refs = ["refs/heads/main"]
updates = ["create", "fast-forward", "force", "delete"]
decision = "deny"
reason = "a test"
"#;

#[test]
fn a_path_that_looks_like_another_is_marked_and_waits_for_a_person() {
    let (world, _server, upstream, project) = World::behind_ssh();
    world.policy("careful", CAREFUL);
    for (number, path) in
        ["mаin.rs", "READ\u{a0}ME", "src\u{2215}main", "nai\u{308}ve", "ｍain"].iter().enumerate()
    {
        let branch = format!("topic-{number}");
        let script = format!(
            "echo x > '{path}' && git add . && git commit -qm x && git push origin HEAD:refs/heads/{branch}"
        );
        let run = world.start(&project, "careful", &script);
        let asked = world.pending();
        let risks = asked["risks"].as_array().expect("risks");
        assert!(
            risks.iter().any(|risk| risk["kind"] == "look-alike"
                && risk["detail"].as_str().is_some_and(|detail| detail.contains("\\u{"))),
            "{path:?}: {asked}"
        );
        let id = asked["id"].as_str().expect("an id");
        let shown = world.keyhatch(&["show", id]).ok();
        let marked = shown.stdout.lines().filter(|line| line.contains("\\u{"));
        assert!(marked.count() >= 2, "the risk and the file: {shown:?}");
        world.keyhatch(&["deny", id]).ok();
        run.finish().fails();
        assert_eq!(world.tip(&upstream, &branch), "");
        world.git(&project, &["reset", "-q", "--hard", "HEAD~1"]).ok();
    }
}

#[test]
fn a_ref_that_looks_like_a_denied_one_is_denied_and_one_that_looks_like_any_other_waits_for_a_person() {
    let (world, _server, upstream, project) = World::behind_ssh();
    world.policy("careful", CAREFUL);
    for name in ["mаin", "main\u{2800}", "ｍain", "Main"] {
        let push = format!("git push origin HEAD:'refs/heads/{name}'");
        let ran = world.run(&project, "careful", &push).fails();
        assert!(ran.stderr.contains("denied by policy (not main)"), "{name}: {ran:?}");
        assert_eq!(world.tip(&upstream, &format!("refs/heads/{name}")), "");
    }
    let run = world.start(&project, "careful", "git push origin HEAD:refs/heads/tоpic");
    let asked = world.pending();
    assert_eq!(asked["risks"][0]["kind"], "look-alike", "{asked}");
    let id = asked["id"].as_str().expect("an id");
    let shown = world.keyhatch(&["show", id]).ok();
    assert!(shown.stdout.contains("refs/heads/t\\u{43e}pic"), "{shown:?}");
    world.keyhatch(&["deny", id]).ok();
    run.finish().fails();
}

#[test]
fn names_of_one_script_are_shown_as_they_are_and_are_no_risk() {
    let (world, _server, upstream, project) = World::behind_ssh();
    world.policy("careful", CAREFUL);
    for name in ["пример", "日本語", "naïve"] {
        let script = format!(
            "echo x > {name} && git add . && git commit -qm x && git push -q origin HEAD:refs/heads/{name}"
        );
        world.run(&project, "careful", &script).ok();
        assert_ne!(world.tip(&upstream, &format!("refs/heads/{name}")), "");
    }
}
