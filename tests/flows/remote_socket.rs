//! Where a Unix socket cannot be mounted: the same session over an ssh connection, on what could be another machine.

use keyhatch_tests::{Container, ContainerSession, HttpsServer, Image, SshServer, SshVersion, World};

#[test]
fn a_container_on_a_machine_behind_ssh_pushes_through_forwarded_sockets() {
    let world = World::new();
    world.allow_policy();
    let https = HttpsServer::start(&world);
    https.trust(&world);
    https.log_in(&world);
    let ssh = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &https.url("r.git"));
    world.git(&project, &["push", "-q", "origin", "main"]).ok();
    let session = ContainerSession::open(&world, &project, "allow");
    // What packaging/remote.md says, with the alias `work` for the other machine.
    let there = world.make_directory("there");
    let copy = format!(
        "tar -C {} --exclude='*.sock' -cf - . | ssh work tar -C {} -xf -",
        session.sockets.display(),
        there.display()
    );
    let copied = world.command("sh").args(["-c", &copy]).output().expect("sh runs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let mut forward = world.command("ssh");
    forward.args(["-N", "-o", "ExitOnForwardFailure=yes", "-o", "ControlMaster=no"]);
    for socket in ["http.sock", "broker.sock"] {
        let (here, there) = (session.sockets.join(socket), there.join(socket));
        forward.arg("-R").arg(format!("{}:{}", there.display(), here.display()));
    }
    let forward = world.spawn({
        forward.arg("work");
        forward
    });
    world.wait_until("the sockets are there", || {
        there.join("http.sock").exists() && there.join("broker.sock").exists()
    });
    // The session's own directory is not mounted: only what came over ssh.
    let mounts: Vec<_> = session
        .mounts
        .iter()
        .map(|(source, target, read_only)| {
            let source =
                source.strip_prefix(&session.sockets).map_or(source.clone(), |rest| there.join(rest));
            (source, target.clone(), *read_only)
        })
        .collect();
    assert!(mounts.iter().all(|(source, ..)| !source.starts_with(&session.sockets)), "{mounts:?}");
    let container = Container::new(Image::Bookworm, &mounts, &session.env);
    let script = format!(
        "set -e; cd /tmp; git clone -q {} c; cd c; git commit -q --allow-empty -m far; git push origin HEAD:refs/heads/far; \
         /run/keyhatch/keyhatch-helper status",
        https.url("r.git")
    );
    let ran = container.runc(&world, &script).ok();
    assert!(!world.tip(&upstream, "far").is_empty());
    assert!(ran.stdout.contains("keyhatch session "), "{ran:?}");
    // Without the connection there is nothing.
    drop(forward);
    let ran = container.runc(&world, &format!("git ls-remote {}", https.url("r.git"))).fails();
    assert!(ran.stderr.contains("keyhatch: no keyhatch session can be reached"), "{ran:?}");
    drop(ssh);
}
