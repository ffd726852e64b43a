//! What was signed is what is pushed: the facts of a push say whose signature each commit carries, and signed pushes
//! reach a server that checks them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World};
use serde_json::Value;

fn fingerprint(world: &World, public: &std::path::Path) -> String {
    let out = world.command("ssh-keygen").arg("-lf").arg(public).output().expect("ssh-keygen runs");
    String::from_utf8_lossy(&out.stdout).split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// The facts of the commits that a push would send, by subject.
fn commit<'v>(request: &'v Value, subject: &str) -> &'v Value {
    let commits = request["commits"].as_array().expect("commits");
    let found = commits.iter().find(|commit| commit["subject"] == subject);
    found.unwrap_or_else(|| panic!("no commit {subject}: {request:#}"))
}

#[test]
fn a_push_says_of_each_commit_whether_its_signature_is_ours_foreign_or_bad() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    let (ours, theirs) =
        (world.ssh_key("ours").with_extension("pub"), world.ssh_key("theirs").with_extension("pub"));
    world.configure(&[("gpg.format", "ssh"), ("user.signingkey", &ours.display().to_string())]);
    let foreign = format!("user.signingkey={}", theirs.display());
    world.git(&project, &["-c", &foreign, "commit", "-qS", "--allow-empty", "-m", "theirs"]).ok();
    let script = "set -e; git commit -qS --allow-empty -m ours; git commit -q --allow-empty -m none; \
        git cat-file commit HEAD~1 | sed 's/^ours$/forged/' > /tmp/forged; \
        git update-ref refs/heads/main $(git hash-object -t commit -w /tmp/forged); git push origin main";
    let push = world.start(&project, "default", script);
    let id = world.pending_id();
    let shown = world.keyhatch(&["show", &id, "--json"]).ok();
    let request: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    // The forged commit took the signature of ours, and its place.
    let forged = &commit(&request, "forged")["signature"]["fact"];
    assert_eq!(forged["is"], "bad", "{request:#}");
    let risks = request["risks"].as_array().expect("risks");
    assert!(risks.iter().any(|risk| risk["kind"] == "bad-signature"), "{request:#}");
    let found = &commit(&request, "theirs")["signature"]["fact"];
    assert_eq!(
        (&found["is"], found["key"].as_str()),
        (&"foreign".into(), Some(&*fingerprint(&world, &theirs)))
    );
    assert_eq!(commit(&request, "Add README")["signature"], Value::Null);
    let people = world.keyhatch(&["show", &id]).ok().stdout;
    assert!(people.contains("(BAD SIGNATURE: it does not fit the commit)"), "{people}");
    world.keyhatch(&["deny", &id]).ok();
    push.finish().fails();

    // A later broker knows from the audit log what an earlier one signed.
    world.run(&project, "default", "git commit -qS --allow-empty -m second").ok();
    world.keyhatch(&["broker", "--stop"]).ok();
    let push = world.start(&project, "default", "git push origin main");
    let id = world.pending_id();
    let shown = world.keyhatch(&["show", &id, "--json"]).ok();
    let request: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let record = &commit(&request, "second")["signature"]["fact"];
    assert_eq!(
        (&record["is"], record["key"].as_str()),
        (&"ours".into(), Some(&*fingerprint(&world, &ours))),
        "{request:#}"
    );
    let audit = world.audit();
    let signed = audit.iter().find(|one| one["seq"] == record["record"]).expect("the record");
    assert_eq!((&signed["event"], &signed["kind"]), (&"signed".into(), &"commit".into()));
    world.approve(&id, &[]).ok();
    push.finish().ok();
}

/// The facts of the tags that a push would send, by name.
fn tag<'v>(request: &'v Value, name: &str) -> &'v Value {
    let tags = request["tags"].as_array().expect("tags");
    tags.iter().find(|tag| tag["name"] == name).unwrap_or_else(|| panic!("no tag {name}: {request:#}"))
}

