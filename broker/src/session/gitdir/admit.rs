//! Objects into the host's store: files that the confined child checked, each under its own name, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::beneath::Beneath;

/// How our files in a store are called until they are whole; `git prune` removes such names.
const TEMPORARY: &str = "tmp_obj_keyhatch";

/// Copies the files that a harvest named from its quarantine into an object store, in its order. Returns how many bytes.
///
/// # Errors
/// When a name is none of an object's, or a file cannot be copied.
pub fn admit(quarantine: &Path, files: &[String], store: &Path) -> io::Result<u64> {
    let source = Beneath::hostile(quarantine)?;
    let (mut whole, mut bytes) = (Vec::new(), 0);
    for name in files {
        let Some(target) = target_of(name) else { return Err(io::ErrorKind::InvalidData.into()) };
        let target = store.join(target);
        if target.exists() {
            continue;
        }
        let directory = target.parent().unwrap_or(store);
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let temporary = directory
            .join(format!("{TEMPORARY}_{:016x}", u64::from_ne_bytes(keyhatch_host::random::random())));
        let copied = copy(&source, name, &temporary);
        if copied.is_err() {
            // What is left of it git prunes later; now is better.
            drop(fs::remove_file(&temporary));
        }
        bytes += copied?;
        whole.push((temporary, target));
    }
    // All are there before the first gets its name, and they get their names in the harvest's order: a death between two
    // leaves no object without those that it needs, which would look complete to whoever stops at what is there.
    whole.iter().try_for_each(|(temporary, target)| fs::rename(temporary, target))?;
    Ok(bytes)
}

/// Removes what a broker that died had copied in part: git would keep it until its next `gc`.
///
/// # Errors
/// When the store cannot be read, or a file not be removed.
pub fn sweep(store: &Path) -> io::Result<()> {
    for directory in fs::read_dir(store)? {
        let directory = directory?;
        if !directory.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(directory.path())? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

fn copy(source: &Beneath, name: &str, to: &Path) -> io::Result<u64> {
    let mut from: File = source.file(name)?;
    let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(to)?;
    io::copy(&mut from, &mut to)
}

/// Where a file of the quarantine belongs in a store; none for a name that is no object's.
fn target_of(name: &str) -> Option<String> {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(pack) = name.strip_prefix("admitted/objects/pack/pack-") {
        let (stem, extension) = pack.split_once('.')?;
        return (hex(stem) && matches!(extension, "pack" | "idx")).then(|| format!("pack/pack-{pack}"));
    }
    let loose = name.strip_prefix("loose/objects/")?;
    let (directory, rest) = loose.split_once('/')?;
    (directory.len() == 2 && hex(directory) && matches!(rest.len(), 38 | 62) && hex(rest))
        .then(|| loose.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_in_part_is_removed_and_nothing_else() {
        let temp = tempfile::tempdir().expect("tempdir");
        for name in [
            "ab/tmp_obj_keyhatch_0",
            "ab/cd",
            "pack/tmp_obj_keyhatch_1",
            "pack/pack-1.pack",
            "pack/tmp_obj_git",
        ] {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
            fs::write(path, "x").expect("writes");
        }
        sweep(temp.path()).expect("sweeps");
        let left = |name: &str| temp.path().join(name).exists();
        assert!(!left("ab/tmp_obj_keyhatch_0") && !left("pack/tmp_obj_keyhatch_1"));
        assert!(left("ab/cd") && left("pack/pack-1.pack") && left("pack/tmp_obj_git"));
    }

    #[test]
    fn only_names_of_objects_are_moved() {
        let id = "a".repeat(38);
        assert_eq!(target_of(&format!("loose/objects/ab/{id}")), Some(format!("ab/{id}")));
        assert_eq!(target_of("admitted/objects/pack/pack-12ab.idx").as_deref(), Some("pack/pack-12ab.idx"));
        for bad in [
            "loose/objects/../x",
            "loose/objects/ab/..",
            "admitted/objects/pack/pack-a/../../x.idx",
            "admitted/objects/pack/pack-a.keep",
            "admitted/objects/info/alternates",
            "loose/objects/zz/aa",
        ] {
            assert_eq!(target_of(bad), None, "{bad}");
        }
    }
}
