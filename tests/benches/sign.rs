//! `git commit -S` through keyhatch, beside the same with `ssh-keygen` and a key file, and with an ssh-agent.
//!
//! cargo build --release && cargo bench -p keyhatch-tests --bench sign

use std::process::Command;

use keyhatch_tests::World;
use keyhatch_tests::measure::{Times, compare};

const COMMITS: usize = 60;

/// Prints the nanoseconds of each signed commit.
fn commits(count: usize, option: &str) -> String {
    format!(
        "for i in $(seq {count}); do a=$(date +%s%N); git commit -q --allow-empty {option} -m $i || exit 1; \
         b=$(date +%s%N); echo $((b-a)); done"
    )
}

fn main() {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let key = world.path("home/id");
    let made = world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let public = key.with_extension("pub");
    for (name, value) in [("gpg.format", "ssh"), ("user.signingkey", &*public.display().to_string())] {
        world.git(&world.home(), &["config", "--global", name, value]).ok();
    }
    let socket = world.path("run/agent.sock");
    let mut agent = world.command("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket);
    let agent = world.spawn(agent);
    world.wait_until("the ssh-agent listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let with_agent = |command: &mut Command| {
        command.env("SSH_AUTH_SOCK", &socket);
    };
    let mut add = world.command("ssh-add");
    with_agent(add.arg("-q").arg(&key));
    let added = add.output().expect("ssh-add runs");
    assert!(added.status.success(), "{added:?}");
    let on_host = |script: &str, agent: bool| {
        let mut shell = world.command("sh");
        shell.current_dir(&project).args(["-c", script]);
        if agent {
            with_agent(&mut shell);
        }
        Times::read(&world.spawn(shell).finish().ok().stdout)
    };
    let inside = |script: &str| Times::read(&world.run(&project, "default", script).ok().stdout);
    let (signed, plain) = (commits(COMMITS, "-S"), commits(COMMITS, ""));
    on_host(&commits(5, "-S"), false);
    inside(&commits(5, "-S"));
    let file = on_host(&signed, false);
    let held = on_host(&signed, true);
    let bare = on_host(&plain, false);
    let ours = inside(&signed);
    let unsigned = inside(&plain);
    // The same sandbox with a key in it, as it must not be: what is left is the cost of asking the broker.
    let with_key = format!(
        "ssh-keygen -q -t ed25519 -N '' -f /tmp/k && git config --global gpg.ssh.program ssh-keygen && \
         git config --global user.signingkey /tmp/k && {signed}"
    );
    let exposed = inside(&with_key);
    compare("git commit -S", &ours, ("ssh-keygen and a key file", &file), Some(1.0));
    compare("git commit -S", &ours, ("ssh-keygen and the ssh-agent", &held), Some(1.0));
    compare("git commit -S", &ours, ("ssh-keygen, key in the sandbox", &exposed), Some(1.0));
    compare("git commit inside", &unsigned, ("git commit on the host", &bare), None);
    drop(agent);
}
