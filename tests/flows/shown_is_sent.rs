//! What a person is shown, or a rule allows, is what upstream gets: pushes that try to hide a part of themselves.

use std::path::PathBuf;

use keyhatch_protocol::ObjectFormat;
use keyhatch_tests::hostile::{CommitText, HostileClient, Objects, PushBytes};
use keyhatch_tests::{SshServer, SshVersion, World};

struct Scene {
    world: World,
    server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Scene {
    /// A project whose only commit is upstream's main.
    fn new() -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.allow_policy();
        world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
        Self { world, server, upstream, project }
    }

    fn client(&self, policy: &str) -> HostileClient {
        HostileClient::open(&self.world, &self.project, policy, &self.server.url(&self.upstream))
    }

    fn main(&self) -> String {
        self.world.tip(&self.upstream, "main")
    }
}

#[test]
fn a_push_of_objects_that_no_git_made_is_taken_like_any_other() {
    let scene = Scene::new();
    let client = scene.client("allow");
    let main = scene.main();
    let mut objects = Objects::new(ObjectFormat::Sha1);
    let tree = objects.files(&[("README", "hello\n"), ("src/new.rs", "fn main() {}\n")]);
    let commit = objects.commit(&CommitText::new(&tree, &[&main], "New"));
    let answer = client.push(&PushBytes::of(objects.pack()).command(&main, &commit, "refs/heads/main"));
    assert_eq!(answer.of_ref("refs/heads/main").as_deref(), Some("ok"), "{}", answer.text());
    assert_eq!(scene.main(), commit);
}
