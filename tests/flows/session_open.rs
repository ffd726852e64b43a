//! `keyhatch session open`: what a container that keyhatch did not make needs, and how long it has it.

use std::path::PathBuf;

use keyhatch_tests::{Container, ContainerSession, Image, Mount, SshServer, World};

/// A user with a project whose remote asks for a key.
struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let (world, _server, upstream, project) = World::behind_ssh();
        Self { world, _server, upstream, project }
    }

    /// A session whose project is at `/work` inside, and the container that has both.
    fn at_work(&self, options: &[&str]) -> (ContainerSession, Container) {
        let options = [&["--target", "/work"], options].concat();
        let session = ContainerSession::open_with(&self.world, &self.project, "default", &options);
        let container = Container::new(Image::Bookworm, &with_project(&self.project, &session), &session.env);
        (session, container)
    }
}

/// The project at `/work`, then what the session has over it.
fn with_project(project: &std::path::Path, session: &ContainerSession) -> Vec<Mount> {
    let own: Mount = (project.to_owned(), "/work".to_owned(), false);
    [&[own], &session.mounts[..]].concat()
}

#[test]
fn a_push_from_a_foreign_container_waits_for_its_approval_and_its_commit_comes_back() {
    let stage = Stage::new();
    let (world, project) = (&stage.world, &stage.project);
    let (session, container) = stage.at_work(&[]);
    let script =
        "cd /work && echo inside > inside && git add . && git commit -qm inside && git push origin main";
    let push = container.start_runc(world, &["sh", "-c", script]);
    let request = world.pending();
    assert_eq!(request["session"], session.id.as_str());
    world.approve_next();
    let pushed = push.finish().ok();
    assert!(pushed.stderr.contains("keyhatch: waiting for approval"), "{pushed:?}");
    let tip = world.tip(&stage.upstream, "main");
    world.wait_until("the commit comes back", || world.tip(project, "main") == tip);
    let closed = world.keyhatch(&["session", "close", &session.id]).ok();
    assert!(closed.stdout.contains("git: pushes sent upstream: 1"), "{closed:?}");
    assert!(closed.stdout.contains("main went from"), "{closed:?}");
    let shown = world.keyhatch(&["session", "show", &session.id]).ok();
    assert_eq!(shown.stdout, closed.stdout);
    let events = world.events();
    for event in ["session-opened", "push-sending", "push-sent", "session-closed"] {
        assert!(events.iter().any(|other| other == event), "{event}: {events:?}");
    }
    world.keyhatch(&["audit", "verify"]).ok();
}

/// A script of a container's that says whether its session still answers.
const ANSWERS: &str = "/run/keyhatch/keyhatch-helper status >/dev/null 2>&1 && echo yes || echo no";

#[test]
fn a_closed_and_an_expired_session_refuse_what_still_runs_in_their_containers() {
    let stage = Stage::new();
    let world = &stage.world;
    for (options, events) in [(&[][..], 1), (&["--for", "3s"][..], 2)] {
        let (session, container) = stage.at_work(options);
        let script = format!(
            "cd /work; {ANSWERS}; cp /run/keyhatch/keyhatch-helper /tmp/h; touch open; while ! test -e gone; do sleep 0.1; done; \
             /tmp/h status; git push origin main; echo pushed $?"
        );
        let run = container.start_runc(world, &["sh", "-c", &script]);
        world.wait_until("the container runs", || stage.project.join("open").exists());
        if options.is_empty() {
            world.keyhatch(&["session", "close", &session.id]).ok();
        }
        let closed = || world.events().iter().filter(|event| *event == "session-closed").count() == events;
        world.wait_until("the session ends", closed);
        assert!(!session.sockets.exists(), "its sockets are gone");
        world.write("p/gone", "");
        let ran = run.finish();
        assert!(ran.stdout.contains("yes\n") && ran.stderr.contains("no keyhatch session"), "{ran:?}");
        assert!(ran.stdout.contains("pushed 1"), "{ran:?}");
        for file in ["p/gone", "p/open"] {
            std::fs::remove_file(world.path(file)).expect("it is there");
        }
    }
    assert_eq!(world.tip(&stage.upstream, "main"), "");
    assert_eq!(world.keyhatch(&["session", "list", "--json"]).ok().stdout.trim(), "[]");
}

