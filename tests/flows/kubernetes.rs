//! The manifest for Kubernetes: by Kubernetes' own schemas, and its two containers as dockerd runs them side by side.
//!
//! There is no cluster here: what kubelet would do (volumes, users, roots that are read-only) is done by docker's options,
//! read from the manifest.

use std::path::{Path, PathBuf};
use std::process::Command;

use keyhatch_tests::{Docker, Finished, HttpsServer, Image, World};
use serde_json::Value;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kubernetes/pod.yaml");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/downloads/kubernetes-validate-1.37.0");

fn python(arguments: &[&str]) -> Finished {
    assert!(Path::new(PYTHON).exists(), "{PYTHON} is missing: run ./test.sh, which installs it");
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", PYTHON).args(arguments).output().expect("python runs").into()
}

/// The manifest's object of a kind.
fn object(kind: &str) -> Value {
    let script = "import sys, json, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let text = python(&["-c", script, MANIFEST]).ok().stdout;
    let objects: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    objects.into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_manifest_is_valid_by_kubernetes_own_schemas() {
    let validate = |file: &str| python(&["-m", "kubernetes_validate", "--strict", file]);
    let checked = validate(MANIFEST).ok();
    for what in ["secret/keyhatch-login", "configmap/keyhatch", "pod/agent"] {
        assert!(checked.all().contains(&format!("passed for resource {what}")), "{checked:?}");
    }
    let broken =
        std::fs::read_to_string(MANIFEST).expect("it is there").replace("readOnly: true", "readonly: true");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), broken).expect("it can be written");
    validate(&file.path().to_string_lossy()).fails();
}

/// A container of the pod, as options of `docker run`.
struct Part<'p> {
    spec: &'p Value,
    /// Where each volume is on this machine.
    volumes: &'p Path,
}

impl Part<'_> {
    fn options(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let security = &self.spec["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(
            (&security["capabilities"]["drop"][0], &security["allowPrivilegeEscalation"]),
            (&"ALL".into(), &false.into())
        );
        let mut options: Vec<String> =
            ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
                .map(str::to_owned)
                .into();
        options.extend(["--user".into(), format!("{}:{}", security["runAsUser"], security["runAsGroup"])]);
        for variable in self.spec["env"].as_array().expect("a list") {
            options
                .extend(["-e".into(), format!("{}={}", text(&variable["name"]), text(&variable["value"]))]);
        }
        for mount in self.spec["volumeMounts"].as_array().expect("a list") {
            let source =
                self.volumes.join(text(&mount["name"])).join(mount["subPath"].as_str().unwrap_or_default());
            let mode = if mount["readOnly"] == true { ":ro" } else { "" };
            options
                .extend(["-v".into(), format!("{}:{}{mode}", source.display(), text(&mount["mountPath"]))]);
        }
        options
    }
}

/// Makes the pod's volumes: what kubelet puts into them, for everybody to write as an `emptyDir` is.
fn volumes(world: &World, server: &HttpsServer) -> PathBuf {
    let volumes = world.make_directory("volumes");
    for name in ["hatch/agent", "home", "spool", "work", "scratch", "login", "config", "programs"] {
        world.make_directory(&format!("volumes/{name}"));
    }
    let config = object("ConfigMap")["data"].clone();
    for (name, text) in config.as_object().expect("files") {
        let text = text
            .as_str()
            .expect("text")
            .replace("https://git.example.org/team/project.git", &server.url("r.git"));
        world.write(&format!("volumes/config/{name}"), &text);
    }
    for program in ["keyhatch", "keyhatch-run", "keyhatch-helper", "keyhatch-inspect"] {
        let to = volumes.join("programs").join(program);
        std::fs::copy(world.path("bin").join(program), to).expect("a program can be copied");
    }
    let ca = std::fs::read_to_string(&server.ca).expect("the CA");
    world.write("volumes/config/ca.pem", &ca);
    let gitconfig = volumes.join("config/gitconfig");
    let trusting = std::fs::read_to_string(&gitconfig).expect("it is there")
        + "\n[http]\n    sslCAInfo = /etc/keyhatch/config/ca.pem\n";
    std::fs::write(gitconfig, trusting).expect("it can be written");
    let login = object("Secret")["stringData"]["git-credentials"].as_str().expect("text").to_owned();
    let real = format!("{}:{}@127.0.0.1:{}", HttpsServer::USER, HttpsServer::PASSWORD, server.port);
    world.write("volumes/login/git-credentials", &login.replace("robot:REPLACE-ME@git.example.org", &real));
    let mut open = world.as_root("chmod");
    assert!(open.args(["-R", "a+rwX"]).arg(&volumes).status().is_ok_and(|status| status.success()));
    volumes
}

