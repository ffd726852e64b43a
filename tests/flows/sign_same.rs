//! Signing and looking at signatures inside is what it is on the host with `ssh-keygen` and `gpg`: the same commands on
//! the same history, output and exit codes compared. What git's own scripts for signatures try is tried here.

use std::path::{Path, PathBuf};

use keyhatch_tests::{Did, Script, World};

/// ed25519 signs the same bytes the same way, and dates are fixed: the objects are the same too.
const SSH: &[&str] = &[
    "$GIT commit -q --allow-empty -S -m first && $GIT rev-parse HEAD",
    "$GIT verify-commit HEAD",
    "$GIT verify-commit -v HEAD",
    "$GIT verify-commit --raw HEAD",
    "$GIT show -s --show-signature --format=%s HEAD",
    "$GIT log -1 --format='%G? %GS %GK %GF %GP %GT'",
    "$GIT commit -q --allow-empty --no-gpg-sign -m unsigned; $GIT verify-commit HEAD",
    "$GIT log --show-signature --format=%s -3",
    "$GIT log --graph --show-signature --format=%s -2",
    "$GIT tag -s -m 'A release' v1 && $GIT rev-parse v1 && $GIT cat-file tag v1",
    "$GIT verify-tag v1",
    "$GIT verify-tag -v v1",
    "$GIT verify-tag --raw v1",
    "$GIT verify-tag --format='%(tag) %(object)' v1",
    "$GIT tag -v v1",
    "$GIT tag --no-sign -a -m plain plain; $GIT verify-tag plain",
    "$GIT verify-tag v1 plain; echo then $?",
    "$GIT verify-commit foreign; $GIT log -1 --format='%G? %GS' foreign",
    "$GIT cat-file commit HEAD~1 | sed s/first/forged/ > f; $GIT verify-commit $($GIT hash-object -t commit -w f)",
    "$GIT cat-file tag v1 | sed s/release/forgery/ > f; $GIT update-ref refs/tags/f $($GIT hash-object -t tag -w f); $GIT verify-tag f",
    "$GIT cat-file commit HEAD~1 | sed 's/^ [A-Za-z0-9].*$/ AAAA/' > f; $GIT verify-commit $($GIT hash-object -t commit -w f)",
    "$GIT -c gpg.ssh.allowedSignersFile=/dev/null verify-commit HEAD~1",
    "$GIT -c gpg.ssh.allowedSignersFile=absent verify-commit HEAD~1",
    "$GIT -c gpg.ssh.allowedSignersFile=expired verify-commit HEAD~1",
    "$GIT -c gpg.ssh.allowedSignersFile=early verify-commit HEAD~1",
    "$GIT -c gpg.ssh.allowedSignersFile=files verify-commit HEAD~1",
    "$GIT -c gpg.ssh.allowedSignersFile=timely log -1 --format='%G? %GS' HEAD~1",
    "$GIT -c gpg.ssh.revocationFile=key.pub verify-commit HEAD~1",
    "$GIT -c gpg.ssh.revocationFile=other.pub verify-commit HEAD~1",
    "$GIT checkout -q -b side HEAD~1 && $GIT commit -q --allow-empty -S -m side && $GIT checkout -q main",
    "$GIT merge -q --no-ff --verify-signatures -S -m merged side; $GIT log -1 --format='%H %G? %s'",
    "$GIT checkout -q -b bare HEAD && $GIT commit -q --allow-empty --no-gpg-sign -m bare && $GIT checkout -q main",
    "$GIT merge --verify-signatures bare; echo then $?",
    "$GIT merge -q --no-ff --no-edit v1; $GIT log -1 --show-signature --format=%s",
    "$GIT commit -q --amend -S --allow-empty -m amended && $GIT log -1 --format='%H %G?'",
    "$GIT cherry-pick -S --allow-empty bare && $GIT log -1 --format='%H %G? %s'",
    "echo 1 > n; $GIT add n; $GIT commit -q -S -m n; $GIT revert -S --no-edit HEAD && $GIT log -1 --format='%H %G? %s'",
    "$GIT rebase -q --gpg-sign --force-rebase HEAD~3 && $GIT log --format='%H %G?' -4",
    "$GIT commit-tree -S -m tree HEAD^{tree}",
    "$GIT format-patch -q -1 HEAD~1 --stdout > p; $GIT am -q -S p; $GIT log -1 --format='%H %G? %s'",
    "$GIT -c user.signingkey=absent commit -q --allow-empty -S -m x; echo then $?; $GIT log -1 --format=%s",
    "$GIT -c gpg.format=nonsense commit -q --allow-empty -S -m x; echo then $?",
    "$GIT -c gpg.ssh.program=/absent/program commit -q --allow-empty -S -m x; echo then $?",
];

