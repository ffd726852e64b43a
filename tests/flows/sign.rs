//! SSH signatures from inside: made on the host, of what was parsed, with a key that is never in the sandbox.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Finished, World};
use serde_json::Value;

/// Makes a key of the user's on the host and has the host's git sign with it.
fn key(world: &World, arguments: &[&str]) -> PathBuf {
    let path = world.path("home/id_signing");
    let mut keygen = world.command("ssh-keygen");
    keygen.arg("-q").args(arguments).arg("-C").arg("ada").arg("-f").arg(&path);
    assert!(keygen.status().expect("ssh-keygen runs").success());
    sign_with(world, &path.with_extension("pub"));
    path
}

fn sign_with(world: &World, public: &Path) {
    world.sign_with(public);
    world.configure(&[("commit.gpgsign", "true"), ("tag.gpgsign", "true")]);
}

fn world() -> (World, PathBuf) {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    (world, project)
}

/// What the audit says of signatures.
fn records(world: &World, event: &str) -> Vec<Value> {
    world.audit().into_iter().filter(|record| record["event"] == event).collect()
}

/// Refused by the helper and by git, with a reason that a user would understand.
#[track_caller]
fn refused(done: &Finished, reason: &str) {
    assert!(!done.status.success(), "{done:#?}");
    assert!(done.stderr.contains(reason), "{reason}: {done:#?}");
    assert!(done.stderr.contains("hint: "), "{done:#?}");
}

#[test]
fn a_user_who_signs_on_the_host_signs_inside_without_a_word_of_set_up() {
    for arguments in [
        &["-t", "ed25519", "-N", ""][..],
        &["-t", "ecdsa", "-b", "256", "-N", ""],
        &["-t", "ecdsa", "-b", "384", "-N", ""],
        &["-t", "ecdsa", "-b", "521", "-N", ""],
        &["-t", "rsa", "-b", "3072", "-N", ""],
    ] {
        let (world, project) = world();
        let private = key(&world, arguments);
        let done = world
            .run(
                &project,
                "default",
                "git commit -qm 'No option at all' --allow-empty && git tag -m release v1 && git verify-commit HEAD \
                 && git verify-tag v1 && git log -1 --show-signature && ! cat ~/id_signing",
            )
            .ok();
        assert!(done.all().contains("Good \"git\" signature for ada@example.org"), "{arguments:?}: {done:?}");
        for what in [["verify-commit", "main"], ["verify-tag", "v1"]] {
            let verified = world.git(&project, &what).ok();
            assert!(verified.stderr.contains("Good \"git\" signature for ada@example.org"), "{verified:?}");
        }
        let secret = std::fs::read_to_string(private).expect("the key");
        assert!(!done.all().contains(secret.lines().nth(2).expect("a line")));
        let signed = records(&world, "signed");
        let kinds: Vec<&str> = signed.iter().filter_map(|record| record["kind"].as_str()).collect();
        assert_eq!(kinds, ["commit", "tag"], "{arguments:?}");
        assert_eq!(signed[0]["authority"], "policy");
        assert_eq!(signed[0]["as"], "Ada Lovelace <ada@example.org>");
        world.keyhatch(&["audit", "verify"]).ok();
    }
}

#[test]
fn rebases_merges_and_every_option_of_gits_sign_and_verify_inside() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    world.git(&world.home(), &["config", "--global", "--unset", "commit.gpgsign"]).ok();
    let script = "set -e; git checkout -qb topic; for n in $(seq 50); do echo $n >> f; git add f; git commit -qm \"c $n\"; done; \
        git rebase -q --gpg-sign --force-rebase main; git checkout -q main; git merge -q --no-ff -S -m merged topic; \
        git -c user.signingkey=\"$(cut -d' ' -f1,2 /etc/keyhatch/signing.pub)\" commit -q --allow-empty -S -m literal; \
        git -c user.signingkey=\"key::$(cut -d' ' -f1,2 /etc/keyhatch/signing.pub)\" commit -q --allow-empty -S -m key; \
        git commit-tree -S -m tree HEAD^{tree} > /dev/null; git log --format=%G? | sort | uniq -c";
    let done = world.run(&project, "default", script).ok();
    // Fifty of the rebase, the merge and two more; the one of the host's is not signed.
    assert!(done.stdout.contains("53 G") && done.stdout.contains("1 N"), "{done:?}");
    assert_eq!(records(&world, "signed").len(), 54);
}

