//! A push and a fetch over ssh with a key that keyhatch itself holds: no ssh program, strict known_hosts.

use std::path::{Path, PathBuf};

use keyhatch_tests::{SshServer, SshVersion, World};

const POLICY: &str = r#"
name = "keyed"
description = "The project's own remotes, with a named key."
[[fetch]]
name = "own remotes"
remote = "{remotes}"
credential = "login"
decision = "allow"
reason = "tests"
[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward"]
credential = "login"
risks = "accept"
decision = "allow"
reason = "tests"
"#;

struct Scene {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
    directory: PathBuf,
}

impl Scene {
    fn new(version: SshVersion) -> Self {
        let world = World::new();
        let server = SshServer::start(&world, version);
        let upstream = world.upstream("r.git", "sha1");
        let url = server.url(&upstream);
        let port = url.split(':').nth(2).and_then(|rest| rest.split('/').next()).expect("a port").to_owned();
        let directory = world.path(&format!("sshd-{port}"));
        let project = world.project("p", &url);
        // The host's ssh is not what connects.
        world.write_mode("bin/ssh", "#!/bin/sh\necho 'ssh was run' >&2\nexit 255\n", 0o755);
        world.make_directory("home/.ssh");
        world.policy("keyed", POLICY);
        let scene = Self { world, _server: server, upstream, project, directory };
        scene.known(&std::fs::read_to_string(scene.directory.join("known_hosts")).expect("known hosts"));
        scene
    }

    fn known(&self, text: &str) {
        self.world.write("home/.ssh/known_hosts", text);
    }

    fn add(&self, key: &Path) {
        self.world
            .keyhatch(&["credential", "add", "ssh", "login", "--file", &key.display().to_string()])
            .ok();
    }
}

#[test]
fn a_push_and_a_fetch_go_through_with_a_key_that_keyhatch_holds() {
    let scene = Scene::new(SshVersion::V2);
    scene.add(&scene.directory.join("id"));
    let Scene { world, upstream, project, .. } = &scene;
    let big = "head -c 3M /dev/urandom > big && git add big && git commit -qm big";
    let done = world
        .run(project, "keyed", &format!("{big} && git push origin main && git ls-remote origin && git clone -q $(git remote get-url origin) /tmp/c && ls /tmp/c"))
        .ok();
    assert_eq!(world.tip(upstream, "main"), world.tip(project, "main"));
    assert!(done.stdout.contains("refs/heads/main") && done.stdout.contains("big"), "{done:?}");
    assert!(!done.all().contains("ssh was run"), "{done:?}");
}

#[test]
fn an_rsa_key_logs_in_with_sha2() {
    let scene = Scene::new(SshVersion::V2);
    let key = scene.directory.join("rsa");
    let made = scene
        .world
        .command("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "3072", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.expect("ssh-keygen runs").success());
    // sshd reads the file of keys at every login.
    let keys = std::fs::read_to_string(key.with_extension("pub")).expect("a key");
    std::fs::write(scene.directory.join("id.pub"), keys).expect("the server's keys can be written");
    scene.add(&key);
    scene.world.run(&scene.project, "keyed", "git push -q origin main").ok();
    assert_eq!(scene.world.tip(&scene.upstream, "main"), scene.world.tip(&scene.project, "main"));
}

#[test]
fn an_unknown_a_changed_and_a_revoked_server_are_refused() {
    let scene = Scene::new(SshVersion::V2);
    scene.add(&scene.directory.join("id"));
    let right = std::fs::read_to_string(scene.directory.join("known_hosts")).expect("known hosts");
    let (host, key) = right.split_once(' ').expect("a line");
    let other = std::fs::read_to_string(scene.directory.join("id.pub")).expect("a key");
    for (known, how) in [
        (String::new(), "unknown"),
        (format!("{host} {other}"), "changed"),
        (format!("{right}@revoked {host} {key}"), "revoked"),
    ] {
        scene.known(&known);
        let refused = scene.world.run(&scene.project, "keyed", "git push origin main").fails();
        assert!(refused.stderr.contains("is not known, or has changed"), "{how}: {refused:?}");
        assert!(refused.stderr.contains("hint: "), "{how}: {refused:?}");
        assert_eq!(scene.world.tip(&scene.upstream, "main"), "", "{how}");
    }
}

#[test]
fn a_key_that_the_server_does_not_take_and_one_that_is_not_kept_are_refused() {
    let scene = Scene::new(SshVersion::V2);
    let unkept = scene.world.run(&scene.project, "keyed", "git push origin main").fails();
    assert!(unkept.stderr.contains("the credential \"login\" is not set up"), "{unkept:?}");
    let other = scene.world.path("home/other");
    let made =
        scene.world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other).status();
    assert!(made.expect("ssh-keygen runs").success());
    scene.add(&other);
    let refused = scene.world.run(&scene.project, "keyed", "git push origin main").fails();
    assert!(refused.stderr.contains("refused") && refused.stderr.contains("hint: "), "{refused:?}");
}

#[test]
fn a_server_of_gits_old_protocol_takes_pushes_and_says_why_it_gives_no_fetch() {
    let scene = Scene::new(SshVersion::V0);
    scene.add(&scene.directory.join("id"));
    scene.world.run(&scene.project, "keyed", "git push -q origin main").ok();
    let fetched = scene.world.run(&scene.project, "keyed", "git fetch origin").fails();
    assert!(fetched.stderr.contains("only git's old protocol"), "{fetched:?}");
}
