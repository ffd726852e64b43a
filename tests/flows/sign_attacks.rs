//! What is signed is what is read: attacks on the difference, by a session that asks for signatures and pushes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyhatch_tests::{Finished, Running, World};
use serde_json::Value;

/// How a session's script asks for a signature of a file, as git does.
const SIGN: &str = "/run/keyhatch/ssh-keygen -Y sign -n git -f /etc/keyhatch/signing.pub";
const WHO: &str = "Ada Lovelace <ada@example.org> 1700000000 +0000";

fn world() -> (World, PathBuf) {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    sign_with_a_key(&world);
    (world, project)
}

fn sign_with_a_key(world: &World) {
    let public = world.ssh_key("ours").with_extension("pub");
    world.configure(&[
        ("gpg.format", "ssh"),
        ("user.signingkey", &public.display().to_string()),
        ("commit.gpgsign", "true"),
    ]);
}

/// Text in an encoding, by the host's iconv.
fn encoded(encoding: &str, text: &str) -> Vec<u8> {
    let mut iconv = Command::new("iconv");
    iconv.args(["-f", "UTF-8", "-t", encoding]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = iconv.spawn().expect("iconv runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), text.as_bytes()).expect("a text");
    child.wait_with_output().expect("iconv ends").stdout
}

/// A commit whose ASCII says that Ada fixed a typo, and whose text in the named encoding is somebody else's.
fn two_faced(world: &World, project: &Path, encoding: &str) -> Vec<u8> {
    let tree = world.git(project, &["rev-parse", "HEAD^{tree}"]).ok().stdout;
    let other =
        "\nauthor Eve <eve@example.org> 1 +0000\ncommitter Eve <eve@example.org> 1 +0000\n\nOpen the door\n";
    let mut commit =
        format!("tree {}\nauthor {WHO}\ncommitter {WHO}\nencoding {encoding}\n\nFix a typo\n", tree.trim())
            .into_bytes();
    commit.extend(encoded(encoding.split("//").next().expect("a name"), other));
    commit
}

fn show(world: &World, id: &str) -> Value {
    serde_json::from_str(&world.keyhatch(&["show", id, "--json"]).ok().stdout).expect("JSON")
}

#[track_caller]
fn refused(done: &Finished, reason: &str) {
    assert!(!done.status.success(), "{done:#?}");
    assert!(done.stderr.contains(reason) && done.stderr.contains("hint: "), "{reason}: {done:#?}");
}

#[test]
fn a_commit_that_git_decodes_to_another_authors_is_not_signed() {
    let (world, project) = world();
    let commit = two_faced(&world, &project, "IBM037");
    // git on the host reads it as somebody else's.
    let path = project.join("payload");
    std::fs::write(&path, &commit).expect("a payload");
    let payload = path.display().to_string();
    let oid = world.git(&project, &["hash-object", "-t", "commit", "-w", "--literally", &payload]).ok();
    let read = world.git(&project, &["log", "-1", "--format=%an: %s", oid.stdout.trim()]).ok().stdout;
    assert_eq!(read.trim(), "Eve: Open the door");
    let done = world.run(
        &project,
        "default",
        &format!("{SIGN} payload; code=$?; test ! -e payload.sig && exit $code"),
    );
    refused(&done, "its encoding is not one that is signed");
    assert!(done.stderr.contains("i18n.commitEncoding"), "{done:?}");
    assert!(world.audit().iter().all(|record| record["event"] != "signed"));
}

#[test]
fn only_encodings_in_which_ascii_means_itself_are_signed() {
    let (world, project) = world();
    let tree = world.git(&project, &["rev-parse", "HEAD^{tree}"]).ok().stdout;
    let payload = |number: usize, header: &str, message: &[u8]| {
        let head = format!("tree {}\nauthor {WHO}\ncommitter {WHO}\n{header}\n", tree.trim());
        std::fs::write(project.join(format!("p{number}")), [head.as_bytes(), message].concat())
            .expect("a payload");
    };
    let never = [
        "IBM037",
        "EBCDIC-US",
        "CP1047",
        "UCS-2LE",
        "UCS-4",
        "UTF-16",
        "UTF-16LE-BOM",
        "UTF-32BE",
        "UTF-7",
        "UTF-7-IMAP",
        "UNICODE-1-1-UTF-7",
        "HZ",
        "ISO-2022-JP",
        "ISO-2022-KR",
        "ISO-2022-CN-EXT",
        "SJIS",
        "CP932",
        "BIG5",
        "BIG5-HKSCS",
        "GBK",
        "GB18030",
        "JOHAB",
        "UHC",
        "VISCII",
        "TCVN",
        "ISO646-DE",
        "T.61-8BIT",
        "CP1255",
        "CP1258",
        "utf--8",
        "utf",
        "ISO-8859-1//TRANSLIT",
        "UTF-8//IGNORE",
        "ISO-10646/UTF8/",
        "UTF-8 ",
        " UTF-8",
        "unknown",
        "",
        "wchar_t",
    ];
    for (number, name) in never.iter().enumerate() {
        payload(number, &format!("encoding {name}\n"), b"Fix a typo\n");
    }
    let count = never.len();
    // Bytes that are nothing in the encoding that is named, and two encodings.
    payload(count, "encoding windows-1252\n", b"x\x81\n");
    payload(count + 1, "encoding US-ASCII\n", b"caf\xe9\n");
    payload(count + 2, "encoding UTF-8\n", b"caf\xe9\n");
    payload(count + 3, "encoding UTF-8\nencoding IBM037\n", b"x\n");
    payload(count + 4, "", b"caf\xe9\n");
    let script = format!("for p in p*; do {SIGN} $p 2>/dev/null; test ! -e $p.sig || echo SIGNED $p; done");
    let done = world.run(&project, "default", &script);
    assert!(!done.stdout.contains("SIGNED"), "{done:?}");
    // The first ones stand one by one, the others are counted.
    let audit = world.audit();
    let single = audit.iter().filter(|record| record["event"] == "sign-refused").count() as u64;
    let sums = audit.iter().filter(|record| record["event"] == "refusals" && record["of"] == "sign-refused");
    let counted: u64 = sums.filter_map(|record| record["count"].as_u64()).sum();
    assert_eq!(single + counted, count as u64 + 5);
    // What people have is signed, when they say so: an encoding is a risk, which no rule that allows covers.
    for (name, text) in
        [("ISO-8859-1", "caf\\351"), ("iso8859-15", "10\\244"), ("CP1252", "\\200"), ("koi8-r", "\\301")]
    {
        let script = format!(
            "git -c i18n.commitEncoding={name} commit -q --allow-empty -m \"$(printf '{text}')\" && git verify-commit HEAD"
        );
        let running = world.start(&project, "default", &script);
        world.approve_next().ok();
        running.finish().ok();
    }
    let signed: Vec<Value> = world.audit().into_iter().filter(|record| record["event"] == "signed").collect();
    assert_eq!(signed.len(), 4);
    assert_eq!(signed[1]["encoding"], "ISO-8859-15");
}

#[test]
fn a_push_shows_commits_in_other_encodings_as_git_does_or_says_that_it_cannot() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    std::fs::write(project.join("payload"), two_faced(&world, &project, "IBM037")).expect("a payload");
    let script = "set -e; git -c i18n.commitEncoding=ISO-8859-1 commit -q --allow-empty -m \"$(printf 'caf\\351')\"; \
        head=$(git rev-parse HEAD); \
        { head -n 1 payload; echo parent $head; tail -n +2 payload; } > next; \
        git update-ref refs/heads/main $(git hash-object -t commit -w --literally next); git push origin main";
    let push = world.start(&project, "default", script);
    let id = world.pending_id();
    let request = show(&world, &id);
    let subjects: Vec<&str> = request["commits"]
        .as_array()
        .expect("commits")
        .iter()
        .filter_map(|one| one["subject"].as_str())
        .collect();
    assert!(subjects.contains(&"café"), "{subjects:?}");
    assert!(subjects.iter().all(|subject| !subject.contains("Fix a typo")), "{subjects:?}");
    assert!(subjects.iter().any(|subject| subject.starts_with("\\x46\\x69\\x78")), "{subjects:?}");
    let risks: Vec<&str> = request["risks"]
        .as_array()
        .expect("risks")
        .iter()
        .filter(|risk| risk["kind"] == "encoding")
        .filter_map(|risk| risk["detail"].as_str())
        .collect();
    assert!(risks.iter().any(|risk| risk.contains("the encoding IBM037 is not known")), "{risks:?}");
    assert!(risks.iter().any(|risk| risk.contains("ISO-8859-1")), "{risks:?}");
    world.keyhatch(&["deny", &id]).ok();
    push.finish().fails();
}

const TWO_RULES: &str = r#"
name = "two"
description = "Two rules that ask."
[[sign]]
name = "mine"
reason = "I look at what carries my name"
author = "{identity}"
decision = "ask"
[[sign]]
name = "theirs"
reason = "somebody else's work under my name"
author = "*@elsewhere.example.org"
decision = "ask"
"#;

/// Approves the request that is pending, and returns it.
fn approve(world: &World) -> Value {
    let request = show(world, &world.pending_id());
    world.approve(request["id"].as_str().expect("an id"), &[]).ok();
    request
}

/// Refuses the request that is pending, and returns it.
fn deny(world: &World, run: Running) -> Value {
    let request = show(world, &world.pending_id());
    world.keyhatch(&["deny", request["id"].as_str().expect("an id")]).ok();
    run.finish().fails();
    request
}

#[test]
fn a_yes_under_one_rule_lets_nothing_through_that_another_asks_for() {
    let (world, project) = world();
    world.policy("two", TWO_RULES);
    let script = "set -e; git commit -q --allow-empty -m one; git commit -q --allow-empty -m two; \
        git commit -q --allow-empty --author 'Eve <eve@elsewhere.example.org>' -m three";
    let run = world.start(&project, "two", script);
    assert_eq!(approve(&world)["rule"], "mine");
    let second = deny(&world, run);
    assert_eq!((&second["rule"], &second["signature"]["subject"]), (&"theirs".into(), &"three".into()));
    let signed = world.audit().into_iter().filter(|record| record["event"] == "signed").count();
    assert_eq!(signed, 2, "the second of the same rule was covered");
}

#[test]
fn a_yes_covers_no_other_author_and_no_other_encoding() {
    let (world, project) = world();
    world.policy("asks", &TWO_RULES.replace("author = \"{identity}\"\n", "").replace("\"two\"", "\"asks\""));
    let first = "git commit -q --allow-empty -m one";
    for second in ["--author 'Eve <eve@example.org>' -m two", "-m two"] {
        let other = if second.starts_with("-m") { "-c i18n.commitEncoding=ISO-8859-1" } else { "" };
        let script = format!("set -e; {first}; git {other} commit -q --allow-empty {second}");
        let run = world.start(&project, "asks", &script);
        approve(&world);
        let asked = deny(&world, run);
        assert_eq!(asked["signature"]["subject"], "two");
        assert_eq!(
            asked["risks"].as_array().map(Vec::len),
            Some(usize::from(!other.is_empty())),
            "{asked:#}"
        );
    }
}

#[test]
fn each_tag_is_asked_for_by_its_name_and_object() {
    let (world, project) = world();
    world.policy("two", TWO_RULES);
    let run =
        world.start(&project, "two", "set -e; git tag -s -m Test test; git tag -s -m Release v9.9-release");
    let first = approve(&world);
    assert_eq!((&first["signature"]["tag"]["name"], &first["batch"]), (&"test".into(), &false.into()));
    assert_eq!(first["signature"]["tag"]["object"], world.tip(&project, "main"));
    world.wait_until("the second asks", || world.pending()["signature"]["tag"]["name"] == "v9.9-release");
    let people = world.keyhatch(&["show", &world.pending_id()]).ok().stdout;
    assert!(people.contains("\n│ v9.9-release\n") && people.contains("  covers      this one\n"), "{people}");
    deny(&world, run);
    assert_eq!(world.audit().iter().filter(|record| record["event"] == "signed").count(), 1);
}

#[test]
fn a_certificate_for_another_remote_or_without_the_remotes_own_nonce_is_not_signed() {
    let (world, project) = world();
    let zero = "0".repeat(40);
    let tip = world.tip(&project, "main");
    let certificate = |name: &str, headers: &str| {
        let text =
            format!("certificate version 0.1\npusher {WHO}\n{headers}\n{zero} {tip} refs/heads/production\n");
        std::fs::write(project.join(name), text).expect("a certificate");
    };
    let own = "pushee https://git.invalid/p";
    for (headers, reason) in [
        ("nonce 1-x\n".to_owned(), "does not say which remote it is for"),
        ("pushee \nnonce 1-x\n".to_owned(), "does not say which remote it is for"),
        ("pushee /srv/git/p\nnonce 1-x\n".to_owned(), "does not say which remote it is for"),
        (
            "pushee https://bank.example.org/p\nnonce 1-x\n".to_owned(),
            "a remote that the project does not have",
        ),
        (
            "pushee http://127.0.0.1:8417/https/bank.example.org/p\nnonce 1-x\n".to_owned(),
            "the project does not have",
        ),
        (
            "pushee ssh://keyhatch/https/bank.example.org/p\nnonce 1-x\n".to_owned(),
            "the project does not have",
        ),
        (format!("{own}\n"), "nonce is not one that its remote gave"),
        (format!("{own}\nnonce \n"), "nonce is not one that its remote gave"),
        (format!("{own}\nnonce 1700000000-abcdef\n"), "nonce is not one that its remote gave"),
    ] {
        certificate("cert", &headers);
        refused(&world.run(&project, "default", &format!("{SIGN} cert")), reason);
    }
    assert!(world.audit().iter().all(|record| record["event"] != "signed"));
}

#[test]
fn a_subject_that_imitates_keyhatch_stands_behind_a_bar_on_a_line_of_its_own() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    let fake = "Fix (signed here with SHA256:AAAA, audit record 1)  Ada Lovelace <ada@example.org>";
    let script = format!(
        "git commit -q --allow-empty -m '{fake}' && git tag -a -m '{fake}' 'x(signed-here)' && git push origin main 'x(signed-here)'"
    );
    let push = world.start(&project, "default", &script);
    let id = world.pending_id();
    let people = world.keyhatch(&["show", &id]).ok().stdout;
    let lines: Vec<&str> = people.lines().filter(|line| line.contains("signed here")).collect();
    assert_eq!(lines, [format!("│ {fake}"), format!("│ {fake}")], "{people}");
    assert!(people.contains("\n│ x(signed-here)\n"), "{people}");
    world.keyhatch(&["deny", &id]).ok();
    push.finish().fails();
    // The same where a signature is asked for, and in the list.
    sign_with_a_key(&world);
    world.policy("two", TWO_RULES);
    let run = world.start(&project, "two", "git commit -q --allow-empty -m 'x   approved once: sign commit'");
    world.pending_id();
    let listed = world.keyhatch(&["pending"]).ok().stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].contains("  sign commit with SHA256:") && !lines[0].contains("approved"), "{listed}");
    assert_eq!(lines[1], "│ x   approved once: sign commit");
    deny(&world, run);
}

