//! `keyhatch run` at a terminal: it feels as without keyhatch, and the prompt is the person's alone.

use keyhatch_tests::{SshServer, SshVersion, Terminal, World};

#[test]
fn a_push_is_asked_over_the_agents_own_terminal_and_typed_ahead_keys_approve_nothing() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "keyhatch run -- sh -c \"echo the-agents-own-screen; while ! test -e go; do sleep 0.1; done; git push -q origin main; echo code \\$?\"";
    let terminal = Terminal::open(&world, &project, script);
    terminal.shows("the-agents-own-screen");
    // Typed before anything is asked.
    terminal.keys(&["a", "a", "a"]);
    world.write("p/go", "");
    let shown = terminal.shows("a  approve once");
    assert!(shown.contains("create") && shown.contains("refs/heads/main"), "{shown}");
    assert!(!shown.contains("the-agents-own-screen"), "the agent's screen is put aside: {shown}");
    // Typed as the prompt appears: it has not been seen yet.
    terminal.keys(&["a"]);
    assert_eq!(world.tip(&upstream, "main"), "");
    assert_eq!(world.pending()["operation"], "push", "still undecided");
    terminal.keys(&["v"]);
    terminal.shows("+hello");
    // After a moment of quiet the key counts.
    let approved = (0..20).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1000));
        terminal.keys(&["a"]);
        terminal.screen().contains("code 0")
    });
    let screen = terminal.shows("code 0");
    assert!(approved && screen.contains("the-agents-own-screen"), "the screen is given back: {screen}");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}

#[test]
fn a_prompt_can_be_answered_elsewhere_and_denied_here() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "keyhatch run -- sh -c \"git push -q origin main; echo code \\$?; git push -q origin main:other; echo next \\$?\"";
    let terminal = Terminal::open(&world, &project, script);
    terminal.shows("a  approve once");
    world.approve_next();
    terminal.shows("refs/heads/other");
    terminal.keys(&["d"]);
    let screen = terminal.shows("next 1");
    assert!(screen.contains("code 0"), "the first was approved elsewhere: {screen}");
    assert_eq!(world.tip(&upstream, "other"), "");
}

#[test]
fn a_key_that_waits_for_its_passphrase_is_told_of_and_what_is_typed_there_reaches_nobody() {
    const PASSPHRASE: &str = "correct-horse";
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let key = world.path("home/id");
    let made =
        world.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", PASSPHRASE, "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    for (name, value) in [("gpg.format", "ssh"), ("user.signingkey", &*key.display().to_string())] {
        world.git(&world.home(), &["config", "--global", name, value]).ok();
    }
    // The agent reads its terminal while its git waits.
    let script = "keyhatch run -- sh -c \"echo the-agents-own-screen; (cat > typed < /dev/tty &); git commit -q --allow-empty -S -m x; echo code \\$?; sleep 1\"";
    let terminal = Terminal::open(&world, &project, script);
    let shown = terminal.shows("a signature waits for a key that has a passphrase");
    assert!(
        shown.contains("keyhatch credential unlock") && shown.contains("never type the passphrase in here"),
        "{shown}"
    );
    assert!(!shown.contains("the-agents-own-screen"), "{shown}");
    assert!(world.keyhatch(&["pending"]).ok().stdout.contains("keyhatch credential unlock"));
    // Somebody types it all the same: it is thrown away.
    terminal.keys(&[PASSPHRASE, "Enter"]);
    terminal.shows("the-agents-own-screen");
    terminal.keys(&["for-the-agent", "Enter"]);
    world.wait_until("the agent's own keys come", || {
        std::fs::read_to_string(project.join("typed")).is_ok_and(|typed| typed.contains("for-the-agent"))
    });
    let typed = std::fs::read_to_string(project.join("typed")).expect("what was typed");
    assert!(!typed.contains("orrect"), "not a key of it: {typed:?}");
    let mut unlock = world.command(world.path("bin/keyhatch"));
    unlock.args(["credential", "unlock"]);
    world.with_input(unlock, PASSPHRASE.as_bytes()).ok();
    terminal.shows("code 0");
    assert_eq!(world.keyhatch(&["pending"]).ok().stdout, "nothing waits for a decision\n");
}

#[test]
fn keys_signals_size_and_job_control_are_the_commands_own() {
    let world = World::new();
    let project = world.make_directory("plain");
    let terminal = Terminal::open(&world, &project, "keyhatch run -- bash --norc --noprofile -i");
    // Keys may be typed before the shell has the terminal, or before it heard of a new size: then once more.
    terminal.keys_until(&["PS1='in$ '", "Enter"], "\nin$ ");
    terminal.keys_until(&["stty size", "Enter"], "30 100");
    terminal.resize(90, 25);
    terminal.keys_until(&["stty size", "Enter"], "25 90");
    terminal.keys(&["clear; echo asleep; sleep 500", "Enter"]);
    terminal.shows("asleep\n");
    terminal.keys_until(&["C-z"], "Stopped");
    terminal.keys(&["fg", "Enter"]);
    terminal.shows("fg\nsleep 500");
    terminal.keys_until(&["C-c"], "^C");
    terminal.keys_until(&["echo interrupted $?", "Enter"], "interrupted 130");
    terminal.keys(&["exit 7", "Enter"]);
    terminal.shows("ended 7");
}
