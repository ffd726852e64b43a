//! What `keyhatch session open` prints for Compose and for devcontainers, read by the real programs: a service and a
//! devcontainer come up with it and push.

use std::path::PathBuf;
use std::process::Command;

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

    /// What is printed in a format.
    fn printed(&self, format: &str) -> String {
        let mut command = self.world.command(self.world.path("bin/keyhatch"));
        command.current_dir(&self.project);
        command.args(["session", "open", "--target", "/work", "--service", "agent", "--format", format]);
        Finished::from(command.output().expect("keyhatch runs")).ok().stdout
    }

    /// A program of the user's that speaks to a docker daemon.
    fn speaks_to(&self, docker: &Docker<'_>, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.world.command(program);
        command.env("DOCKER_HOST", docker.host()).env("DOCKER_BUILDKIT", "0");
        command.env("TMPDIR", self.world.make_directory("tmp"));
        command
    }

    /// Runs a command that pushes, agrees, and looks whether it arrived.
    fn pushes(&self, command: Command) {
        let push = self.world.spawn(command);
        self.world.approve_next();
        let pushed = push.finish().ok();
        let tip = self.world.tip(&self.upstream, "main");
        assert!(!tip.is_empty(), "{pushed:?}");
        self.world.wait_until("the commit comes back", || self.world.tip(&self.project, "main") == tip);
        // The session's own git directory is over the project's: what is written there stays inside.
        assert!(pushed.stdout.contains("wrote .git/inside"), "{pushed:?}");
        assert!(!self.project.join(".git/inside").exists());
    }
}

const PUSH: &str = "cd /work && git commit -q --allow-empty -m inside && git push origin main && touch .git/inside && echo wrote .git/inside";

#[test]
fn a_compose_service_with_the_printed_file_beside_its_own_pushes() {
    assert!(
        std::path::Path::new("/usr/bin/docker-compose").exists(),
        "docker-compose is missing: run ./test.sh, which installs it"
    );
    let stage = Stage::new();
    let world = &stage.world;
    let docker = Docker::start(world, false);
    docker.import(Image::Bookworm);
    let own = format!(
        "services:\n  agent:\n    image: {}\n    network_mode: none\n    command: sleep infinity\n    init: true\n    \
         volumes: ['{}:/work']\n",
        Image::Bookworm.name(),
        stage.project.display()
    );
    let files = [world.write("compose.yml", &own), world.write("keyhatch.yml", &stage.printed("compose"))];
    let compose = |arguments: &[&str]| {
        let mut command = stage.speaks_to(&docker, "docker-compose");
        command.args(["--project-name", "agents"]);
        files.iter().for_each(|file| {
            command.arg("-f").arg(file);
        });
        command.args(arguments);
        command
    };
    Finished::from(compose(&["up", "-d"]).output().expect("it runs")).ok();
    stage.pushes(compose(&["exec", "-T", "agent", "sh", "-c", PUSH]));
    Finished::from(compose(&["down", "--timeout", "1"]).output().expect("it runs")).ok();
}

#[test]
fn a_devcontainer_with_the_printed_settings_comes_up_and_pushes() {
    let stage = Stage::new();
    let world = &stage.world;
    let docker = Docker::start(world, false);
    docker.import(Image::Bookworm);
    let mut settings: serde_json::Value =
        serde_json::from_str(&stage.printed("devcontainer")).expect("it is JSON");
    for (name, value) in [
        ("image", Image::Bookworm.name().into()),
        ("workspaceFolder", "/work".into()),
        ("workspaceMount", format!("type=bind,source={},target=/work", stage.project.display()).into()),
        ("runArgs", serde_json::json!(["--network", "none"])),
    ] {
        settings[name] = value;
    }
    // Beside the project: what a container might change of its own devcontainer.json is covered inside.
    let config = world.write("devcontainer.json", &settings.to_string()).display().to_string();
    let (cli, folder) = (world.devcontainer_cli(), stage.project.display().to_string());
    let devcontainer = |verb: &str, script: &[&str]| {
        let mut command = stage.speaks_to(&docker, &cli);
        command.args([verb, "--workspace-folder", &folder, "--config", &config]).args(script);
        command
    };
    let up = Finished::from(devcontainer("up", &[]).output().expect("it runs")).ok();
    assert!(up.stdout.contains("\"outcome\":\"success\""), "{up:?}");
    stage.pushes(devcontainer("exec", &["sh", "-c", PUSH]));
}
