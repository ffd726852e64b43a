//! What a command's output can do to the terminal of the user who watches it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use keyhatch_tests::World;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Text, a colour, the clipboard, a notification, a title report, a request to the terminal behind, a link to a program.
const HOSTILE: &str = r"printf 'one \033[31mred\033[0m \033]52;c;ZXZpbA==\007two \033]9;boo\007three \033[21tfour \033P$qm\033\\five \033]8;;vscode://x\033\\six\n'; echo err >&2";

const SCREEN: &str = "name = \"loud\"\ndescription = \"As the default, with all of the terminal.\"\n[sandbox]\nterminal = \"everything\"\n";

#[test]
fn output_changes_the_screen_and_reaches_nothing_behind_it() {
    let world = World::new();
    let project = world.make_directory("plain");
    let shown = on_a_terminal(&world, &project, "default");
    assert!(shown.contains("\x1b[31mred"), "colours pass: {shown:?}");
    for word in ["one", "two", "three", "four", "five", "six", "err"] {
        assert!(shown.contains(word), "text passes: {word} {shown:?}");
    }
    for (name, bytes) in [
        ("the clipboard", "\x1b]52"),
        ("a notification", "\x1b]9;"),
        ("a title report", "\x1b[21t"),
        ("a request", "\x1bP"),
        ("a link to a program", "vscode:"),
    ] {
        assert!(!shown.contains(bytes), "{name} passed: {shown:?}");
    }
    assert!(shown.contains("keyhatch: tier A: namespaces, Landlock ABI"), "the tier is said: {shown:?}");
}

#[test]
fn a_policy_may_open_all_of_the_terminal() {
    let world = World::new();
    world.policy("loud", SCREEN);
    let project = world.make_directory("plain");
    let shown = on_a_terminal(&world, &project, "loud");
    for bytes in ["\x1b]52;c;ZXZpbA==\x07", "\x1b]9;boo\x07", "\x1b[21t", "\x1bP$qm\x1b\\"] {
        assert!(shown.contains(bytes), "{bytes:?} is missing: {shown:?}");
    }
    let said = world.keyhatch(&["policy", "show", "loud"]).ok();
    assert!(said.stdout.contains("all of your terminal"), "{said:?}");
}

/// Runs the hostile command with a terminal as input, output and error, and returns what the terminal got.
fn on_a_terminal(world: &World, project: &std::path::Path, policy: &str) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("it can be given");
    unlockpt(&master).expect("it can be unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let slave = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .expect("its other end");
    let stdio = |end: &OwnedFd| Stdio::from(end.try_clone().expect("a descriptor"));
    let mut command = world.command(world.path("bin/keyhatch"));
    command.current_dir(project).args(["run", "--policy", policy, "--", "sh", "-c", HOSTILE]);
    command.stdin(stdio(&slave)).stdout(stdio(&slave)).stderr(stdio(&slave));
    let mut child = command.spawn().expect("keyhatch runs");
    // The command's copies would keep the terminal open.
    drop((command, slave));
    let reader = std::thread::spawn(move || {
        let (mut shown, mut file) = (Vec::new(), File::from(master));
        let mut buffer = [0; 4096];
        // The last close of the other end is EIO here.
        while let Ok(read @ 1..) = file.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    assert!(child.wait().expect("it ends").success());
    reader.join().expect("it reads")
}
