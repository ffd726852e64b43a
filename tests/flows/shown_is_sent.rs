//! What a person is shown, or a rule allows, is what upstream gets: pushes that try to hide a part of themselves.

use std::path::{Path, PathBuf};

use keyhatch_protocol::ObjectFormat;
use keyhatch_tests::hostile::{Answer, CommitText, Entry, HostileClient, Kind, Objects, PushBytes};
use keyhatch_tests::{SshServer, SshVersion, World};
use serde_json::Value;

/// Allows every update that carries no risk, and asks for nothing else.
const PLAIN: &str = r#"
name = "plain"
description = "Everything with the project's own remotes, but risks."

[[fetch]]
name = "own remotes"
remote = "{remotes}"
decision = "allow"
reason = "a test"

[[push]]
name = "own remotes"
remote = "{remotes}"
updates = ["create", "fast-forward", "force", "delete"]
decision = "allow"
reason = "a test"
"#;

const WORKFLOW: (&str, &str) = (".github/workflows/evil.yml", "on: push\n");
const TOKEN: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyzAB";

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
        world.policy("plain", PLAIN);
        world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
        Self { world, server, upstream, project }
    }

    fn client(&self, policy: &str) -> HostileClient {
        HostileClient::open(&self.world, &self.project, policy, &self.server.url(&self.upstream))
    }

    fn tip(&self, name: &str) -> String {
        self.world.tip(&self.upstream, name)
    }

    fn main(&self) -> String {
        self.tip("main")
    }

    /// A commit of the user's on upstream, under any name, that the project's repository does not have.
    fn put_upstream(&self, ref_name: &str, files: &[(&str, &str)]) -> String {
        let place = self.world.path("elsewhere");
        if !place.exists() {
            let url = self.server.url(&self.upstream);
            self.world.git(&self.world.home(), &["clone", "--quiet", &url, &place.to_string_lossy()]).ok();
        }
        self.world.git(&place, &["checkout", "--quiet", "--detach", &self.main()]).ok();
        for (path, content) in files {
            if let Some(directory) = Path::new(path).parent() {
                self.world.make_directory(&Path::new("elsewhere").join(directory).to_string_lossy());
            }
            self.world.write(&format!("elsewhere/{path}"), content);
        }
        self.world.git(&place, &["add", "--all"]).ok();
        self.world.git(&place, &["commit", "--quiet", "--allow-empty", "-m", "Upstream's own"]).ok();
        self.world.git(&place, &["push", "--quiet", "origin", &format!("HEAD:{ref_name}")]).ok();
        self.world.tip(&place, "HEAD")
    }
}

/// A commit with these files on top of a parent, beside the README that is there.
fn commit(objects: &mut Objects, parent: &str, files: &[(&str, &str)]) -> String {
    let all: Vec<(&str, &str)> = [("README", "hello\n")].iter().chain(files).copied().collect();
    let tree = objects.files(&all);
    objects.commit(&CommitText::new(&tree, &[parent], "Harmless"))
}

fn objects() -> Objects {
    Objects::new(ObjectFormat::Sha1)
}

fn kinds(shown: &Value) -> Vec<&str> {
    let risks = shown["risks"].as_array().expect("risks");
    risks.iter().map(|risk| risk["kind"].as_str().expect("a word")).collect()
}

#[track_caller]
fn has_risks(shown: &Value, wanted: &[&str]) {
    for kind in wanted {
        assert!(kinds(shown).contains(kind), "{kind}: {shown:#}");
    }
}

#[track_caller]
fn is_taken(answer: &Answer, name: &str) {
    assert_eq!(answer.of_ref(name).as_deref(), Some("ok"), "{}", answer.text());
}

#[test]
fn a_push_of_objects_that_no_git_made_is_taken_like_any_other() {
    let scene = Scene::new();
    let client = scene.client("allow");
    let main = scene.main();
    let mut objects = objects();
    let tree = objects.files(&[("README", "hello\n"), ("src/new.rs", "fn main() {}\n")]);
    let commit = objects.commit(&CommitText::new(&tree, &[&main], "New"));
    let answer = client.push(&PushBytes::of(objects.pack()).command(&main, &commit, "refs/heads/main"));
    is_taken(&answer, "refs/heads/main");
    assert_eq!(scene.main(), commit);
}

