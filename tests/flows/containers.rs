//! Containers that keyhatch did not make: real engines, real gits of four ages, real servers on the host.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Container, ContainerSession, Docker, HttpsServer, Image, SshServer, SshVersion, World};

/// A user with a private repository behind a login, one behind a key, and a project that has both.
struct Stage {
    world: World,
    https: HttpsServer,
    ssh: SshServer,
    private: PathBuf,
    keyed: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        world.allow_policy();
        let https = HttpsServer::start(&world);
        https.trust(&world);
        https.log_in(&world);
        let ssh = SshServer::start(&world, SshVersion::V2);
        let (private, keyed) = (world.upstream("r.git", "sha1"), world.upstream("k.git", "sha1"));
        let project = world.project("p", &https.url("r.git"));
        world.git(&project, &["remote", "add", "keyed", &ssh.url(&keyed)]).ok();
        world.git(&project, &["push", "-q", "origin", "main"]).ok();
        Self { world, https, ssh, private, keyed, project }
    }

    fn session(&self, policy: &str) -> ContainerSession {
        ContainerSession::open_with(&self.world, &self.project, policy, &["--etc-gitconfig"])
    }

    /// Clones what is private, and pushes it to both servers under a name.
    fn script(&self, name: &str) -> String {
        format!(
            "set -e; git --version; id -u; cd /tmp; git clone -q {} c; cd c; git commit -q --allow-empty -m {name}; \
             git push origin HEAD:refs/heads/{name}; git push {} HEAD:refs/heads/{name}",
            self.https.url("r.git"),
            self.ssh.url(&self.keyed)
        )
    }

    #[track_caller]
    fn has(&self, name: &str) {
        let tips = [&self.private, &self.keyed].map(|upstream| self.world.tip(upstream, name));
        assert!(!tips[0].is_empty() && tips[0] == tips[1], "{name}: {tips:?}");
    }
}

/// Makes a submodule of a private repository, and a signing key of the user's.
fn submodule_and_key(stage: &Stage) -> String {
    let world = &stage.world;
    let part = world.upstream("part.git", "sha1");
    let source = world.project("part", &part.display().to_string());
    world.git(&source, &["push", "-q", "origin", "main"]).ok();
    world.git(&part, &["symbolic-ref", "HEAD", "refs/heads/main"]).ok();
    let url = stage.https.url("part.git");
    world.git(&stage.project, &["submodule", "--quiet", "add", &url, "part"]).ok();
    world.git(&stage.project, &["commit", "-q", "-m", "Add part"]).ok();
    world.git(&stage.project, &["push", "-q", "origin", "main"]).ok();
    let key = world.signing_key();
    std::fs::read_to_string(key).expect("the key").lines().nth(2).expect("a line").to_owned()
}

#[test]
fn every_git_since_2_30_does_in_a_container_without_a_network_what_it_does_in_the_sandbox() {
    let stage = Stage::new();
    let secret = submodule_and_key(&stage);
    let world = &stage.world;
    let session = stage.session("allow");
    for image in Image::WITH_GIT {
        let name = image.name();
        let script = format!(
            "{}; git submodule --quiet update --init; cat part/README; git commit -q -S --allow-empty -m signed; git tag -m t {name}-tag; \
             git push --atomic origin HEAD:refs/heads/{name}-signed {name}-tag;\
             git push -q origin HEAD:refs/heads/{name}-gone; git push origin :refs/heads/{name}-gone; git fetch -q --depth 1 origin main; \
             printf 'protocol=https\\nhost=elsewhere.example\\n\\n' | git credential fill || true",
            stage.script(name)
        );
        let ran = Container::new(image, &session.mounts, &session.env).runc(world, &script).ok();
        assert!(ran.stdout.starts_with(image.git()), "{ran:?}");
        assert!(ran.stdout.contains("hello\n"), "the submodule's file: {ran:?}");
        assert!(ran.stderr.contains("no credential for elsewhere.example: it is not brokered"), "{ran:?}");
        stage.has(name);
        assert_eq!(world.tip(&stage.private, &format!("{name}-gone")), "", "{ran:?}");
        let verified = world.git(&stage.private, &["verify-commit", &format!("{name}-signed")]).ok();
        assert!(verified.stderr.contains("Good \"git\" signature for ada@example.org"), "{verified:?}");
        assert!(!ran.all().contains(HttpsServer::PASSWORD) && !ran.all().contains(&secret));
    }
}

