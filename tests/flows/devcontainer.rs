//! The devcontainer Feature and its sample, by the devcontainer command line on a real dockerd.

use std::path::PathBuf;
use std::process::Command;

use keyhatch_tests::{Docker, Finished, HttpsServer, Image, World};

/// The image that the sample names; offline, git's Debian image stands for it.
const IMAGE: &str = "buildpack-deps:bookworm-scm";

/// A user who may use docker, and has the command line.
struct Desk<'a> {
    world: &'a World,
    docker: Docker<'a>,
    cli: PathBuf,
}

impl<'a> Desk<'a> {
    fn new(world: &'a World) -> Self {
        let docker = Docker::start(world, false);
        docker.import_as(Image::Bookworm, IMAGE);
        Self { world, docker, cli: world.devcontainer_cli() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(&self.cli);
        command.env("DOCKER_HOST", self.docker.host()).env("DOCKER_BUILDKIT", "0").args(arguments);
        command.env("TMPDIR", self.world.make_directory("tmp"));
        // What an editor would forward.
        command.env("SSH_AUTH_SOCK", self.world.path("agent.sock"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        self.command(arguments).output().expect("the command line runs").into()
    }
}

#[test]
fn the_feature_is_packaged_and_its_own_tests_pass() {
    let world = World::new();
    let desk = Desk::new(&world);
    let feature = world.path("feature");
    world.copy_from_tree("packaging/devcontainer", &feature);
    let at = |name: &str| feature.join(name).display().to_string();
    desk.run(&["features", "package", "-o", &at("out"), &at("src")]).ok();
    assert!(feature.join("out/devcontainer-feature-keyhatch.tgz").exists());
    let tested =
        desk.run(&["features", "test", "-f", "keyhatch", "-i", IMAGE, "--skip-scenarios", &at(".")]).ok();
    assert!(tested.all().contains("Passed:      'keyhatch'"), "{tested:?}");
}

#[test]
fn the_sample_comes_up_unchanged_and_pushes_after_a_person_agreed() {
    let world = World::new();
    world.static_helper();
    let https = HttpsServer::start(&world);
    https.trust(&world);
    https.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &https.url("r.git"));
    world.git(&project, &["push", "-q", "origin", "main"]).ok();
    world.copy_from_tree("packaging/devcontainer/sample/.devcontainer", &project.join(".devcontainer"));
    let desk = Desk::new(&world);
    let folder = project.display().to_string();
    let up = desk.run(&["up", "--workspace-folder", &folder]).ok();
    assert!(up.stdout.contains("\"outcome\":\"success\""), "{up:?}");
    assert!(up.all().contains("keyhatch session "), "the session's status at the start: {up:?}");
    let script = "echo agent=[$SSH_AUTH_SOCK]; git commit -q --allow-empty -m inside && git push origin HEAD:refs/heads/dev";
    let push = world.spawn(desk.command(&["exec", "--workspace-folder", &folder, "sh", "-c", script]));
    assert_eq!(world.pending()["updates"][0]["ref"], "refs/heads/dev");
    world.approve_next();
    let pushed = push.finish().ok();
    assert!(pushed.stdout.contains("agent=[]"), "{pushed:?}");
    assert_eq!(world.tip(&upstream, "dev"), world.tip(&project, "main"), "{pushed:?}");
    assert!(!pushed.all().contains(HttpsServer::PASSWORD));
    // Up again: the session of that name is still the one.
    let sessions = world.keyhatch(&["session", "list", "--json"]).ok().stdout;
    desk.run(&["up", "--workspace-folder", &folder]).ok();
    assert_eq!(world.keyhatch(&["session", "list", "--json"]).ok().stdout, sessions);
}