#[test]
fn commits_are_not_hidden_by_an_old_value_that_upstream_never_had() {
    let scene = Scene::new();
    let client = scene.client("allow");
    let (mut pack, main) = (objects(), scene.main());
    let evil = commit(&mut pack, &main, &[WORKFLOW]);
    let topic = commit(&mut pack, &evil, &[WORKFLOW, ("a", "b\n")]);
    for decoy in [[&evil, &evil], [&evil, &topic], [&topic, &evil]] {
        let push = PushBytes::of(pack.pack())
            .command(decoy[0], decoy[1], "refs/heads/decoy")
            .create(&topic, "refs/heads/topic");
        let answer = client.push(&push);
        let why = answer.of_ref("refs/heads/decoy").unwrap_or_default();
        assert!(why.contains("upstream has no such ref") && why.contains("git fetch"), "{}", answer.text());
        assert!(answer.of_ref("refs/heads/topic").is_some_and(|why| why != "ok"), "{}", answer.text());
        assert_eq!((scene.tip("decoy"), scene.tip("topic")), (String::new(), String::new()));
    }
    // The same for a ref that upstream has elsewhere, and for one that is said to be new.
    for old in [evil.clone(), "0".repeat(40)] {
        let answer = client.push(&PushBytes::of(pack.pack()).command(&old, &topic, "refs/heads/main"));
        let why = answer.of_ref("refs/heads/main").unwrap_or_default();
        assert!(why.contains("upstream has it at") && why.contains("git fetch"), "{}", answer.text());
    }
    assert_eq!(scene.main(), main);
}

#[test]
fn commits_of_a_decoy_in_the_same_push_are_shown() {
    let scene = Scene::new();
    let client = scene.client("plain");
    let (mut pack, main) = (objects(), scene.main());
    let evil = commit(&mut pack, &main, &[WORKFLOW, ("leak", TOKEN)]);
    let topic = commit(&mut pack, &evil, &[("a", "b\n")]);
    let push =
        PushBytes::of(pack.pack()).create(&evil, "refs/heads/decoy").create(&topic, "refs/heads/topic");
    let shown = client.shown(&scene.world, &push);
    has_risks(&shown, &["secret", "ci-workflow"]);
    assert_eq!(shown["commit_count"], 2, "{shown:#}");
    assert_eq!(shown["updates"][1]["commit_count"], 2, "{shown:#}");
    assert_eq!(scene.tip("topic"), "");
}

#[test]
fn commits_that_upstream_had_a_moment_ago_are_shown_where_the_user_has_deleted_them_since() {
    let scene = Scene::new();
    let client = scene.client("plain");
    let (mut pack, main) = (objects(), scene.main());
    let evil = commit(&mut pack, &main, &[WORKFLOW]);
    let first = client.start(&PushBytes::of(pack.pack()).create(&evil, "refs/heads/bad"));
    scene.world.approve_next();
    is_taken(&first.join().expect("an answer"), "refs/heads/bad");
    assert_eq!(client.advertisement().status, 200);
    scene.world.git(&scene.upstream, &["update-ref", "-d", "refs/heads/bad"]).ok();
    let again = PushBytes::of(pack.pack()).create(&evil, "refs/heads/good");
    let shown = client.shown(&scene.world, &again);
    has_risks(&shown, &["ci-workflow"]);
    assert_eq!((&shown["commit_count"], &shown["new_commit_count"]), (&1.into(), &1.into()), "{shown:#}");
}

