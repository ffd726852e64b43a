//! What one inspection may cost: a few bytes that stand for gigabytes are bounded, said, and never allowed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyhatch_protocol::ObjectFormat;
use keyhatch_tests::hostile::{CommitText, Entry, HostileClient, Objects, PushBytes};
use keyhatch_tests::{SshServer, SshVersion, World};
use serde_json::Value;

/// The longest that a hostile push may keep an inspector, on a machine that is busy with other tests.
const BOUND: Duration = Duration::from_secs(100);

/// Allows what carries no risk.
const ALLOW_PLAIN: &str = r#"
name = "NAME"
description = "Everything with the project's own remotes, but risks."

[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward"]
decision = "allow"
reason = "a test"
"#;

struct Scene {
    world: World,
    project: PathBuf,
    client: HostileClient,
    upstream: PathBuf,
    main: String,
    _server: SshServer,
}

impl Scene {
    /// Everything is allowed, risks too: what is asked all the same was not looked at.
    fn new() -> Self {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.allow_policy();
        world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
        let client = HostileClient::open(&world, &project, "allow", &server.url(&upstream));
        let main = world.tip(&upstream, "main");
        Self { world, project, client, upstream, main, _server: server }
    }

    fn commit(&self, objects: &mut Objects, tree: &str) -> PushBytes {
        let commit = objects.commit(&CommitText::new(tree, &[&self.main], "Harmless"));
        PushBytes::of(objects.pack()).create(&commit, "refs/heads/topic")
    }
}

fn of_kind<'s>(shown: &'s Value, kind: &str) -> Vec<&'s str> {
    let risks = shown["risks"].as_array().expect("risks");
    let of = risks.iter().filter(|risk| risk["kind"] == kind);
    of.map(|risk| risk["detail"].as_str().expect("a detail")).collect()
}

#[test]
fn a_tree_bomb_is_bounded_named_and_asked_for_also_where_risks_are_accepted() {
    let scene = Scene::new();
    for (levels, width) in [(12, 10), (7, 60), (1500, 1), (3, 400)] {
        let mut objects = Objects::new(ObjectFormat::Sha1);
        let bomb = objects.tree_bomb(levels, width, "x\n");
        let begun = Instant::now();
        let shown = scene.client.shown(&scene.world, &scene.commit(&mut objects, &bomb));
        assert!(begun.elapsed() < BOUND, "{levels} levels took {:?}", begun.elapsed());
        assert!(!of_kind(&shown, "not-looked-at").is_empty(), "{levels} levels of {width}: {shown:#}");
        assert!(shown["files"].as_array().is_some_and(|files| files.len() <= 2000));
    }
    assert_eq!(scene.world.tip(&scene.upstream, "topic"), "");
}

#[test]
fn a_link_of_a_gigabyte_and_one_of_nine_mebibytes_are_not_read() {
    let scene = Scene::new();
    scene.world.policy("allow", &ALLOW_PLAIN.replace("NAME", "allow"));
    drop(scene.client);
    let server = &scene._server;
    let client = HostileClient::open(&scene.world, &scene.project, "allow", &server.url(&scene.upstream));
    for bytes in [9 << 20, 1000 << 20] {
        let mut objects = Objects::new(ObjectFormat::Sha1);
        let target = objects.blob(vec![b'/'; bytes]);
        let tree = objects.tree(&[Entry::link("link", &target)]);
        let commit = objects.commit(&CommitText::new(&tree, &[&scene.main], "Harmless"));
        let push = PushBytes::of(objects.pack()).create(&commit, "refs/heads/topic");
        let begun = Instant::now();
        let shown = client.shown(&scene.world, &push);
        assert!(begun.elapsed() < BOUND, "{bytes} bytes took {:?}", begun.elapsed());
        let detail = format!("link -> a target of {bytes} bytes, which nothing follows");
        assert_eq!(of_kind(&shown, "symlink"), [detail.as_str()]);
    }
}

