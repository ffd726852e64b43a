//! `keyhatch policy`: what can be named, what it says, where it is wrong, and why an operation is judged as it is.

use keyhatch_tests::World;

#[test]
fn shipped_and_own_policies_are_listed_and_said_in_words() {
    let world = World::new();
    world.allow_policy();
    let listed = world.keyhatch(&["policy", "list"]).ok().stdout;
    for name in ["allow", "default", "feature-branches", "read-only"] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    let said = world.keyhatch(&["policy", "show", "default"]).ok().stdout;
    for expected in [
        "allow fetch \"own remotes\"",
        "ask   push \"own remotes\"",
        "approved once at a time",
        "what no rule names is denied",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_mistake_has_its_file_line_column_and_a_caret() {
    let world = World::new();
    let text = "name = \"x\"\ndescription = \"d\"\n\n[[push]]\nname = \"r\"\nreason = \"y\"\nremote = \"{remotes}\"\nupdates = [\"rewind\"]\ndecision = \"ask\"\n";
    world.policy("wrong", text);
    let checked = world.keyhatch(&["policy", "check", "wrong"]).fails();
    assert_eq!(checked.code(), 2, "{checked:?}");
    assert!(checked.stderr.contains("wrong.toml:8:12"), "{checked:?}");
    assert!(
        checked.stderr.contains("updates = [\"rewind\"]") && checked.stderr.contains("^^^^"),
        "{checked:?}"
    );
    let project = world.make_directory("plain");
    let run = world.run(&project, "wrong", "true").fails();
    assert!(run.stderr.contains("wrong.toml:8:12"), "a wrong policy starts nothing: {run:?}");
    let unknown = world.keyhatch(&["policy", "check", "no-such"]).fails();
    assert!(
        unknown.stderr.contains("no policy is called no-such")
            && unknown.stderr.contains("hint: shipped are"),
        "{unknown:?}"
    );
}

#[test]
fn a_policy_in_the_project_or_that_others_can_write_is_refused() {
    let world = World::new();
    let project = world.make_directory("plain");
    let shipped = include_str!("../../policies/default.toml");
    let inside = world.write("plain/policy.toml", shipped);
    let refused = world.run(&project, &inside.to_string_lossy(), "true").fails();
    assert!(refused.stderr.contains("lies in the project, where the agent can write"), "{refused:?}");
    let loose = world.write_mode("loose.toml", shipped, 0o666);
    let refused = world.run(&project, &loose.to_string_lossy(), "true").fails();
    assert!(refused.stderr.contains("is not a file that only you can write"), "{refused:?}");
    assert!(refused.stderr.contains("hint: chmod go-w"), "{refused:?}");
}

#[test]
fn an_operation_is_explained_with_the_rules_that_speak_of_it() {
    let world = World::new();
    let explain = |arguments: &[&str]| {
        let own = ["--project-remote", "https://h.example/a/w"];
        world.keyhatch(&[&["policy", "explain"], arguments, &own].concat()).ok().stdout
    };
    let asked = explain(&["default", "push", "https://h.example/a/w"]);
    assert!(asked.contains("ask: rule \"own remotes\": agents propose, people decide"), "{asked}");
    let forced = explain(&["default", "push", "https://h.example/a/w", "--update", "force"]);
    assert!(forced.contains("ask (once at a time)"), "{forced}");
    let elsewhere = explain(&["default", "push", "https://h.example/a/other"]);
    assert!(elsewhere.contains("deny: ") && elsewhere.contains("hint: "), "{elsewhere}");
    let branch = explain(&["feature-branches", "push", "https://h.example/a/w", "--ref", "refs/heads/main"]);
    assert!(
        branch.contains("deny: denied by policy (release branches and tags): people merge and release"),
        "{branch}"
    );
}

#[test]
fn a_signature_is_explained_for_the_user_and_for_others() {
    let world = World::new();
    let project = world.project("p", "https://h.example/a/w");
    let explain = |arguments: &[&str]| {
        let mut command = world.command(world.path("bin/keyhatch"));
        command.current_dir(&project).args(["policy", "explain"]).args(arguments);
        world.spawn(command).finish().ok().stdout
    };
    let own = explain(&["default", "sign"]);
    assert!(own.starts_with("allow: rule \"") && own.contains("says allow"), "{own}");
    let other = explain(&["default", "sign", "--as", "Linus <linus@example.org>"]);
    assert!(
        other
            .contains("deny: denied by policy: no rule lets this session sign a commit of linus@example.org"),
        "{other}"
    );
    // The project's own name counts, as it does in a session.
    world.git(&project, &["config", "user.email", "ada@work.example"]).ok();
    assert!(
        explain(&["default", "sign", "--as", "Ada Lovelace <ada@work.example>", "--kind", "tag"])
            .starts_with("allow: ")
    );
    world.policy(
        "strict",
        "name = \"strict\"\ndescription = \"d\"\n[[sign]]\nname = \"own commits\"\nkinds = [\"commit\"]\nauthor = \"{identity}\"\n\
         decision = \"ask\"\nscope = \"once\"\nreason = \"I look\"\n",
    );
    assert!(explain(&["strict", "sign"]).starts_with("ask (once at a time): rule \"own commits\": I look"));
    assert!(explain(&["strict", "sign", "--author", "B <b@example.org>"]).starts_with("deny: "));
    assert!(explain(&["strict", "sign", "--kind", "tag"]).starts_with("deny: "));
    let nobody = world.keyhatch(&["policy", "explain", "default", "sign", "--as", "linus"]).fails();
    assert!(nobody.stderr.contains("hint: write \"Name <address>\""), "{nobody:?}");
    assert!(world.keyhatch(&["policy", "explain", "default", "push"]).fails().stderr.contains("REMOTE"));
}

#[test]
fn help_completions_and_manual_pages_are_there() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.keyhatch(&["completions", shell]).ok().stdout.contains("keyhatch"), "{shell}");
    }
    assert!(world.keyhatch(&["man"]).ok().stdout.contains(".TH keyhatch 1"));
    let pages = world.make_directory("man");
    world.keyhatch(&["man", "--dir", &pages.to_string_lossy()]).ok();
    for page in ["keyhatch.1", "keyhatch-run.1", "keyhatch-approve.1", "keyhatch-grant-revoke.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    assert!(world.keyhatch(&["run", "--help"]).ok().stdout.contains("--policy"));
}