#[test]
fn a_rule_that_allows_does_not_move_a_ref_to_a_risk_that_another_ref_has_already() {
    let scene = Scene::new();
    let evil = scene.put_upstream("refs/heads/side", &[WORKFLOW, ("leak", TOKEN)]);
    let client = scene.client("plain");
    let main = scene.main();
    assert_eq!(client.advertisement().status, 200);
    // Neither the pack nor the host has it: it is fetched to be looked at.
    for (old, name) in [(main.as_str(), "refs/heads/main"), (&"0".repeat(40), "refs/heads/release")] {
        let push = PushBytes::of(objects().pack()).command(old, &evil, name);
        let shown = client.shown(&scene.world, &push);
        has_risks(&shown, &["secret", "ci-workflow"]);
        assert_eq!((&shown["commit_count"], &shown["new_commit_count"]), (&1.into(), &0.into()), "{shown:#}");
        assert_eq!(shown["commits"][0]["is_new"], false, "{shown:#}");
        assert!(shown["diff"].as_str().is_some_and(|diff| diff.contains("+on: push")), "{shown:#}");
    }
    assert_eq!(scene.main(), main);
}

#[test]
fn a_grant_does_not_move_a_ref_to_a_risk_that_was_approved_for_another() {
    let scene = Scene::new();
    let client = scene.client("default");
    let (mut plain, main) = (objects(), scene.main());
    let harmless = commit(&mut plain, &main, &[("a", "b\n")]);
    let first = client.start(&PushBytes::of(plain.pack()).command(&main, &harmless, "refs/heads/main"));
    let id = scene.world.pending_id();
    scene.world.approve(&id, &["--session"]).ok();
    is_taken(&first.join().expect("an answer"), "refs/heads/main");
    let mut pack = objects();
    let evil = commit(&mut pack, &harmless, &[("a", "b\n"), WORKFLOW]);
    let side = client.start(&PushBytes::of(pack.pack()).create(&evil, "refs/heads/side"));
    scene.world.approve_next();
    is_taken(&side.join().expect("an answer"), "refs/heads/side");
    // A session that looks at upstream first, as git does.
    assert_eq!(client.advertisement().status, 200);
    let shown = client
        .shown(&scene.world, &PushBytes::of(objects().pack()).command(&harmless, &evil, "refs/heads/main"));
    has_risks(&shown, &["ci-workflow"]);
    assert_eq!(scene.main(), harmless);
    // What is plain goes by the grant as before.
    let mut more = objects();
    let next = commit(&mut more, &harmless, &[("a", "c\n")]);
    is_taken(
        &client.push(&PushBytes::of(more.pack()).command(&harmless, &next, "refs/heads/main")),
        "refs/heads/main",
    );
    let authority =
        scene.world.audit().iter().rev().find_map(|record| record["authority"].as_str().map(str::to_owned));
    assert!(authority.is_some_and(|authority| authority.starts_with("grant:")));
}

#[test]
fn a_thousand_commits_hide_nothing_of_the_first_one() {
    let scene = Scene::new();
    let client = scene.client("allow");
    let (mut pack, main) = (objects(), scene.main());
    let mut tip = commit(&mut pack, &main, &[WORKFLOW, ("leak", TOKEN)]);
    // Taken back by the next one: it is published all the same.
    tip = commit(&mut pack, &tip, &[WORKFLOW]);
    let tree = pack.files(&[("README", "hello\n"), WORKFLOW]);
    for number in 0..1200 {
        tip = pack.commit(&CommitText::new(&tree, &[&tip], &format!("Number {number}")));
    }
    let push = PushBytes::of(pack.pack()).create(&tip, "refs/heads/long");
    scene.world.policy("allow", PLAIN.replace("\"plain\"", "\"allow\"").as_str());
    drop(client);
    let client = scene.client("allow");
    let shown = client.shown(&scene.world, &push);
    has_risks(&shown, &["secret", "ci-workflow"]);
    assert_eq!((&shown["commit_count"], &shown["file_count"]), (&1202.into(), &1.into()), "{shown:#}");
    assert!(
        shown["diff"].as_str().is_some_and(|diff| diff.contains("+on: push")),
        "the diff is of the whole"
    );
}

