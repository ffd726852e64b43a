//! git's `gpg.ssh.program`: `-Y sign` is done on the host, every other verb by the image's own `ssh-keygen`,
//! or where it has none and git looks at a signature, by [`crate::verify`].
//!
//! Argv of git from 2.34 on (gpg-interface.c): `-Y sign -n git -f KEY [-U] FILE`; jj names no file and pipes. KEY is a
//! file with a public key, or a private key beside its `.pub`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhatch_protocol::SignatureFormat;
use keyhatch_protocol::message::{SessionRequest, VERSION};
use keyhatch_protocol::signable::MAX_SIGNABLE;
use keyhatch_protocol::stream;

use crate::broker::Asked;
use crate::image;
use crate::verify::Call;

/// What `ssh-keygen` exits with when it could not sign.
const FAILED: u8 = 255;
/// Longest public key file.
const MAX_KEY: u64 = 32 * 1024;

/// What is to be signed, and as what.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    namespace: String,
    key: PathBuf,
    files: Vec<PathBuf>,
}

pub(crate) fn answer(arguments: &[OsString], input: &mut impl Read, output: &mut impl Write) -> ExitCode {
    if !signs(arguments) {
        return match Call::parse(arguments).filter(|_| !image::has("ssh-keygen")) {
            Some(call) => call.answer(input, output),
            None => image::become_program("ssh-keygen", arguments),
        };
    }
    let Some(order) = order(arguments) else {
        eprintln!("keyhatch: this call of ssh-keygen -Y sign is not one that git makes");
        return ExitCode::from(FAILED);
    };
    match sign(&order, input, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said) => ExitCode::from(FAILED),
        Err(Failure::File { path, error }) => {
            eprintln!("keyhatch: cannot use {}: {error}", path.display());
            ExitCode::from(FAILED)
        }
    }
}

enum Failure {
    /// It was said already.
    Said,
    File {
        path: PathBuf,
        error: std::io::Error,
    },
}

fn sign(order: &Order, input: &mut impl Read, output: &mut impl Write) -> Result<(), Failure> {
    let key = public_key(&order.key);
    if order.files.is_empty() {
        let mut payload = Vec::new();
        let read = input.take(MAX_SIGNABLE as u64 + 1).read_to_end(&mut payload);
        read.map_err(|error| Failure::File { path: "-".into(), error })?;
        let signature = ask(order, &key, &payload)?;
        return output.write_all(&signature).map_err(|error| Failure::File { path: "-".into(), error });
    }
    for file in &order.files {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::File { path, error }
        };
        let payload = read(file, MAX_SIGNABLE as u64).map_err(failed(file))?;
        eprintln!("Signing file {}", file.display());
        let signature = ask(order, &key, &payload)?;
        let mut name = file.clone().into_os_string();
        name.push(".sig");
        let name = PathBuf::from(name);
        fs::write(&name, signature).map_err(failed(&name))?;
        eprintln!("Write signature to {}", name.display());
    }
    Ok(())
}

fn ask(order: &Order, key: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let request = SessionRequest::Sign {
        version: VERSION,
        format: SignatureFormat::Ssh,
        key: key.to_owned(),
        namespace: Some(order.namespace.clone()),
    };
    let signature = Asked::send(&request, &stream::encode_data(payload)).and_then(Asked::answer);
    signature.map_err(|error| {
        error.say();
        Failure::Said
    })
}

/// The public key that a file names: its own first line, or that of the `.pub` beside a private key. Empty where git
/// names a file that is not in here: the broker knows the session's key, and says which it is.
pub(crate) fn public_key(path: &Path) -> String {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".pub");
    let public = read(path, MAX_KEY).ok().filter(|text| !text.starts_with(b"-----"));
    let text = public.or_else(|| read(Path::new(&beside), MAX_KEY).ok()).unwrap_or_default();
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim().to_owned()
}

fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than the limit, so that the broker refuses what is too long instead of signing a part.
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn signs(arguments: &[OsString]) -> bool {
    arguments.windows(2).any(|pair| pair[0] == "-Y" && pair[1] == "sign")
        || arguments.iter().any(|argument| argument == "-Ysign")
}

/// Reads git's argv; none where it has anything that is not known.
fn order(arguments: &[OsString]) -> Option<Order> {
    let (mut namespace, mut key, mut files) = (None, None, Vec::new());
    let mut words = arguments.iter().map(OsString::as_os_str);
    while let Some(word) = words.next() {
        let value = |words: &mut dyn Iterator<Item = &OsStr>| words.next().map(OsStr::to_owned);
        match word.to_str() {
            Some("-Y") => drop(words.next()?),
            // The key in the file is a public one that an agent holds: the broker looks for it by itself.
            Some("-Ysign" | "-U" | "-q") => {}
            Some("-n") => namespace = Some(value(&mut words)?.into_string().ok()?),
            Some("-f") => key = Some(PathBuf::from(value(&mut words)?)),
            Some("-") => {}
            Some(option) if option.starts_with('-') => return None,
            _ => files.push(PathBuf::from(word)),
        }
    }
    Some(Order { namespace: namespace?, key: key?, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn gits_calls_of_every_version_are_understood_and_others_are_not() {
        for line in ["-Y sign -n git -f /k /tmp/b", "-Y sign -n git -f /k -U /tmp/b"] {
            let order = order(&words(line)).expect(line);
            assert_eq!((order.namespace.as_str(), order.key), ("git", PathBuf::from("/k")));
            assert_eq!(order.files, [PathBuf::from("/tmp/b")]);
        }
        assert_eq!(order(&words("-Y sign -n git -f /k")).expect("jj's").files, Vec::<PathBuf>::new());
        assert_eq!(order(&words("-Y sign -f /k /tmp/b")), None);
        assert_eq!(order(&words("-Y sign -n git -f /k -O hashalg=sha256 /tmp/b")), None);
        assert!(signs(&words("-Y sign -n git")));
        assert!(!signs(&words("-Y verify -n sign -f a -I b -s c")));
        assert!(!signs(&words("-lf /k")));
    }
}
