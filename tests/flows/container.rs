//! `keyhatch container`: somebody else's engine, with the session added to its command line.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Docker, Finished, Image, SshServer, World};

struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let (world, _server, upstream, project) = World::behind_ssh();
        world.static_helper();
        Self { world, _server, upstream, project }
    }

    fn container(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.world.command(self.world.path("bin/keyhatch"));
        command.current_dir(&self.project).arg("container").args(arguments);
        command
    }

    fn refused(&self, arguments: &[&str]) -> Finished {
        Finished::from(self.container(arguments).output().expect("keyhatch runs")).fails()
    }

    /// `PROJECT:/work`.
    fn mount(&self) -> String {
        format!("{}:/work", self.project.display())
    }

    fn clean(&self) -> bool {
        !self.project.join(".vscode").exists() && !self.project.join(".envrc").exists()
    }
}

/// podman as a user has it where nothing but namespaces of their own is needed, under its own name.
fn podman(world: &World) -> PathBuf {
    assert!(Path::new("/usr/bin/podman").exists(), "podman is missing: run ./test.sh, which installs it");
    let at = world.make_directory("engine").display().to_string();
    let script = format!(
        "#!/bin/sh\nexport DBUS_SESSION_BUS_ADDRESS=disabled:\n\
         exec unshare -UrmC --map-auto sh -c 'mount -t tmpfs t /sys/fs/cgroup && mount -t cgroup2 c /sys/fs/cgroup && \
         mount -t tmpfs t /dev/shm && mount -t tmpfs t /run && exec \"$@\"' podman /usr/bin/podman --root {at}/root \
         --runroot {at}/run --tmpdir {at}/tmp --cgroup-manager=cgroupfs --events-backend=file \"$@\"\n"
    );
    world.write_mode("engine/podman", &script, 0o755)
}

const PODMAN_RUN: &[&str] = &[
    "run",
    "--rm",
    "--read-only",
    "--tmpfs=/tmp",
    "--cgroups=disabled",
    "--network=none",
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=4096:4096",
    "--log-driver=none",
];

#[test]
fn the_session_is_added_to_podmans_command_line_and_ends_with_the_container() {
    let stage = Stage::new();
    let world = &stage.world;
    let (podman, root) =
        (podman(world).display().to_string(), Image::Bookworm.root(world).display().to_string());
    let script = "cd /work && git commit -q --allow-empty -m inside && git push origin main && echo evil > .envrc; \
                  echo $KEYHATCH_SESSION; exit 7";
    let mount = stage.mount();
    let arguments =
        [&["--", &podman], PODMAN_RUN, &["-v", &mount, "--rootfs", &root, "sh", "-c", script]].concat();
    let run = world.spawn(stage.container(&arguments));
    world.approve_next();
    let ran = run.finish();
    assert_eq!(ran.code(), 7, "{ran:?}");
    assert!(ran.stderr.contains("keyhatch:   git: pushes sent upstream: 1"), "{ran:?}");
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
    assert!(stage.clean(), "{ran:?}");
    assert_eq!(world.keyhatch(&["session", "list", "--json"]).ok().stdout.trim(), "[]");
    let session = ran.stdout.trim();
    assert!(world.keyhatch(&["session", "show", session]).ok().stdout.contains("(ended)"), "{ran:?}");
}

#[test]
fn signals_reach_dockers_container_and_a_killed_command_leaves_it_without_a_session() {
    let stage = Stage::new();
    let world = &stage.world;
    let docker = Docker::start(world, false);
    docker.import(Image::Bookworm);
    docker.let_everybody_in();
    let mount = stage.mount();
    let start = |script: &str| {
        let arguments = [
            "--",
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &mount,
            Image::Bookworm.name(),
            "sh",
            "-c",
            script,
        ];
        let mut command = stage.container(&arguments);
        command.env("DOCKER_HOST", docker.host());
        world.spawn(command)
    };
    let is_there = |name: &str| stage.project.join(name).exists();
    let run = start("trap 'exit 9' TERM; touch /work/one; while :; do sleep 0.1; done");
    world.wait_until("the container runs", || is_there("one"));
    run.signal(libc::SIGTERM);
    let ran = run.finish();
    assert_eq!(ran.code(), 9, "{ran:?}");
    assert!(stage.clean());

    let run = start(
        "cp /run/keyhatch/keyhatch-helper /tmp/h; touch /work/two; while ! test -e /work/go; do sleep 0.1; done; \
         cd /work; /tmp/h status 2> said; echo evil > .envrc; touch three",
    );
    world.wait_until("the container runs", || is_there("two"));
    run.signal(libc::SIGKILL);
    world.wait_until("the session ends", || {
        world.events().iter().filter(|event| *event == "session-closed").count() == 2
    });
    world.write("p/go", "");
    world.wait_until("the container has tried", || is_there("three"));
    let said = std::fs::read_to_string(stage.project.join("said")).expect("it said something");
    assert!(said.contains("no keyhatch session can be reached"), "{said}");
    assert_eq!(std::fs::read_to_string(stage.project.join(".envrc")).expect("it stays"), "");
    // docker's own command holds the pipes until the container has ended.
    drop(run.finish());
}