#[test]
fn what_the_host_would_run_later_cannot_be_made_inside_even_after_the_session() {
    let stage = Stage::new();
    let (world, project) = (&stage.world, &stage.project);
    world.write("p/.env", "canary-of-the-project\n");
    let (session, container) = stage.at_work(&[]);
    let script = "cd /work; for f in .envrc .vscode/tasks.json .cargo/config.toml; do echo evil > $f; done; cat .env; \
                  printf '#!/bin/sh\\ntouch /work/ran\\n' > .git/hooks/post-commit; chmod 755 .git/hooks/post-commit; \
                  git config core.fsmonitor 'touch ran;'; touch first; while ! test -e closed; do sleep 0.1; done; \
                  for f in .envrc .vscode/tasks.json .cargo/config.toml .git/config; do echo evil > $f; done; mv .vscode v";
    let run = container.start_runc(world, &["sh", "-c", script]);
    world.wait_until("the first try is over", || project.join("first").exists());
    let closed = world.keyhatch(&["session", "close", &session.id]).ok();
    let hint = format!("keyhatch session close {} --container-ended", session.id);
    assert!(closed.stdout.contains("stay in it") && closed.stdout.contains(&hint), "{closed:?}");
    world.write("p/closed", "");
    let ran = run.finish();
    assert!(!ran.stdout.contains("canary"), "{ran:?}");
    for file in [".envrc", ".cargo/config.toml"] {
        assert_eq!(std::fs::read_to_string(project.join(file)).expect("it stays"), "", "{file}");
    }
    assert!(project.join(".vscode").is_dir() && !project.join(".vscode/tasks.json").exists(), "{ran:?}");
    let config = std::fs::read_to_string(project.join(".git/config")).expect("the host's own");
    assert!(!config.contains("evil") && !config.contains("fsmonitor"), "{config}");
    assert!(!project.join(".git/hooks/post-commit").exists() && !project.join("ran").exists());
    // A broker that is started anew knows of them too; and then they go.
    world.keyhatch(&["broker", "--stop"]).ok();
    world.keyhatch(&["session", "close", &session.id, "--container-ended"]).ok();
    for file in [".envrc", ".vscode", ".cargo"] {
        assert!(!project.join(file).exists(), "{file}");
    }
    assert!(
        world
            .keyhatch(&["session", "close", &session.id, "--container-ended"])
            .fails()
            .stderr
            .contains("no such session")
    );
}

#[test]
fn without_the_projects_place_inside_the_open_git_directory_is_said() {
    let stage = Stage::new();
    let session = ContainerSession::open(&stage.world, &stage.project, "default");
    let warned = session.json["warnings"][0].as_str().expect("a warning");
    assert!(
        warned.contains("git directory is writable from inside") && warned.contains("--target DIR"),
        "{warned}"
    );
    assert_eq!(session.mounts.len(), 1);
    let printed = stage
        .world
        .command(stage.world.path("bin/keyhatch"))
        .current_dir(&stage.project)
        .args(["session", "open"])
        .output();
    let printed = keyhatch_tests::Finished::from(printed.expect("keyhatch runs")).ok();
    assert!(printed.stderr.contains(warned), "{printed:?}");
}

#[test]
fn a_helper_that_needs_a_libc_is_refused_and_nothing_is_left() {
    let stage = Stage::new();
    let world = &stage.world;
    let refused = world
        .command(world.path("bin/keyhatch"))
        .current_dir(&stage.project)
        .args(["session", "open", "--target", "/work"])
        .output();
    let refused = keyhatch_tests::Finished::from(refused.expect("keyhatch runs")).fails();
    assert!(refused.stderr.contains("keyhatch-helper is not static"), "{refused:?}");
    assert!(
        refused.stderr.contains("hint: packaging/static-helper.sh builds a static keyhatch-helper"),
        "{refused:?}"
    );
    assert!(!stage.project.join(".vscode").exists());
    assert_eq!(std::fs::read_dir(world.path("run/keyhatch/sessions")).expect("a directory").count(), 0);
}

