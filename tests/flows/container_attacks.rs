//! What a container that keyhatch did not make tries: other sessions, the control socket, approvals that are not its own,
//! the host's disk; and what containers of other uids leave behind.

use std::path::PathBuf;

use keyhatch_tests::{Container, ContainerSession, Docker, Finished, Image, SshServer, World};

struct Stage {
    world: World,
    _server: SshServer,
    upstream: PathBuf,
    project: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let (world, _server, upstream, project) = World::behind_ssh();
        // A container's other uids must get into it; whom the user lets in is the user's business.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&project, open).expect("a mode");
        Self { world, _server, upstream, project }
    }

    fn session(&self, policy: &str) -> (ContainerSession, Container) {
        let session = ContainerSession::open_with(&self.world, &self.project, policy, &["--target", "/work"]);
        let work = (self.project.clone(), "/work".to_owned(), false);
        let mounts = [&[work], &session.mounts[..]].concat();
        let container = Container::new(Image::Bookworm, &mounts, &session.env);
        (session, container)
    }
}

#[test]
fn no_other_user_of_the_machine_reaches_a_session_and_no_container_another_one_or_the_control_socket() {
    let stage = Stage::new();
    let world = &stage.world;
    let (first, _) = stage.session("default");
    let (second, container) = stage.session("default");
    let helper = world.path("bin/keyhatch-helper");
    let status = |around: &[&str]| -> Finished {
        let mut command = world.command(around[0]);
        command.env("KEYHATCH_SOCKETS", &first.sockets).args(&around[1..]).arg(&helper).arg("status");
        command.output().expect("it runs").into()
    };
    status(&["env"]).ok();
    // Another uid of this machine: the sockets are open to everybody, the directories above them to nobody.
    let passable = |path: &str, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(world.path(path), mode).expect("a mode can be set");
    };
    for path in ["", "bin", "run"] {
        passable(path, 0o711);
    }
    let other = ["unshare", "-U", "--map-auto", "--setuid", "5", "--setgid", "5", "--"];
    let refused = status(&other).fails();
    assert!(refused.stderr.contains("no keyhatch session can be reached"), "{refused:?}");
    // That is what keeps them out, and each of the two would.
    for (open, shut) in [("run/keyhatch", "run/keyhatch/sessions"), ("run/keyhatch/sessions", "run/keyhatch")]
    {
        passable(open, 0o711);
        status(&other).fails();
        passable(shut, 0o711);
        status(&other).ok();
        passable(open, 0o700);
        passable(shut, 0o700);
    }
    let script = "cat /proc/self/mountinfo | grep -c run/keyhatch/sessions; find / -xdev -name '*.sock' -o -name 'control.*' 2>/dev/null; \
                  ls /run/keyhatch/..; touch /run/keyhatch/x; rm /run/keyhatch/http.sock; ln -s /work /run/keyhatch/y; id -u";
    let ran = container.runc(world, script);
    for secret in [first.id.as_str(), "control.", "\n/x"] {
        assert!(!ran.stdout.contains(secret), "{secret}: {ran:?}");
    }
    assert_eq!(ran.stderr.matches("Read-only file system").count(), 3, "{ran:?}");
    assert!(ran.stdout.ends_with("0\n"), "{ran:?}");
    assert!(second.sockets.join("http.sock").exists());
}

#[test]
fn an_approval_of_one_session_lets_no_push_of_another_through() {
    let stage = Stage::new();
    let world = &stage.world;
    let (first, one) = stage.session("default");
    let (second, two) = stage.session("default");
    let push = |container: &Container| {
        container.start_runc(world, &["sh", "-c", "cd /work; timeout -s KILL 4 git push origin main"])
    };
    let gone = push(&one);
    let request = world.pending();
    assert_eq!(request["session"], first.id.as_str());
    gone.finish().fails();
    world.wait_until("the push is withdrawn", || world.pending()["withdrawn"] == true);
    world.approve_next();
    let same = push(&two);
    let other = world.pending();
    assert_eq!(
        (other["session"].as_str(), &other["updates"]),
        (Some(second.id.as_str()), &request["updates"])
    );
    assert_ne!(other["digest"], request["digest"]);
    same.finish().fails();
    assert_eq!(world.tip(&stage.upstream, "main"), "");
    // The first one's own retry is what was approved.
    one.runc(world, "cd /work; git push origin main").ok();
    assert_eq!(world.tip(&stage.upstream, "main"), world.tip(&stage.project, "main"));
}