#[test]
fn what_would_undo_the_point_is_refused_with_the_reason_and_had_when_it_is_named() {
    let stage = Stage::new();
    let world = &stage.world;
    let home = world.home().display().to_string();
    for directory in [".ssh", ".gnupg", ".aws"] {
        world.make_directory(&format!("home/{directory}"));
    }
    let agent = std::os::unix::net::UnixListener::bind(world.path("agent")).expect("a socket");
    let agent_at = format!("{}:/agent", world.path("agent").display());
    let control = format!("{}/keyhatch/control.sock:/c", world.path("run").display());
    let runtime = format!("{}:/run", world.path("run").display());
    let of_home = |below: &str| format!("{home}{below}:/x");
    let (ssh, gnupg, aws, whole) = (of_home("/.ssh"), of_home("/.gnupg"), of_home("/.aws"), of_home(""));
    for (options, word, reason) in [
        (&["--privileged"][..], "privileged", "--privileged: root inside reaches every device"),
        (
            &["-v", "/var/run/docker.sock:/var/run/docker.sock"],
            "engine-socket",
            "starts a container that has all of this machine",
        ),
        (&["-v", &ssh], "keys", "keys and tokens would be read inside"),
        (&["-v", &gnupg], "keys", "keys and tokens would be read inside"),
        (&["-v", &aws], "keys", "keys and tokens would be read inside"),
        (&["-v", &whole], "home", "your keys, tokens and shell's start files"),
        (&["-v", "/:/host"], "system", "the mount of /: the system's own files"),
        (&["-v", &agent_at], "ssh-agent", "the ssh-agent signs whatever it is given"),
        (&["-e", "SSH_AUTH_SOCK"], "ssh-agent", "--env SSH_AUTH_SOCK: the ssh-agent signs"),
        (
            &["--network", "host"],
            "host-network",
            "services on this machine's loopback and every abstract Unix socket",
        ),
        (&["--pid=host"], "host-pid", "/proc leads from your other processes"),
        (&["-v", &runtime], "runtime-directory", "the session bus, agents and keyrings"),
        (&["-v", &control], "keyhatch-files", "what is inside could approve what it asks for"),
        (&["--userns=host"], "host-userns", "root inside would be root of this machine"),
        (&["--cap-add", "SYS_ADMIN"], "capabilities", "root inside could mount, load and read"),
        (&["--security-opt", "seccomp=unconfined"], "unconfined", "system calls that engines deny"),
        (&["--device", "/dev/kvm"], "device", "a device leads past the container's file system"),
        (&["--env", "GITHUB_TOKEN=x"], "environment", "tokens would be inside"),
    ] {
        let line = |allow: &[&str]| {
            let mut command =
                stage.container(&[allow, &["--", "/nowhere/docker", "run"], options, &["image"]].concat());
            command.env("SSH_AUTH_SOCK", world.path("agent"));
            Finished::from(command.output().expect("keyhatch runs")).fails()
        };
        let refused = line(&[]);
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.stderr.contains(reason), "{options:?}: {refused:?}");
        let hint = format!("hint: leave it out; --allow {word} has it all the same");
        assert!(refused.stderr.contains(&hint), "{options:?}: {refused:?}");
        let allowed = line(&["--allow", word]);
        assert!(allowed.stderr.contains("cannot run /nowhere/docker"), "{allowed:?}");
    }
    drop(agent);
    let both = stage.refused(&["--", "docker", "run", "--privileged", "--pid", "host", "image"]);
    assert!(both.stderr.contains("--allow privileged,host-pid has it"), "{both:?}");
    let unknown = stage.refused(&["--", "docker", "run", "--brand-new", "x", "image"]);
    assert!(unknown.stderr.contains("hint: write --brand-new=VALUE"), "{unknown:?}");
    let detached = stage.refused(&["--", "docker", "run", "-d", "image"]);
    assert!(detached.stderr.contains("use keyhatch session open"), "{detached:?}");
}
