//! Where a signing key can be: in the host's ssh-agent, behind a passphrase, in the keyring, with gpg and gpgsm.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch_tests::{Running, World};
use serde_json::Value;

const PASSPHRASE: &str = "correct horse battery staple";

fn world() -> (World, PathBuf) {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    (world, project)
}

fn config(world: &World, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        world.git(&world.home(), &["config", "--global", name, value]).ok();
    }
}

/// Makes a key of the user's, has the host's git sign with it, and returns the private half.
fn key(world: &World, kind: &str, passphrase: &str) -> PathBuf {
    let path = world.path("home/id_signing");
    let mut keygen = world.command("ssh-keygen");
    keygen.args(["-q", "-t", kind, "-N", passphrase, "-C", "ada", "-f"]).arg(&path);
    assert!(keygen.status().expect("ssh-keygen runs").success());
    let public = path.with_extension("pub");
    config(
        world,
        &[
            ("gpg.format", "ssh"),
            ("user.signingkey", &public.display().to_string()),
            ("commit.gpgsign", "true"),
        ],
    );
    let signers = format!("ada@example.org {}", std::fs::read_to_string(&public).expect("a public key"));
    let signers = world.write("home/allowed_signers", &signers);
    config(world, &[("gpg.ssh.allowedSignersFile", &signers.display().to_string())]);
    path
}

/// An ssh-agent of the user's; every command of this world from now on finds it.
struct Agent {
    socket: PathBuf,
    _agent: Running,
}

impl Agent {
    fn start(world: &World) -> Self {
        let socket = world.path("run/agent.sock");
        let mut agent = world.command("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket);
        let agent = world.spawn(agent);
        world.wait_until("the ssh-agent listens", || UnixStream::connect(&socket).is_ok());
        Self { socket, _agent: agent }
    }

    fn command(&self, world: &World, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = world.command(program);
        command.env("SSH_AUTH_SOCK", &self.socket);
        command
    }

    /// Adds a key; `confirm` is the program that is asked before each use.
    fn add(&self, world: &World, key: &Path, options: &[&str]) {
        let ask = world.write_mode("home/askpass", &format!("#!/bin/sh\necho '{PASSPHRASE}'\n"), 0o755);
        let mut add = self.command(world, "ssh-add");
        add.env("SSH_ASKPASS", ask).env("SSH_ASKPASS_REQUIRE", "force").args(options).arg("-q").arg(key);
        let added = add.output().expect("ssh-add runs");
        assert!(added.status.success(), "{added:?}");
    }

    fn run(&self, world: &World, project: &Path, script: &str) -> keyhatch_tests::Finished {
        let mut command = self.command(world, world.path("bin/keyhatch"));
        command.current_dir(project).args(["run", "--policy", "default", "--", "sh", "-c", script]);
        command.output().expect("keyhatch runs").into()
    }
}

const COMMIT: &str = "git commit -q --allow-empty -m x";

fn good(world: &World, project: &Path) {
    let verified = world.git(project, &["verify-commit", "HEAD"]).ok();
    assert!(verified.all().contains("Good"), "{verified:?}");
}

#[test]
fn a_key_with_a_passphrase_signs_through_the_users_ssh_agent() {
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let (world, project) = world();
        let private = key(&world, kind, PASSPHRASE);
        let agent = Agent::start(&world);
        agent.add(&world, &private, &[]);
        agent.run(&world, &project, &format!("{COMMIT}; ! test -e {}", agent.socket.display())).ok();
        good(&world, &project);
    }
}

#[test]
fn a_key_that_is_in_the_agent_alone_signs() {
    let (world, project) = world();
    let private = key(&world, "ed25519", PASSPHRASE);
    let agent = Agent::start(&world);
    agent.add(&world, &private, &[]);
    std::fs::remove_file(private).expect("a file can be removed");
    agent.run(&world, &project, COMMIT).ok();
    good(&world, &project);
}

