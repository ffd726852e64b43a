//! What the agent finds inside: a home, the user's tools without their credentials, nothing where files are hidden.

use std::fs;
use std::path::Path;

use keyhatch_tests::{Finished, World};

/// A policy with these lines under `[sandbox]`.
fn policy(world: &World, name: &str, sandbox: &str) {
    world.policy(name, &format!("name = \"{name}\"\ndescription = \"a test\"\n[sandbox]\n{sandbox}\n"));
}

fn run(world: &World, project: &Path, name: &str, script: &str) -> Finished {
    world.run(project, name, script).ok()
}

#[test]
fn a_persistent_home_survives_and_no_other_policy_sees_it() {
    let world = World::new();
    let project = world.make_directory("p");
    policy(&world, "one", "home = \"persistent\"");
    policy(&world, "two", "home = \"persistent\"");
    world.write("home/.real-canary", "canary-host");
    run(&world, &project, "one", "echo canary-login > ~/.login; mkdir ~/.cache; echo x > ~/.cache/y");
    let again = run(&world, &project, "one", "cat ~/.login ~/.cache/y; cat ~/.real-canary 2>&1; true");
    assert!(again.stdout.contains("canary-login\nx"), "{again:?}");
    assert!(!again.stdout.contains("canary-host"), "{again:?}");
    for other in ["two", "default"] {
        let looked = run(&world, &project, other, "ls -A ~; cat ~/.login 2>/dev/null; true");
        assert!(!looked.stdout.contains("login"), "{other} {looked:?}");
    }
    let homes = world.home().join(".local/state/keyhatch/homes");
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("it is there").permissions())
            & 0o777
    };
    assert_eq!(mode(&homes), 0o700);
    let made: Vec<_> =
        fs::read_dir(&homes).expect("homes").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(made.len(), 2, "{made:?}");
    assert!(made.iter().all(|home| mode(home) == 0o700));
}

#[test]
fn a_persistent_home_that_others_can_enter_is_refused() {
    let world = World::new();
    let project = world.make_directory("p");
    policy(&world, "one", "home = \"persistent\"");
    run(&world, &project, "one", "true");
    let homes = world.home().join(".local/state/keyhatch/homes");
    let home = fs::read_dir(&homes).expect("homes").next().expect("one").expect("an entry").path();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let refused = world.run(&project, "one", "echo started").fails();
    assert!(refused.stderr.contains("is not private") && !refused.stdout.contains("started"), "{refused:?}");
}

#[test]
fn tools_of_the_users_run_and_their_credentials_are_empty() {
    let world = World::new();
    let project = world.make_directory("p");
    for directory in [
        "home/.cargo",
        "home/.cargo/bin",
        "home/.nvm",
        "home/.nvm/versions",
        "home/.nvm/versions/node",
        "home/.nvm/versions/node/v20.1.0",
        "home/.nvm/versions/node/v20.1.0/bin",
        "home/.nvm/versions/node/v20.1.0/etc",
    ] {
        world.make_directory(directory);
    }
    world.write_mode("home/.cargo/bin/mytool", "#!/bin/sh\necho tool-ran\n", 0o755);
    world.write("home/.cargo/credentials.toml", "canary-cargo");
    world.write_mode("home/.nvm/versions/node/v20.1.0/bin/mynode", "#!/bin/sh\necho node-ran\n", 0o755);
    world.write("home/.nvm/versions/node/v20.1.0/etc/npmrc", "canary-npm");
    world.write("home/.nvm/.npmrc", "canary-npm");
    world.write("home/.netrc", "canary-netrc");
    policy(&world, "tools", "tools = [\"~/.cargo\", \"~/.nvm\", \"~/.pyenv\"]");
    let script = "mytool; mynode; ls -l ~/.cargo/credentials.toml | tr -s ' ' | cut -d' ' -f5; \
                  cat ~/.cargo/credentials.toml ~/.nvm/.npmrc ~/.nvm/versions/node/*/etc/npmrc; cat ~/.netrc; ls -A ~; \
                  echo x > ~/.cargo/bin/mytool; echo x > ~/.cargo/new; rm -f ~/.cargo/bin/mytool; echo y > ~/own && cat ~/own";
    let ran = world.run(&project, "tools", script);
    assert!(ran.stdout.starts_with("tool-ran\nnode-ran\n0\n"), "{ran:?}");
    assert!(!ran.stdout.contains("canary"), "{ran:?}");
    assert!(ran.stdout.ends_with("y\n"), "the home itself is writable: {ran:?}");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    assert!(world.home().join(".cargo/bin/mytool").exists() && !world.home().join(".cargo/new").exists());
}

