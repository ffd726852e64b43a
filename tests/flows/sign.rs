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
    let signers = format!("ada@example.org {}", std::fs::read_to_string(public).expect("a public key"));
    let signers = world.write("home/allowed_signers", &signers).display().to_string();
    for (name, value) in [
        ("gpg.format", "ssh"),
        ("user.signingkey", &public.display().to_string()),
        ("gpg.ssh.allowedSignersFile", &signers),
        ("commit.gpgsign", "true"),
        ("tag.gpgsign", "true"),
    ] {
        world.git(&world.home(), &["config", "--global", name, value]).ok();
    }
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
