//! OpenPGP and X.509 through the host's own programs, with their agents and smartcards.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use keyhatch_protocol::text::shown;
use keyhatch_protocol::{Identity, SignatureFormat};
use tokio::io::AsyncWriteExt;

use super::{SignError, Signature};
use crate::credential::HostGit;

/// A pinentry may wait for a person, a smartcard for a touch.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most bytes of an armoured signature.
const MAX_SIGNATURE: usize = 64 * 1024;

/// A program of the host's and the key that the user chose for it.
#[derive(Debug, Default)]
pub(super) struct Program {
    program: String,
    key: Option<String>,
}

impl Program {
    pub(super) fn new(configured: Option<&str>, usual: &str) -> Self {
        let program = configured.unwrap_or(usual);
        Self { program: super::ssh::expanded(program).display().to_string(), key: None }
    }

    pub(super) fn named(&mut self, key: &str) {
        self.key = Some(key.to_owned());
    }

    /// Checks that git asks for the key that the user chose: the one that is configured, else the user's own name.
    pub(super) fn asked(
        &self,
        asked: &str,
        identities: &[Identity],
        format: SignatureFormat,
    ) -> Result<String, SignError> {
        let own = |who: &Identity| asked == format!("{} <{}>", who.name, who.email);
        match &self.key {
            Some(key) if key == asked => Ok(key.clone()),
            Some(key) => Err(SignError::OtherKey { ours: key.clone() }),
            None if identities.iter().any(own) => Ok(asked.to_owned()),
            None => Err(SignError::NoKey { format }),
        }
    }

    /// Signs as git would have it done.
    pub(super) async fn sign(
        &self,
        host: &HostGit,
        format: SignatureFormat,
        (key, bytes): (&str, &[u8]),
    ) -> Result<Signature, SignError> {
        let program = if format == SignatureFormat::X509 { "gpgsm" } else { "gpg" };
        let failed = |said: &str| SignError::Program { program, said: said.to_owned() };
        let mut command = host.program(&self.program);
        command.args(["--no-tty", "--batch", "--status-fd=2", "-bsau", key]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("it is not installed on the host"),
            _ => failed("it cannot be run on the host"),
        })?;
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                // One that fails early does not read everything; its exit status says so.
                drop(stdin.write_all(bytes).await);
            }
            child.wait_with_output().await
        };
        let output =
            tokio::time::timeout(PATIENCE, talk).await.map_err(|_| failed("it did not answer in time"))?;
        let output = output.map_err(|_| failed("it broke off"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let status: Vec<String> =
            said.lines().filter(|line| line.starts_with("[GNUPG:] ")).map(shown).collect();
        let created = status.iter().any(|line| line.starts_with("[GNUPG:] SIG_CREATED "));
        if !output.status.success() || !created || output.stdout.len() > MAX_SIGNATURE {
            tracing::info!(program, said = %shown(&said), "a program of the host's did not sign");
            return Err(failed(&why(&said)));
        }
        Ok(Signature { armoured: output.stdout, status })
    }
}

/// What gpg says of the key, without what it says of the host's files.
fn why(said: &str) -> String {
    let telling = |line: &&str| line.contains("signing failed: ") || line.contains("skipped \"");
    let line = said.lines().rfind(telling).and_then(|line| line.split_once(": ")).map(|(_, text)| text);
    line.map_or_else(|| "it gave no signature".to_owned(), |text| shown(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_own_key_is_used_and_only_the_reason_is_repeated() {
        let ada = [Identity { name: "Ada".into(), email: "ada@example.org".into() }];
        let mut program = Program::new(None, "gpg");
        let ask = |program: &Program, key: &str| program.asked(key, &ada, SignatureFormat::OpenPgp);
        assert!(ask(&program, "Ada <ada@example.org>").is_ok());
        assert!(matches!(ask(&program, "ABCDEF"), Err(SignError::NoKey { .. })));
        program.named("ABCDEF");
        assert!(ask(&program, "ABCDEF").is_ok());
        assert!(matches!(ask(&program, "--export-secret-keys"), Err(SignError::OtherKey { .. })));
        let said = "gpg: keybox '/home/a/.gnupg/pubring.kbx' created\ngpg: signing failed: No secret key\n";
        assert_eq!(why(said), "signing failed: No secret key");
        assert_eq!(why("gpg: /home/a: x\n"), "it gave no signature");
    }
}
