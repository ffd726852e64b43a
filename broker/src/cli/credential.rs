//! `keyhatch credential`: keys and passphrases that the user named, and keys that wait to be opened.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use keyhatch_protocol::text::shown;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{Failure, paths, print, print_json};
use crate::control::client::Client;
use crate::control::{Hidden, Reply, Request};
use crate::credential::named::{self, CredentialKind, CredentialSource, NamedCredential, NamedError};
use crate::signer::{self, SignError};

/// Longest secret that is typed or piped in.
const MAX_SECRET: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Credential {
    /// Name a key or a passphrase.
    #[command(subcommand)]
    Add(Add),
    /// List the named credentials and where each comes from.
    List {
        /// Print an array of objects.
        #[arg(long)]
        json: bool,
    },
    /// Try one: whether its secret can be had, and fits.
    Test {
        /// Which.
        name: String,
    },
    /// Remove one, and its secret from the keyring.
    Remove {
        /// Which.
        name: String,
    },
    /// Type the passphrase of a key that a signature waits for.
    Unlock {
        /// The key's file, where several wait.
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Add {
    /// A key that signs, for `key = "NAME"` in a [[sign]] rule: a new one in the keyring, unless you name one.
    Signing(Key),
    /// A key that logs in, for `credential = "NAME"` in a [[push]] or [[fetch]] rule.
    Ssh(Key),
    /// The passphrase of a key file, kept in the keyring; typed, or one line on standard input.
    Passphrase {
        /// Its name.
        name: String,
        /// The private key's file.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    /// Its name.
    name: String,
    /// Use a private key where it is.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["import", "agent"])]
    file: Option<PathBuf>,
    /// Copy a private key without a passphrase into the keyring.
    #[arg(long, value_name = "FILE", conflicts_with = "agent")]
    import: Option<PathBuf>,
    /// Use a key that the ssh-agent holds: its public key's file.
    #[arg(long, value_name = "FILE.pub")]
    agent: Option<PathBuf>,
}

pub(super) fn credential(command: &Credential) -> Result<ExitCode, Failure> {
    match command {
        Credential::Add(Add::Signing(key)) => add_key(CredentialKind::Signing, key),
        Credential::Add(Add::Ssh(key)) => add_key(CredentialKind::Ssh, key),
        Credential::Add(Add::Passphrase { name, file }) => add_passphrase(name, file),
        Credential::List { json } => list(*json),
        Credential::Test { name } => test(name),
        Credential::Remove { name } => {
            named::remove(name)?;
            print(&format!("removed: {name}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Credential::Unlock { file } => unlock(file.as_deref()),
    }
}

impl From<NamedError> for Failure {
    fn from(error: NamedError) -> Self {
        match &error {
            NamedError::Keyring(_) => Self::unavailable(
                error.to_string(),
                "a Secret Service (gnome-keyring, KWallet, KeePassXC) must run and be unlocked; --file needs none",
            ),
            NamedError::Name { .. } => {
                Self::invalid(error.to_string(), "keyhatch credential list shows the names")
            }
            NamedError::File { .. } => {
                Self::invalid(error.to_string(), "it must be a file that only you can write")
            }
        }
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        Self::unavailable(error.to_string(), error.hint())
    }
}

fn add_key(kind: CredentialKind, key: &Key) -> Result<ExitCode, Failure> {
    let Key { name, file, import, agent } = key;
    let absolute = |path: &Path| {
        path.canonicalize()
            .map_err(|error| Failure::invalid(format!("{}: {error}", path.display()), "name a file"))
    };
    let (source, public, place, secret) = match (file, import, agent) {
        (Some(path), _, _) => {
            (CredentialSource::File, private(path)?.public_key().clone(), Some(absolute(path)?), None)
        }
        (_, _, Some(path)) => (CredentialSource::Agent, public(path)?, None, None),
        (_, path, _) => {
            let key = match path {
                Some(path) => private(path)?,
                None => signer::generate(&format!("keyhatch {name}"))?,
            };
            if key.is_encrypted() {
                return Err(Failure::invalid(
                    "this key has a passphrase",
                    "use it where it is, with --file, or import a copy without one",
                ));
            }
            let text = key.to_openssh(LineEnding::LF);
            let text = text.map_err(|error| Failure::internal("the key cannot be written", &error))?;
            (CredentialSource::Keyring, key.public_key().clone(), None, Some(text))
        }
    };
    let line = public.to_openssh().map_err(|error| Failure::internal("the public key", &error))?;
    let credential =
        NamedCredential { name: name.clone(), kind, source, public: Some(line.clone()), file: place };
    named::add(credential, secret.as_ref().map(|secret| secret.as_str()))?;
    print(&format!("{line}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn add_passphrase(name: &str, file: &Path) -> Result<ExitCode, Failure> {
    let key = private(file)?;
    let path = file.canonicalize().map_err(|error| Failure::internal("the key's file", &error))?;
    let secret = passphrase(&path)?;
    key.decrypt(secret.as_bytes())
        .map_err(|_| Failure::invalid("this is not the key's passphrase", "type it again"))?;
    let credential = NamedCredential {
        name: name.to_owned(),
        kind: CredentialKind::Passphrase,
        source: CredentialSource::Keyring,
        public: None,
        file: Some(path),
    };
    named::add(credential, Some(secret.as_str()))?;
    print(&format!("kept: {name}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) -> Result<ExitCode, Failure> {
    let credentials = named::list()?;
    if json {
        print_json(&credentials)?;
        return Ok(ExitCode::SUCCESS);
    }
    if credentials.is_empty() {
        print("no credential has a name; what git and ssh use on the host needs none\n")?;
    }
    for credential in &credentials {
        let public = credential.public.as_deref().and_then(|line| PublicKey::from_openssh(line).ok());
        let what = match (&public, &credential.file) {
            (Some(key), _) => key.fingerprint(HashAlg::Sha256).to_string(),
            (None, Some(file)) => format!("opens {}", file.display()),
            (None, None) => String::new(),
        };
        let (kind, source) = (credential.kind.word(), credential.source.word());
        print(&format!("{:<16}  {kind:<10}  {source:<8}  {}\n", credential.name, shown(&what)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn test(name: &str) -> Result<ExitCode, Failure> {
    let unknown = || Failure::invalid(format!("no credential is called {name}"), "keyhatch credential list");
    let credential = named::find(name)?.ok_or_else(unknown)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal("the runtime", &error))?;
    let found = runtime.block_on(signer::test(&credential))?;
    print(&format!("{name}: {found}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for the passphrases of the keys that signatures wait for.
fn unlock(file: Option<&Path>) -> Result<ExitCode, Failure> {
    let keys = match Client::connect(&paths()?)?.ask(Request::Locked)? {
        Reply::Locked { keys } => keys,
        other => return Err(super::decide::unexpected(&other)),
    };
    let file = file.map(|file| file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let wanted = keys.into_iter().filter(|key| {
        file.as_ref()
            .is_none_or(|file| key.path == *file || key.path.canonicalize().is_ok_and(|path| path == *file))
    });
    let mut opened = 0;
    for key in wanted {
        let passphrase = Hidden::new(passphrase(&key.path)?);
        match Client::connect(&paths()?)?.ask(Request::Unlock { fingerprint: key.fingerprint, passphrase })? {
            Reply::Unlocked => opened += 1,
            other => return Err(super::decide::unexpected(&other)),
        }
    }
    if opened == 0 {
        print("no signature waits for a key\n")?;
    } else {
        print(&format!("opened: {opened}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn private(path: &Path) -> Result<PrivateKey, Failure> {
    PrivateKey::read_openssh_file(path).map_err(|error| {
        Failure::invalid(
            format!("{} is not an OpenSSH private key: {error}", path.display()),
            "ssh-keygen -p -f FILE writes an old key in today's form",
        )
    })
}

fn public(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::read_openssh_file(path).map_err(|error| {
        Failure::invalid(
            format!("{} is not a public key: {error}", path.display()),
            "ssh-add -L prints those it holds",
        )
    })
}

/// A passphrase: typed without being shown, or a line of standard input.
fn passphrase(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| Failure::internal("cannot read a passphrase", &error);
    let mut secret = Zeroizing::new(String::new());
    if !io::stdin().is_terminal() {
        io::stdin().lock().take(MAX_SECRET).read_to_string(&mut secret).map_err(failed)?;
    } else {
        let stdin = io::stdin();
        eprint!("passphrase of {}: ", shown(&path.display().to_string()));
        io::stderr().flush().map_err(failed)?;
        let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
        let read = stdin.read_line(&mut secret);
        tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(|error| failed(error.into()))?;
        eprintln!();
        read.map_err(failed)?;
    }
    let end = secret.trim_end_matches(['\r', '\n']).len();
    secret.truncate(end);
    Ok(secret)
}