#[test]
fn an_agent_cannot_sign_as_somebody_else_or_with_another_key() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    let commit = |environment: &str| {
        world.run(
            &project,
            "default",
            &format!("{environment} git commit -q --allow-empty -m x; test $? = 0"),
        )
    };
    refused(
        &commit("GIT_COMMITTER_EMAIL=linus@example.org"),
        "no rule lets this session sign a commit of linus@example.org",
    );
    refused(
        &commit("GIT_COMMITTER_NAME=Linus"),
        "no rule lets this session sign a commit of ada@example.org",
    );
    let other = world.run(
        &project,
        "default",
        "ssh-keygen -q -t ed25519 -N '' -f /tmp/k && git -c user.signingkey=/tmp/k.pub commit -q --allow-empty -m x",
    );
    refused(&other, "this session signs with the key SHA256:");
    assert_eq!(records(&world, "signed").len(), 0);
    assert_eq!(records(&world, "sign-refused").len(), 3);
    // Another author is an ordinary thing: somebody else's commit is rebased.
    world.run(&project, "default", "git commit -q --allow-empty --author 'B <b@example.org>' -m x").ok();
}

#[test]
fn a_blob_a_digest_a_login_and_another_namespace_are_not_signed() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    let ask = |payload: &str, namespace: &str| {
        world.run(
            &project,
            "default",
            &format!(
                "printf '{payload}' > /tmp/b; /run/keyhatch/ssh-keygen -Y sign -n {namespace} -f /etc/keyhatch/signing.pub /tmp/b; \
                 code=$?; test ! -e /tmp/b.sig || echo LEAKED; exit $code"
            ),
        )
    };
    let a = "a".repeat(40);
    let who = "Ada Lovelace <ada@example.org> 1700000000 +0000";
    let commit = format!("tree {a}\\nauthor {who}\\ncommitter {who}\\n\\nm\\n");
    let neither = "it is neither a commit, a tag nor a push certificate";
    for (payload, namespace, reason) in [
        ("hello\\n".to_owned(), "git", neither),
        (a.repeat(2), "git", neither),
        (format!("SSHSIG\\000\\000\\000\\003git{a}"), "git", neither),
        ("\\000\\000\\000\\040abc\\062git".to_owned(), "git", neither),
        (commit.clone(), "file", "the namespace file is not git\u{27}s"),
        (commit.replace("committer", "x-evil y\\ncommitter"), "git", "its headers are not"),
        (commit.replace("\\n\\nm", "\\nx-evil y\\n\\nm"), "git", "a header that is not known"),
        (commit.replace("m\\n", "a\\000b"), "git", "a NUL"),
        (commit.replace("tree ", "tree \\033[2J"), "git", "a control character"),
        (format!("{commit}\\377"), "git", "it is not UTF-8"),
    ] {
        let done = ask(&payload, namespace);
        refused(&done, reason);
        assert!(!done.stdout.contains("LEAKED"));
    }
    let long = world.run(
        &project,
        "default",
        "head -c 2000000 /dev/zero > /tmp/b; /run/keyhatch/ssh-keygen -Y sign -n git -f /etc/keyhatch/signing.pub /tmp/b",
    );
    assert!(long.fails().stderr.contains("longer than 1048576 bytes"));
    assert_eq!(records(&world, "signed").len(), 0);
    // The sound one is signed, and the signature is for git alone.
    let sound = format!(
        "printf '{commit}' > /tmp/b; /run/keyhatch/ssh-keygen -Y sign -n git -f /etc/keyhatch/signing.pub /tmp/b; cat /tmp/b.sig"
    );
    let signature = world.run(&project, "default", &sound).ok().stdout;
    world.write("home/b.sig", &signature);
    let verify = |namespace: &str| {
        let mut keygen = world.command("ssh-keygen");
        let signers = world.path("home/allowed_signers");
        keygen
            .args(["-Y", "verify", "-n", namespace, "-I", "ada@example.org", "-s", "b.sig", "-f"])
            .arg(signers);
        world.with_input(keygen, commit.replace("\\n", "\n").as_bytes())
    };
    verify("git").ok();
    verify("file").fails();
}

const ASK: &str = r#"
name = "asks"
description = "Every signature is asked for, one answer a rebase."
[[sign]]
name = "own work"
reason = "I look at what carries my name"
decision = "ask"
"#;

