//! A container's uids are not the user's: root of a rootful engine, or a number of a user namespace's. What they make in
//! the session's git directory must stay the broker's to read and to remove, and what the broker makes theirs.
//!
//! So everything in it is everybody's, and a default ACL (acl(5)) keeps it so whatever umask is in force inside. On the
//! host, the private directory around it lets nobody through.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};

/// The extended attribute of a directory's default ACL.
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// Version 2; then tag, permissions and (unused) id of owner, group and others: read, write, search. As in
/// linux/posix_acl_xattr.h, little-endian.
const EVERYBODY: [u8; 28] = [
    2, 0, 0, 0, //
    0x01, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
    0x04, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 7, 0, 0xff, 0xff, 0xff, 0xff,
];

/// Opens a directory of ours, with all in it, to every uid. Nothing in it is hostile yet.
///
/// # Errors
/// When a mode cannot be set. A file system without ACLs is none: then what a umask inside takes away stays away.
pub fn with_every_uid(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    match setxattr(directory, DEFAULT_ACL, &EVERYBODY, XattrFlags::empty()) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {
            tracing::warn!(directory = %directory.display(), "no ACLs here: what a container's umask takes away stays away");
        }
        Err(error) => return Err(error.into()),
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            with_every_uid(&entry.path())?;
        } else if kind.is_file() {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            // Hooks stay programs.
            let run = if mode & 0o111 == 0 { 0 } else { 0o111 };
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode | 0o666 | run))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_inside_is_everybodys_whatever_the_umask() {
        let temp = tempfile::tempdir().expect("tempdir");
        let top = temp.path().join("git");
        fs::create_dir_all(top.join("refs")).expect("mkdir");
        fs::write(top.join("hook"), "#!").expect("writes");
        fs::set_permissions(top.join("hook"), fs::Permissions::from_mode(0o700)).expect("chmod");
        with_every_uid(&top).expect("opens");
        let script = "umask 077; mkdir refs/a; echo x > refs/a/b";
        let made = std::process::Command::new("sh").current_dir(&top).args(["-c", script]).status();
        assert!(made.expect("sh runs").success());
        let mode = |path: &str| fs::metadata(top.join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("refs/a"), mode("refs/a/b"), mode("hook")), (0o777, 0o666, 0o777));
    }
}
