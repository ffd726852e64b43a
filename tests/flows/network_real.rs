//! Real tools against what they are really configured to use, and a real agent against a stand-in for its model.

use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch_tests::World;
use keyhatch_tests::testnet::{TestNet, network_policy};

/// Variables and files that say which registries the person who runs the tests uses: mirrors are theirs, not ours.
const VARIABLES: &[&str] = &[
    "CARGO_HTTP_CAINFO",
    "GOPROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "NPM_CONFIG_REGISTRY",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "https_proxy",
    "no_proxy",
    "npm_config_registry",
];
const FILES: &[&str] = &[".npmrc", ".config/pip/pip.conf", ".pip/pip.conf", ".cargo/config.toml"];

/// Gives the test's user the registries of whoever runs the tests.
fn with_own_registries(world: &World, command: &mut Command) {
    command.envs(VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    let home = std::env::var_os("HOME").map(PathBuf::from).expect("whoever runs the tests has a home");
    for file in FILES {
        let Ok(text) = std::fs::read_to_string(home.join(file)) else { continue };
        if let Some(parent) =
            Path::new(file).parent().and_then(Path::to_str).filter(|parent| !parent.is_empty())
        {
            world.make_directory(&format!("home/{parent}"));
        }
        world.write_mode(&format!("home/{file}"), &text, 0o600);
    }
}

/// The Rust toolchain of this build in the test's user's home, as a toolchain of its own: the build's may be root's alone.
fn toolchain(world: &World) -> PathBuf {
    let found = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc runs");
    let sysroot = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    let copy = world.make_directory("home/.toolchain");
    for part in ["bin", "lib"] {
        std::fs::create_dir_all(copy.join(part)).expect("a directory");
        for entry in std::fs::read_dir(sysroot.join(part)).expect("a toolchain").filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let wanted = part == "lib" || name == "cargo" || name == "rustc";
            if wanted && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                std::fs::copy(entry.path(), copy.join(part).join(&name)).expect("it can be copied");
            }
        }
    }
    // The standard library and the linker, for programs of this machine's kind.
    let own = format!("lib/rustlib/{}-unknown-linux-gnu", std::env::consts::ARCH);
    std::fs::create_dir_all(copy.join("lib/rustlib")).expect("a directory");
    let copied = Command::new("cp").arg("-r").arg(sysroot.join(&own)).arg(copy.join(&own)).status();
    assert!(copied.expect("cp runs").success());
    copy
}

#[test]
fn npm_pip_and_cargo_install_and_build_from_the_users_own_registries_and_reach_nothing_else() {
    for (program, package) in [("/usr/bin/npm", "npm"), ("/usr/bin/pip3", "python3-pip")] {
        assert!(Path::new(program).exists(), "{package} is missing: run ./test.sh, which installs it");
    }
    let world = World::new();
    let sections = "[sandbox]\ntools = [\"~/.toolchain\"]\n\n[network]\nregistries = [\"npm\", \"pip\", \"cargo\", \"go\"]";
    let policy = network_policy("build", sections);
    world.policy("build", &policy);
    let project = world.project("p", "https://h.example/p.git");
    let rust = toolchain(&world);
    world.write("p/Cargo.toml", "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nitoa = \"1\"\n[[bin]]\nname = \"p\"\npath = \"main.rs\"\n");
    world.write("p/main.rs", "fn main() { println!(\"built {}\", itoa::Buffer::new().format(4711)) }\n");
    let script = "npm install --no-audit --no-fund --no-update-notifier is-number@7.0.0 && ls node_modules; \
                  pip3 install --disable-pip-version-check --target py six==1.16.0 && ls py; \
                  cargo build --quiet; echo cargo $?; target/debug/p; ls /tmp /nonexistent 2>/dev/null; \
                  curl -sS https://elsewhere.example.org/";
    let run = || {
        let mut command = world.command(world.path("bin/keyhatch"));
        command.current_dir(&project).args(["run", "--policy", "build", "--", "bash", "-c"]);
        command.arg(format!("export PATH=$PATH:{}/bin; {script}", rust.display()));
        let outside =
            format!("{}:/usr/local/bin:/usr/bin:/bin:{}/bin", world.path("bin").display(), rust.display());
        command.env("PATH", outside);
        with_own_registries(&world, &mut command);
        world.spawn(command).finish()
    };
    let ran = run();
    assert!(ran.stdout.contains("is-number") && ran.stdout.contains("six.py"), "{ran:?}");
    assert!(ran.stdout.contains("cargo 0\nbuilt 4711\n"), "{ran:?}");
    assert!(ran.stderr.contains("elsewhere.example.org:443, once (by curl"), "{ran:?}");
    assert!(ran.stderr.contains("[network] allow = [\"elsewhere.example.org:443\"]"), "{ran:?}");
    // Every host that was reached is one that a tool named.
    let audit = world.audit();
    let reached = audit.iter().filter(|record| record["event"] == "network-allowed");
    let reached: Vec<&str> = reached.filter_map(|record| record["destination"].as_str()).collect();
    assert!(!reached.is_empty(), "{audit:?}");
    let kept = world.home().join(".local/state/keyhatch/registries");
    let told: String = ["npm", "pip", "cargo"]
        .iter()
        .map(|tool| std::fs::read_to_string(kept.join(format!("{tool}.json"))).expect("the answer is kept"))
        .collect();
    for host in reached {
        assert!(told.contains(&format!("\"{host}\"")), "{host}: {told}");
    }
}

