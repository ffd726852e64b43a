//! The same sandbox on the kernels that users have: Debian's of three releases, in virtual machines with cgroup v2 and a systemd of the user's.
//!
//! What runs inside are the programs of this build and the project's own suites: what they hold here, they must hold there.

mod machine;

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use machine::{Machine, Program};

/// Suites of this crate that need nothing but a Debian, a user and the programs.
const SUITES: &[&str] = &["escapes", "tiers", "demo"];

/// The programs and the suites, as built now.
static PROGRAMS: LazyLock<Vec<Program>> = LazyLock::new(|| {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args([
        "test",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ]);
    cargo.args(["--package", "keyhatch-tests"]).args(SUITES.iter().flat_map(|suite| ["--test", suite]));
    let told = cargo.output().expect("cargo runs");
    assert!(told.status.success(), "the suites do not compile: {}", String::from_utf8_lossy(&told.stderr));
    let messages = String::from_utf8_lossy(&told.stdout).into_owned();
    let executables =
        messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    // Suites alone: a program that one of them starts is built with it.
    let mut programs: Vec<Program> = executables
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| {
            Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
        })
        .collect();
    assert_eq!(programs.len(), SUITES.len(), "{programs:?}");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug");
    programs.extend(
        ["keyhatch", "keyhatch-run", "keyhatch-helper", "keyhatch-inspect"]
            .map(|name| (name.to_owned(), built.join(name))),
    );
    programs
});

#[test]
fn the_sandbox_holds_on_linux_6_1_and_its_cgroups_do() {
    let machine = Machine::boot("6.1.", &PROGRAMS);
    holds(&machine, 2, &["escapes every_act", "demo"]);
    limits_are_the_cgroups(&machine, "the user's systemd", "");
    machine.run("root", DELEGATE);
    limits_are_the_cgroups(&machine, "a delegated directory", IN_DELEGATED);
}

#[test]
fn the_sandbox_holds_on_linux_6_12() {
    let machine = Machine::boot("6.12.", &PROGRAMS);
    holds(&machine, 6, &["escapes every_act"]);
    limits_are_the_cgroups(&machine, "the user's systemd", "");
    let without = machine.run("root", "sysctl -w user.max_user_namespaces=0");
    assert!(without.ok, "{}", without.text);
    // Not a socket is left, and the push is the same.
    a_push_goes_through(
        &machine,
        "C",
        "PATH=$HOME/bin:/usr/bin:/bin sh -c",
        "[Errno 1] Operation not permitted",
    );
}

#[test]
fn the_sandbox_holds_on_linux_7_3_and_where_apparmor_keeps_namespaces() {
    let machine = Machine::boot("7.3.", &PROGRAMS);
    holds(&machine, 11, SUITES);
    apparmor_decides_the_tier(&machine);
}