#[test]
fn hidden_files_are_empty_under_every_name_and_it_is_said() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    for (file, text) in
        [(".env", "TOKEN=canary-env"), (".env.example", "TOKEN="), ("id_ed25519", "canary-key")]
    {
        world.write(&format!("p/{file}"), text);
    }
    world.make_directory("p/deep");
    world.write("p/deep/server.pem", "canary-pem");
    std::os::unix::fs::symlink(".env", project.join("plain-name")).expect("a link");
    let script = "cat .env id_ed25519 deep/server.pem plain-name; echo end-of-secrets; cat .env.example; ln .env other; cat other; \
                  mv .env moved; rm -f .env; cp deep/server.pem copy; cat copy; cat /proc/self/root$PWD/.env; echo x > .env; \
                  mv deep shallow; cat shallow/server.pem; sh -c 'exec 3<.env; cat <&3'; echo wrote > mine";
    let ran = world.run(&project, "default", script);
    assert!(ran.stdout.starts_with("end-of-secrets\nTOKEN="), "{ran:?}");
    assert!(!ran.all().contains("canary"), "{ran:?}");
    assert!(
        ran.stderr.contains("keyhatch: hidden inside (shown empty): .env, deep/server.pem, id_ed25519"),
        "{ran:?}"
    );
    assert_eq!(fs::read_to_string(project.join(".env")).expect("it is there"), "TOKEN=canary-env");
    assert_eq!(fs::read_to_string(project.join("mine")).expect("it is there"), "wrote\n");

    policy(&world, "open", "hide = []");
    let ran = run(&world, &project, "open", "cat .env");
    assert_eq!(ran.stdout, "TOKEN=canary-env", "what hides it is the policy");
}

#[test]
fn a_project_to_read_is_not_written_and_no_project_is_not_there() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    policy(&world, "reader", "project = \"read\"");
    policy(&world, "nowhere", "project = \"none\"");
    let ran = world.run(&project, "reader", "cat README; echo x > new; echo x >> README");
    assert!(ran.stdout.contains("hello") && ran.stderr.contains("Read-only file system"), "{ran:?}");
    assert!(!project.join("new").exists());
    let ran =
        world.run(&project, "nowhere", &format!("pwd; ls -A; cat {}/README; ls {0}", project.display()));
    assert_eq!(ran.stdout.trim(), world.home().display().to_string(), "{ran:?}");
    assert!(ran.stderr.contains("No such file"), "{ran:?}");
    // Without a project, where it is started does not matter.
    let home = world.keyhatch(&["run", "--policy", "nowhere", "--", "pwd"]).ok();
    assert_eq!(home.stdout.trim(), world.home().display().to_string());
}

#[test]
fn the_environment_has_what_the_policy_sets_and_keeps() {
    let world = World::new();
    let project = world.make_directory("p");
    policy(&world, "env", "keep = [\"MY_EDITOR\"]\nenv = { RUST_LOG = \"debug\" }");
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(&project).env("MY_EDITOR", "vi").env("OTHER", "canary");
    command.args(["run", "--policy", "env", "--", "env"]);
    let ran = world.spawn(command).finish().ok();
    assert!(ran.stdout.contains("MY_EDITOR=vi\n") && ran.stdout.contains("RUST_LOG=debug\n"), "{ran:?}");
    assert!(!ran.stdout.contains("canary"), "{ran:?}");
}