/// Makes a module as a proxy serves it (`GOPROXY` protocol): list, information, go.mod and an archive.
const MODULE: &str = "\
import os, zipfile
at = 'files/modules/example.net/hello/@v'
os.makedirs(at)
mod = 'module example.net/hello\\n'
for name, text in [('list', 'v1.0.0\\n'), ('v1.0.0.info', '{\"Version\":\"v1.0.0\"}'), ('v1.0.0.mod', mod)]:
    open(f'{at}/{name}', 'w').write(text)
with zipfile.ZipFile(f'{at}/v1.0.0.zip', 'w') as archive:
    archive.writestr('example.net/hello@v1.0.0/go.mod', mod)
    archive.writestr('example.net/hello@v1.0.0/hello.go', 'package hello\\nconst Word = \"from a module\"\\n')
";

#[test]
fn go_builds_with_a_module_from_the_proxy_that_the_user_configured() {
    const GO: &str = "/usr/lib/go-1.19/bin";
    assert!(Path::new(GO).exists(), "golang-1.19-go is missing: run ./test.sh, which installs it");
    let world = World::new();
    let net = TestNet::new(&world);
    let _modules = net.serve("http", 8080, &[]);
    let mut make = world.command("python3");
    make.current_dir(world.path("net")).args(["-c", MODULE]);
    world.spawn(make).finish().ok();
    world.policy("go", &network_policy("go", "[network]\nregistries = [\"go\"]"));
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/go.mod", "module p\n");
    world.write(
        "p/main.go",
        "package main\nimport \"example.net/hello\"\nfunc main() { println(\"built\", hello.Word) }\n",
    );
    // The user's own setting is in go's file of settings, which no session sees.
    world.make_directory("home/.config/go");
    world.write("home/.config/go/env", "GOPROXY=http://web.example.org:8080/files/modules\nGOSUMDB=off\n");
    let script = format!(
        "export PATH=$PATH:{GO}; go get example.net/hello@v1.0.0 && go build -o p . && ./p; \
         GOPROXY=http://files.example.org:8080/files/modules GOFLAGS=-modcacherw go get example.net/other@v1.0.0; echo other $?"
    );
    let mut command = net.command(&project, world.path("bin/keyhatch"));
    command.args(["run", "--policy", "go", "--", "bash", "-c", &script]);
    command.env("PATH", format!("{GO}:/usr/local/bin:/usr/bin:/bin"));
    let ran = world.spawn(command).finish();
    assert!(ran.stderr.contains("built from a module") && ran.stdout.contains("other 1"), "{ran:?}");
    assert!(ran.stderr.contains("files.example.org:8080, "), "{ran:?}");
    let arrived = net.arrived();
    let from_the_proxy = |line: &String| line.starts_with("http 8080 GET /files/modules/example.net/");
    assert!(!arrived.is_empty() && arrived.iter().all(from_the_proxy), "{arrived:?}");
}

/// The agent, from the registry.
fn agent(world: &World) -> PathBuf {
    // Where the test's user can read it.
    let copy = world.path("agent");
    let mut cp = Command::new("cp");
    let copied = cp
        .args(["-a", "--reflink=auto"])
        .arg(keyhatch_tests::downloaded("claude-code-2.1.197"))
        .arg(&copy)
        .status();
    assert!(copied.expect("cp runs").success());
    copy
}