/// These suites pass, and the doctor names the kernel's own Landlock.
fn holds(machine: &Machine, landlock: u64, suites: &[&str]) {
    let doctor = machine.run("kh", "bin/keyhatch doctor --json 2>/dev/null");
    let told: serde_json::Value =
        serde_json::from_str(&doctor.text).unwrap_or_else(|_| panic!("{}", doctor.text));
    let mechanism = |name: &str| {
        let all = told["mechanisms"].as_array().expect("mechanisms").iter();
        all.clone().find(|mechanism| mechanism["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(mechanism("Landlock")["state"]["version"], landlock, "{told:#}");
    assert_eq!(told["proof"]["held"], true, "{told:#}");
    for suite in suites {
        let ran = machine
            .run("kh", &format!("cd bin && KEYHATCH_BIN=$HOME/bin timeout 900 ./{suite} --test-threads=1"));
        assert!(ran.ok && ran.text.contains("test result: ok"), "{suite}: {}", ran.text);
    }
}

/// One act a limit; the same under both ways to a cgroup.
fn limits_are_the_cgroups(machine: &Machine, way: &str, enter: &str) {
    let ran = machine.run(
        if enter.is_empty() { "kh" } else { "root" },
        &format!("cat >/tmp/acts <<'ACTS'\n{LIMITS}\nACTS\n{enter} bash /tmp/acts"),
    );
    for expected in [
        // What the command sees as the root of cgroups.
        "0::/\nran\n",
        "limits: killed: memory.max 64 MiB",
        "\"resource_exceeded\":\"memory\"",
        "limits: reached: pids.max 20",
        "share is half",
        "left over: 0",
    ] {
        assert!(ran.text.contains(expected), "{way}: {expected}\n{}", ran.text);
    }
}

const LIMITS: &str = r#"
umask 022; mkdir -p ~/p && cd ~/p
cat >~/tight.toml <<'POLICY'
name = "tight"
description = "a test"
[sandbox]
require = ["cgroup"]
[limits]
memory = "64MiB"
swap = "none"
processes = 20
cpu = "50%"
POLICY
in_tight() { ~/bin/keyhatch run --policy ~/tight.toml "$@" 2>&1; }
in_tight -- sh -c 'cat /proc/self/cgroup; echo ran'
in_tight --json -- python3 -c 'x = bytearray(200 << 20)'
in_tight -- bash -c 'for i in $(seq 40); do sleep 20 & done 2>/dev/null; exit 0'
in_tight -- python3 -c "
import time
wall, cpu = time.time(), time.process_time()
while time.time() - wall < 4: pass
print('share is half' if (time.process_time() - cpu) / 4 < 0.7 else 'share is all')"
find /sys/fs/cgroup -name '*keyhatch*' | wc -l | sed 's/^/left over: /'
"#;

/// A directory of the user's, where no systemd of theirs runs.
const DELEGATE: &str = "
systemctl stop user@1000.service
mkdir -p /sys/fs/cgroup/delegated/shell && echo '+memory +pids +cpu' >/sys/fs/cgroup/cgroup.subtree_control
chown kh /sys/fs/cgroup/delegated /sys/fs/cgroup/delegated/cgroup.{procs,subtree_control} /sys/fs/cgroup/delegated/shell{,/cgroup.procs}
";
/// Not `su`: its session would be moved to a cgroup of its own.
const IN_DELEGATED: &str = "
echo $$ >/sys/fs/cgroup/delegated/shell/cgroup.procs
setpriv --reuid 1000 --regid 1000 --clear-groups env -i HOME=/home/kh USER=kh PATH=/usr/bin:/bin KEYHATCH_CGROUP=/sys/fs/cgroup/delegated";

/// The whole path without a namespace: a push, signed, through the session's socket, which Landlock names and no other, or
/// where it cannot, through the session's pipes.
fn a_push_goes_through(machine: &Machine, tier: &str, shell: &str, socket: &str) {
    let ran = machine.run("kh", &PUSH.replace("SHELL", shell));
    assert!(ran.text.contains(&format!("keyhatch: tier {tier}")), "{}", ran.text);
    for expected in [
        "rc: 0",
        "arrived: by the agent",
        "signature: G",
        "seen inside: G",
        "cat: /home/kh/.ssh/id_ed25519: Permission denied",
        &format!("PermissionError: {socket}"),
    ] {
        assert!(ran.text.contains(expected), "{expected}\n{}", ran.text);
    }
}

const PUSH: &str = r#"
umask 022; mkdir -p ~/ssh ~/.ssh ~/up && cd ~/ssh
ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
cp ~/.ssh/id_ed25519.pub allowed
printf '%s\n' 'Port 2222' 'ListenAddress 127.0.0.1' "HostKey $PWD/host" "PidFile $PWD/pid" "AuthorizedKeysFile $PWD/allowed" \
    'PasswordAuthentication no' 'UsePAM no' 'StrictModes no' 'AcceptEnv GIT_PROTOCOL' >config
/usr/sbin/sshd -f $PWD/config -E $PWD/log
echo "[127.0.0.1]:2222 $(cut -d' ' -f1,2 host.pub)" >>~/.ssh/known_hosts
git config --global user.name Ada && git config --global user.email ada@example.org && git config --global init.defaultBranch main
git config --global gpg.format ssh && git config --global user.signingKey ~/.ssh/id_ed25519.pub && git config --global commit.gpgSign true
git init -q --bare ~/up/it.git && git init -q ~/it && cd ~/it && git commit -q --allow-empty -m first
git remote add origin ssh://kh@127.0.0.1:2222/home/kh/up/it.git && git push -q -u origin main
cat >~/allow.toml <<'POLICY'
name = "allow"
description = "a test"
[[push]]
name = "own"
remote = "{remotes}"
updates = ["create", "fast-forward"]
decision = "allow"
reason = "a test"
[[fetch]]
name = "own"
remote = "{remotes}"
decision = "allow"
reason = "a test"
POLICY
cat >inside.sh <<'INSIDE'
git commit -q --allow-empty -m 'by the agent' && git push origin main; echo "rc: $?"
git log -1 --format='seen inside: %G?'
cat /home/kh/.ssh/id_ed25519
python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("/run/user/1000/keyhatch/control.sock")' 2>&1 | tail -1
INSIDE
SHELL 'keyhatch run --policy ~/allow.toml -- sh inside.sh' 2>&1
git -C ~/up/it.git log -1 --format='arrived: %s'
echo "ada@example.org $(cat ~/.ssh/id_ed25519.pub)" >~/signers
git -C ~/up/it.git -c gpg.ssh.allowedSignersFile=$HOME/signers log -1 --format='signature: %G?' main
"#;

/// As on Ubuntu: user namespaces are for programs with a profile. Without ours it is tier B at once, and said; with ours it is tier A.
fn apparmor_decides_the_tier(machine: &Machine) {
    let profile = include_str!("../../packaging/apparmor/keyhatch-run");
    let prepared = machine.run(
        "root",
        &format!("cat >/etc/apparmor.d/keyhatch-run <<'PROFILE'\n{profile}\nPROFILE\n{NO_NAMESPACES}"),
    );
    assert!(prepared.ok, "{}", prepared.text);
    let without = machine.run("kh", WITHOUT_NAMESPACES);
    assert!(without.text.contains("unshare: 1"), "the restriction is there: {}", without.text);
    assert!(without.text.contains("keyhatch: tier B: Landlock ABI 11, seccomp"), "{}", without.text);
    let shell = "PATH=/usr/local/bin:/usr/bin:/bin /usr/local/bin/restricted -c";
    a_push_goes_through(machine, "B", shell, "[Errno 13] Permission denied");
    assert!(without.text.contains("AppArmor") && without.text.contains("inside: 1000"), "{}", without.text);
    let loaded = machine.run("root", "apparmor_parser -r /etc/apparmor.d/keyhatch-run");
    assert!(loaded.ok, "{}", loaded.text);
    let with = machine.run("kh", WITHOUT_NAMESPACES);
    assert!(with.text.contains("unshare: 1"), "others are still restricted: {}", with.text);
    assert!(
        with.text.contains("tier A: namespaces, Landlock, seccomp") && with.text.contains("inside: 1000"),
        "{}",
        with.text
    );
    assert!(!with.text.contains("keyhatch: tier B"), "{}", with.text);
}

const NO_NAMESPACES: &str = "set -e
install /home/kh/bin/keyhatch /home/kh/bin/keyhatch-run /home/kh/bin/keyhatch-helper /home/kh/bin/keyhatch-inspect /usr/local/bin/
cp /bin/bash /usr/local/bin/restricted
cat >/etc/apparmor.d/restricted <<'PROFILE'
abi <abi/4.0>,
include <tunables/global>
profile restricted /usr/local/bin/restricted {
  / rwlkm, /** rwlkm, /** pix,
  capability, network, unix, signal, ptrace, mount, umount, pivot_root, dbus, mqueue, io_uring,
}
PROFILE
apparmor_parser -r /etc/apparmor.d/restricted";

const WITHOUT_NAMESPACES: &str =
    "mkdir -p plain && cd plain && PATH=/usr/local/bin:/usr/bin:/bin /usr/local/bin/restricted -c '
unshare --user true; echo unshare: $?
keyhatch run -- sh -c \"echo inside: \\$(id -u)\"
keyhatch doctor'";