#[test]
fn opened_by_many_at_once_a_named_session_is_the_same_for_all() {
    let stage = Stage::new();
    let world = &stage.world;
    world.static_helper();
    // With no broker at first, and with one that had a session of the name.
    for round in 0..3 {
        let open = || {
            let mut open = world.command(world.path("bin/keyhatch"));
            open.current_dir(&stage.project).args(["session", "open", "--name", "box", "--json"]);
            world.spawn(open)
        };
        let opening: Vec<_> = (0..4).map(|_| open()).collect();
        let opened: Vec<_> = opening.into_iter().map(|open| open.finish().ok()).collect();
        let ids: std::collections::BTreeSet<String> = opened
            .iter()
            .map(|opened| serde_json::from_str::<serde_json::Value>(&opened.stdout).expect("JSON"))
            .map(|opened| opened["session"].as_str().expect("an id").to_owned())
            .collect();
        assert_eq!(ids.len(), 1, "round {round}: {opened:?}");
        let id = ids.first().expect("one");
        let link = std::fs::read_link(world.path("run/keyhatch/named/box")).expect("a link");
        assert!(link.ends_with(id), "{link:?}");
        let listed = world.keyhatch(&["session", "list", "--json"]).ok();
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "no second one is left: {listed}");
        world.keyhatch(&["session", "close", id]).ok();
    }
}

#[test]
fn a_named_session_has_the_same_path_each_time_and_is_opened_once() {
    let stage = Stage::new();
    let world = &stage.world;
    world.allow_policy();
    let named = ["--name", "app"];
    let first = ContainerSession::open_with(world, &stage.project, "default", &named);
    let link = world.path("run/keyhatch/named/app");
    assert_eq!(link.canonicalize().expect("a link"), first.sockets.canonicalize().expect("there"));
    let again = ContainerSession::open_with(world, &stage.project, "default", &named);
    assert_eq!(again.json, first.json);
    let other = world.project("other", "https://h.example/o.git");
    let mut open = world.command(world.path("bin/keyhatch"));
    let refused =
        open.current_dir(&other).args(["session", "open", "--name", "app"]).output().expect("keyhatch runs");
    let refused = keyhatch_tests::Finished::from(refused).fails();
    assert!(refused.stderr.contains("a session of that name is open for"), "{refused:?}");
    for (option, value, said) in
        [("--policy", "allow", "with the policy default"), ("--target", "/work", "without --target")]
    {
        let mut open = world.command(world.path("bin/keyhatch"));
        open.current_dir(&stage.project).args(["session", "open", "--name", "app", option, value]);
        let refused = keyhatch_tests::Finished::from(open.output().expect("keyhatch runs")).fails();
        let said =
            format!("a session of that name is open {said}\nhint: keyhatch session close {}", first.id);
        assert!(refused.stderr.contains(&said) && refused.stdout.is_empty(), "{refused:?}");
    }
    let listed = world.keyhatch(&["session", "list"]).ok();
    assert!(listed.stdout.trim_end().ends_with("  app") && listed.stdout.contains("until 20"), "{listed:?}");
    world.keyhatch(&["session", "close", &first.id]).ok();
    assert!(link.symlink_metadata().is_err());
    let next = ContainerSession::open_with(world, &stage.project, "default", &named);
    assert_ne!(next.id, first.id);
}