#[test]
fn what_tags_notes_and_replacements_lead_to_is_looked_through() {
    let scene = Scene::new();
    let client = scene.client("plain");
    let main = scene.main();
    let mut pack = objects();
    let tree = pack.files(&[WORKFLOW, ("leak", TOKEN)]);
    let shown = |objects: &Objects, oid: &str, name: &str| {
        client.shown(&scene.world, &PushBytes::of(objects.pack()).create(oid, name))
    };
    has_risks(&shown(&pack, &tree, "refs/tags/tree"), &["secret", "ci-workflow"]);
    let of_tree = pack.tag("t", (&tree, Kind::Tree), "A tree");
    let of_tag = pack.tag("tt", (&of_tree, Kind::Tag), "A tag of it");
    has_risks(&shown(&pack, &of_tag, "refs/tags/tag-of-tag-of-tree"), &["secret", "ci-workflow"]);

    let mut pack = objects();
    let evil = commit(&mut pack, &main, &[WORKFLOW, ("leak", TOKEN)]);
    let inner = pack.tag("inner", (&evil, Kind::Commit), "Inner");
    let outer = pack.tag("outer", (&inner, Kind::Tag), "Outer");
    let found = shown(&pack, &outer, "refs/tags/outer");
    has_risks(&found, &["secret", "ci-workflow"]);
    assert_eq!(found["tags"].as_array().map(Vec::len), Some(2), "{found:#}");

    let mut pack = objects();
    let blob = pack.blob(format!("token = {TOKEN}\n"));
    has_risks(&shown(&pack, &blob, "refs/tags/blob"), &["secret"]);
    let tagged = pack.tag("b", (&blob, Kind::Blob), "A file");
    has_risks(&shown(&pack, &tagged, "refs/tags/tag-of-blob"), &["secret"]);

    let mut pack = objects();
    let in_tag = pack.tag("said", (&main, Kind::Commit), &format!("The token is {TOKEN}"));
    has_risks(&shown(&pack, &in_tag, "refs/tags/said"), &["secret"]);
    let mut pack = objects();
    let tree = pack.files(&[("README", "hello\n")]);
    let in_message = pack.commit(&CommitText::new(&tree, &[&main], &format!("Harmless\n\n{TOKEN}")));
    has_risks(&shown(&pack, &in_message, "refs/heads/said"), &["secret"]);

    let mut pack = objects();
    let note = pack.files(&[(main.as_str(), &format!("note: {TOKEN}\n"))]);
    let notes = pack.commit(&CommitText::new(&note, &[], "Notes added by 'git notes add'"));
    has_risks(&shown(&pack, &notes, "refs/notes/commits"), &["secret"]);

    let mut pack = objects();
    let other = commit(&mut pack, &main, &[("a", "b\n")]);
    for name in [format!("refs/replace/{main}"), "refs/meta/config".into(), "refs/for/main%submit".into()] {
        has_risks(&shown(&pack, &other, &name), &["special-ref"]);
    }
    assert_eq!(scene.tip("refs/tags/outer"), "");
}

#[test]
fn what_merges_bring_and_what_is_taken_back_is_shown() {
    let scene = Scene::new();
    let client = scene.client("plain");
    let main = scene.main();
    let shown = |objects: &Objects, oid: &str| {
        client.shown(&scene.world, &PushBytes::of(objects.pack()).command(&main, oid, "refs/heads/main"))
    };
    let mut pack = objects();
    let (left, right) =
        (commit(&mut pack, &main, &[("l", "l\n")]), commit(&mut pack, &main, &[("r", "r\n")]));
    // Content that no parent has.
    let tree = pack.files(&[("README", "hello\n"), ("l", "l\n"), ("r", "r\n"), WORKFLOW, ("leak", TOKEN)]);
    let merge = pack.commit(&CommitText::new(&tree, &[&left, &right], "Merge"));
    has_risks(&shown(&pack, &merge), &["secret", "ci-workflow"]);

    let mut pack = objects();
    let parents: Vec<String> = (0..6)
        .map(|n| commit(&mut pack, &main, &[(&format!("f{n}"), if n == 4 { TOKEN } else { "x\n" })]))
        .collect();
    let tree = pack.files(&[("README", "hello\n")]);
    let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
    let octopus = pack.commit(&CommitText::new(&tree, &parents, "Octopus"));
    let found = shown(&pack, &octopus);
    has_risks(&found, &["secret"]);
    assert_eq!(found["commit_count"], 7, "{found:#}");

    let mut pack = objects();
    let evil = commit(&mut pack, &main, &[("leak", TOKEN), WORKFLOW]);
    let back = commit(&mut pack, &evil, &[]);
    let found = shown(&pack, &back);
    has_risks(&found, &["secret", "ci-workflow"]);
    assert_eq!(found["file_count"], 0, "{found:#}");

    let mut pack = objects();
    let readme = pack.blob("hello\n");
    let tree = pack.tree(&[Entry::file("README", &readme), Entry::submodule("sub", &"1".repeat(40))]);
    let first = pack.commit(&CommitText::new(&tree, &[&main], "A submodule"));
    has_risks(&shown(&pack, &first), &["submodule"]);
}