#[test]
fn fifty_signatures_of_a_rebase_are_one_question_and_a_no_stops_it() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    world.policy("asks", ASK);
    for n in 0..50 {
        world
            .git(&project, &["commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", &format!("c {n}")])
            .ok();
    }
    let run = world.start(
        &project,
        "asks",
        "git rebase -q --gpg-sign --force-rebase --root; echo code $?; git log --format=%G? | sort | uniq -c",
    );
    let request = world.pending();
    assert_eq!(request["operation"], "sign");
    assert_eq!(request["signature"]["kind"], "commit");
    assert_eq!(request["signature"]["speaker"]["email"], "ada@example.org");
    assert_eq!(request["batch"], true);
    let id = request["id"].as_str().expect("an id").to_owned();
    let shown = world.keyhatch(&["show", &id]).ok();
    assert!(shown.stdout.contains("  subject\n│ Add README\n"), "{shown:?}");
    assert!(shown.stdout.contains("covers      also what follows"), "{shown:?}");
    world.approve(&id, &[]).ok();
    let done = run.finish().ok();
    assert!(done.stdout.contains("code 0") && done.stdout.contains("51 G"), "{done:?}");
    let signed = records(&world, "signed");
    assert_eq!(signed.len(), 51);
    assert_eq!(signed[0]["authority"], format!("person:{id}"));
    assert!(signed[1..].iter().all(|record| record["authority"] == format!("batch:{id}")));
    // Another session asks anew, and a no is the end of it.
    let again = world.start(&project, "asks", "git commit -q --allow-empty -m x");
    let other = world.pending_id();
    assert_ne!(other, id);
    world.keyhatch(&["deny", &other, "--reason", "not now"]).ok();
    refused(&again.finish(), "refused by the user: not now");
}

#[test]
fn a_question_shows_what_the_commit_changes_wherever_its_objects_are() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    world.policy("asks", ASK);
    // In the session's own git directory, in a worktree of it, and after a first commit that only the session has.
    let script = "set -e; echo secret-plan > plan; printf 'more\\n' >> README; git add .; git commit -qm 'Add a plan'; \
        git worktree add -q -b side side; cd side; rm plan; printf '\\0\\1' > data; git add -A; git commit -qm 'Drop it'";
    let run = world.start(&project, "asks", script);
    let id = world.pending_id();
    let shown = |id: &str| -> Value {
        serde_json::from_str(&world.keyhatch(&["show", id, "--json"]).ok().stdout).expect("JSON")
    };
    let first = shown(&id);
    assert_eq!((&first["changes_known"], &first["file_count"]), (&true.into(), &2.into()), "{first:#}");
    assert_eq!((&first["added"], &first["removed"]), (&2.into(), &0.into()));
    let diff = first["diff"].as_str().expect("a diff");
    assert!(diff.contains("+secret-plan") && diff.contains("+more"), "{diff}");
    let people = world.keyhatch(&["show", &id, "--diff"]).ok().stdout;
    assert!(
        people.contains("changes     2 files, +2 -0 lines")
            && people.contains("file        A  +1 -0\n│ plan\n"),
        "{people}"
    );
    assert!(people.contains("+secret-plan"), "{people}");
    world.keyhatch(&["deny", &id]).ok();
    run.finish().fails();
    // Asked anew each time, so that the second one is seen too.
    world.policy("asks", &format!("{ASK}scope = \"once\"\n"));
    let run = world.start(
        &project,
        "asks",
        &script.replace("echo secret-plan", "git checkout -q .; echo other-plan"),
    );
    let first = world.pending_id();
    world.approve(&first, &[]).ok();
    world.wait_until("the next one is asked", || world.pending_id() != first);
    let second = shown(&world.pending_id());
    assert_eq!(
        (&second["file_count"], &second["files"][0]["path"]),
        (&2.into(), &"data".into()),
        "{second:#}"
    );
    assert!(second["diff"].as_str().expect("a diff").contains("-other-plan"), "{second:#}");
    world.approve(&world.pending_id(), &[]).ok();
    run.finish().ok();
}

#[test]
fn a_question_whose_objects_are_not_there_says_so_and_reads_no_other_repository() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    world.policy("asks", ASK);
    let other = world.project("other", "https://git.invalid/o");
    world.commit(&other, "mine", "of another repository\n");
    let tree = world.git(&other, &["rev-parse", "HEAD^{tree}"]).ok().stdout.trim().to_owned();
    let who = "Ada Lovelace <ada@example.org> 1700000000 +0000";
    // The session's store is made to borrow from a repository that the session has no business in.
    let script = format!(
        "echo {}/.git/objects >> .git/objects/info/alternates; printf 'tree {tree}\nauthor {who}\ncommitter {who}\n\nm\n' > /tmp/b; \
         /run/keyhatch/ssh-keygen -Y sign -n git -f /etc/keyhatch/signing.pub /tmp/b",
        other.display()
    );
    let run = world.start(&project, "asks", &script);
    let id = world.pending_id();
    let shown: Value =
        serde_json::from_str(&world.keyhatch(&["show", &id, "--json"]).ok().stdout).expect("JSON");
    assert_eq!((&shown["changes_known"], &shown["diff"]), (&false.into(), &"".into()), "{shown:#}");
    let people = world.keyhatch(&["show", &id]).ok().stdout;
    assert!(people.contains("! changes     unknown: its objects are not at hand"), "{people}");
    world.keyhatch(&["deny", &id]).ok();
    run.finish().fails();
}