#[test]
fn the_sidecar_brokers_for_the_agents_container_and_is_asked_by_its_command_line() {
    let world = World::new();
    world.static_helper();
    let server = HttpsServer::start(&world);
    let upstream = world.upstream("r.git", "sha1");
    let seed = world.project("seed", &upstream.display().to_string());
    world.git(&seed, &["push", "-q", "origin", "main"]).ok();
    let volumes = volumes(&world, &server);
    let docker = Docker::start(&world, false);
    docker.import(Image::Sid);
    docker.import(Image::Bookworm);
    let pod = object("Pod")["spec"].clone();
    let start = |name: &str, spec: &Value, more: &[String], image: Image, command: &[&str]| {
        let own = Part { spec, volumes: &volumes }.options();
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(own.iter().chain(more).map(String::as_str));
        arguments.push(image.name());
        arguments.extend(command);
        docker.command(&arguments).ok()
    };
    // The image that the manifest names has the programs; the newest Debian and a mount stand for it.
    let programs = [
        "--network".to_owned(),
        "host".into(),
        "-v".into(),
        format!("{}:/usr/local/bin:ro", volumes.join("programs").display()),
    ];
    let broker = &pod["initContainers"][0];
    let command: Vec<&str> =
        broker["command"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    start("broker", broker, &programs, Image::Sid, &command);
    let probe: Vec<&str> = broker["startupProbe"]["exec"]["command"]
        .as_array()
        .expect("words")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let on_broker = |words: &[&str]| docker.command(&[&["exec", "broker"][..], words].concat());
    world.wait_until("the sidecar is ready", || {
        assert!(
            docker.command(&["inspect", "-f", "{{.State.Running}}", "broker"]).stdout.contains("true"),
            "{}",
            docker.command(&["logs", "broker"]).all()
        );
        on_broker(&probe).status.success()
    });
    start(
        "agent",
        &pod["containers"][0],
        &["--network".into(), "none".into()],
        Image::Bookworm,
        &["sleep", "infinity"],
    );
    let script = format!(
        "cd /work && git clone -q {} c && cd c && git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m pod && \
         ! ls /run/hatch && ! cat /etc/keyhatch/login/git-credentials && git push origin HEAD:refs/heads/agent/x",
        server.url("r.git")
    );
    let push = std::thread::scope(|scope| {
        let push = scope.spawn(|| docker.command(&["exec", "-w", "/work", "agent", "sh", "-c", &script]));
        let told = || on_broker(&["cat", "/home/keyhatch/waiting"]).stdout;
        world.wait_until("the notify command was told", || told().ends_with('\n') || push.is_finished());
        let told = told();
        let id = told.trim().strip_prefix("keyhatch approve ").unwrap_or_default().to_owned();
        on_broker(&["keyhatch", "show", &id]).ok();
        let approved = on_broker(&["keyhatch", "approve", &id]);
        let pushed = push.join().expect("it ends");
        assert!(
            approved.status.success(),
            "{told}: {approved:?}: {pushed:?}: {}",
            docker.command(&["logs", "broker"]).all()
        );
        pushed
    });
    push.ok();
    assert!(!world.tip(&upstream, "agent/x").is_empty());
}
