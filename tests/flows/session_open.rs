//! `keyhatch session open`: what a container that keyhatch did not make needs, and how long it has it.

use std::path::PathBuf;

use keyhatch_tests::{Container, ContainerSession, Image, Mount, SshServer, SshVersion, World};

/// A user with a project whose remote asks for a key.
struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        Self { world, _server: server, upstream, project }
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
