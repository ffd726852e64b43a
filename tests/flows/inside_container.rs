//! `keyhatch run --inside`: a command confined in a container that keyhatch did not make, by the runner that lies in the
//! mounted session. What is tried confined is tried in the same container without: there it works.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use keyhatch_tests::{Container, ContainerSession, Docker, Finished, Image, SshServer, World};

/// How a command is confined by root, which most containers start as.
const AS_ROOT: &str = "/run/keyhatch/keyhatch run --inside --as-root --";
/// And by others.
const INSIDE: &str = "/run/keyhatch/keyhatch run --inside --";

struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let (world, _server, upstream, project) = World::behind_ssh();
        // A container's other uids must get into it.
        std::fs::set_permissions(&project, PermissionsExt::from_mode(0o755)).expect("a mode");
        Self { world, _server, upstream, project }
    }

    /// A container with a session over the project at /work, and another directory of the user's at /other.
    fn container(&self, policy: &str) -> Container {
        let session = ContainerSession::open_with(&self.world, &self.project, policy, &["--target", "/work"]);
        let other = self.world.make_directory("other");
        self.world.write_mode("other/secret", "canary\n", 0o644);
        std::fs::set_permissions(&other, PermissionsExt::from_mode(0o777)).expect("a mode");
        assert!(Image::Bookworm.root(&self.world).is_dir());
        self.world.make_directory("root-bookworm/other");
        let own = [(self.project.clone(), "/work".to_owned(), false), (other, "/other".to_owned(), false)];
        let mounts = [&own[..], &session.mounts[..]].concat();
        Container::new(Image::Bookworm, &mounts, &session.env)
    }

    /// A policy that is the default one with more in a section.
    fn policy(&self, name: &str, section: &str, more: &str) {
        let renamed = include_str!("../../policies/default.toml")
            .replace("name        = \"default\"", &format!("name = \"{name}\""));
        let section = format!("[{section}]\n");
        assert!(renamed.contains(&section));
        self.world.policy(name, &renamed.replace(&section, &format!("{section}{more}\n")));
    }
}

/// What a command tries; each line says whether it worked.
const ATTEMPTS: &str = "tried() { if \"$@\" > /dev/null 2>&1; then echo \"$1 $2 worked\"; else echo \"$1 $2 failed\"; fi; }; \
    internet() { bash -c ': > /dev/udp/127.0.0.1/9'; }; \
    other() { env -u KEYHATCH_HATCH KEYHATCH_SOCKETS=/tmp/other /run/keyhatch/keyhatch-helper status; }; \
    into() { echo x > $1; }; token() { test -n \"$TOKEN\"; }; above() { test \"$(ls / | wc -l)\" -gt 0; }; \
    tried cat /other/secret; tried into /other/file; tried into /tmp/file; tried above; tried internet; tried other; tried token; \
    cat /work/README; touch /work/made && echo made";

#[test]
fn a_command_is_confined_in_a_container_and_nothing_of_it_is_left() {
    let stage = Stage::new();
    let world = &stage.world;
    let mut container = stage.container("default");
    // Somebody else's session, in reach of the container.
    let other = ContainerSession::open(world, &stage.project, "default");
    container.mounts.push((other.sockets.clone(), "/tmp/other".into(), false));
    container.env.push(("TOKEN".into(), "canary".into()));
    let ran = container.runc(world, ATTEMPTS).ok();
    assert_eq!(ran.stdout.matches(" worked\n").count(), 7, "{ran:?}");
    let script = format!(
        "cd /work; {AS_ROOT} sh -c '{}; pwd; (sleep 987654 &); exit 7'; echo \"code $?\"; ls -A /tmp | grep -v -e file -e other; \
         grep -lz '^sleep$' /proc/[0-9]*/cmdline; {AS_ROOT} sh -c 'kill -USR1 $$'; echo \"code $?\"",
        ATTEMPTS.replace('\'', "'\\''")
    );
    let ran = container.runc(world, &script);
    assert_eq!(ran.stdout.matches(" failed\n").count(), 7, "{ran:?}");
    assert!(ran.stdout.ends_with("hello\nmade\n/work\ncode 7\ncode 138\n"), "{ran:?}");
    assert!(ran.stderr.contains("keyhatch: tier "), "{ran:?}");
    assert!(ran.stderr.contains("no namespaces: "), "{ran:?}");
}