#[test]
fn a_merge_that_brings_back_what_its_ref_had_left_behind_is_shown() {
    let scene = Scene::new();
    let bad = scene.put_upstream("refs/heads/main", &[WORKFLOW]);
    let client = scene.client("plain");
    // Upstream's main took the workflow back; a merge whose first parent is the old commit has no difference to it.
    let mut pack = objects();
    let tree = pack.files(&[("README", "hello\n")]);
    let fixed = pack.commit(&CommitText::new(&tree, &[&bad], "Take the workflow back"));
    let answer = client.start(&PushBytes::of(pack.pack()).command(&bad, &fixed, "refs/heads/main"));
    scene.world.approve_next();
    is_taken(&answer.join().expect("an answer"), "refs/heads/main");
    let mut pack = objects();
    let again = pack.files(&[("README", "hello\n"), WORKFLOW]);
    let merge = pack.commit(&CommitText::new(&again, &[&bad, &fixed], "Merge"));
    let shown =
        client.shown(&scene.world, &PushBytes::of(pack.pack()).command(&fixed, &merge, "refs/heads/main"));
    has_risks(&shown, &["ci-workflow"]);
}

#[test]
fn what_upstream_moved_between_approval_and_sending_is_not_sent() {
    let scene = Scene::new();
    let client = scene.client("default");
    let main = scene.main();
    let moves: [(&str, &dyn Fn()); 2] = [
        ("refs/heads/main", &|| {
            scene.put_upstream("refs/heads/main", &[("news", "news\n")]);
        }),
        // The branch that was said to have the commit already is gone.
        ("refs/heads/again", &|| {
            scene.world.git(&scene.upstream, &["update-ref", "-d", "refs/heads/side"]).ok();
        }),
    ];
    let side = scene.put_upstream("refs/heads/side", &[("a", "b\n")]);
    for (name, upstream_moves) in moves {
        let (old, new, pack) = if name == "refs/heads/main" {
            let mut pack = objects();
            let next = commit(&mut pack, &main, &[("mine", "b\n")]);
            (main.clone(), next, pack)
        } else {
            ("0".repeat(40), side.clone(), objects())
        };
        let push = client.start(&PushBytes::of(pack.pack()).command(&old, &new, name));
        let id = scene.world.pending_id();
        upstream_moves();
        let before = scene.tip(name);
        scene.world.approve(&id, &[]).ok();
        let answer = push.join().expect("an answer");
        let why = answer.of_ref(name).unwrap_or_default();
        assert!(why.contains("upstream has changed since this was shown"), "{name}: {}", answer.text());
        assert_eq!(scene.tip(name), before, "{name}");
    }
    let events = scene.world.events();
    assert!(!events.contains(&"push-sending".to_owned()), "{events:?}");
}

#[test]
fn a_teammates_push_meanwhile_does_not_stop_a_new_branch_that_was_approved() {
    let scene = Scene::new();
    let client = scene.client("default");
    let (mut pack, main) = (objects(), scene.main());
    let new = commit(&mut pack, &main, &[("mine", "b\n")]);
    let push = client.start(&PushBytes::of(pack.pack()).create(&new, "refs/heads/topic"));
    let id = scene.world.pending_id();
    scene.put_upstream("refs/heads/main", &[("news", "news\n")]);
    scene.world.approve(&id, &[]).ok();
    is_taken(&push.join().expect("an answer"), "refs/heads/topic");
}
