//! The signer: signatures of what was parsed, with a key that never leaves the host.
//!
//! Comes in: an approved signature of a commit, tag or push certificate. Goes out: an armoured signature. Keys: an
//! OpenSSH private key file, the host's ssh-agent, the user's keyring, the host's gpg and gpgsm. Nothing here decides.

mod agent;
mod gpg;
mod locks;
mod made;
mod probe;
mod rsa;
mod settings;
mod ssh;

use keyhatch_protocol::signable::Signable;
use keyhatch_protocol::{Identity, PushPromise, SessionId, SignFacts, SignatureFormat, TagPromise};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

pub use locks::{LockedKey, Locks, UnlockError};
pub use made::{Made, MadeSignature};
pub use probe::{generate, test};
pub use settings::{Inside, identities, links};
pub use ssh::{NAMESPACE, SshKey};

use crate::approval::{self, Approved};
use crate::broker::Broker;

/// How a session signs: by the host's git configuration, and by its policy.
#[derive(Debug, Default)]
pub struct Signing {
    /// Who the user is.
    pub identities: Vec<Identity>,
    ssh: Option<SshKey>,
    openpgp: gpg::Program,
    x509: gpg::Program,
}

/// No signature could be made.
#[derive(Debug, Error)]
pub enum SignError {
    /// The session has no key of that kind.
    #[error("this session has no {} signing key", .format.word())]
    NoKey {
        /// Which kind.
        format: SignatureFormat,
    },
    /// git names another key.
    #[error("this session signs with the key {ours}, and git names another")]
    OtherKey {
        /// The session's.
        ours: String,
    },
    /// A push certificate that is for no remote.
    #[error("the push certificate does not say which remote it is for")]
    NoPushee,
    /// Nobody gave the passphrase.
    #[error("the signing key is locked, and nobody opened it in time")]
    Locked,
    /// The key's file.
    #[error("the signing key's file cannot be used: {why}")]
    File {
        /// Without its path: the session reads this.
        why: &'static str,
    },
    /// The host's ssh-agent.
    #[error("the host's ssh-agent {did}")]
    Agent {
        /// What it did.
        did: &'static str,
    },
    /// The keyring.
    #[error("the user's keyring did not give the key {name:?}")]
    Keyring {
        /// The credential's name.
        name: String,
    },
    /// A program of the host's.
    #[error("{program} could not sign: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said of the key, escaped.
        said: String,
    },
    /// An algorithm that is not supported, or a key that contradicts itself.
    #[error("this kind of key cannot sign here: {why}")]
    Unsupported {
        /// What it is.
        why: &'static str,
    },
}

impl SignError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoKey { format: SignatureFormat::Ssh } => {
                "on the host: git config --global gpg.format ssh and user.signingkey FILE, or keyhatch credential add signing NAME"
            }
            Self::NoKey { .. } => "on the host: git config --global user.signingkey KEY",
            Self::OtherKey { .. } => {
                "inside, leave user.signingkey as it is; the user chooses the key on the host"
            }
            Self::NoPushee => "git push --signed REMOTE names it",
            Self::Locked => "on the host, the user runs: keyhatch credential unlock, or ssh-add",
            Self::File { .. } => "on the host, the user checks user.signingkey",
            Self::Agent { .. } => "on the host, the user runs: ssh-add -l",
            Self::Keyring { .. } => {
                "on the host, the user unlocks the keyring, and runs: keyhatch credential list"
            }
            Self::Program { .. } => "on the host, the user tries: echo test | gpg --clearsign",
            Self::Unsupported { .. } => {
                "ed25519, ECDSA, RSA of 2048 to 4096 bits, and whatever the ssh-agent holds can sign"
            }
        }
    }
}

/// What the client is told while it waits.
#[derive(Debug, Clone)]
pub struct Voice {
    lines: UnboundedSender<String>,
    session: SessionId,
}

impl Voice {
    /// A voice for a client of this session, and where its lines are heard.
    #[must_use]
    pub fn of(session: &SessionId) -> (Self, UnboundedReceiver<String>) {
        let (lines, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Self { lines, session: session.clone() }, receiver)
    }

    /// Says a line; nobody may be there to hear it.
    pub fn say(&self, line: impl Into<String>) {
        drop(self.lines.send(line.into()));
    }

    /// Whose client waits.
    #[must_use]
    pub const fn session(&self) -> &SessionId {
        &self.session
    }
}

