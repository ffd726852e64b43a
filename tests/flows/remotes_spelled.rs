//! One remote has many spellings and one server many accounts: a rule holds for all of the first, a session has one of the
//! second.

use std::path::Path;

use keyhatch_tests::{HttpsServer, SshServer, SshVersion, World, raw};

/// A policy that allows everything on a server but one repository.
fn all_but_infra(world: &World, allowed: &str, denied: &str) {
    world.policy(
        "but-infra",
        &format!(
            "name = \"but-infra\"\ndescription = \"a test\"\n\
             [[fetch]]\nname = \"all\"\nremote = {allowed}\ndecision = \"allow\"\nreason = \"a test\"\n\
             [[fetch]]\nname = \"not infra\"\nremote = {denied}\ndecision = \"deny\"\nreason = \"a test\"\n\
             [[push]]\nname = \"all\"\nremote = {allowed}\nupdates = [\"create\", \"fast-forward\"]\n\
             decision = \"allow\"\nreason = \"a test\"\n\
             [[push]]\nname = \"not infra\"\nremote = {denied}\n\
             updates = [\"create\", \"fast-forward\", \"force\", \"delete\"]\ndecision = \"deny\"\nreason = \"a test\"\n"
        ),
    );
}

/// Pushes to the front end's path of each spelling, and sees what became of it.
fn none_is_pushed_to(world: &World, project: &Path, infra: &Path, paths: &[String]) {
    for path in paths {
        let front_end = format!("http://127.0.0.1:8417/{path}");
        let script = format!("git push '{front_end}' HEAD:refs/heads/x; git ls-remote '{front_end}'");
        let ran = world.run(project, "but-infra", &script).fails();
        assert!(ran.stderr.contains("keyhatch: "), "{path}: {ran:?}");
        assert!(!ran.all().contains("refs/heads/secret"), "{path}: {ran:?}");
        assert_eq!(world.tip(infra, "refs/heads/x"), "", "{path}");
    }
}

#[test]
fn no_spelling_of_a_denied_repository_is_reached_over_https() {
    let world = World::new();
    let server = HttpsServer::start_open(&world);
    server.trust(&world);
    world.make_directory("srv/acme");
    let infra = world.upstream("acme/infra.git", "sha1");
    world.upstream("acme/tools.git", "sha1");
    let project = world.project("p", &server.url("acme/tools.git"));
    world.git(&project, &["push", "--quiet", &server.url("acme/infra.git"), "main:refs/heads/secret"]).ok();
    let port = server.port;
    all_but_infra(
        &world,
        &format!("\"https://127.0.0.1:{port}/**\""),
        &format!("\"https://127.0.0.1:{port}/acme/infra\""),
    );
    world.run(&project, "but-infra", "git push -q origin HEAD:refs/heads/x").ok();
    let spellings = [
        "acme/infra",
        "acme/infra.git",
        "acme//infra.git",
        "acme///infra.git",
        "acme/infra.git/",
        "acme/infra.git//",
        "acme/%69nfra.git",
        "acme%2finfra.git",
        "acme/x/%2e%2e/infra.git",
        "acme/infra.git/.",
        "acme/infra.git;x=1",
        "acme/infra.git/worktrees/x",
        "acme\\infra.git",
        "ACME/Infra.git",
    ];
    let mut paths: Vec<String> =
        spellings.iter().map(|path| format!("https/127.0.0.1:{port}/{path}")).collect();
    let hosts = ["127.1", "0x7f.1", "2130706433", "127.0.0.1.", "bob@127.0.0.1", "[::ffff:127.0.0.1]"];
    paths.extend(hosts.iter().map(|host| format!("https/{host}:{port}/acme/infra.git")));
    none_is_pushed_to(&world, &project, &infra, &paths);
}