#[test]
fn a_push_says_of_each_tag_whether_its_signature_is_ours_foreign_or_bad() {
    let (world, _server, upstream, project) = World::behind_ssh();
    let (ours, theirs) =
        (world.ssh_key("ours").with_extension("pub"), world.ssh_key("theirs").with_extension("pub"));
    world.configure(&[("gpg.format", "ssh"), ("user.signingkey", &ours.display().to_string())]);
    let foreign = format!("user.signingkey={}", theirs.display());
    world.git(&project, &["-c", &foreign, "tag", "-s", "-m", "Theirs", "theirs"]).ok();
    let script = "set -e; git tag -s -m 'Ours now' ours; git tag -a -m None none; git tag light; \
        git cat-file tag ours | sed 's/^tag ours$/tag forged/' > /tmp/forged; \
        git update-ref refs/tags/forged $(git hash-object -t tag -w /tmp/forged); \
        git tag -s -m 'A tag of a tag' outer ours; git push origin outer none light theirs forged main";
    let push = world.start(&project, "default", script);
    let id = world.pending_id();
    let shown = world.keyhatch(&["show", &id, "--json"]).ok();
    let request: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let fact = |name: &str| &tag(&request, name)["signature"]["fact"];
    for name in ["outer", "ours"] {
        assert_eq!(
            (&fact(name)["is"], fact(name)["key"].as_str()),
            (&"ours".into(), Some(&*fingerprint(&world, &ours)))
        );
        let audit = world.audit();
        let record = audit.iter().find(|one| one["seq"] == fact(name)["record"]).expect("the record");
        assert_eq!((&record["event"], &record["kind"]), (&"signed".into(), &"tag".into()));
    }
    assert_eq!(
        (&fact("theirs")["is"], fact("theirs")["key"].as_str()),
        (&"foreign".into(), Some(&*fingerprint(&world, &theirs)))
    );
    assert_eq!(fact("forged")["is"], "bad");
    assert_eq!(tag(&request, "none")["signature"], Value::Null);
    assert_eq!(tag(&request, "outer")["tagger"]["email"], "ada@example.org");
    assert_eq!(
        request["tags"].as_array().expect("tags").len(),
        5,
        "each once, and no lightweight one: {request:#}"
    );
    let risks = request["risks"].as_array().expect("risks");
    let bad = risks.iter().find(|risk| risk["kind"] == "bad-signature").expect("a risk");
    assert_eq!(bad["detail"], "the signature of forged: it does not fit the tag");
    let people = world.keyhatch(&["show", &id]).ok().stdout;
    let oid = |name: &str| tag(&request, name)["oid"].as_str().expect("an oid").to_owned();
    assert!(
        people.contains(&format!("tag         {} (signed here with SHA256:", &oid("ours")[..10]))
            && people.contains("│ ours\n│ Ours now\n│ Ada Lovelace"),
        "{people}"
    );
    let forged = format!("tag         {} (BAD SIGNATURE: it does not fit the tag)", &oid("forged")[..10]);
    assert!(people.contains(&forged), "{people}");
    world.approve(&id, &[]).ok();
    push.finish().ok();
    assert_eq!(world.tip(&upstream, "refs/tags/outer"), world.tip(&project, "refs/tags/outer"));
}

/// A server that gives nonces and writes down what it thinks of a certificate.
struct Checking {
    upstream: PathBuf,
    project: PathBuf,
    key: String,
    seen: PathBuf,
}

impl Checking {
    fn new(world: &World, upstream: PathBuf, project: PathBuf, slop: Option<&str>) -> Self {
        let public = world.ssh_key("ours").with_extension("pub");
        world.configure(&[("gpg.format", "ssh"), ("user.signingkey", &public.display().to_string())]);
        let signers = format!("ada@example.org {}", std::fs::read_to_string(&public).expect("a key"));
        let signers = world.write("srv/allowed_signers", &signers).display().to_string();
        let nonces =
            [("receive.certNonceSeed", "a seed of the server's"), ("gpg.ssh.allowedSignersFile", &signers)];
        for (name, value) in nonces.into_iter().chain(slop.map(|slop| ("receive.certNonceSlop", slop))) {
            world.git(&upstream, &["config", name, value]).ok();
        }
        let seen = world.path("srv/seen");
        let hook = format!(
            "#!/bin/sh\necho \"$GIT_PUSH_CERT_STATUS $GIT_PUSH_CERT_NONCE_STATUS $GIT_PUSH_CERT_KEY\" > {}\n",
            seen.display()
        );
        world.write_mode("srv/r.git/hooks/pre-receive", &hook, 0o755);
        Self { upstream, project, key: fingerprint(world, &public), seen }
    }

    /// Approves what is pending, when no connection made from now on can be given the same nonce: it holds the second.
    fn approve_later(world: &World) {
        let asked = world.pending_id();
        let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let first = second();
        world.wait_until("another second comes", || second() > first + 1);
        world.approve(&asked, &[]).ok();
    }

    /// What the server wrote of the push that just came.
    fn seen(&self, world: &World) -> String {
        assert_eq!(world.tip(&self.upstream, "main"), world.tip(&self.project, "main"));
        let seen = std::fs::read_to_string(&self.seen).expect("the hook ran");
        assert!(seen.contains(&self.key), "{seen}");
        seen
    }
}

#[test]
fn a_signed_push_over_ssh_answers_the_nonce_on_the_connection_that_gave_it() {
    let (world, _server, upstream, project) = World::behind_ssh();
    let checking = Checking::new(&world, upstream, project, None);
    let push = world.start(&checking.project, "default", "git push --signed origin main");
    Checking::approve_later(&world);
    push.finish().ok();
    assert!(checking.seen(&world).starts_with("G OK "), "{}", checking.seen(&world));
    // What is not signed goes as ever, and what is withdrawn and pushed again has a nonce of its own.
    world.run(&checking.project, "default", "git commit -q --allow-empty -m x").ok();
    let killed = world.start(&checking.project, "default", "timeout -s KILL 4 git push --signed origin main; while ! test -e go; do sleep 0.1; done; git push --signed origin main");
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    let id = world.pending_id();
    world.approve(&id, &[]).ok();
    world.write("p/go", "");
    killed.finish().ok();
    assert!(checking.seen(&world).starts_with("G OK "), "{}", checking.seen(&world));
    world.allow_policy();
    world.run(&checking.project, "allow", "git commit -q --allow-empty -m y && git push -q origin main").ok();
    assert_eq!(world.tip(&checking.upstream, "main"), world.tip(&checking.project, "main"));
}