/// The words of whoever makes signatures differ where it fails; git's own, and the code, do not.
fn without_the_signers_words(mut did: Vec<Did>) -> Vec<Did> {
    for one in &mut did {
        if one.command.contains("signingkey=absent") {
            one.output.retain(|line| line.starts_with("fatal: ") || line.starts_with("then "));
        }
    }
    did
}

struct Scene {
    world: World,
    direct: PathBuf,
    brokered: PathBuf,
}

impl Scene {
    /// Two equal projects, with a commit of somebody else's and lists of signers that say no for several reasons.
    fn new() -> Self {
        let world = World::new();
        let [direct, brokered] =
            ["direct", "brokered"].map(|name| world.project(name, "https://git.invalid/p"));
        for name in ["id", "other"] {
            let path = world.path("home").join(name);
            let mut made = world.command("ssh-keygen");
            made.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path);
            assert!(made.status().expect("ssh-keygen runs").success());
        }
        let public =
            |name: &str| std::fs::read_to_string(world.path("home").join(name)).expect("a public key");
        let (ours, other) = (public("id.pub"), public("other.pub"));
        let signers = world.write("home/signers", &format!("ada@example.org {ours}")).display().to_string();
        for (name, value) in [
            ("gpg.format", "ssh"),
            ("user.signingkey", &*world.path("home/id.pub").display().to_string()),
            ("gpg.ssh.allowedSignersFile", &signers),
        ] {
            world.git(&world.home(), &["config", "--global", name, value]).ok();
        }
        let foreign = world.path("home/other").display().to_string();
        for project in [&direct, &brokered] {
            let mut sign = world.command("sh");
            let script = format!(
                "{DATES} git -c user.signingkey={foreign} commit -q --allow-empty -S -m foreign; git branch foreign; git reset -q --hard HEAD~1"
            );
            sign.current_dir(project).args(["-c", &script]);
            world.spawn(sign).finish().ok();
            let name = project.file_name().expect("a name").to_string_lossy().into_owned();
            for (file, text) in [
                ("expired", format!("ada@example.org valid-before=\"20200101\" {ours}")),
                ("early", format!("ada@example.org valid-after=\"20400101\" {ours}")),
                ("files", format!("ada@example.org namespaces=\"file\" {ours}")),
                (
                    "timely",
                    format!(
                        "b@x {other}*@example.org,!ada@x valid-after=\"20200101\",valid-before=\"20400101\" {ours}"
                    ),
                ),
                ("key.pub", ours.clone()),
                ("other.pub", other.clone()),
            ] {
                world.write(&format!("{name}/{file}"), &text);
            }
        }
        Self { world, direct, brokered }
    }

    /// Runs the same on both sides, and compares.
    #[track_caller]
    fn same(&self, script: &Script<'_>, hide: &str) {
        let shell = format!("{DATES}\n{}", script.shell());
        let mut straight = self.world.command("sh");
        straight.current_dir(&self.direct).args(["-c", &shell]);
        let straight = self.world.spawn(straight).finish().ok();
        let inside = self.world.run(&self.brokered, "default", &format!("{hide}\n{shell}")).ok();
        let hidden = |project: &Path| vec![project.display().to_string()];
        let straight = without_the_signers_words(script.read(&straight.stdout, &hidden(&self.direct)));
        let inside = without_the_signers_words(script.read(&inside.stdout, &hidden(&self.brokered)));
        assert_eq!(straight.len(), script.lines.len());
        for (straight, inside) in straight.iter().zip(&inside) {
            assert_eq!(straight, inside, "\n{}", self.world.broker_log());
        }
        assert_eq!(straight.len(), inside.len());
    }
}

