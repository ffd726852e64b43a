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
    let screen = terminal.decides("a", "code 0");
    assert!(screen.contains("the-agents-own-screen"), "the screen is given back: {screen}");
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
    // Armed like an approval: not as it appears.
    terminal.keys(&["d"]);
    assert_eq!(world.pending()["operation"], "push", "still undecided");
    let screen = terminal.decides("d", "next 1");
    assert!(screen.contains("code 0"), "the first was approved elsewhere: {screen}");
    assert_eq!(world.tip(&upstream, "other"), "");
}

/// What an agent can set, but for the screen that it is on.
const STATES: &str = "\\033[1;5r\\033[?6h\\033[?69h\\033[3;9s\\033[4h\\033[20h\\033(0\\033)0\\016\\033[8;30;40m\\033[?5h\\033[?7l\\033[3g\\033[?1003;1004;1006;2004h\\033[?1h\\033=\\033[>31u\\033[>4;2m\\033[5 q\\033[?25l\\033]10;#000000\\007\\033]4;7;#000000\\007\\033]0;approved\\007\\033#3\\033[?2026h";
/// What a session writes where a person reads.
const SUBJECT: &str = "ordinary\\033[2J\\033[H\\342\\200\\256 \\302\\2332J keyhatch: the agent wants to create refs/heads/agent/typo no risk was found  a  approve once  d  deny";
const AUTHOR: &str = "\\346\\274\\242\\346\\274\\242\\346\\274\\242 remote https://git.example/mine create refs/heads/agent/typo   a  approve once";

#[test]
fn what_is_decided_stands_in_its_rows_at_every_size_whatever_the_agent_drew_and_wrote() {
    for (screen, enters) in [("main", ""), ("full", "\\033[?1049h\\033[2J\\033[H")] {
        let world = World::new();
        let server = SshServer::start(&world, SshVersion::V2);
        let upstream = world.upstream("r.git", "sha1");
        let project = world.project("p", &server.url(&upstream));
        world.write(
            "p/agent.sh",
            &format!(
                "git push -q origin main; printf '{enters}of-the-agent\\r\\nsecond-row{STATES}'\n\
                 export GIT_AUTHOR_NAME=\"$(printf '{AUTHOR}')\"; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do\n\
                 git commit -q --amend --allow-empty -m \"$(printf '{SUBJECT}')\"\n\
                 git commit -q --allow-empty -m \"$(printf '{SUBJECT}')\"; done\n\
                 mkdir -p .github/workflows; echo x > .github/workflows/a.yml; git add -A; git commit -qm workflow\n\
                 git push -qf origin main 2>/dev/null; printf '\\017\\033(B\\033[0m\\033[4;1Hcode %s' $?; sleep 600\n"
            ),
        );
        let terminal = Terminal::open(&world, &project, "keyhatch run -- sh agent.sh");
        terminal.shows("a  approve once");
        world.approve_next();
        for (columns, rows) in [(100, 30), (40, 10), (80, 24), (120, 40), (200, 50)] {
            terminal.resize(columns, rows);
            let seen = terminal.rows_when("the question at this size", |seen| {
                seen.len() == usize::from(rows)
                    && seen.iter().any(|row| row.starts_with("! FORCE 1 ref"))
                    && seen.last().is_some_and(|row| row.contains("l  later"))
            });
            let whole = seen.join("\n");
            let at = |start: &str| {
                seen.iter()
                    .position(|row| row.starts_with(start))
                    .unwrap_or_else(|| panic!("{start}:\n{whole}"))
            };
            assert!(seen[0].starts_with("keyhatch: the agent wants to push to"), "{whole}");
            let remote: String =
                seen[1..at("! FORCE 1 ref")].iter().map(|row| row.trim_start_matches("│ ")).collect();
            assert!(remote.starts_with("ssh://") && remote.ends_with("r.git"), "{whole}");
            assert_eq!(seen[at("! FORCE 1 ref") + 1], "│ refs/heads/main", "{whole}");
            assert!(seen[at("! 1 risk")].contains("ci-workflow"), "{whole}");
            assert!(seen.iter().any(|row| row.starts_with("a  approve once")), "{whole}");
            for row in seen.iter().filter(|row| row.contains("typo") || row.contains("ordinary")) {
                assert!(row.starts_with("│ "), "outside of its rows: {row:?}\n{whole}");
            }
        }
        terminal.resize(100, 30);
        let seen = terminal.decides("d", "code 1");
        assert!(
            seen.contains("of-the-agent") && seen.contains("second-row"),
            "the {screen} screen is back: {seen}"
        );
        let modes = terminal.value("#{alternate_on} #{scroll_region_upper} #{scroll_region_lower} #{origin_flag} #{insert_flag} #{wrap_flag} #{mouse_all_flag} #{mouse_sgr_flag} #{cursor_flag} #{keypad_cursor_flag} #{keypad_flag}");
        let alternate = usize::from(screen == "full");
        assert_eq!(modes, format!("{alternate} 0 4 1 1 0 1 1 0 1 1"), "what the agent had set");
        assert_eq!(terminal.value("#{pane_title}"), "approved");
        let subjects = world.git(&upstream, &["log", "--format=%s", "main"]).ok().stdout;
        assert_eq!(subjects, "Add README\n", "it was denied");
    }
}