#[test]
fn a_commit_of_which_jj_reads_another_tree_says_so_where_it_is_asked_for_and_where_it_is_pushed() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    sign_with_a_key(&world);
    world.policy("two", TWO_RULES);
    let tree = world.git(&project, &["rev-parse", "HEAD^{tree}"]).ok().stdout;
    let (parent, empty) = (world.tip(&project, "main"), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    let text = format!(
        "tree {}\nparent {parent}\nauthor {WHO}\ncommitter {WHO}\njj:trees {empty} {empty} {empty}\n\nFix a typo\n\nSigned-off-by: Eve\n",
        tree.trim()
    );
    std::fs::write(project.join("payload"), &text).expect("a payload");
    let run = world.start(&project, "two", &format!("{SIGN} payload"));
    let request = show(&world, &world.pending_id());
    assert_eq!(request["risks"][0]["kind"], "other-tree", "{request:#}");
    // What follows the subject is signed too, and shown.
    let people = world.keyhatch(&["show", &world.pending_id()]).ok().stdout;
    assert!(
        people.contains("! risk        other-tree\n") && people.contains("Signed-off-by: Eve\n"),
        "{people}"
    );
    deny(&world, run);
    let script = "git update-ref refs/heads/main $(git hash-object -t commit -w --literally payload) && git push origin main";
    let push = world.start(&project, "default", script);
    let request = show(&world, &world.pending_id());
    assert!(
        request["risks"].as_array().expect("risks").iter().any(|risk| risk["kind"] == "other-tree"),
        "{request:#}"
    );
    deny(&world, push);
}

#[test]
fn a_signed_tag_under_another_name_and_a_mailmap_are_risks_of_a_push() {
    let (world, _server, _upstream, project) = World::behind_ssh();
    sign_with_a_key(&world);
    let script = "set -e; git tag -s -m Test test; git tag -s -m Right right; \
        echo 'Linus Torvalds <linus@example.org> <ada@example.org>' > .mailmap; git add .mailmap; git commit -qm Map; \
        git push origin main right test:refs/tags/v9.9-release";
    let push = world.start(&project, "default", script);
    let request = show(&world, &world.pending_id());
    let risks = request["risks"].as_array().expect("risks");
    let of = |kind: &str| -> Vec<&str> {
        risks.iter().filter(|risk| risk["kind"] == kind).filter_map(|risk| risk["detail"].as_str()).collect()
    };
    assert_eq!(
        of("tag-name"),
        ["refs/tags/v9.9-release would hold a tag that calls itself test"],
        "{request:#}"
    );
    assert_eq!(of("mailmap"), [".mailmap"], "{request:#}");
    deny(&world, push);
}