/// A signature, and what is to be said with it.
#[derive(Debug)]
pub struct Signature {
    /// Armoured.
    pub armoured: Vec<u8>,
    /// What the program that makes such signatures would say on standard error.
    pub status: Vec<String>,
}

impl Signing {
    /// The facts of a signature that a session asks for: what it covers, and with which key.
    ///
    /// # Errors
    /// When the session has no such key, or git names another.
    pub fn facts(
        &self,
        signable: &Signable,
        (format, asked): (SignatureFormat, &str),
    ) -> Result<SignFacts, SignError> {
        let key = match format {
            SignatureFormat::Ssh => self.ssh_key()?.asked(asked)?,
            SignatureFormat::OpenPgp | SignatureFormat::X509 => {
                self.program(format).asked(asked, &self.identities, format)?
            }
        };
        let (parents, tree) = match signable {
            Signable::Commit(commit) => (commit.parents.clone(), Some(commit.tree.clone())),
            Signable::Tag(tag) => (vec![tag.object.clone()], None),
            Signable::Certificate(certificate) => {
                let tips = certificate.updates.iter().map(|update| update.new.clone());
                (tips.filter(|tip| !tip.is_zero()).collect(), None)
            }
        };
        Ok(SignFacts {
            kind: signable.kind(),
            format,
            speaker: signable.speaker().or_else(|| self.other_than_key(signable, &key)),
            key,
            author: signable.author(),
            subject: signable.subject(),
            body: signable.body(),
            encoding: signable.encoding().map(str::to_owned),
            risks: signable.risks(),
            tag: tag_promise(signable),
            certificate: push_promise(signable)?,
            parents,
            tree,
            covered: digest(&signable.encode()),
        })
    }

    /// Makes the signature that was approved, of exactly the bytes that were parsed.
    ///
    /// # Errors
    /// When the key cannot be had or refuses.
    pub async fn sign(
        &self,
        broker: &Broker,
        approved: &Approved<approval::Signature>,
        signable: &Signable,
        voice: &Voice,
    ) -> Result<Signature, SignError> {
        let bytes = signable.encode();
        let facts = approved.facts();
        // The approval names these bytes; with others it is worth nothing.
        if facts.covered != digest(&bytes) {
            return Err(SignError::Unsupported { why: "other bytes were approved" });
        }
        match facts.format {
            SignatureFormat::Ssh => {
                let armoured = self.ssh_key()?.sign(broker, &bytes, voice).await?;
                Ok(Signature { armoured: armoured.into_bytes(), status: Vec::new() })
            }
            format => self.program(format).sign(&broker.host_git, format, (&facts.key, &bytes)).await,
        }
    }

    fn ssh_key(&self) -> Result<&SshKey, SignError> {
        self.ssh.as_ref().ok_or(SignError::NoKey { format: SignatureFormat::Ssh })
    }

    const fn program(&self, format: SignatureFormat) -> &gpg::Program {
        match format {
            SignatureFormat::X509 => &self.x509,
            SignatureFormat::Ssh | SignatureFormat::OpenPgp => &self.openpgp,
        }
    }

    /// Whom a certificate speaks for that names neither a person nor the key that signs it: nobody that a policy knows.
    fn other_than_key(&self, signable: &Signable, key: &str) -> Option<Identity> {
        let Signable::Certificate(certificate) = signable else { return None };
        // git leaves a space behind a fingerprint (gpg-interface.c, `get_ssh_key_fingerprint`).
        let pusher = certificate.pusher.trim_end();
        let same = pusher == key || key.ends_with(pusher) && pusher.len() >= 16;
        (!same).then(|| Identity { name: pusher.to_owned(), email: String::new() })
    }
}

fn tag_promise(signable: &Signable) -> Option<Box<TagPromise>> {
    let Signable::Tag(tag) = signable else { return None };
    let (name, object) = (tag.name.clone(), tag.object.clone());
    Some(Box::new(TagPromise { name, object, object_type: tag.of.word().to_owned() }))
}

fn push_promise(signable: &Signable) -> Result<Option<Box<PushPromise>>, SignError> {
    let Signable::Certificate(certificate) = signable else { return Ok(None) };
    Ok(Some(Box::new(PushPromise {
        remote: certificate.remote().ok_or(SignError::NoPushee)?,
        nonce: certificate.nonce.clone(),
        updates: certificate.updates.iter().take(PushPromise::LISTED).cloned().collect(),
        update_count: certificate.updates.len() as u64,
        push_options: certificate.push_options.clone(),
    })))
}

/// SHA-256 in hexadecimal: how audit records name bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