#[test]
fn no_sequence_no_paste_and_no_burst_decides_and_what_is_left_for_later_is_asked_again() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "keyhatch run -- sh -c \"printf '\\033[?1003h\\033[?1004h\\033[?1006h'; git push -q origin main; echo code \\$?; cat\"";
    let terminal = Terminal::open(&world, &project, script);
    terminal.shows("a  approve once");
    let pause = || std::thread::sleep(std::time::Duration::from_millis(1000));
    let sequences: &[&[u8]] = &[
        b"\x1b[I",
        b"\x1b[O",
        b"\x1b[B",
        b"\x1bOA",
        b"\x1b[<35;10;10M",
        b"\x1b[Maaa",
        b"\x1b[97u",
        b"\x1bOa",
        b"\x1b[a",
        b"\x1ba",
        b"\x1bd",
        b"\x1bl",
        b"\x1b",
        b"\x1b[200~a\x1b[201~",
        b"aa",
        b"approve",
        b"dl",
        b"\x1b]11;rgb:0000/0000/0000\x07",
    ];
    for bytes in sequences {
        // As if a person had read for a while.
        pause();
        terminal.sends(bytes);
    }
    pause();
    terminal.pastes("a");
    pause();
    terminal.pastes("l\nd\na\n");
    pause();
    assert!(terminal.screen().contains("a  approve once"), "{}", terminal.screen());
    assert_eq!(world.pending()["operation"], "push", "still undecided");
    let id = world.pending_id();
    let left = terminal.decides("l", "still waits");
    assert!(left.contains(&format!("keyhatch show {id}")) && left.contains("asked again here"), "{left}");
    terminal.rows_when("the agent's screen is back", |rows| {
        !rows.iter().any(|row| row.contains("l  later") || row.contains("still waits"))
    });
    terminal.shows("a  approve once");
    terminal.decides("a", "code 0");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}

#[test]
fn a_screen_that_is_too_small_asks_nothing_and_says_where_to_decide() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let terminal = Terminal::open(
        &world,
        &project,
        "keyhatch run -- sh -c \"git push -q origin main; echo code \\$?; sleep 600\"",
    );
    terminal.shows("a  approve once");
    terminal.resize(39, 24);
    let id = world.pending_id();
    terminal.shows(&format!("keyhatch show {id}"));
    terminal.resize(100, 9);
    terminal.shows("less than 40x10");
    for key in ["a", "s", "d"] {
        std::thread::sleep(std::time::Duration::from_millis(1000));
        terminal.keys(&[key]);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(world.pending()["operation"], "push", "still undecided");
    terminal.resize(40, 10);
    terminal.decides("a", "code 0");
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