#[test]
fn an_agent_that_refuses_or_takes_its_time_is_said_so() {
    let (world, project) = world();
    let private = key(&world, "ed25519", PASSPHRASE);
    let slow = world.write_mode(
        "home/confirm",
        "#!/bin/sh\nwhile ! test -e $HOME/answer; do sleep 0.1; done\ntest \"$(cat $HOME/answer)\" = yes\n",
        0o755,
    );
    let socket = world.path("run/agent.sock");
    let mut agent = world.command("ssh-agent");
    agent
        .env("SSH_ASKPASS", slow)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("DISPLAY", ":0")
        .arg("-D")
        .arg("-a")
        .arg(&socket);
    let agent = Agent { _agent: world.spawn(agent), socket };
    world.wait_until("the ssh-agent listens", || UnixStream::connect(&agent.socket).is_ok());
    agent.add(&world, &private, &["-c"]);
    let start = |script: &str| {
        let mut command = agent.command(&world, world.path("bin/keyhatch"));
        command.current_dir(&project).args(["run", "--policy", "default", "--", "sh", "-c", script]);
        world.spawn(command)
    };
    // git shows what its signer says only at the end; the signer itself says it at once.
    let sign = "git cat-file commit HEAD > /tmp/b && /run/keyhatch/ssh-keygen -Y sign -n git -f /etc/keyhatch/signing.pub /tmp/b 2> said";
    let run = start(sign);
    let said = || std::fs::read_to_string(project.join("said")).unwrap_or_default();
    world.wait_until("the wait is explained", || said().contains("waiting for the host's ssh-agent"));
    world.write("home/answer", "yes");
    run.finish().ok();
    world.write("home/answer", "no");
    let refused = start(COMMIT).finish().fails();
    assert!(refused.stderr.contains("the host's ssh-agent refused to sign"), "{refused:?}");
    assert!(refused.stderr.contains("hint: "), "{refused:?}");
}

#[test]
fn a_locked_key_is_opened_by_the_user_on_the_host_and_never_inside() {
    let (world, project) = world();
    key(&world, "ed25519", PASSPHRASE);
    let run = world.start(
        &project,
        "default",
        "for n in 1 2 3; do git commit -q --allow-empty -m $n || exit 1; done",
    );
    let unlock = |passphrase: &str| {
        let mut command = world.command(world.path("bin/keyhatch"));
        command.args(["credential", "unlock"]);
        world.with_input(command, passphrase.as_bytes())
    };
    world.wait_until("a signature waits for its key", || {
        let tried = unlock("wrong");
        assert!(!tried.stdout.contains("opened"), "{tried:?}");
        tried.stderr.contains("this is not the passphrase of SHA256:")
    });
    assert!(unlock(PASSPHRASE).ok().stdout.contains("opened: 1"));
    let done = run.finish().ok();
    assert!(!done.all().contains(PASSPHRASE));
    good(&world, &project);
    assert!(!world.broker_log().contains(PASSPHRASE));
}

/// The user's keyring: a real Secret Service on a bus of its own. Ends with the world's broker and this value.
struct Keyring {
    address: String,
    _bus: Running,
}

impl Keyring {
    fn start(world: &World) -> Self {
        let address = format!("unix:path={}", world.path("run/bus").display());
        let mut bus = world.command("dbus-daemon");
        bus.args(["--session", "--nofork", "--nopidfile", "--address", &address]);
        let bus = world.spawn(bus);
        world.wait_until("the bus listens", || UnixStream::connect(world.path("run/bus")).is_ok());
        let mut daemon = world.command("gnome-keyring-daemon");
        daemon.env("DBUS_SESSION_BUS_ADDRESS", &address).args(["--unlock", "--components=secrets"]);
        world.with_input(daemon, b"login").ok();
        Self { address, _bus: bus }
    }

    fn keyhatch(&self, world: &World, arguments: &[&str]) -> Command {
        let mut command = world.command(world.path("bin/keyhatch"));
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address).args(arguments);
        command
    }
}

const KEPT_KEY: &str = r#"
name = "kept"
description = "Signs with a key that keyhatch keeps."
[[sign]]
name = "own work"
reason = "it is mine"
key = "work"
decision = "allow"
"#;