#[test]
fn a_signed_push_with_a_key_that_keyhatch_holds_answers_its_nonce_too() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let url = server.url(&upstream);
    let port = url.split(':').nth(2).and_then(|rest| rest.split('/').next()).expect("a port").to_owned();
    let directory = world.path(&format!("sshd-{port}"));
    world.make_directory("home/.ssh");
    world.write(
        "home/.ssh/known_hosts",
        &std::fs::read_to_string(directory.join("known_hosts")).expect("hosts"),
    );
    world.write_mode("bin/ssh", "#!/bin/sh\nexit 255\n", 0o755);
    let login = directory.join("id").display().to_string();
    world.keyhatch(&["credential", "add", "ssh", "login", "--file", &login]).ok();
    world.policy(
        "keyed",
        "name = \"keyed\"\ndescription = \"A named key.\"\n[[push]]\nname = \"own\"\nremote = \"{remotes}\"\n\
         updates = [\"create\"]\ncredential = \"login\"\ndecision = \"ask\"\nreason = \"tests\"\n",
    );
    let project = world.project("p", &url);
    let checking = Checking::new(&world, upstream, project, None);
    let push = world.start(&checking.project, "keyed", "git push --signed origin main");
    Checking::approve_later(&world);
    push.finish().ok();
    assert!(checking.seen(&world).starts_with("G OK "), "{}", checking.seen(&world));
}

#[test]
fn a_signed_push_reaches_a_server_that_checks_its_certificate() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    let checking = Checking::new(&world, upstream, project, Some("600"));
    let push = world.start(&checking.project, "default", "git push --signed -o ci.skip origin main");
    world.approve_next();
    push.finish().ok();
    let seen = checking.seen(&world);
    assert!(seen.starts_with("G OK ") || seen.starts_with("G SLOP "), "{seen}");
    let audit = world.audit();
    let sending = audit.iter().find(|record| record["event"] == "push-sending").expect("a record");
    assert_eq!(sending["certificate"]["is"], "ours", "{sending:#}");
    let signed = audit.iter().find(|record| record["event"] == "signed").expect("a record");
    assert_eq!(
        (&signed["kind"], &signed["seq"]),
        (&"push-certificate".into(), &sending["certificate"]["record"])
    );
}

#[test]
fn each_certificate_is_asked_for_with_its_pushee_refs_and_nonce_and_counts_for_nothing_else() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let url = server.url("r.git");
    let project = world.project("p", &url);
    let checking = Checking::new(&world, upstream, project, Some("600"));
    world.policy(
        "asks",
        "name = \"asks\"\ndescription = \"Asks for signatures.\"\n[[sign]]\nname = \"own\"\nreason = \"r\"\n\
         decision = \"ask\"\n[[push]]\nname = \"own\"\nremote = \"{remotes}\"\nupdates = [\"create\"]\n\
         decision = \"allow\"\nreason = \"tests\"\n",
    );
    let script = "set -e; git push --signed origin main:topic; ! git push --signed origin main:production";
    let push = world.start(&checking.project, "asks", script);
    let id = world.pending_id();
    let shown = world.keyhatch(&["show", &id, "--json"]).ok();
    let request: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let promise = &request["signature"]["certificate"];
    assert_eq!(
        (&promise["remote"], &promise["update_count"]),
        (&url.as_str().into(), &1.into()),
        "{request:#}"
    );
    assert_eq!(promise["updates"][0]["ref"], "refs/heads/topic");
    assert_eq!(request["batch"], false);
    let nonce = promise["nonce"].as_str().expect("a nonce").to_owned();
    let people = world.keyhatch(&["show", &id]).ok().stdout;
    for line in [format!("  pushee\n│ {url}\n"), format!("  nonce       {nonce}\n")] {
        assert!(people.contains(&line), "{line}: {people}");
    }
    assert!(people.contains("│ refs/heads/topic\n"), "{people}");
    world.approve(&id, &[]).ok();
    world.wait_until("the second asks", || {
        let next = world.pending();
        next["signature"]["certificate"]["updates"][0]["ref"] == "refs/heads/production"
    });
    world.keyhatch(&["deny", &world.pending_id()]).ok();
    push.finish().ok();
    assert_eq!(world.tip(&checking.upstream, "topic"), world.tip(&checking.project, "main"));
    let refs = world.git(&checking.upstream, &["for-each-ref", "--format=%(refname)"]).ok().stdout;
    assert!(!refs.contains("production"), "{refs}");
}