#[test]
fn a_real_agent_says_its_version_and_that_it_cannot_reach_its_model_and_talks_to_a_model_that_is_allowed() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _model = net.serve_https(8443);
    net.name("model.example.org", keyhatch_tests::testnet::SERVER);
    let project = world.project("p", "https://h.example/p.git");
    let agent = agent(&world);
    std::fs::rename(&agent, project.join(".agent")).expect("it is moved");
    let ca = net.ca_in(&project);
    world.policy("none", &network_policy("none", "network = \"none\""));
    let section = "[network]\nallow = [{ to = \"model.example.org:8443\", reason = \"the model\" }]";
    world.policy("model", &network_policy("model", section));
    let bin = project.join(".agent/bin/claude");
    let script = |ask: &str| {
        format!(
            "export ANTHROPIC_API_KEY=sk-ant-session NODE_EXTRA_CA_CERTS={ca} DISABLE_AUTOUPDATER=1 \
             CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 ANTHROPIC_BASE_URL=https://model.example.org:8443; \
             {bin} --version; {ask}",
            ca = ca.display(),
            bin = bin.display()
        )
    };
    let ask = format!("timeout 60 {} -p 'say hello' < /dev/null 2>&1; echo agent $?", bin.display());
    // With its own preset it starts, on this very machine.
    let started = world.run(&project, "claude-code", &format!("{} --version", bin.display())).ok();
    assert!(started.stdout.contains("2.1.197"), "{started:?}");
    // The next broker runs on the test network's machine.
    world.keyhatch(&["broker", "--stop"]).ok();
    let once = script(&format!("export CLAUDE_CODE_MAX_RETRIES=0; {ask}"));
    let without = net.run(&project, "none", &once);
    assert!(
        without.stdout.contains("2.1.197") && without.stdout.contains("Unable to connect"),
        "{without:?}"
    );
    assert!(!without.stdout.contains("agent 0"), "{without:?}");
    let cause = without.stderr.lines().find(|line| line.contains("model.example.org:8443, "));
    assert!(
        cause.is_some_and(|line| line.contains("opens no network") && line.contains("claude -p")),
        "{without:?}"
    );
    // With a list that lacks its model, the agent itself prints the reason and the line.
    world.policy("other", &network_policy("other", "[network]\nallow = [\"web.example.org:8443\"]"));
    let unlisted = net.run(&project, "other", &once);
    let line = "[network] allow = [\"web.example.org:8443\", \"model.example.org:8443\"]";
    assert!(unlisted.stdout.contains("model.example.org:8443: it is not in the policy's"), "{unlisted:?}");
    assert!(unlisted.stdout.contains(line), "{unlisted:?}");
    let with = net.run(&project, "model", &script(&ask));
    assert!(with.stdout.contains("hello from the stand-in model"), "{with:?}\n{:?}", net.arrived());
    assert!(net.arrived().iter().any(|line| line.contains("POST /v1/messages")), "{:?}", net.arrived());
}

#[test]
fn a_streaming_answer_arrives_in_pieces_through_a_tunnel() {
    let world = World::new();
    let net = TestNet::new(&world);
    let _model = net.serve_https(8443);
    net.name("model.example.org", keyhatch_tests::testnet::SERVER);
    let project = world.project("p", "https://h.example/p.git");
    net.ca_in(&project);
    world.policy("model", &network_policy("model", "[network]\nallow = [\"model.example.org:8443\"]"));
    let script = "curl -sSN --cacert test-ca.crt -X POST -d '{}' https://model.example.org:8443/v1/messages";
    let ran = net.run(&project, "model", script).ok();
    let pieces = ran.stdout.matches("event: content_block_delta").count();
    assert_eq!((pieces, ran.stdout.contains("event: message_stop")), (3, true), "{ran:?}");
}

#[test]
fn husky_and_pre_commit_run_inside_as_the_project_has_installed_them() {
    let world = World::new();
    let hooks = |project: &Path, install: &str, commit: &str| {
        let mut command = world.command("sh");
        command.current_dir(project).args(["-ec", install]);
        with_own_registries(&world, &mut command);
        world.spawn(command).finish().ok();
        world.run(project, "default", commit).ok()
    };
    let husky = world.project("husky", "https://h.example/p.git");
    let install = "npm install --no-audit --no-fund --no-update-notifier husky@9.1.7 && npx husky init; \
        echo 'echo by-husky >> ran' > .husky/pre-commit; echo node_modules > .gitignore; git add -A; git commit -qn -m husky; \
        test \"$(git config core.hooksPath)\" = .husky/_";
    let ran = hooks(&husky, install, "git commit -q --allow-empty -m inside; cat ran");
    assert_eq!(ran.stdout, "by-husky\n", "{ran:?}");

    let project = world.project("pre-commit", "https://h.example/p.git");
    let config = "repos: [{repo: local, hooks: [{id: x, name: x, language: system, entry: sh -c \"echo by-pre-commit >> ran\", \
        always_run: true, pass_filenames: false}]}]";
    world.write("pre-commit/.pre-commit-config.yaml", config);
    let install = "pip3 install --quiet --disable-pip-version-check --target py pre-commit==4.0.1; export PYTHONPATH=$PWD/py; \
        python3 -m pre_commit install; printf 'py\nran\n' > .gitignore; git add -A; git commit -qn -m pre-commit";
    let commit = "export PYTHONPATH=$PWD/py; git commit -q --allow-empty -m inside; cat ran";
    let ran = hooks(&project, install, commit);
    assert_eq!(ran.stdout, "by-pre-commit\n", "{ran:?}");
    for project in [&husky, &project] {
        assert_eq!(world.git(project, &["log", "-1", "--format=%s"]).ok().stdout, "inside\n");
    }
}
