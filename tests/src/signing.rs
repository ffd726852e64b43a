//! A user who signs with ssh: keys, and the settings of the user's own git.

use std::path::{Path, PathBuf};

use crate::World;

impl World {
    /// Makes an ssh key of the user's (ed25519, no passphrase) in the home, and returns the private one's place.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn ssh_key(&self, name: &str) -> PathBuf {
        let path = self.path("home").join(name);
        let mut keygen = self.command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f"]).arg(&path);
        assert!(keygen.status().expect("ssh-keygen runs").success());
        path
    }

    /// Has the host's git sign with a key, and take its signatures for the user's.
    ///
    /// # Panics
    /// When the public key cannot be read.
    pub fn sign_with(&self, public: &Path) {
        let signers = format!("ada@example.org {}", std::fs::read_to_string(public).expect("a public key"));
        let signers = self.write("home/allowed_signers", &signers).display().to_string();
        self.configure(&[
            ("gpg.format", "ssh"),
            ("user.signingkey", &public.display().to_string()),
            ("gpg.ssh.allowedSignersFile", &signers),
        ]);
    }

    /// Makes a key and has the host's git sign with it; returns the private one's place.
    pub fn signing_key(&self) -> PathBuf {
        let key = self.ssh_key("id_signing");
        self.sign_with(&key.with_extension("pub"));
        key
    }

    /// Sets what the user's own configuration says.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            self.git(&self.home(), &["config", "--global", name, value]).ok();
        }
    }
}
