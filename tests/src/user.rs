//! The ordinary user that everything runs as.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user's name where the tests are run by root; `test.sh` makes it.
const NAME: &str = "keyhatch-test";

/// Who runs the programs of a test.
#[derive(Debug, Clone)]
pub struct User {
    /// The login name.
    pub name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// The one who runs the tests, or where that is root, an ordinary one.
    ///
    /// # Panics
    /// When root runs the tests and the ordinary user does not exist.
    #[must_use]
    pub fn ordinary() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let found = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (of, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            let wanted = if uid == 0 { fields.first()? == &NAME } else { of == uid };
            wanted.then(|| Self { name: fields[0].to_owned(), uid: of, gid })
        });
        found.unwrap_or_else(|| panic!("there is no ordinary user {NAME}: run ./test.sh, which makes it"))
    }

    /// Makes a command run as this user.
    pub fn runs(&self, command: &mut Command) {
        if rustix::process::getuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives a path to this user.
    ///
    /// # Panics
    /// When it cannot be given.
    pub fn owns(&self, path: &std::path::Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .expect("a path can be given to the user");
    }
}