const DATES: &str =
    "export LC_ALL=C GIT_EDITOR=true GIT_AUTHOR_DATE=1700000000+0000 GIT_COMMITTER_DATE=1700000000+0000;";
/// Everything that the image has but `ssh-keygen`.
const HIDES: &str = "mkdir /tmp/b; ln -s -t /tmp/b /usr/local/bin/* /usr/bin/* 2> /dev/null; rm -f /tmp/b/ssh-keygen; \
                     export PATH=/tmp/b; ! command -v ssh-keygen || exit 9";

#[test]
fn commits_tags_and_merges_are_signed_and_looked_at_as_with_ssh_keygen() {
    for git in ["/usr/local/bin/git", "/usr/bin/git"] {
        assert!(Path::new(git).exists(), "{git} is missing: tests run with an older and a newer git");
        Scene::new().same(&Script { git, lines: SSH }, "");
    }
}

#[test]
fn an_image_without_ssh_keygen_looks_at_signatures_just_the_same() {
    for git in ["/usr/local/bin/git", "/usr/bin/git"] {
        Scene::new().same(&Script { git, lines: SSH }, HIDES);
    }
}

/// What `ssh-keygen -Y` is asked, with files that are wrong in many ways.
const ASKED: &[&str] = &[
    "find-principals -f signers -s s",
    "find-principals -f many -s s",
    "find-principals -f odd -s s",
    "find-principals -f timely -s s -Overify-time=20250101000000",
    "find-principals -f timely -s s -Overify-time=20500101000000",
    "find-principals -f timely -s s -O verify-time=19990101",
    "find-principals -f timely -s s -Overify-time=nonsense",
    "find-principals -f quoted -s s",
    "find-principals -f authority -s s",
    "find-principals -f /dev/null -s s",
    "find-principals -f absent -s s",
    "find-principals -f signers -s absent",
    "find-principals -f signers -s payload",
    "find-principals -f signers -s broken",
    "find-principals -f signers -s other.s",
    "verify -n git -f signers -I a@x -s s",
    "verify -n git -f signers -I z@x -s s",
    "verify -n git -f many -I c@y -s s",
    "verify -n git -f many -I q@y -s s",
    "verify -n file -f signers -I a@x -s s",
    "verify -n git -f files -I a@x -s s",
    "verify -n git -f globs -I a@x -s s",
    "verify -n git -f signers -I a@x -s other.s",
    "verify -n git -f signers -I a@x -s broken",
    "verify -n git -f signers -I a@x -s s -r key.pub",
    "verify -n git -f signers -I a@x -s s -r other.pub",
    "verify -n git -f signers -I a@x -s s -r absent",
    "verify -n git -f signers -s s",
    "verify -f signers -I a@x -s s",
    "check-novalidate -n git -s s",
    "check-novalidate -n git -s rsa.s",
    "check-novalidate -n git -s ecdsa.s",
    "check-novalidate -n file -s s",
    "check-novalidate -n git -s broken",
    "check-novalidate -n git",
];