#[test]
fn a_signed_push_from_a_container_promises_what_the_broker_knows_by_its_front_end() {
    let stage = Stage::new();
    submodule_and_key(&stage);
    let world = &stage.world;
    world.git(&stage.private, &["config", "receive.certNonceSeed", "seed"]).ok();
    let session = ContainerSession::open(world, &stage.project, "allow");
    let container = Container::new(Image::Trixie, &session.mounts, &session.env);
    let script = format!(
        "set -e; cd /tmp; git clone -q {} c; cd c; git commit -q --allow-empty -m s; git push --signed origin HEAD:refs/heads/signed",
        stage.https.url("r.git")
    );
    container.runc(world, &script).ok();
    assert!(!world.tip(&stage.private, "signed").is_empty());
    let sent = world.audit().into_iter().find(|record| record["event"] == "push-sent").expect("it was sent");
    assert_eq!(sent["certificate"]["is"], "ours", "{sent}");
}

#[test]
fn rootless_podman_pushes_as_root_as_a_mapped_user_read_only_and_with_a_network() {
    let stage = Stage::new();
    let session = stage.session("allow");
    let plain = Container::new(Image::Bookworm, &session.mounts, &session.env);
    let scratch = ["--read-only", "--tmpfs", "/tmp:rw,mode=1777"];
    let dropped = [&scratch[..], &["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]].concat();
    for (name, container, options, uid) in [
        ("podman-root", plain.clone(), &scratch[..], "0"),
        ("podman-mapped", plain.clone().as_uid(1000), &dropped[..], "1000"),
        ("podman-network", plain.with_network(), &dropped[..], "0"),
    ] {
        let ran = container.start_podman(&stage.world, options, &stage.script(name)).finish().ok();
        assert!(ran.stdout.contains(&format!("\n{uid}\n")), "{ran:?}");
        stage.has(name);
    }
}

#[test]
fn rootful_docker_pushes_with_and_without_remapped_users_and_without_any_capability() {
    let stage = Stage::new();
    let session = stage.session("allow");
    for remapped in [false, true] {
        let docker = Docker::start(&stage.world, remapped);
        docker.import(Image::Bookworm);
        let plain = Container::new(Image::Bookworm, &session.mounts, &session.env);
        let hard = [
            "--read-only",
            "--tmpfs",
            "/tmp:rw,mode=1777",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
        ];
        for (name, container, options) in
            [("root", plain.clone(), &[][..]), ("user", plain.clone().as_uid(4242), &hard[..])]
        {
            let name = format!("docker-{name}-{remapped}");
            let ran = docker.run(&container, options, &stage.script(&name)).ok();
            assert!(ran.stdout.starts_with(Image::Bookworm.git()), "{ran:?}");
            stage.has(&name);
        }
    }
}

/// Waits inside for a file that the test makes outside.
fn wait_for(file: &str) -> String {
    format!("while ! test -e /work/{file}; do sleep 0.1; done")
}

fn with_work(stage: &Stage, session: &ContainerSession) -> (PathBuf, Container) {
    let work = stage.world.make_directory("work");
    let mounts = [session.mounts.clone(), vec![(work.clone(), "/work".to_owned(), false)]].concat();
    (work, Container::new(Image::Bookworm, &mounts, &session.env))
}

#[test]
fn a_push_from_a_container_waits_for_a_person_and_is_withdrawn_when_its_client_goes() {
    let stage = Stage::new();
    let world = &stage.world;
    let session = stage.session("default");
    let (_, container) = with_work(&stage, &session);
    let push = "git push origin HEAD:refs/heads/agent";
    let script = format!(
        "cd /tmp; git clone -q {} c; cd c; git commit -q --allow-empty -m one; timeout --foreground -s KILL 3 {push}; echo first $?; {}; \
         {push}; echo second $?; git commit -q --allow-empty -m two; {push}; echo third $?",
        stage.https.url("r.git"),
        wait_for("go")
    );
    let run = container.start_runc(world, &["sh", "-c", &script]);
    let id = world.pending_id();
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    world.approve(&id, &[]).ok();
    assert_eq!(world.tip(&stage.private, "agent"), "", "nothing is sent for a client that is gone");
    world.write("work/go", "");
    world.wait_until("the second push lands", || !world.tip(&stage.private, "agent").is_empty());
    world.keyhatch(&["deny", &world.pending_id(), "--reason", "not on a Friday"]).ok();
    let ran = run.finish();
    for expected in ["first 137", "second 0", "third 1"] {
        assert!(ran.stdout.contains(expected), "{expected}: {ran:?}");
    }
    assert!(ran.stderr.contains("remote: keyhatch: waiting for approval"), "{ran:?}");
    assert!(ran.stderr.contains("(keyhatch: refused by the user: not on a Friday)"), "{ran:?}");
}

#[test]
fn a_fetch_that_waits_says_nothing_and_is_withdrawn_all_the_same_when_its_client_goes() {
    let stage = Stage::new();
    let world = &stage.world;
    let session = stage.session("default");
    let (_, container) = with_work(&stage, &session);
    let script = format!(
        "timeout --foreground -s KILL 3 git ls-remote {}; echo fetch $?; {}",
        stage.https.url("other.git"),
        wait_for("seen")
    );
    let run = container.start_runc(world, &["sh", "-c", &script]);
    world.pending_id();
    world.wait_until("the fetch is withdrawn", || world.pending()["withdrawn"] == true);
    world.write("work/seen", "");
    assert!(run.finish().ok().stdout.contains("fetch 137"));
}

#[test]
fn what_is_refused_is_refused_in_the_sandboxs_words_and_a_large_pack_does_not_hide_them() {
    let stage = Stage::new();
    let session = stage.session("feature-branches");
    let container = Container::new(Image::Sid, &session.mounts, &session.env);
    let script = format!(
        "cd /tmp; git clone -q {https} c; cd c; head -c 8000000 /dev/urandom > large; git add large; git commit -qm large; \
         git push --porcelain origin HEAD:main; echo push $?; git ls-remote git@elsewhere.example:x.git; echo scp $?; \
         git -c protocol.version=0 ls-remote origin; git archive --remote {https} HEAD; /run/keyhatch/ssh git@h.example ls; echo ssh $?",
        https = stage.https.url("r.git"),
    );
    let ran = container.runc(&stage.world, &script);
    let line = "!\tHEAD:refs/heads/main\t[remote rejected] (keyhatch: denied by policy";
    assert!(ran.stdout.contains(line) && ran.stdout.contains("push 1"), "{ran:?}");
    for said in [
        "keyhatch: git@elsewhere.example:x.git is not brokered in this session: fetch denied: denied by policy: no rule",
        "keyhatch: this client speaks git's protocol v0 for a fetch, which is not bridged\nhint: git config protocol.version 2",
        "keyhatch: git archive --remote is not brokered",
        "keyhatch: git@h.example is not brokered in this session, and the sandbox has no network",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
    }
    assert!(ran.stdout.contains("scp 128") && ran.stdout.contains("ssh 255"), "{ran:?}");
}

#[test]
fn the_forwarder_serves_tools_that_run_no_ssh_and_goes_with_the_session() {
    let stage = Stage::new();
    let world = &stage.world;
    let session = ContainerSession::open(world, &stage.project, "allow");
    let (work, mut container) = with_work(&stage, &session);
    container.env.push(("KEYHATCH_FORWARD".into(), "1".into()));
    let helper = "/run/keyhatch/keyhatch-helper";
    let script = format!(
        "cp {helper} /tmp/helper; cd /tmp; git clone -q {} c; {helper} status; {helper} forward; cd c; git commit -q --allow-empty -m f; \
         env -u GIT_CONFIG_PARAMETERS GIT_CONFIG_SYSTEM=/run/keyhatch/gitconfig-http GIT_SSH_COMMAND=false git push origin HEAD:refs/heads/forwarded; touch /work/ready; {}; \
         i=0; while [ $i -lt 100 ] && grep -q ':20E1 .* 0A ' /proc/net/tcp; do sleep 0.1; i=$((i+1)); done; echo waited $i; /tmp/helper forward",
        stage.https.url("r.git"),
        wait_for("closed")
    );
    let run = container.start_runc(world, &["sh", "-c", &script]);
    world.wait_until("the push is through", || work.join("ready").exists());
    assert!(!world.tip(&stage.private, "forwarded").is_empty());
    session.close(world);
    world.write("work/closed", "");
    let ran = run.finish().fails();
    assert!(
        ran.stdout.contains("git's front end: /run/keyhatch/http.sock; http://127.0.0.1:8417/"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("keyhatch: it listens already on http://127.0.0.1:8417/"), "{ran:?}");
    assert!(ran.stdout.contains("waited ") && !ran.stdout.contains("waited 100"), "{ran:?}");
    assert!(
        ran.stderr.contains("cannot listen on 127.0.0.1:8417: no keyhatch session can be reached"),
        "{ran:?}"
    );
}

#[test]
fn the_sandboxs_own_git_reaches_what_no_rewriting_caught() {
    let stage = Stage::new();
    let ran = stage.world.run(
        &stage.project,
        "allow",
        &format!(
            "GIT_SSH_COMMAND='/run/keyhatch-helper ssh' GIT_CONFIG_SYSTEM=/dev/null git -c ssh.variant=ssh push {} HEAD:refs/heads/caught",
            stage.ssh.url(&stage.keyed)
        ),
    );
    ran.ok();
    assert!(!stage.world.tip(&stage.keyed, "caught").is_empty());
}

/// Runs a command of the user's where a socket of the session's is at this path.
fn status_at(stage: &Stage, sockets: &Path, around: &[&str]) -> keyhatch_tests::Finished {
    let helper = stage.world.path("bin/keyhatch-helper");
    let mut command = stage.world.command(around[0]);
    command.env("KEYHATCH_SOCKETS", sockets).args(&around[1..]).arg(helper).arg("status");
    command.output().expect("it runs").into()
}

#[test]
fn status_names_the_wall_that_somebody_else_built() {
    let stage = Stage::new();
    let world = &stage.world;
    world.static_helper();
    let nowhere = status_at(&stage, &world.path("nowhere"), &["env"]).fails();
    assert!(nowhere.stderr.contains("it is not there"), "{nowhere:?}");
    let locked = world.make_directory("locked");
    let stale = std::os::unix::net::UnixListener::bind(locked.join("broker.sock")).expect("a socket");
    world.user.owns(&locked.join("broker.sock"));
    drop(stale);
    let stale = status_at(&stage, &locked, &["env"]).fails();
    assert!(stale.stderr.contains("nobody listens") && stale.stderr.contains("has ended"), "{stale:?}");
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("a mode");
    let denied = status_at(&stage, &locked, &["env"]).fails();
    assert!(denied.stderr.contains("EACCES") && denied.stderr.contains("from ABI 9 on"), "{denied:?}");
    // What srt and codex do: no socket, or no connection.
    let session = stage.session("allow");
    for call in ["socket", "connect"] {
        let container = Container::new(Image::Bookworm, &session.mounts, &session.env).forbidding(call);
        let said = container.runc(
            world,
            "/run/keyhatch/keyhatch-helper status; git ls-remote ssh://keyhatch/https/h.example/x",
        );
        let lines: Vec<&str> =
            said.stderr.lines().filter(|line| line.contains("seccomp") && line.contains("(EPERM)")).collect();
        assert!(lines.len() == 2 && said.stderr.contains("--format srt"), "{said:?}");
    }
}

#[test]
fn codexs_own_sandbox_in_a_container_pushes_with_the_printed_options_and_is_named_without_them() {
    let stage = Stage::new();
    let world = &stage.world;
    let session = stage.session("allow");
    let mut format = world.command(world.path("bin/keyhatch"));
    format.current_dir(&stage.project).args(["session", "open", "--format", "codex"]);
    let options = keyhatch_tests::Finished::from(format.output().expect("keyhatch runs")).ok().stdout;
    let package = keyhatch_tests::downloaded("codex-0.169.0");
    let programs = "lib/node_modules/@openai/codex/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl";
    let mounts =
        [&session.mounts[..], &[(package.join(programs), "/run/keyhatch-git".to_owned(), true)]].concat();
    // Codex wants a home that is not below the temporary directory.
    let script = format!(
        "{}; mkdir /tmp/home /tmp/other; export HOME=/tmp/home TMPDIR=/tmp/other; codex() {{ /run/keyhatch-git/bin/codex sandbox \"$@\"; }};          codex -- git push origin HEAD:refs/heads/refused || echo refused $?;          codex {} -- git push origin HEAD:refs/heads/opened",
        stage.script("before"),
        options.trim()
    );
    // What codex's bubblewrap needs of a container: namespaces, and a /proc without covers.
    let open = [
        "--read-only",
        "--tmpfs",
        "/tmp:rw,mode=1777",
        "--security-opt=seccomp=unconfined",
        "--security-opt=unmask=ALL",
    ];
    let container = Container::new(Image::Bookworm, &mounts, &session.env).as_uid(1000);
    let ran = container.start_podman(world, &open, &script).finish().ok();
    assert!(ran.stderr.contains("a seccomp filter around this process forbids Unix sockets"), "{ran:?}");
    assert!(ran.stdout.contains("refused 128") && world.tip(&stage.private, "refused").is_empty(), "{ran:?}");
    assert_eq!(world.tip(&stage.private, "opened"), world.tip(&stage.private, "before"), "{ran:?}");
}