#[test]
fn a_signature_whose_client_went_away_is_withdrawn_and_a_failure_says_so_before_the_push() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    world.policy("asks", ASK);
    let run = world.start(
        &project,
        "asks",
        "timeout -s KILL 3 git commit -q --allow-empty -m x; echo first $?; while ! test -e go; do sleep 0.1; done",
    );
    world.pending();
    world.wait_until("the request is withdrawn", || world.pending()["withdrawn"] == true);
    assert_eq!(records(&world, "signed").len(), 0);
    world.write("p/go", "");
    run.finish().ok();
    // Without a key that can be had, git fails, says why, and there is nothing to push.
    world.git(&world.home(), &["config", "--global", "user.signingkey", "/nonexistent/id.pub"]).ok();
    let failed = world.run(&project, "default", "git commit -q --allow-empty -m x && git push origin main");
    refused(&failed, "this session has no ssh signing key");
    assert!(
        failed.stderr.contains("the ssh signing key cannot be used: its file cannot be read"),
        "{failed:?}"
    );
    assert!(!failed.all().contains("Everything up-to-date"), "{failed:?}");
}

#[test]
fn what_the_users_configuration_includes_counts_as_it_does_for_their_own_git() {
    for condition in [
        "include",
        "includeIf \"gitdir:~/../p/\"",
        "includeIf \"gitdir/i:**/P/\"",
        "includeIf \"hasconfig:remote.*.url:https://git.invalid/**\"",
    ] {
        let (world, project) = world();
        key(&world, &["-t", "ed25519", "-N", ""]);
        // Everything about signatures moves into another file; git finds it by the condition alone.
        let whole = std::fs::read_to_string(world.path("home/.gitconfig")).expect("a configuration");
        let at = whole.find("[gpg").expect("the signing part");
        let condition = condition.replace("~/..", world.path("").display().to_string().trim_end_matches('/'));
        world.write("home/more", &format!("{}[user]\n\temail = ada@work.example\n", &whole[at..]));
        world.write(
            "home/.gitconfig",
            &format!("{}[{condition}]\n\tpath = more\n[user]\n\tname = Ada at Work\n", &whole[..at]),
        );
        let host = world.git(&project, &["config", "user.email"]).ok().stdout;
        assert_eq!(host, "ada@work.example\n", "the host's git finds it: {condition}");
        world
            .run(
                &project,
                "default",
                "git commit -qm 'No option at all' --allow-empty && git verify-commit HEAD",
            )
            .ok();
        assert_eq!(
            world.git(&project, &["log", "-1", "--format=%cn <%ce>"]).ok().stdout,
            "Ada at Work <ada@work.example>\n"
        );
        assert_eq!(records(&world, "signed")[0]["as"], "Ada at Work <ada@work.example>", "{condition}");
    }
}

#[test]
fn an_included_file_that_the_agent_can_write_is_not_obeyed_and_the_projects_own_key_is() {
    let (world, project) = world();
    key(&world, &["-t", "ed25519", "-N", ""]);
    let included = world.path("p/shared.config").display().to_string();
    world.write("p/shared.config", "[user]\n\temail = eve@example.org\n");
    world.git(&world.home(), &["config", "--global", "include.path", &included]).ok();
    let done = world.run(&project, "default", "git config user.email").ok();
    assert_eq!(done.stdout, "ada@example.org\n");
    assert!(done.stderr.contains("shared.config is not obeyed"), "{done:?}");
    // A key that the user chose for this one project counts here, and in no other.
    let made = world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", "work"]).status();
    assert!(made.expect("ssh-keygen runs").success());
    let work = world.path("home/work.pub").display().to_string();
    world.git(&project, &["config", "user.signingkey", &work]).ok();
    world.run(&project, "default", "git commit -q --allow-empty -m x").ok();
    let line = world.command("ssh-keygen").arg("-lf").arg(&work).output().expect("ssh-keygen runs").stdout;
    let expected = String::from_utf8_lossy(&line).split(' ').nth(1).expect("a fingerprint").to_owned();
    assert_eq!(records(&world, "signed")[0]["key"], expected);
}
