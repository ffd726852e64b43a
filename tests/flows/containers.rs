//! Containers that keyhatch did not make: real engines, real gits of four ages, real servers on the host.

use keyhatch_tests::{Container, ContainerSession, HttpsServer, Image, SshServer, SshVersion, World};

/// What a session's user has: a private repository behind a login, and one behind a key.
struct Upstreams {
    https: HttpsServer,
    ssh: SshServer,
}

fn world() -> (World, Upstreams) {
    let world = World::new();
    let https = HttpsServer::start(&world);
    https.trust(&world);
    https.log_in(&world);
    let ssh = SshServer::start(&world, SshVersion::V2);
    (world, Upstreams { https, ssh })
}

#[test]
fn every_git_fetches_and_pushes_from_a_container_without_a_network() {
    let (world, up) = world();
    world.allow_policy();
    let (private, keyed) = (world.upstream("r.git", "sha1"), world.upstream("k.git", "sha1"));
    let project = world.project("p", &up.https.url("r.git"));
    world.git(&project, &["remote", "add", "keyed", &up.ssh.url(&keyed)]).ok();
    world.git(&project, &["push", "-q", "origin", "main"]).ok();
    let session = ContainerSession::open(&world, &project, "allow");
    for image in Image::WITH_GIT {
        let script = format!(
            "set -e; git --version; cd /tmp; git clone -q {https} c; cd c; git log --oneline; \
             git commit -q --allow-empty -m {name}; git push origin HEAD:refs/heads/{name}; \
             git push {ssh} HEAD:refs/heads/{name}; git ls-remote {ssh}; git push origin :refs/heads/{name}; \
             git push origin HEAD:refs/heads/{name}-again",
            https = up.https.url("r.git"),
            ssh = up.ssh.url(&keyed),
            name = image.name(),
        );
        let ran = Container::new(image, &session.mounts, &session.env).runc(&world, &script).ok();
        assert!(ran.stdout.starts_with(image.git()), "{ran:?}");
        let tip = world.tip(&keyed, image.name());
        assert!(!tip.is_empty() && tip == world.tip(&private, &format!("{}-again", image.name())), "{ran:?}");
        assert_eq!(world.tip(&private, image.name()), "", "the deletion came through: {ran:?}");
        assert!(!ran.all().contains(HttpsServer::PASSWORD));
    }
}