#[test]
fn a_key_that_keyhatch_keeps_in_the_keyring_signs_and_is_nowhere_in_a_file() {
    let (world, project) = world();
    let keyring = Keyring::start(&world);
    let run = |arguments: &[&str]| -> keyhatch_tests::Finished {
        keyring.keyhatch(&world, arguments).output().expect("keyhatch runs").into()
    };
    let public = run(&["credential", "add", "signing", "work"]).ok().stdout;
    assert!(public.starts_with("ssh-ed25519 "), "{public}");
    assert!(run(&["credential", "add", "signing", "work"]).fails().stderr.contains("is taken"));
    assert!(run(&["credential", "test", "work"]).ok().stdout.contains("it signs"));
    let list: Value =
        serde_json::from_str(&run(&["credential", "list", "--json"]).ok().stdout).expect("JSON");
    assert_eq!(list[0]["source"], "keyring");
    let names = std::fs::read_to_string(world.path("home/.config/keyhatch/credentials.toml")).expect("names");
    assert!(!names.contains("PRIVATE KEY"), "{names}");
    world.policy("kept", KEPT_KEY);
    let mut command = keyring.keyhatch(&world, &["run", "--policy", "kept", "--", "sh", "-c"]);
    command
        .current_dir(&project)
        .arg(format!("{COMMIT} -S && git verify-commit HEAD && echo $DBUS_SESSION_BUS_ADDRESS."));
    let done: keyhatch_tests::Finished = command.output().expect("keyhatch runs").into();
    let done = done.ok();
    assert!(done.all().contains("Good \"git\" signature for ada@example.org"), "{done:?}");
    assert_eq!(done.stdout.trim(), ".");
    let signers = world.write("home/allowed_signers", &format!("ada@example.org {public}"));
    config(&world, &[("gpg.ssh.allowedSignersFile", &signers.display().to_string())]);
    good(&world, &project);
    run(&["credential", "remove", "work"]).ok();
    assert!(run(&["credential", "test", "work"]).fails().stderr.contains("no credential is called work"));
}

#[test]
fn a_passphrase_that_keyhatch_keeps_opens_the_key_by_itself() {
    let (world, project) = world();
    let private = key(&world, "rsa", PASSPHRASE);
    let keyring = Keyring::start(&world);
    let add = |passphrase: &str| {
        let file = private.display().to_string();
        let command = keyring.keyhatch(&world, &["credential", "add", "passphrase", "mine", "--file", &file]);
        world.with_input(command, passphrase.as_bytes())
    };
    assert!(add("wrong").fails().stderr.contains("this is not the key's passphrase"));
    add(&format!("{PASSPHRASE}\n")).ok();
    let mut command = keyring.keyhatch(&world, &["run", "--", "sh", "-c", COMMIT]);
    let done: keyhatch_tests::Finished =
        command.current_dir(&project).output().expect("keyhatch runs").into();
    done.ok();
    good(&world, &project);
}

#[test]
fn without_a_keyring_the_refusal_says_what_to_do() {
    let (world, _) = world();
    let refused = world.keyhatch(&["credential", "add", "signing", "work"]).fails();
    assert!(
        refused.stderr.contains("the keyring refuses") && refused.stderr.contains("hint: a Secret Service"),
        "{refused:?}"
    );
}

/// The user's gpg with a key of Ada's.
fn gpg(world: &World) -> String {
    world.make_directory("home/.gnupg");
    let run = |arguments: &[&str]| -> keyhatch_tests::Finished {
        world.command("gpg").args(["--batch", "--quiet"]).args(arguments).output().expect("gpg runs").into()
    };
    run(&[
        "--passphrase",
        "",
        "--quick-generate-key",
        "Ada Lovelace <ada@example.org>",
        "ed25519",
        "sign",
        "never",
    ])
    .ok();
    let listed = run(&["--with-colons", "--list-secret-keys"]).ok();
    let line = listed.stdout.lines().find(|line| line.starts_with("fpr:")).expect("a fingerprint").to_owned();
    line.split(':').nth(9).expect("a fingerprint").to_owned()
}

