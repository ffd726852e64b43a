//! The helper that is mounted into containers: one file that needs nothing of an image, and what it says where it is alone.

use std::os::unix::fs::MetadataExt;

use keyhatch_tests::{Container, Finished, Image, World};

/// What the helper may weigh.
const MAX_SIZE: u64 = 2 * 1024 * 1024;
/// A program header that names an interpreter, elf(5).
const PT_INTERP: u32 = 3;

/// The types of an ELF file's program headers.
fn program_headers(elf: &[u8]) -> Vec<u32> {
    let number = |at: usize, width: usize| {
        elf[at..at + width].iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (first, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).map(|n| u32::try_from(number(first + n * size, 4)).expect("four bytes")).collect()
}

#[test]
fn it_is_small_and_names_no_interpreter_and_so_is_the_runner() {
    let world = World::new();
    let helper = world.static_helper();
    for program in [&helper, &helper.with_file_name("keyhatch-run-static")] {
        let size = std::fs::metadata(program).expect("it is there").size();
        assert!(size < MAX_SIZE, "{size} bytes");
        let headers = program_headers(&std::fs::read(program).expect("it can be read"));
        assert!(headers.len() > 2 && !headers.contains(&PT_INTERP), "{headers:?}");
    }
    let ordinary = std::fs::read("/bin/true").expect("it can be read");
    assert!(program_headers(&ordinary).contains(&PT_INTERP), "what is looked for is found where it is");
}

#[test]
fn it_starts_in_an_empty_read_only_root_as_anybody_and_says_what_is_not_there() {
    let world = World::new();
    let helper = world.static_helper();
    for uid in ["0", "1000", "65534"] {
        let run = |words: &[&str]| -> Finished {
            let mut bwrap = world.command("bwrap");
            bwrap.args(["--unshare-all", "--uid", uid, "--ro-bind"]).arg(&helper).args([
                "/helper",
                "--remount-ro",
                "/",
            ]);
            bwrap.arg("/helper").args(words).output().expect("bwrap runs").into()
        };
        assert!(run(&["--version"]).ok().stdout.starts_with("keyhatch-helper "));
        let status = run(&["status"]).fails();
        assert!(status.stderr.contains("/run/keyhatch/broker.sock: it is not there"), "{status:?}");
        let ssh = run(&["ssh", "keyhatch", "git-upload-pack '/https/h.example/a.git'"]);
        assert_eq!(ssh.code(), 128, "{ssh:?}");
        let push = run(&["ssh", "keyhatch", "git-receive-pack '/https/h.example/a.git'"]);
        assert!(push.code() == 255 && push.stderr.contains("hint: "), "{push:?}");
    }
}

#[test]
fn the_runner_confines_on_the_host_too() {
    let world = World::new();
    let runner = world.static_helper().with_file_name("keyhatch-run-static");
    std::fs::rename(runner, world.path("bin/keyhatch-run")).expect("it takes the other's place");
    let project = world.project("p", "https://h.example/p.git");
    let ran = world.run(&project, "default", "git log --format=%s -1; echo y >/usr/x; ls /boot; exit 7");
    assert_eq!(ran.code(), 7, "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 1, "git finds its commit, and /boot lists nothing: {ran:?}");
    assert!(ran.stderr.contains("/usr/x: Read-only") && ran.stderr.contains("/boot"), "{ran:?}");
}

#[test]
fn it_starts_in_a_container_that_has_nothing_else() {
    let world = World::new();
    let helper = world.static_helper();
    let container = Container::new(Image::Scratch, &[(helper, "/tmp/helper".into(), true)], &[]);
    let ran = container.start_runc(&world, &["/tmp/helper", "--version"]).finish().ok();
    assert!(ran.stdout.starts_with("keyhatch-helper "), "{ran:?}");
}
