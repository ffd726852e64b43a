//! `git push` through the broker, allowed by policy, beside the same push straight to the same server.
//!
//! cargo build --release && cargo bench -p keyhatch-tests --bench push

use std::path::Path;

use keyhatch_tests::measure::{Times, compare};
use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World};

const SMALL: usize = 15;
const LARGE: usize = 3;

/// Prints the nanoseconds of each push of one small commit.
fn small(count: usize) -> String {
    format!(
        "for i in $(seq {count}); do git commit -q --allow-empty -m $i; \
         a=$(date +%s%N); git push -q origin main || exit 1; b=$(date +%s%N); echo $((b-a)); done"
    )
}

/// Prints the nanoseconds of each push of the whole history to an empty server.
fn large(remotes: &[String]) -> String {
    format!(
        "for r in {}; do a=$(date +%s%N); git push -q $r main || exit 1; b=$(date +%s%N); echo $((b-a)); done",
        remotes.join(" ")
    )
}

fn pushes(world: &World, transport: &str, url: &dyn Fn(&Path) -> String) {
    let upstream = world.upstream(&format!("{transport}.git"), "sha1");
    let project = world.project(transport, &url(&upstream));
    let direct = |script: &str| {
        let mut shell = world.command("sh");
        shell.current_dir(&project).args(["-c", script]);
        Times::read(&world.spawn(shell).finish().ok().stdout)
    };
    let brokered = |script: &str| Times::read(&world.run(&project, "allow", script).ok().stdout);
    direct(&small(2));
    brokered(&small(2));
    let (theirs, ours) = (direct(&small(SMALL)), brokered(&small(SMALL)));
    compare(&format!("small push over {transport}"), &ours, ("git push", &theirs), Some(1.3));

    let fill =
        "for i in $(seq 100); do head -c 1M /dev/urandom > big$i; done; git add . && git commit -qm big";
    direct(fill);
    let servers = |kind: &str| -> Vec<String> {
        let make = |n: usize| {
            let name = format!("{transport}-{kind}-{n}");
            let empty = world.upstream(&format!("{name}.git"), "sha1");
            world.git(&project, &["remote", "add", &name, &url(&empty)]).ok();
            name
        };
        (0..LARGE).map(make).collect()
    };
    let (straight, through) = (servers("direct"), servers("brokered"));
    let (theirs, ours) = (direct(&large(&straight)), brokered(&large(&through)));
    compare(&format!("100 MB push over {transport}"), &ours, ("git push", &theirs), Some(1.5));
}

fn main() {
    let world = World::new();
    world.allow_policy();
    let ssh = SshServer::start(&world, SshVersion::V2);
    pushes(&world, "ssh", &|upstream| ssh.url(upstream));
    let https = HttpsServer::start(&world);
    https.trust(&world);
    https.log_in(&world);
    pushes(&world, "https", &|upstream| https.url(&upstream.file_name().expect("a name").to_string_lossy()));
}