#[test]
fn openpgp_signatures_are_made_by_the_hosts_gpg_and_verified_by_the_images() {
    let (world, project) = world();
    let fingerprint = gpg(&world);
    // No setting at all: gpg looks for the committer's name.
    world
        .run(
            &project,
            "default",
            "git commit -q --allow-empty -S -m x && git tag -s v1 -m v1 && ! ls ~/.gnupg",
        )
        .ok();
    good(&world, &project);
    world.git(&project, &["verify-tag", "v1"]).ok();
    config(&world, &[("user.signingkey", &fingerprint), ("commit.gpgsign", "true")]);
    world.run(&project, "default", COMMIT).ok();
    good(&world, &project);
    // The image's gpg is asked to verify, and does not know the key.
    let verified = world.run(&project, "default", "git verify-commit HEAD").fails();
    assert!(verified.stderr.contains("Can't check signature: No public key"), "{verified:?}");
    let other = world.run(&project, "default", "git commit -q --allow-empty -SDEADBEEF -m x").fails();
    assert!(other.stderr.contains("git names another") && other.stderr.contains("hint: "), "{other:?}");
    let records: Vec<Value> = world.audit().into_iter().filter(|r| r["event"] == "signed").collect();
    assert_eq!(records.len(), 3);
    assert_eq!(records[2]["key"], fingerprint);
    end_of_gnupg(&world);
}

#[test]
fn without_a_key_or_a_program_the_refusal_is_clear() {
    let (world, project) = world();
    world.make_directory("home/.gnupg");
    let none = world.run(&project, "default", "git commit -q --allow-empty -S -m x").fails();
    assert!(none.stderr.contains("gpg could not sign: ") && none.stderr.contains("hint: "), "{none:?}");
    config(
        &world,
        &[("gpg.format", "x509"), ("user.signingkey", "ada"), ("gpg.x509.program", "/nonexistent/gpgsm")],
    );
    let x509 = world.run(&project, "default", "git commit -q --allow-empty -S -m x").fails();
    assert!(x509.stderr.contains("gpgsm could not sign: it is not installed on the host"), "{x509:?}");
}

/// The user's gpgsm with a certificate of Ada's that the user trusts.
fn gpgsm(world: &World) {
    world.make_directory("home/.gnupg");
    let pin = "#!/bin/sh\necho OK\nwhile read line; do case \"$line\" in GETPIN*) echo 'D '; echo OK;; *) echo OK;; esac; done\n";
    let pin = world.write_mode("home/pin", pin, 0o755);
    let agent = format!("pinentry-program {}\nallow-loopback-pinentry\n", pin.display());
    world.write("home/.gnupg/gpg-agent.conf", &agent);
    world.write("home/.gnupg/gpgsm.conf", "disable-crl-checks\n");
    world.write(
        "home/certificate",
        "Key-Type: RSA\nKey-Length: 2048\nKey-Usage: sign\nSerial: random\nName-DN: CN=Ada Lovelace\n\
         Name-Email: ada@example.org\nHash-Algo: SHA256\n",
    );
    let run = |arguments: &[&str]| -> keyhatch_tests::Finished {
        world.command("gpgsm").arg("--batch").args(arguments).output().expect("gpgsm runs").into()
    };
    let make = [
        "--pinentry-mode",
        "loopback",
        "--passphrase-fd",
        "0",
        "--generate-key",
        "-o",
        "ada.pem",
        "certificate",
    ];
    run(&make).ok();
    run(&["--import", "ada.pem"]).ok();
    let listed = run(&["--with-colons", "-K"]).ok();
    let line = listed.stdout.lines().find(|line| line.starts_with("fpr:")).expect("a fingerprint").to_owned();
    let fingerprint = line.split(':').nth(9).expect("a fingerprint");
    world.write("home/.gnupg/trustlist.txt", &format!("{fingerprint} S relax\n"));
    end_of_gnupg(world);
}

fn end_of_gnupg(world: &World) {
    let ended = world.command("gpgconf").args(["--kill", "all"]).status();
    assert!(ended.expect("gpgconf runs").success());
}

#[test]
fn x509_signatures_are_made_by_the_hosts_gpgsm() {
    let (world, project) = world();
    gpgsm(&world);
    config(
        &world,
        &[("gpg.format", "x509"), ("user.signingkey", "ada@example.org"), ("commit.gpgsign", "true")],
    );
    world.run(&project, "default", COMMIT).ok();
    good(&world, &project);
    let signed = world.audit().into_iter().find(|record| record["event"] == "signed").expect("a record");
    assert_eq!(signed["format"], "x509");
    end_of_gnupg(&world);
}