#[test]
fn a_confined_command_pushes_and_signs_through_the_containers_session() {
    let stage = Stage::new();
    let world = &stage.world;
    world.signing_key();
    let script = "git commit -q -S --allow-empty -m signed && git push origin main && git fetch origin && git log -1 --format=%G?";
    let run = stage
        .container("default")
        .start_runc(world, &["sh", "-c", &format!("cd /work; {AS_ROOT} sh -c '{script}'")]);
    world.approve_next();
    let ran = run.finish().ok();
    assert!(ran.stderr.contains("remote: keyhatch: waiting for approval"), "{ran:?}");
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
    let verified = world.git(&stage.upstream, &["verify-commit", "main"]).ok();
    assert!(verified.stderr.contains("Good \"git\" signature for ada@example.org"), "{verified:?}");
}

#[test]
fn where_a_container_gives_namespaces_a_whole_sandbox_is_built_in_them_and_is_proved_before() {
    let stage = Stage::new();
    let world = &stage.world;
    stage.policy("apart", "sandbox", "require = [\"namespaces\"]");
    let container = stage.container("apart");
    let start = |more: &[&str], script: &str| {
        let mut bwrap = world.command("bwrap");
        let root = Image::Bookworm.root(world);
        bwrap.args(["--unshare-all", "--uid", "1000", "--gid", "1000", "--bind"]).arg(root).arg("/");
        bwrap.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]).args(more);
        for (source, target, read_only) in &container.mounts {
            bwrap.arg(if *read_only { "--ro-bind" } else { "--bind" }).arg(source).arg(target);
        }
        bwrap.args(["sh", "-c", &format!("cat /other/secret; cd /work; {INSIDE} {script}; ls -A /tmp")]);
        world.spawn(bwrap)
    };
    let script = "sh -c 'id -u; ls -d /other /root; echo x > /tmp/x; echo $$; git commit -q --allow-empty -m in; git push -q origin main'";
    let run = start(&[], script);
    world.approve_next();
    let ran = run.finish().ok();
    // A process of its own namespace has a small number; nothing is left in the container's /tmp.
    assert_eq!(ran.stdout, "canary\n1000\n2\n", "{ran:?}");
    assert!(ran.stderr.contains("'/other': No such file"), "{ran:?}");
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
    // Most images name root's home, which the proof looks for where it is nobody's.
    let rooted = start(&["--setenv", "HOME", "/root"], "sh -c 'ls -A ~; echo $HOME; echo $$'").finish().ok();
    assert_eq!(rooted.stdout, "canary\n/root\n2\n", "{rooted:?}");
    // With a part of /proc covered, as engines do, the kernel shows no fresh one.
    let covered = start(&["--ro-bind", "/dev/null", "/proc/cpuinfo"], "touch /work/ran").finish();
    let said = "no sandbox can be built in them: cannot make proc: Operation not permitted";
    assert!(covered.stderr.contains("the policy requires namespaces, and here is only tier"), "{covered:?}");
    assert!(covered.stderr.contains(said) && !stage.project.join("ran").exists(), "{covered:?}");
}

#[test]
fn podman_and_docker_confine_a_command_as_root_and_as_a_user_and_its_commits_come_back() {
    let stage = Stage::new();
    let world = &stage.world;
    let docker = Docker::start(world, false);
    docker.import(Image::Bookworm);
    let root = stage.container("default");
    let user = stage.container("default").as_uid(4242);
    let script = |name: &str, inside: &str| {
        format!(
            "cat /other/secret; cd /work; {inside} sh -c 'id -u; cat /other/secret; \
             git checkout -q -b {name} && git commit -q --allow-empty -m {name}; echo $?'"
        )
    };
    let hard = ["--read-only", "--tmpfs", "/tmp:rw,mode=1777", "--cap-drop", "ALL"];
    for (name, uid, ran) in [
        ("podman", 0, root.start_podman(world, &hard, &script("podman", AS_ROOT)).finish()),
        ("mapped", 4242, user.start_podman(world, &hard, &script("mapped", INSIDE)).finish()),
        ("docker", 4242, docker.run(&user, &hard[3..], &script("docker", INSIDE))),
    ] {
        assert_eq!(ran.stdout, format!("canary\n{uid}\n0\n"), "{name}: {ran:?}");
        assert!(ran.stderr.contains("/other/secret: Permission denied"), "{name}: {ran:?}");
        let subject = || world.git(&stage.project, &["log", "-1", "--format=%s", name]).stdout;
        world.wait_until("the commit comes back", || subject().trim() == name);
    }
}