#[test]
fn no_spelling_of_a_denied_repository_is_reached_over_ssh() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    world.make_directory("srv/acme");
    let (infra, tools) = (world.upstream("acme/infra.git", "sha1"), world.upstream("acme/tools.git", "sha1"));
    let project = world.project("p", &server.url(&tools));
    world.git(&project, &["push", "--quiet", &server.url(&infra), "main:refs/heads/secret"]).ok();
    let base = server.url(Path::new(""));
    all_but_infra(
        &world,
        &format!("[\"{base}/**\", \"work:/**\"]"),
        &format!("[\"{base}{path}\", \"work:{path}\"]", path = infra.display()),
    );
    world.run(&project, "but-infra", "git push -q origin HEAD:refs/heads/x").ok();
    let authority = base.strip_prefix("ssh://").expect("an ssh URL");
    let whole = infra.display().to_string();
    let path = whole.trim_start_matches('/');
    let inner = path.replace("/acme/", "//acme/");
    let mut paths = vec![
        format!("ssh/{authority}/{path}"),
        format!("ssh/{authority}/{inner}"),
        format!("ssh/{authority}/{}", path.replace("/acme/", "/./acme/")),
        format!("ssh/{authority}/{}", path.replace("/acme/", "/acme/../acme/")),
        format!("ssh/{authority}/{}", path.trim_end_matches(".git")),
        format!("ssh/{authority}/{path}/"),
        format!("ssh/{authority}/~/../../../../../{path}"),
    ];
    paths.extend([format!("scp/work/{whole}"), format!("scp/work//{inner}"), format!("scp/work/{whole}/")]);
    none_is_pushed_to(&world, &project, &infra, &paths);
}

#[test]
fn a_denied_remote_gets_no_advertisement_though_another_rule_allows_it() {
    let (world, _server, upstream, project) = World::behind_ssh();
    world.git(&project, &["push", "--quiet", "origin", "main"]).ok();
    let tip = world.tip(&upstream, "main");
    let origin = world.git(&project, &["remote", "get-url", "origin"]).ok().stdout;
    let origin = origin.trim();
    all_but_infra(&world, "\"{remotes}\"", &format!("\"{origin}\""));
    let run = world.start(&project, "but-infra", "tail -f /dev/null");
    world.wait_until("a session", || {
        let sessions = world.path("run/keyhatch/sessions").read_dir().into_iter().flatten();
        sessions.filter_map(Result::ok).any(|session| session.path().join("http.sock").exists())
    });
    let path = format!("ssh/{}", origin.strip_prefix("ssh://").expect("an ssh URL"));
    let answer = raw::exchange(&raw::http_socket(&world), &raw::get(&path, "git-receive-pack"));
    assert!(answer.contains("403") && answer.contains("denied by policy (not infra)"), "{answer}");
    assert!(!answer.contains(&tip), "{answer}");
    drop(run);
}

#[test]
fn each_project_logs_in_as_the_user_of_its_url_and_forgets_nobody_elses_login() {
    for helper in ["store", "cache"] {
        let world = World::new();
        let server = HttpsServer::start(&world);
        server.trust(&world);
        server.add_user(&world, "bob", "canary-b0b0-token-of-bob");
        let upstream = world.upstream("r.git", "sha1");
        world.git(&upstream, &["config", "core.logAllRefUpdates", "always"]).ok();
        world.git(&world.home(), &["config", "--global", "credential.helper", helper]).ok();
        let at = format!("127.0.0.1:{}", server.port);
        let approve = |user: &str, password: &str| {
            let mut git = world.command("git");
            git.args(["credential", "approve"]);
            let login = format!("protocol=https\nhost={at}\nusername={user}\npassword={password}\n\n");
            world.with_input(git, login.as_bytes()).ok();
        };
        let known = |user: &str| {
            let mut git = world.command("git");
            git.args(["credential", "fill"]).env("GIT_TERMINAL_PROMPT", "0");
            let asked = format!("protocol=https\nhost={at}\nusername={user}\n\n");
            world.with_input(git, asked.as_bytes()).stdout.contains("password=canary")
        };
        approve(HttpsServer::USER, HttpsServer::PASSWORD);
        approve("bob", "canary-b0b0-token-of-bob");
        world.allow_policy();
        for user in ["bob", HttpsServer::USER] {
            let project = world.project(user, &format!("https://{user}@{at}/r.git"));
            let script = format!("git remote get-url origin && git push -q origin HEAD:refs/heads/{user}");
            let ran = world.run(&project, "allow", &script).ok();
            assert!(!ran.all().contains("canary"), "{ran:?}");
            let log = std::fs::read_to_string(upstream.join(format!("logs/refs/heads/{user}")));
            let log = log.expect("the server keeps a log");
            assert!(log.contains(&format!(" {user} <")), "{helper}: {log}");
        }
        let stranger = world.project("stranger", &format!("https://carol@{at}/r.git"));
        let ran = world.run(&stranger, "allow", "git push origin HEAD:refs/heads/carol").fails();
        assert!(ran.stderr.contains("no credential is known for carol@127.0.0.1"), "{ran:?}");
        // A login that the server takes no longer: bob's is forgotten, alice's is not.
        server.add_user(&world, "bob", "another-one");
        world.keyhatch(&["broker", "--stop"]).ok();
        world.run(&world.path("bob"), "allow", "git push origin HEAD:refs/heads/again").fails();
        assert!(!known("bob") && known(HttpsServer::USER), "{helper}");
        assert_eq!(world.tip(&upstream, "carol"), "");
    }
}

