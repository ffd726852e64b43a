//! What git does straight to a server, it does through the broker: command by command, over each transport, with each
//! git and each object format.

use std::path::Path;

use keyhatch_tests::{HttpsServer, Script, SshServer, SshVersion, World, refs, twins};

/// Dates are fixed, so that both sides make the same objects.
const COMMANDS: &[&str] = &[
    "$GIT push -q origin main",
    "$GIT push --porcelain origin main",
    "echo 1 > f; $GIT add f; $GIT commit -qm 1; $GIT push --porcelain origin main",
    "$GIT tag light; $GIT tag -a -m note noted; $GIT push --porcelain origin --tags",
    "$GIT branch a; $GIT branch b; $GIT push --porcelain origin a b",
    "echo 2 > f; $GIT commit -qam 2; $GIT push --porcelain -o ci.skip origin main",
    "$GIT push --porcelain origin :a",
    "$GIT reset -q --hard HEAD~1; echo 3 > f; $GIT commit -qam 3; $GIT push --porcelain origin main",
    "$GIT push --porcelain --force-with-lease=main:0123456789012345678901234567890123456789 origin main",
    "$GIT push --porcelain --force origin main",
    "echo 4 > f; $GIT commit -qam 4; $GIT push --porcelain --force-with-lease origin main",
    "$GIT push --porcelain --atomic origin main:c main:b HEAD~1:refs/heads/main",
    "$GIT push --porcelain --atomic origin main:c main:d",
    "$GIT push --porcelain origin HEAD:refs/notes/x HEAD^{tree}:refs/tags/tree",
    "$GIT push --porcelain --mirror --dry-run origin",
    "$GIT ls-remote --heads --tags origin",
    "$GIT ls-remote --exit-code origin refs/heads/absent",
    "$GIT fetch --prune origin && $GIT for-each-ref refs/remotes",
    "$GIT clone -q $($GIT remote get-url origin) sub/all && $GIT -C sub/all log --oneline --all",
    "$GIT clone -q --depth 1 --branch main $($GIT remote get-url origin) sub/shallow && $GIT -C sub/shallow rev-list --count HEAD",
    "cd sub/shallow && echo 5 > g && $GIT add g && $GIT commit -qm 5 && $GIT push --porcelain origin HEAD:main",
    "cd sub/shallow && $GIT fetch -q --unshallow && $GIT rev-list --count HEAD",
    "$GIT clone -q --filter=blob:none $($GIT remote get-url origin) sub/partial && cat sub/partial/f",
    "$GIT clone -q $($GIT remote get-url origin)-absent sub/absent",
    "$GIT pull -q --rebase origin main; $GIT log --oneline | head -3",
    "$GIT push --porcelain origin main main:refs/heads/main",
    "$GIT push --porcelain origin absent",
    "for i in 1 2 3; do echo $i > n$i; $GIT add n$i; $GIT commit -qm n$i; done; $GIT push --porcelain origin main HEAD~1:b",
    "$GIT push --porcelain --delete origin b c light",
    "$GIT fsck --no-progress 2>&1 | grep -v dangling; true",
];

fn same(world: &World, format: &str, git: &str, url: impl Fn(&Path) -> String) {
    let [(direct, direct_upstream), (brokered, brokered_upstream)] = twins(world, format, &url);
    world.allow_policy();
    let script = Script { git, lines: COMMANDS };
    // Both sides commit at the same second: the same objects on both.
    let shell = format!(
        "export GIT_AUTHOR_DATE=1700000000+0000 GIT_COMMITTER_DATE=1700000000+0000\nmkdir -p sub\n{}",
        script.shell()
    );
    let hidden = |project: &str, upstream: &Path| {
        let front = format!("http://127.0.0.1:8417/{}", url(upstream).replacen("://", "/", 1));
        vec![front, url(upstream), format!("{project}.git"), project.to_owned()]
    };
    let mut straight = world.command("sh");
    straight.current_dir(&direct).args(["-c", &shell]);
    let straight = world.spawn(straight).finish().ok();
    let through = world.run(&brokered, "allow", &shell).ok();
    let straight = script.read(&straight.stdout, &hidden("direct", &direct_upstream));
    let through = script.read(&through.stdout, &hidden("brokered", &brokered_upstream));
    assert_eq!(straight.len(), COMMANDS.len());
    for (straight, through) in straight.iter().zip(&through) {
        // A server that is not found says so in its own words, over ssh on standard error: only the code counts.
        if straight.code != "0" && straight.command.contains("absent") {
            assert_eq!(straight.code, through.code, "{straight:#?}\n{through:#?}");
        } else {
            assert_eq!(straight, through, "\n{}", world.broker_log());
        }
    }
    assert_eq!(straight.len(), through.len());
    assert_eq!(refs(world, &direct_upstream), refs(world, &brokered_upstream));
    assert!(refs(world, &direct_upstream).len() > 3);
    world.keyhatch(&["audit", "verify"]).ok();
}

#[test]
fn over_ssh_with_protocol_v2() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    same(&world, "sha1", "git", |upstream| server.url(upstream));
}

#[test]
fn over_an_ssh_alias_with_sha256() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    same(&world, "sha256", "git", |upstream| server.alias_url(upstream));
}

#[test]
fn over_a_plain_sshd_that_speaks_only_protocol_v0() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V0);
    same(&world, "sha1", "git", |upstream| server.url(upstream));
}

#[test]
fn over_https_with_a_login() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    same(&world, "sha1", "git", |upstream| server.url(&name(upstream)));
}

#[test]
fn over_https_with_the_distributions_git_and_sha256() {
    let world = World::new();
    let server = HttpsServer::start_open(&world);
    server.trust(&world);
    same(&world, "sha256", "/usr/bin/git", |upstream| server.url(&name(upstream)));
}

fn name(upstream: &Path) -> String {
    upstream.file_name().expect("a name").to_string_lossy().into_owned()
}