#[test]
fn every_answer_about_a_signature_is_openssh_s_word_for_word() {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let script = "set -e; for k in ed25519 rsa ecdsa; do ssh-keygen -q -t $k -N '' -C '' -f $k; done; ssh-keygen -q -t ed25519 -N '' -C '' -f other; \
        echo hello > payload; echo else > changed; sign() { ssh-keygen -q -Y sign -n git -f $1 payload; mv payload.sig $2; }; \
        sign ed25519 s; sign rsa rsa.s; sign ecdsa ecdsa.s; sign other other.s; \
        sed 's/^[A-Za-z0-9+/]*$/AAAA/' s > broken; k=$(cut -d' ' -f1,2 ed25519.pub); cp ed25519.pub key.pub; \
        echo \"a@x,b@x $k\" > signers; echo \"n@x $(cat other.pub)\" > many; echo \"*@y,!c@y namespaces=\\\"git\\\" $k\" >> many; \
        printf 'one line\\na@x ssh-ed25519 AAAA\\n# x\\n' > odd; echo \"z@x bogus=1 $k\" >> odd; echo \"z@x valid-after=\\\"x\\\" $k\" >> odd; echo \"ok@x $k\" >> odd; \
        echo \"a@x valid-after=\\\"20200101\\\",valid-before=\\\"20300101120000\\\" $k\" > timely; \
        echo \"\\\"a b@x\\\" $k\" > quoted; echo \"a@x cert-authority $k\" > authority; \
        echo \"a@x namespaces=\\\"file\\\" $k\" > files; echo \"a@x NAMESPACES=\\\"x,g*t\\\" $k\" > globs";
    let mut shell = world.command("sh");
    shell.current_dir(&project).args(["-c", script]);
    world.spawn(shell).finish().ok();
    let mut ask = String::from(HIDES);
    for asked in ASKED {
        // Both payloads, and both programs: the real one by its path.
        for payload in ["payload", "changed"] {
            ask.push_str(&format!(
                "\nfor p in /usr/bin/ssh-keygen /run/keyhatch/ssh-keygen; do $p -Y {asked} < {payload} > o 2> e; echo $? >> o; cat o e > $(dirname $p | tr -d /); done; \
                 cmp -s usrbin runkeyhatch || {{ echo 'differs: {asked} < {payload}'; diff usrbin runkeyhatch; }}; cat usrbin >> all"
            ));
        }
    }
    let done = world.run(&project, "default", &ask).ok();
    assert_eq!(done.stdout, "", "{done:?}");
    let all = std::fs::read_to_string(project.join("all")).expect("the answers");
    for word in [
        "Good \"git\" signature for q@y",
        "with RSA key",
        "with ECDSA key",
        "incorrect signature",
        "bad options",
    ] {
        assert!(all.contains(word), "{word}: {all}");
    }
}

/// Signatures of gpg hold a time of their own, so that object names differ.
const OPENPGP: &[&str] = &[
    "gpg --batch -q --import pub.asc; gpg --batch -q --import-ownertrust trust 2> /dev/null; echo $?",
    "$GIT commit -q --allow-empty -S -m first; $GIT log -1 --format='%G? %GS %GK %GF %GP %GT'",
    "$GIT verify-commit HEAD 2> /dev/null; echo then $?",
    "$GIT verify-commit --raw HEAD 2>&1 | cut -d' ' -f2 | sort",
    "$GIT tag -s -m v1 v1 && $GIT verify-tag v1 2> /dev/null; echo then $?",
    "$GIT cat-file commit HEAD | sed s/first/forged/ > f; $GIT verify-commit $($GIT hash-object -t commit -w f) 2>&1 | tail -1",
    "$GIT log -1 --format='%G?' $($GIT hash-object -t commit -w f)",
    "$GIT rebase -q --gpg-sign --force-rebase HEAD~1 && $GIT log --format='%G? %s' -2",
    "$GIT commit -q --allow-empty -SNOBODY -m x 2>&1 | grep -v -e keyhatch -e hint -e gpg: -e GNUPG -e '^$'; $GIT log -1 --format=%s",
];

#[test]
fn openpgp_signatures_are_made_and_looked_at_as_with_gpg() {
    let world = World::new();
    let [direct, brokered] = ["direct", "brokered"].map(|name| world.project(name, "https://git.invalid/p"));
    world.make_directory("home/.gnupg");
    let gpg = |arguments: &[&str]| {
        let done =
            world.command("gpg").args(["--batch", "--quiet"]).args(arguments).output().expect("gpg runs");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    gpg(&[
        "--passphrase",
        "",
        "--quick-generate-key",
        "Ada Lovelace <ada@example.org>",
        "ed25519",
        "sign",
        "never",
    ]);
    let (public, trust) = (gpg(&["--armor", "--export"]), gpg(&["--export-ownertrust"]));
    for name in ["direct", "brokered"] {
        world.write(&format!("{name}/pub.asc"), &public);
        world.write(&format!("{name}/trust"), &trust);
    }
    let scene = Scene { world, direct, brokered };
    scene.same(&Script { git: "git", lines: OPENPGP }, "");
    let ended = scene.world.command("gpgconf").args(["--kill", "all"]).status();
    assert!(ended.expect("gpgconf runs").success());
}
