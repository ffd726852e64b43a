//! What a person is shown before a push: from ground truth, also where the host's own repository lacks the base.

use std::path::{Path, PathBuf};

use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World};
use serde_json::Value;

/// A project whose upstream has moved on by a commit that the host has never seen.
struct Scene {
    world: World,
    upstream: PathBuf,
    project: PathBuf,
}

impl Scene {
    fn new(world: World, format: &str, url: impl Fn(&Path) -> String) -> Self {
        let upstream = world.upstream("r.git", format);
        let project = world.project_with("p", &url(&upstream), format);
        world.commit(&project, "data", &"line\n".repeat(200));
        world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
        let other = world.path("elsewhere");
        world.git(&world.home(), &["clone", "--quiet", &url(&upstream), &other.to_string_lossy()]).ok();
        world.commit(&other, "data", &format!("{}news\n", "line\n".repeat(200)));
        world.commit(&other, "more", "of it\n");
        world.git(&other, &["push", "--quiet", "origin", "main"]).ok();
        Self { world, upstream, project }
    }

    /// Pushes from a clone that only the sandbox has, and returns what a person is shown.
    fn shown(&self, script: &str) -> Value {
        let whole = format!("git clone -q $(git remote get-url origin) /tmp/own && cd /tmp/own && {script}");
        let push = self.world.start(&self.project, "default", &whole);
        let id = self.world.pending_id();
        let shown = self.world.keyhatch(&["show", &id, "--json"]).ok();
        self.world.approve(&id, &[]).ok();
        push.finish().ok();
        serde_json::from_str(&shown.stdout).expect("JSON")
    }
}

const CHANGE: &str = "echo mine >> data && git commit -qam mine && git push -q origin main";

#[track_caller]
fn is_known_whole(shown: &Value) {
    assert_eq!(shown["risks"], Value::Array(Vec::new()), "{shown:#}");
    assert_eq!(shown["updates"][0]["kind"], "fast-forward", "{shown:#}");
    assert_eq!((&shown["commit_count"], &shown["file_count"]), (&1.into(), &1.into()), "{shown:#}");
    assert_eq!((&shown["added"], &shown["removed"]), (&1.into(), &0.into()), "{shown:#}");
    let diff = shown["diff"].as_str().expect("a diff");
    assert!(diff.contains("+mine") && diff.contains(" news"), "{diff}");
}

#[test]
fn a_base_that_the_host_lacks_is_fetched_over_ssh() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let scene = Scene::new(world, "sha1", |upstream| server.url(upstream));
    is_known_whole(&scene.shown(CHANGE));
    // The second push finds the first one's base in the broker's store.
    is_known_whole(&scene.shown(&CHANGE.replace("mine", "minetoo").replace("+minetoo", "+mine")));
}

#[test]
fn a_base_that_the_host_lacks_is_fetched_from_a_server_of_protocol_v0() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V0);
    let scene = Scene::new(world, "sha1", |upstream| server.url(upstream));
    is_known_whole(&scene.shown(CHANGE));
}

#[test]
fn a_base_that_the_host_lacks_is_fetched_over_https_with_the_hosts_credential_and_in_sha256() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let scene = Scene::new(world, "sha256", |_| server.url("r.git"));
    is_known_whole(&scene.shown(CHANGE));
}

#[test]
fn a_force_over_commits_that_the_host_lacks_is_shown_with_what_it_takes_away() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let scene = Scene::new(world, "sha1", |upstream| server.url(upstream));
    let shown = scene.shown(
        "git reset -q --hard HEAD~2 && git commit -q --allow-empty -m other && git push -qf origin main",
    );
    assert_eq!(shown["updates"][0]["kind"], "force", "{shown:#}");
    assert_eq!(shown["risks"], Value::Array(Vec::new()), "{shown:#}");
    let diff = shown["diff"].as_str().expect("a diff");
    assert!(diff.contains("-news") && diff.contains("-of it"), "{diff}");
    assert_eq!(shown["once_only"], true);
    assert!(!scene.world.tip(&scene.upstream, "main").is_empty());
}

#[test]
fn a_server_that_does_not_give_the_base_leaves_an_unknown_that_a_person_sees() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let scene = Scene::new(world, "sha1", |upstream| server.url(upstream));
    let script = "touch cloned; while ! test -e go; do sleep 0.05; done; ";
    let whole =
        format!("git clone -q $(git remote get-url origin) /tmp/own && {script} cd /tmp/own && {CHANGE}");
    let push = scene.world.start(&scene.project, "default", &whole);
    scene.world.wait_until("the clone is there", || scene.project.join("cloned").exists());
    // From now on the server serves pushes only.
    scene.world.git(&scene.upstream, &["config", "uploadpack.hideRefs", "refs/"]).ok();
    let refuse = "#!/bin/sh\ncase \"$*\" in *upload-pack*) exit 1;; esac\nexec /usr/bin/ssh.real \"$@\"\n";
    let wrapper = std::fs::read_to_string(scene.world.path("bin/ssh")).expect("the wrapper");
    let real = wrapper.replacen("#!/bin/sh\n", "", 1);
    scene.world.write_mode("bin/ssh", &refuse.replace("exec /usr/bin/ssh.real \"$@\"\n", &real), 0o755);
    scene.world.write("p/go", "");
    let id = scene.world.pending_id();
    let shown = scene.world.keyhatch(&["show", &id, "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let kinds: Vec<&Value> =
        shown["risks"].as_array().expect("risks").iter().map(|risk| &risk["kind"]).collect();
    assert!(kinds.contains(&&Value::from("unknown")), "{shown:#}");
    assert_eq!(shown["updates"][0]["kind"], "force", "what cannot be shown to be an ancestor is overwritten");
    assert!(scene.world.approve(&id, &["--session"]).fails().stderr.contains("only be approved once"));
    scene.world.keyhatch(&["deny", &id]).ok();
    push.finish().fails();
}

#[test]
fn a_tag_on_what_was_pushed_a_moment_ago_is_found_upstream_where_the_host_never_had_it() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let scene = Scene::new(world, "sha1", |upstream| server.url(upstream));
    scene.world.allow_policy();
    let script = "git clone -q $(git remote get-url origin) /tmp/own && cd /tmp/own && git commit -q --allow-empty -m new && \
                  git push -q origin main && git tag light && git push -q origin light && git push -q origin main:again";
    scene.world.run(&scene.project, "allow", script).ok();
    let tip = scene.world.tip(&scene.upstream, "main");
    for name in ["light", "again"] {
        assert_eq!(scene.world.tip(&scene.upstream, name), tip, "{name}");
    }
}