#[test]
fn every_field_that_a_session_fills_is_bounded_where_it_is_made() {
    let scene = Scene::new();
    let mut objects = Objects::new(ObjectFormat::Sha1);
    let token = objects.blob("ghp_0123456789abcdefghijklmnopqrstuvwxyzAB\n");
    let target = objects.blob(format!("/{}", "t".repeat(4000)));
    let long = "n".repeat(3500);
    // Two names that git takes, one in the other: longer together than any path that can be checked out.
    let inner = objects.tree(&[Entry::file(&long, &token)]);
    let mut entries = vec![Entry::directory(&"m".repeat(3500), &inner), Entry::file(&long, &token)];
    entries.extend((0..30_000).map(|n| Entry::link(&format!("z{n:06}"), &target)));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let tree = objects.tree(&entries);
    let mut text = CommitText::new(&tree, &[&scene.main], &"s".repeat(1 << 20));
    text.person = format!("{} <{}@example.org>", "p".repeat(1 << 20), "e".repeat(1 << 20));
    let commit = objects.commit(&text);
    let tag = objects.tag(&"g".repeat(1 << 20), (&commit, keyhatch_tests::hostile::Kind::Commit), "m");
    let push = PushBytes::of(objects.pack()).create(&tag, "refs/tags/long");
    let shown = scene.client.shown(&scene.world, &push);
    for risk in shown["risks"].as_array().expect("risks") {
        assert!(risk["detail"].as_str().expect("a detail").len() <= 240, "{risk:#}");
    }
    assert!(of_kind(&shown, "symlink").last().is_some_and(|last| *last == "and 29980 more"), "{shown:#}");
    assert!(!of_kind(&shown, "not-looked-at").is_empty(), "a path that nothing can check out: {shown:#}");
    let whole = shown.to_string().len();
    assert!(whole < 4 << 20, "{whole} bytes");
    assert!(shown["commits"][0]["subject"].as_str().expect("text").len() <= 210);
    for field in ["name", "email"] {
        assert!(shown["commits"][0]["author"][field].as_str().expect("text").len() <= 210);
    }
}

#[test]
fn a_secret_in_a_file_that_does_not_fit_into_memory_is_found() {
    let scene = Scene::new();
    let mut objects = Objects::new(ObjectFormat::Sha1);
    // Across the end of a piece, and in a line that is longer than one.
    let mut content = vec![b'x'; 20 << 20];
    content[(3 << 20) - 20] = b' ';
    content[(3 << 20) - 19..(3 << 20) + 24].copy_from_slice(b"ghp_0123456789abcdefghijklmnopqrstuvwxyzABC");
    let blob = objects.blob(&content);
    let tree = objects.tree(&[Entry::file("large", &blob)]);
    let commit = objects.commit(&CommitText::new(&tree, &[&scene.main], "Large"));
    scene.world.policy("allow", &ALLOW_PLAIN.replace("NAME", "allow"));
    drop(scene.client);
    let server = &scene._server;
    let client = HostileClient::open(&scene.world, &scene.project, "allow", &server.url(&scene.upstream));
    let push = PushBytes::of(objects.pack()).create(&commit, "refs/heads/large");
    let shown = client.shown(&scene.world, &push);
    assert_eq!(of_kind(&shown, "secret"), ["large:1: GitHub token"]);
    assert!(of_kind(&shown, "not-looked-at").is_empty(), "{shown:#}");
}

#[test]
fn a_large_file_is_asked_for_where_it_was_not_read_and_a_smaller_one_is_not() {
    let scene = Scene::new();
    let mut objects = Objects::new(ObjectFormat::Sha1);
    let blob = objects.blob("line\n".repeat(2 << 20));
    let tree = objects.tree(&[Entry::file("ten-mebibytes", &blob)]);
    let answer = scene.client.push(&scene.commit(&mut objects, &tree));
    assert_eq!(answer.of_ref("refs/heads/topic").as_deref(), Some("ok"), "{}", answer.text());
    let mut objects = Objects::new(ObjectFormat::Sha1);
    let blob = objects.blob("line\n".repeat(60 << 20));
    let tree = objects.tree(&[Entry::file("endless", &blob)]);
    let commit = objects.commit(&CommitText::new(&tree, &[&scene.main], "Large"));
    let push = PushBytes::of(objects.pack()).create(&commit, "refs/heads/large");
    let shown = scene.client.shown(&scene.world, &push);
    assert_eq!(
        of_kind(&shown, "not-looked-at"),
        ["endless: it is too large", "what lies beyond 256 MiB of content"]
    );
}
