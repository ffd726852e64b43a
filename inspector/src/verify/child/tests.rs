//! Files that git made are sound; with one byte changed, or under another name, they are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const MOST: u64 = 64 * 1024 * 1024;

/// A repository with some objects, loose and in one pack.
fn repository(format: ObjectFormat) -> tempfile::TempDir {
    let temp = tempfile::tempdir().expect("tempdir");
    let script = format!(
        "git init -q -b main --object-format {}; for n in 1 2 3 4; do seq $n 400 > f; echo $n > g; git add .; git commit -qm $n; done; \
         git tag -a t -m t; git pack-objects -q --all --delta-base-offset pack < /dev/null",
        format.name()
    );
    let made = Command::new("sh")
        .current_dir(temp.path())
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")])
        .args(["-ec", &script])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(made.expect("sh runs").success());
    temp
}

fn with_extension(directory: &Path, extension: &str) -> PathBuf {
    let mut entries = fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    entries.find(|path| path.extension().is_some_and(|other| other == extension)).expect("one is there")
}

fn loose(directory: &Path) -> Vec<(PathBuf, ObjectId)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.join(".git/objects")).expect("a directory").flatten() {
        let name = entry.file_name().into_string().expect("text");
        for file in fs::read_dir(entry.path()).expect("a directory").flatten().filter(|_| name.len() == 2) {
            let id = format!("{name}{}", file.file_name().to_str().expect("text"));
            found.push((file.path(), ObjectId::parse(&id).expect("an id")));
        }
    }
    found
}

#[test]
fn what_git_made_is_sound_and_nothing_under_another_name_is() {
    for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
        let temp = repository(format);
        let objects = loose(temp.path());
        assert!(objects.len() > 12);
        for (path, id) in &objects {
            assert!(is_sound_loose(path, id, MOST).expect("reads"), "{id}");
            assert!(!is_sound_loose(path, id, 1).expect("reads"), "too large");
            let (_, other) = objects.iter().find(|(_, other)| other != id).expect("another");
            assert!(!is_sound_loose(path, other, MOST).expect("reads"));
            let longer = temp.path().join("longer");
            fs::write(&longer, [fs::read(path).expect("reads"), b"x".to_vec()].concat()).expect("writes");
            assert!(!is_sound_loose(&longer, id, MOST).expect("reads"), "bytes after the end");
        }
    }
}

#[test]
fn a_pack_is_sound_as_git_made_it_and_with_no_byte_changed() {
    for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
        let temp = repository(format);
        let (pack, index) = (with_extension(temp.path(), "pack"), with_extension(temp.path(), "idx"));
        assert!(is_sound_pack(&pack, &index, format).expect("reads"));
        for file in [&pack, &index] {
            let whole = fs::read(file).expect("reads");
            let changed = temp.path().join("changed");
            let sound = |bytes: &[u8]| {
                fs::write(&changed, bytes).expect("writes");
                let (pack, index) = if file == &pack { (&changed, &index) } else { (&pack, &changed) };
                is_sound_pack(pack, index, format).expect("reads")
            };
            for at in (0..whole.len()).step_by(whole.len() / 97 + 1) {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                assert!(!sound(&bytes), "{} {at}", file.display());
            }
            assert!(!sound(&whole[..whole.len() - 1]) && !sound(&[]));
        }
    }
}

/// The fault: an index that is whole by its own checksum, and gives an object the name of another.
#[test]
fn an_index_that_gives_an_object_another_name_is_not_sound() {
    let format = ObjectFormat::Sha1;
    let temp = repository(format);
    let (pack, index) = (with_extension(temp.path(), "pack"), with_extension(temp.path(), "idx"));
    let mut bytes = fs::read(&index).expect("reads");
    let count = u32::from_be_bytes(bytes[8 + 255 * 4..8 + 256 * 4].try_into().expect("four")) as usize;
    // Two objects swap their offsets and checksums: each is found under the other's name.
    let (crcs, offsets) = (8 + 1024 + count * 20, 8 + 1024 + count * 24);
    for table in [crcs, offsets] {
        for byte in 0..4 {
            bytes.swap(table + byte, table + 4 + byte);
        }
    }
    let end = bytes.len() - 20;
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&bytes[..end]);
    let sum = hasher.try_finalize().expect("no collision");
    bytes[end..].copy_from_slice(sum.as_slice());
    fs::write(temp.path().join("lie.idx"), bytes).expect("writes");
    assert!(!is_sound_pack(&pack, &temp.path().join("lie.idx"), format).expect("reads"));
    let seen = Command::new("git").arg("-C").arg(temp.path()).args(["verify-pack"]).arg(&index).status();
    assert!(seen.expect("git runs").success());
}
