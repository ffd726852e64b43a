//! One user's host with everything on it that an actor may want, and the two ways to run the actor.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keyhatch_tests::{NO_NAMESPACES, World};
use serde_json::{Value, json};

static PLAYS: AtomicU32 = AtomicU32::new(0);

/// Below Landlock ABI 6 there is no scope for signals: the process that watches can be signalled, and takes no harm.
pub const BEFORE_SCOPES: &str = "signals_the_process_that_watches";

/// What the stage saw of one act.
#[derive(Debug)]
#[allow(dead_code, reason = "printed where a test fails")]
pub struct Act {
    /// Its name.
    pub name: String,
    /// The row of the threat model.
    pub row: String,
    /// Whether it worked, by its own proof or by what was seen outside.
    pub happened: bool,
    /// What the actor says.
    pub detail: String,
}

/// A world with a stage.
pub struct Theatre {
    /// The user's machine.
    pub world: World,
    project: PathBuf,
}

impl Theatre {
    /// Furnishes a world.
    pub fn new(world: World) -> Self {
        let project = world.project("home/p", "https://h.example/p.git");
        for (name, text) in [
            ("act.py", include_str!("actor/act.py")),
            ("files.py", include_str!("actor/files.py")),
            ("sockets.py", include_str!("actor/sockets.py")),
            ("processes.py", include_str!("actor/processes.py")),
            ("kernel.py", include_str!("actor/kernel.py")),
        ] {
            world.write(&format!("home/p/{name}"), text);
        }
        world.write("stage.py", include_str!("stage.py"));
        // As where a user installed it.
        world.user.owns(&world.path("bin/keyhatch-helper"));
        // The broker's own sockets are a target too.
        world.keyhatch(&["run", "--project", &project.to_string_lossy(), "--", "true"]).ok();
        Self { world, project }
    }

    /// Lets the actor do these acts, or all, with nothing around it.
    pub fn play_plainly(&self, only: &[&str]) -> Vec<Act> {
        let acts = self.play(only, &[], false);
        self.clear();
        acts
    }

    /// The same in a sandbox.
    pub fn play_confined(&self, only: &[&str]) -> Vec<Act> {
        let keyhatch = self.world.path("bin/keyhatch").to_string_lossy().into_owned();
        let acts = self.play(only, &[&keyhatch, "run", "--"], true);
        self.clear();
        acts
    }

    /// The same behind another command line.
    pub fn play_behind(&self, only: &[&str], prefix: &[&str]) -> Vec<Act> {
        let acts = self.play(only, prefix, true);
        self.clear();
        acts
    }

    /// The same where no user namespace can be made.
    pub fn play_unnamespaced(&self, only: &[&str]) -> Vec<Act> {
        let keyhatch = self.world.path("bin/keyhatch").to_string_lossy().into_owned();
        let prefix: Vec<&str> =
            NO_NAMESPACES.iter().copied().chain([keyhatch.as_str(), "run", "--"]).collect();
        self.play_behind(only, &prefix)
    }

    fn play(&self, only: &[&str], prefix: &[&str], inside: bool) -> Vec<Act> {
        let at = |name: &str| self.world.path(name).to_string_lossy().into_owned();
        let id = self.world.path("").to_string_lossy().replace('/', "-");
        // Keys of shared memory are the machine's: no two plays may have the same.
        let play = PLAYS.fetch_add(1, Ordering::Relaxed);
        let number = 7_000_000 + std::process::id() % 100_000 * 1000 + play;
        let command: Vec<&str> = prefix.iter().copied().chain(["/usr/bin/python3", "act.py"]).collect();
        let scene = json!({
            "home": at("home"), "project": self.project, "runtime": at("run"), "outside": at("outside"),
            "bus": at("run/bus"), "agent": at("home/.ssh-agent"), "journal": at("run/journal"),
            "abstract": format!("keyhatch{id}"), "shm": number, "mq": format!("keyhatch{number}"),
            "shm_file": format!("keyhatch{id}"), "key_name": format!("keyhatch{id}"), "mark": format!("mark{id}"),
            "helper": at("bin/keyhatch-helper"), "secret": format!("canary-{number}{id}"), "inside": inside, "only": only, "command": command,
        });
        let mut stage = self.stage();
        stage.arg(scene.to_string());
        let ran = self.world.spawn(stage).finish();
        let told: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("the stage fell: {ran:#?}"));
        let acts = told["acts"].as_object().expect("acts");
        assert!(!acts.is_empty(), "nothing was played: {told:#}");
        acts.iter().map(|(name, act)| read(name, act)).collect()
    }

    fn stage(&self) -> Command {
        let mut command = self.world.command("/usr/bin/python3");
        command.arg(self.world.path("stage.py"));
        command
    }

    /// Takes away what an act left, so that the next play starts from the same.
    fn clear(&self) {
        for name in ["link", "linked", "new-profile", "whiteout", ".git-old", "setuid-chmod", "setuid-open"] {
            let path = self.project.join(name);
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).ok();
        }
        for name in ["setuid-openat2", "setuid-fchmodat2", ".envrc", ".claude", ".cargo", ".cargo-old"] {
            let path = self.project.join(name);
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).ok();
        }
        for name in ["run/bus", "run/journal", "home/.ssh-agent", "outside", "home/p/.git"] {
            let path = self.world.path(name);
            std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)).ok();
        }
        self.world.git(&self.project, &["init", "--quiet"]).ok();
    }
}

fn read(name: &str, act: &Value) -> Act {
    Act {
        name: name.to_owned(),
        row: act["row"].as_str().unwrap_or_default().to_owned(),
        happened: act["worked"].as_bool() == Some(true) || act["seen"].as_bool() == Some(true),
        detail: act["detail"].as_str().unwrap_or_default().to_owned(),
    }
}
