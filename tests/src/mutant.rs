//! The runner with its test switch: a build for nothing else, in a directory of its own, so that the normal one stays what it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::World;

static MUTANT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/mutants");
    let built = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["build", "--quiet", "--jobs", "2", "--package", "keyhatch-run", "--features", "mutations"])
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(built.expect("cargo runs").success(), "the test build of the runner does not compile");
    target.join("debug/keyhatch-run")
});

impl World {
    /// Puts the runner with the switch into this world, and sets it: see `sandbox-runner/src/mutation.rs`.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn switch(&self, switched: &str) {
        std::fs::copy(&*MUTANT, self.path("bin/keyhatch-run")).expect("a program can be copied");
        self.write("bin/keyhatch-run.mutation", switched);
    }

    /// The kernel's Landlock, as the doctor tells it.
    ///
    /// # Panics
    /// When it tells nothing of Landlock.
    #[must_use]
    pub fn landlock(&self) -> u64 {
        let told = self.keyhatch(&["doctor", "--json"]).ok();
        let told: Value = serde_json::from_str(&told.stdout).expect("JSON");
        let mut mechanisms = told["mechanisms"].as_array().expect("mechanisms").iter();
        let landlock = mechanisms.find(|mechanism| mechanism["name"] == "Landlock").expect("Landlock");
        landlock["state"]["version"].as_u64().unwrap_or(0)
    }
}
