//! Large files of git-lfs that a session made: a commit holds their names alone, and the host must have what is named.
//!
//! Comes in: files named by the SHA-256 of their content, hostile. Goes out: the same in the host's `lfs/objects`, each
//! read once, and only where its content has its name. git-lfs runs nothing of what lies there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use super::beneath::Beneath;
use super::state::State;

/// Most directories of one level: two hexadecimal digits.
const MAX_DIRECTORIES: usize = 256;
/// Most files of one directory that are looked at.
const MAX_FILES: usize = 10_000;
/// How our files are called until they are whole.
const TEMPORARY: &str = "tmp_obj_keyhatch";

/// Brings the large files that the host has not, at most so many bytes of new ones. Returns how many stay inside, and how
/// many bytes were brought.
///
/// # Errors
/// When a directory of the host's cannot be written.
pub(super) fn bring(state: &State, max_bytes: u64) -> io::Result<(usize, u64)> {
    let inside = Beneath::hostile(&state.session())?;
    let (mut left, mut refused) = (max_bytes, 0);
    for first in directories(&inside, "lfs/objects") {
        for second in directories(&inside, &first) {
            for entry in inside.list(&second, MAX_FILES).unwrap_or_default() {
                let Some(name) = entry.name.to_str().filter(|name| is_name(name, &second)) else { continue };
                let target = state.common.join(&second).join(name);
                if entry.kind != FileType::RegularFile || target.exists() {
                    continue;
                }
                match take(inside.file(format!("{second}/{name}"))?, (name, &target), left)? {
                    Some(size) => left = left.saturating_sub(size),
                    None => refused += 1,
                }
            }
        }
    }
    Ok((refused, max_bytes - left))
}

fn directories(inside: &Beneath, path: &str) -> Vec<String> {
    let entries = inside.list(path, MAX_DIRECTORIES).unwrap_or_default();
    let named = entries.iter().filter_map(|entry| entry.name.to_str());
    let two = |name: &&str| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    named.filter(two).map(|name| format!("{path}/{name}")).collect()
}

/// `lfs/objects/AB/CD/ABCD…`, as git-lfs lays them out.
fn is_name(name: &str, directory: &str) -> bool {
    let legal = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    legal && directory.ends_with(&format!("/{}/{}", &name[..2], &name[2..4]))
}

/// Copies a file while its name is checked; none where it has another, or is too much.
fn take(mut from: File, (name, target): (&str, &Path), most: u64) -> io::Result<Option<u64>> {
    let directory = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary =
        directory.join(format!("{TEMPORARY}_{:016x}", u64::from_ne_bytes(keyhatch_host::random::random())));
    let copied = copy(&mut from, &temporary, most);
    match copied {
        Ok(Some((digest, size))) if digest == name => {
            fs::rename(&temporary, target)?;
            Ok(Some(size))
        }
        other => {
            fs::remove_file(&temporary)?;
            other.map(|_| None)
        }
    }
}

fn copy(from: &mut File, to: &Path, most: u64) -> io::Result<Option<(String, u64)>> {
    let mut to = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0u64, vec![0; 256 * 1024]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > most {
            return Ok(None);
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
    let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some((digest, size)))
}