#[test]
fn a_token_of_the_projects_own_that_is_refused_is_not_replaced_by_the_users_login() {
    let world = World::new();
    let server = HttpsServer::start(&world);
    server.trust(&world);
    server.log_in(&world);
    world.upstream("r.git", "sha1");
    let stored = std::fs::read_to_string(world.home().join(".git-credentials")).expect("the store");
    let url = format!("https://{}:wrong@127.0.0.1:{}/r.git", HttpsServer::USER, server.port);
    let project = world.project("p", &url);
    world.allow_policy();
    let ran = world.run(&project, "allow", "git ls-remote origin; git push origin HEAD:refs/heads/x").fails();
    assert!(ran.stderr.contains("refused the credential") && !ran.all().contains("wrong"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(world.home().join(".git-credentials")).expect("the store"), stored);
}

#[test]
fn an_ssh_login_is_shared_by_alias_and_session_never_by_the_host_that_they_stand_for() {
    let world = World::new();
    let server = SshServer::start(&world, SshVersion::V2);
    server.add_alias_without_access(&world, "personal");
    let upstream = world.upstream("r.git", "sha1");
    let work = world.project("work", &server.alias_url(&upstream));
    let personal = world.project("personal", &format!("personal:{}", upstream.display()));
    world.allow_policy();
    // The user's own shared connection, which lives on.
    let mut own = world.command(world.path("bin/ssh"));
    own.args(["work", "true"]);
    world.spawn(own).finish().ok();
    for _ in 0..2 {
        let pushed =
            "git ls-remote origin && git push -q origin HEAD:refs/heads/work && git ls-remote origin";
        world.run(&work, "allow", pushed).ok();
        let ran = world.run(&personal, "allow", "git ls-remote origin").fails();
        assert!(ran.stderr.contains("personal refused the credential"), "{ran:?}");
        assert!(!ran.stdout.contains("refs/heads/work"), "{ran:?}");
    }
}

#[test]
fn where_a_redirect_leads_is_said_without_its_ticket() {
    for target in [
        "https://sso.example/login?ticket=canary-ONETIME&next=",
        "https://u:canary-ONETIME@sso.example/login",
        "https://sso.example/login%23canary?x=canary-ONETIME",
    ] {
        let world = World::new();
        let server = HttpsServer::start_redirecting(&world, target);
        server.trust(&world);
        let project = world.project("p", &server.url("r.git"));
        let ran = world.run(&project, "default", "git ls-remote origin").fails();
        assert!(ran.stderr.contains("redirects to https://sso.example/login"), "{ran:?}");
        assert!(!ran.all().contains("ONETIME"), "{ran:?}");
    }
}

#[test]
fn a_pattern_that_leaves_a_part_of_the_authority_open_is_refused_where_it_stands() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    for remote in [
        "https://git.example.org*/x/**",
        "https://*.example.org/**",
        "https://git.example.org:*/x",
        "https://*@git.example.org/x",
        "ssh://git@*/x",
        "git@h*:x",
        "https://h/a//b",
        "https://h/mаin",
    ] {
        world.policy(
            "open",
            &format!(
                "name = \"open\"\ndescription = \"a test\"\n[[fetch]]\nname = \"all\"\nremote = \"{remote}\"\n\
                 decision = \"allow\"\nreason = \"a test\"\n"
            ),
        );
        let ran = world.run(&project, "open", "true").fails();
        assert!(ran.stderr.contains("open.toml:5:10") && ran.stderr.contains("^^^"), "{remote}: {ran:?}");
    }
}
