//! git-lfs over the hatch: refused, and whoever runs it reads why.

use keyhatch_tests::{HttpsServer, World};

#[test]
fn a_push_and_a_fetch_of_large_files_are_refused_with_a_reason_that_git_lfs_shows() {
    let world = World::new();
    world.allow_policy();
    let https = HttpsServer::start(&world);
    https.trust(&world);
    https.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &https.url("r.git"));
    world.git(&project, &["push", "-q", "origin", "main"]).ok();
    let script = "git lfs install --local; git lfs track '*.bin'; head -c 100000 /dev/urandom > a.bin; git add .; git commit -qm large; \
                  git push origin main || echo not pushed; rm -rf .git/lfs/objects; git lfs fetch origin main || echo not fetched";
    let ran = world.run(&project, "allow", script).ok();
    assert!(ran.stdout.contains("not pushed\n") && ran.stdout.contains("not fetched\n"), "{ran:?}");
    let said = "git-lfs is not brokered yet. Large files that are committed here come to the host with their commits";
    assert_eq!(ran.stderr.matches(said).count(), 2, "{ran:?}");
    assert!(!ran.stderr.contains("proper access"), "advice about a login leads nowhere: {ran:?}");
    assert_eq!(world.tip(&upstream, "main").len(), 40);
    assert_ne!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}