/// What was printed, with what differs from run to run replaced.
fn steady(stage: &Stage, session: &str, text: &str) -> String {
    let world = stage.world.path("").display().to_string();
    let text = text.replace(world.trim_end_matches('/'), "WORLD").replace(session, "SESSION");
    let seconds = |word: &str| word.len() == 10 && word.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split(',').collect();
    let fixed = parts.iter().map(|part| match part.split_once("\"expires\":") {
        Some((before, rest)) if seconds(rest) => format!("{before}\"expires\":0"),
        _ => (*part).to_owned(),
    });
    fixed.collect::<Vec<_>>().join(",")
}

#[test]
fn every_format_is_printed_as_it_is_documented() {
    let stage = Stage::new();
    let world = &stage.world;
    world.static_helper();
    world.policy(
        "open",
        "name = \"open\"\ndescription = \"Nothing over the project.\"\n[repository]\ngit_dir = \"shared\"\n",
    );
    for format in ["json", "docker", "podman", "compose", "devcontainer", "env"] {
        let mut open = world.command(world.path("bin/keyhatch"));
        open.current_dir(&stage.project)
            .args(["session", "open", "--policy", "open", "--target", "/work", "--format", format]);
        let printed = keyhatch_tests::Finished::from(open.output().expect("keyhatch runs")).ok();
        let listed: serde_json::Value =
            serde_json::from_str(&world.keyhatch(&["session", "list", "--json"]).ok().stdout).expect("JSON");
        let id = listed[0]["id"].as_str().expect("an id").to_owned();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("flows/session_open").join(format);
        let printed = steady(&stage, &id, &printed.stdout);
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(printed, expected, "{}", file.display());
        world.keyhatch(&["session", "close", &id, "--container-ended"]).ok();
    }
}

#[test]
fn the_broker_outlives_the_command_that_started_it_and_holds_nothing_of_its_callers() {
    let stage = Stage::new();
    let world = &stage.world;
    world.static_helper();
    // The reader of the pipe waits until nobody has its other end.
    let script =
        "{ keyhatch session open >/dev/null 2>&1 7>&3; } 3>&1 | timeout 30 cat; echo read ${PIPESTATUS[1]}";
    let mut shell = world.command("setsid");
    shell.current_dir(&stage.project).args(["--wait", "bash", "-c", script]);
    let ran = keyhatch_tests::Finished::from(shell.output().expect("a shell runs")).ok();
    assert!(ran.stdout.contains("read 0"), "{ran:?}");
    assert!(world.keyhatch(&["session", "list"]).ok().stdout.contains("default"));
}

#[test]
fn srt_with_the_printed_settings_reaches_the_session_and_neither_the_control_socket_nor_another_one() {
    let stage = Stage::new();
    let world = &stage.world;
    let srt = keyhatch_tests::downloaded("sandbox-runtime-0.0.78")
        .join("lib/node_modules/@anthropic-ai/sandbox-runtime/dist/cli.js");
    let other = ContainerSession::open(world, &stage.project, "default");
    let open = |format: &str| {
        let mut open = world.command(world.path("bin/keyhatch"));
        open.current_dir(&stage.project).args(["session", "open", "--name", "agent", "--format", format]);
        keyhatch_tests::Finished::from(open.output().expect("keyhatch runs")).ok().stdout
    };
    let settings = world.write("settings.json", &open("srt"));
    let variables = world.write("variables", &open("env"));
    let script = "$KEYHATCH_SOCKETS/keyhatch-helper status; env -u GIT_SSH_COMMAND git push origin main; \
                  cat $KEYHATCH_SOCKETS/../../control.token; ls -R $KEYHATCH_SOCKETS/../..";
    let shell = format!(
        ". {}; exec /usr/bin/node {} --settings {} -c '{script}'",
        variables.display(),
        srt.display(),
        settings.display()
    );
    let mut command = world.command("sh");
    command.current_dir(&stage.project).args(["-c", &shell]);
    let run = world.spawn(command);
    world.approve_next();
    let ran = run.finish();
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"), "{ran:?}");
    assert!(ran.stdout.contains("http.sock") && !ran.stdout.contains(&other.id), "{ran:?}");
    assert!(ran.stderr.contains("control.token: No such file or directory"), "{ran:?}");
}
