//! Which repositories a session reaches, with which credential, and what of the user's git is there inside.

use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World};

#[test]
fn an_initialised_submodule_is_fetched_freely_and_pushed_only_as_the_policy_says() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let (outer, inner) = (world.upstream("outer.git", "sha1"), world.upstream("inner.git", "sha1"));
    let seed = world.project("seed", &server.url(&inner));
    world.git(&seed, &["push", "--quiet", "origin", "main"]).ok();
    let project = world.project("p", &server.url(&outer));
    world.git(&project, &["submodule", "--quiet", "add", &server.url(&inner), "lib"]).ok();
    world.git(&project, &["commit", "--quiet", "-m", "Add a submodule"]).ok();
    world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
    let script = "git submodule update --init && git -C lib fetch origin && git -C lib log --oneline && \
                  git clone -q --recurse-submodules $(git remote get-url origin) /tmp/all && ls /tmp/all/lib; \
                  git -C lib push origin HEAD:refs/heads/x; echo code $?";
    let ran = world.run(&project, "default", script);
    assert!(ran.stdout.contains("Add README") && ran.stdout.contains("README"), "{ran:?}");
    assert!(ran.stdout.contains("code 1") || ran.stdout.contains("code 128"), "{ran:?}");
    assert!(ran.stderr.contains("no rule allows pushing to this remote"), "{ran:?}");
    assert_eq!(world.tip(&inner, "x"), "");
}

#[test]
fn a_neighbouring_repository_is_asked_for_and_fetched_without_the_users_login() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    world.upstream("own.git", "sha1");
    world.upstream("private.git", "sha1");
    let project = world.project("p", &server.url("own.git"));
    let run = world.start(
        &project,
        "default",
        &format!("git ls-remote {}; echo code $?", server.url("private.git")),
    );
    let asked = world.pending();
    assert_eq!(
        (asked["operation"].as_str(), asked["credential"].as_str()),
        (Some("fetch"), Some("none")),
        "{asked}"
    );
    world.approve(asked["id"].as_str().expect("an id"), &[]).ok();
    let ran = run.finish();
    assert!(ran.stdout.contains("code 128"), "the server wants a login, and the session has none: {ran:?}");
    assert!(ran.stderr.contains("no credential is known for 127.0.0.1"), "{ran:?}");

    let open = HttpsServer::start_open(&world);
    open.trust(&world);
    world.keyhatch(&["broker", "--stop"]).ok();
    world.git(&project, &["remote", "set-url", "origin", &open.url("own.git")]).ok();
    let run = world.start(
        &project,
        "default",
        &format!("git ls-remote {} && echo reached", open.url("private.git")),
    );
    world.approve_next();
    assert!(run.finish().ok().stdout.contains("reached"));
    let elsewhere = world.run(&project, "default", "git ls-remote https://elsewhere.example/r.git").fails();
    assert!(
        elsewhere.stderr.contains("Could not resolve") || elsewhere.stderr.contains("not brokered"),
        "{elsewhere:?}"
    );
}

#[test]
fn the_users_identity_and_harmless_preferences_are_inside_and_programs_are_not() {
    let world = World::new();
    let set = |key: &str, value: &str| world.git(&world.home(), &["config", "--global", key, value]).ok();
    set("alias.st", "status --short");
    set("alias.bad", "!touch /tmp/ran");
    set("core.pager", "touch /tmp/paged");
    set("core.hooksPath", "/tmp/hooks");
    set("pull.rebase", "true");
    set("core.excludesFile", &world.write("home/.gitignore-mine", "*.mine\n").to_string_lossy());
    let project = world.project("p", "https://h.example/p.git");
    let script = "git config user.name; git config user.email; git config init.defaultBranch; git config pull.rebase; \
                  touch a.mine b.other; git st; git bad; git config core.pager; git config core.hooksPath; git config credential.helper; ls /tmp";
    let ran = world.run(&project, "default", script);
    for expected in ["Ada Lovelace", "ada@example.org", "main", "true", "?? b.other"] {
        assert!(ran.stdout.contains(expected), "{expected}: {ran:?}");
    }
    assert!(!ran.stdout.contains("a.mine"), "the user's excludes hold: {ran:?}");
    assert!(
        !ran.stdout.contains("ran") && !ran.stdout.contains("paged") && !ran.stdout.contains("/tmp/hooks"),
        "{ran:?}"
    );
}

#[test]
fn push_options_are_shown_and_make_an_approval_good_for_once_only() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let push = world.start(&project, "default", "git push -o merge_request.create -o ci.skip origin main");
    let asked = world.pending();
    assert_eq!(asked["push_options"], serde_json::json!(["merge_request.create", "ci.skip"]));
    let id = asked["id"].as_str().expect("an id");
    let session = world.approve(id, &["--session"]).fails();
    assert!(session.stderr.contains("only be approved once"), "{session:?}");
    world.approve(id, &[]).ok();
    push.finish().ok();
}

/// A proxy that speaks CONNECT and counts: RFC 9110, section 9.3.6.
fn proxy() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = seen.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().filter_map(Result::ok) {
            let counting = counting.clone();
            std::thread::spawn(move || -> Option<()> {
                let mut lines = BufReader::new(client.try_clone().ok()?);
                let mut line = String::new();
                lines.read_line(&mut line).ok()?;
                let target = line.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
                while lines.read_line(&mut line).ok()? > 2 {}
                counting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let server = std::net::TcpStream::connect(target).ok()?;
                (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
                let (mut to_server, mut from_server) = (server.try_clone().ok()?, server);
                std::thread::spawn(move || std::io::copy(&mut lines, &mut to_server));
                std::io::copy(&mut from_server, &mut &client).ok()?;
                None
            });
        }
    });
    (port, seen)
}

#[test]
fn the_users_own_proxy_is_used_and_the_projects_is_not() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    world.allow_policy();
    let (port, seen) = proxy();
    world.git(&world.home(), &["config", "--global", "http.proxy", &format!("http://127.0.0.1:{port}")]).ok();
    // Nothing listens there: whoever obeyed it would fail.
    world.git(&project, &["config", "http.proxy", "http://127.0.0.1:1"]).ok();
    world.run(&project, "allow", "git push -q origin main").ok();
    assert!(seen.load(std::sync::atomic::Ordering::Relaxed) > 0, "the proxy was asked");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}

#[test]
fn a_login_that_worked_is_approved_with_the_helper_that_gave_it() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url("r.git"));
    let told = world.path("told");
    let helper = format!(
        "#!/bin/sh\necho \"$1\" >> {}\ncat > /dev/null\n[ \"$1\" = get ] && printf 'username={}\\npassword={}\\n'\n",
        told.display(),
        HttpsServer::USER,
        HttpsServer::PASSWORD
    );
    let helper = world.write_mode("bin/helper", &helper, 0o755);
    world.git(&world.home(), &["config", "--global", "credential.helper", &helper.to_string_lossy()]).ok();
    world.run(&project, "default", "git ls-remote origin && git ls-remote origin").ok();
    let told = std::fs::read_to_string(told).expect("the helper was called");
    assert_eq!(told, "get\nstore\n", "asked once and told once, for both");
}