#[test]
fn links_of_the_containers_lead_neither_home_nor_temporary_files_into_the_project() {
    let stage = Stage::new();
    let script = format!(
        "mkdir /work/sub; ln -s /work/sub /tmp/link; \
         HOME=/tmp/link TMPDIR=/tmp/link {AS_ROOT} sh -c 'echo $HOME $TMPDIR; touch ~/x; ls -A /work/sub'; \
         HOME=/usr/share TMPDIR=/usr/share {AS_ROOT} sh -c 'echo $HOME $TMPDIR; touch ~/x'"
    );
    let ran = stage.container("default").runc(&stage.world, &script).ok();
    assert!(ran.stdout.starts_with("/tmp/keyhatch-") && ran.stdout.ends_with("-0/tmp\n"), "{ran:?}");
    assert_eq!(ran.stdout.lines().filter(|line| line.contains("/home /tmp/keyhatch-")).count(), 2, "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 2, "{ran:?}");
}

#[test]
fn whichever_process_in_front_of_a_command_is_killed_the_command_is_ended() {
    let stage = Stage::new();
    for victim in ["$front", "$(cat /proc/$front/task/$front/children)"] {
        let script = format!(
            "sleeps() {{ grep -lz '^sleep$' /proc/[0-9]*/cmdline 2> /dev/null | wc -l; }}; \
             {AS_ROOT} sh -c 'sleep 987654 & (sleep 987654 & wait) & wait' & front=$!; \
             until [ $(sleeps) = 2 ]; do :; done; kill -9 {victim}; tries=0; \
             while [ $(sleeps) != 0 ] && [ $tries -lt 300 ]; do tries=$((tries+1)); done; sleeps"
        );
        let ran = stage.container("default").runc(&stage.world, &script).ok();
        assert_eq!(ran.stdout, "0\n", "{victim}: {ran:?}");
    }
}

#[test]
fn an_image_with_nothing_in_it_is_enough() {
    let stage = Stage::new();
    let world = &stage.world;
    let mut container = stage.container("default");
    container.image = Image::Scratch;
    assert!(Image::Scratch.root(world).is_dir());
    for directory in ["work", "other", "run/keyhatch-git"] {
        world.make_directory(&format!("root-scratch/{directory}"));
    }
    let words: Vec<&str> = AS_ROOT.split(' ').collect();
    let status = ["/run/keyhatch/keyhatch-helper", "status"];
    let ran = container.start_runc(world, &[&words[..], &status].concat()).finish().ok();
    assert!(ran.stdout.contains("keyhatch session "), "{ran:?}");
    assert!(ran.stderr.contains("keyhatch: tier "), "{ran:?}");
}

#[test]
fn root_is_refused_unless_it_is_named_and_then_has_no_power_over_the_kernels_switches() {
    let stage = Stage::new();
    let world = &stage.world;
    let docker = Docker::start(world, false);
    docker.import(Image::Bookworm);
    let container = stage.container("default");
    // The container's own name for its domain: a switch of the kernel's that hurts nobody. Opened without being cut, which
    // Landlock has another right for.
    let switch = "sh -c 'echo canary 1<> /proc/sys/kernel/domainname'";
    let script = format!(
        "{INSIDE} true; echo $?; {switch}; cat /proc/sys/kernel/domainname; echo plain > /proc/sys/kernel/domainname; \
         {AS_ROOT} {switch}; echo $?; cat /proc/sys/kernel/domainname; {AS_ROOT} grep CapPrm /proc/self/status"
    );
    let ran = docker.run(&container, &["--security-opt", "systempaths=unconfined"], &script).ok();
    assert!(
        ran.stderr.contains("keyhatch: refusing to run as root: the files of the image are root's"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("--as-root runs it as root all the same"), "{ran:?}");
    assert!(ran.stdout.starts_with("125\ncanary\n"), "without it, it can: {ran:?}");
    assert!(ran.stdout.ends_with("plain\nCapPrm:\t0000000000000000\n"), "{ran:?}");
}

#[test]
fn what_a_policy_requires_and_a_container_has_not_is_a_refusal() {
    let stage = Stage::new();
    for (name, more, said) in [
        ("apart", "require = [\"namespaces\"]", "the policy requires namespaces, and here is only tier "),
        (
            "counted",
            "require = [\"cgroup\"]",
            "the policy requires a cgroup, and keyhatch makes none inside a container",
        ),
    ] {
        stage.policy(name, "sandbox", more);
        let ran = stage.container(name).runc(&stage.world, &format!("{AS_ROOT} touch /work/ran"));
        assert_eq!(ran.code(), 125, "{ran:?}");
        assert!(ran.stderr.contains(said) && ran.stderr.contains("\nhint: "), "{ran:?}");
        assert!(
            ran.stderr.ends_with("leave it out of the policy's require\n") || name == "counted",
            "{ran:?}"
        );
        assert!(!stage.project.join("ran").exists());
    }
}

#[test]
fn a_project_that_the_policy_lets_be_read_is_not_written_and_time_that_is_up_ends_everything() {
    let stage = Stage::new();
    let world = &stage.world;
    stage.policy("reader", "sandbox", "project = \"read\"");
    let ran =
        stage.container("reader").runc(world, &format!("touch /work/a; {AS_ROOT} touch /work/b")).fails();
    assert!(stage.project.join("a").exists() && !stage.project.join("b").exists(), "{ran:?}");
    stage.policy("brief", "limits", "time = \"2s\"");
    let ran = stage.container("brief").runc(
        world,
        &format!("{AS_ROOT} sh -c 'trap \"\" TERM; (trap \"\" TERM; sleep 987654) & sleep 987654'; echo $?; grep -lz '^sleep$' /proc/[0-9]*/cmdline"),
    );
    assert_eq!(ran.stdout, "137\n", "{ran:?}");
    assert!(
        ran.stderr.contains("keyhatch: limit reached: time (2 s); everything inside was ended"),
        "{ran:?}"
    );
}

#[test]
fn a_filter_of_the_containers_that_forbids_the_walls_is_named_with_the_call() {
    let stage = Stage::new();
    let world = &stage.world;
    for call in ["landlock_create_ruleset", "seccomp"] {
        let ran =
            stage.container("default").forbidding(call).runc(world, &format!("{AS_ROOT} touch /work/ran"));
        assert_eq!(ran.code(), 125, "{ran:?}");
        let said = format!(
            "keyhatch: {call}(2) is refused here (Operation not permitted (os error 1)): the container's seccomp profile forbids it"
        );
        assert!(ran.stderr.contains(&said), "{ran:?}");
        assert!(ran.stderr.contains("hint: docker from 23 on and podman allow the call"), "{ran:?}");
        assert!(!stage.project.join("ran").exists());
    }
}

#[test]
fn other_verbs_are_the_hosts_and_a_session_without_the_projects_place_confines_nothing() {
    let stage = Stage::new();
    let world = &stage.world;
    let script = "for verb in pending 'approve 1a2b3c4d' --help 'run --inside --policy allow -- true'; do /run/keyhatch/keyhatch $verb; echo $?; done";
    let ran = stage.container("default").runc(world, script);
    assert_eq!(ran.stdout, "2\n2\n2\n2\n", "{ran:?}");
    let said = "keyhatch: the broker is on the host; here there is only run --inside\nhint: ";
    assert_eq!(ran.stderr.matches(said).count(), 4, "{ran:?}");
    let nowhere = ContainerSession::open(world, &stage.project, "default");
    let container = Container::new(Image::Bookworm, &nowhere.mounts, &nowhere.env);
    let ran = container.runc(world, &format!("{AS_ROOT} true")).fails();
    assert!(
        ran.stderr
            .contains("no rules for a sandbox in /run/keyhatch\nhint: open the session with --target DIR"),
        "{ran:?}"
    );
    let mut on_host = world.command(world.path("bin/keyhatch"));
    let ran =
        Finished::from(on_host.args(["run", "--inside", "--", "true"]).output().expect("it runs")).fails();
    assert!(ran.code() == 2 && ran.stderr.contains("/run/keyhatch/keyhatch run --inside -- CMD"), "{ran:?}");
}