#[test]
fn pushes_that_wait_take_only_so_much_of_the_hosts_disk() {
    let stage = Stage::new();
    let world = &stage.world;
    let pack = ("name        = \"default\"", "name = \"small\"");
    let small = include_str!("../../policies/default.toml").replace(pack.0, pack.1);
    world.policy("small", &small.replace("[limits]\n", "[limits]\npack = \"1MiB\"\n"));
    let (session, container) = stage.session("small");
    let script = "cd /work; for n in 1 2 3 4 5 6; do git checkout -q -b b$n main; head -c 900000 /dev/urandom > f; git add f; \
                  git commit -q -m $n; (git push -q origin b$n 2> /tmp/$n; touch /tmp/done-$n) & done; \
                  while [ $(ls /tmp/done-* 2>/dev/null | wc -l) -lt 2 ]; do sleep 0.1; done; cat /tmp/[1-6]; touch full; wait";
    let run = container.start_runc(world, &["sh", "-c", script]);
    world.wait_until("the room is full", || stage.project.join("full").exists());
    let waiting = || -> Vec<serde_json::Value> {
        let listed = world.keyhatch(&["pending", "--json"]).ok();
        serde_json::from_str(&listed.stdout).expect("a list")
    };
    world.wait_until("those that had room ask", || waiting().len() == 4);
    for request in waiting() {
        world.keyhatch(&["deny", request["id"].as_str().expect("an id")]).ok();
    }
    let ran = run.finish();
    let said = "this session's pushes that wait take 4194304 bytes already";
    assert_eq!(ran.stdout.matches(said).count(), 2, "{ran:?}");
    // What was decided has given its room back.
    let script = "cd /work; git checkout -q -b huge; head -c 3000000 /dev/urandom > f; git commit -qam huge; \
                  git push -q origin b1:refs/heads/later";
    let again = container.start_runc(world, &["sh", "-c", script]);
    world.approve_next();
    again.finish().ok();
    assert!(!world.tip(&stage.upstream, "later").is_empty());
    // What is larger than the policy lets a session bring stays inside, and ends the session no less.
    let closed = world.keyhatch(&["session", "close", &session.id]).ok();
    assert!(closed.stdout.contains("not taken"), "{closed:?}");
}

/// A policy whose sessions may grow by so much.
fn growing(world: &World, growth: &str) {
    let named = include_str!("../../policies/default.toml")
        .replace("name        = \"default\"", "name = \"growing\"");
    world.policy("growing", &named.replace("[limits]\n", &format!("[limits]\ngrowth = \"{growth}\"\n")));
}

/// Waits for the report of a session that the broker ended by itself.
fn said_at_the_end(world: &World, session: &str, line: &str) {
    let shown = || world.keyhatch(&["session", "show", session]).stdout;
    world.wait_until("the report is written", || shown().contains("(ended)"));
    assert!(shown().contains(line), "{}", shown());
}

#[test]
fn a_container_that_fills_the_sessions_git_directory_loses_it_and_the_host_has_its_room_back() {
    let stage = Stage::new();
    let world = &stage.world;
    growing(world, "16MiB");
    let (session, container) = stage.session("growing");
    let script = "cd /work; git commit -q --allow-empty -m kept; head -c 64M /dev/zero > .git/fill; echo $?; \
                  while ! test -e closed; do sleep 0.1; done; echo x > .git/more || echo gone; ls -A /run/keyhatch";
    let run = container.start_runc(world, &["sh", "-c", script]);
    world.wait_until("the session is closed", || {
        world.keyhatch(&["session", "list", "--json"]).ok().stdout.trim() == "[]"
    });
    let own = world.home().join(".local/state/keyhatch/gitdirs").join(&session.id);
    world.wait_until("its directory is gone", || !own.exists());
    world.write("p/closed", "");
    let ran = run.finish().ok();
    // The sockets are gone too, with everything that was mounted of the session's.
    assert!(ran.stdout.ends_with("gone\n"), "{ran:?}");
    said_at_the_end(world, &session.id, "limits: killed: growth 16 MiB");
    assert_eq!(world.git(&stage.project, &["log", "-1", "--format=%s"]).ok().stdout, "kept\n");
}

#[test]
fn what_is_brought_to_the_host_and_thrown_away_inside_counts_all_the_same() {
    let stage = Stage::new();
    let world = &stage.world;
    growing(world, "5MiB");
    let (session, container) = stage.session("growing");
    let script = "cd /work; for n in 1 2 3; do git checkout -q -b b$n; head -c 2M /dev/urandom > f; git add f; git commit -q -m $n; \
                  while ! test -e seen-$n; do sleep 0.1; done; git checkout -q main; git branch -q -D b$n; \
                  git reflog expire --expire=now --all; git gc -q --prune=now; done";
    let run = container.start_runc(world, &["sh", "-c", script]);
    for n in 1..=3 {
        let subject = || world.git(&stage.project, &["log", "-1", "--format=%s", &format!("b{n}")]).stdout;
        world.wait_until("the branch comes", || subject().trim() == n.to_string());
        world.write(&format!("p/seen-{n}"), "");
    }
    world.wait_until("the session is closed", || {
        world.keyhatch(&["session", "list", "--json"]).ok().stdout.trim() == "[]"
    });
    drop(run.finish());
    said_at_the_end(world, &session.id, "limits: killed: growth 5 MiB");
}

#[test]
fn commits_of_a_containers_own_uids_come_back_and_nothing_of_theirs_is_left() {
    let stage = Stage::new();
    let world = &stage.world;
    for (name, remapped, uid) in [("root", false, None), ("mapped", true, None), ("user", false, Some(4242))]
    {
        let (session, mut container) = stage.session("default");
        container.uid = uid;
        let docker = Docker::start(world, remapped);
        docker.import(Image::Bookworm);
        let script = format!(
            "umask 077; cd /work; git checkout -q -b {name} && git commit -q --allow-empty -m {name} && git log --oneline; \
             mkdir -p .git/left/behind; echo x > .git/left/behind/x; id -u"
        );
        docker.run(&container, &["--cap-drop", "ALL"], &script).ok();
        let subject = || world.git(&stage.project, &["log", "-1", "--format=%s", name]).stdout;
        world.wait_until("the commit comes back", || subject().trim() == name);
        world.keyhatch(&["session", "close", &session.id, "--container-ended"]).ok();
        let left = world.home().join(".local/state/keyhatch/gitdirs").join(&session.id);
        world.wait_until("its git directory is removed", || !left.exists());
        world.git(&stage.project, &["checkout", "-q", "main"]).ok();
    }
}
