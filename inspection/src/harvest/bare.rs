//! Repositories of ours in which a session's objects are looked at, by the child and by the broker alike.

use std::path::{Path, PathBuf};
use std::{fs, io};

use keyhatch_protocol::ObjectFormat;

/// In a partial clone, what a pack of the host's promisor leads to may be missing, and nothing else. The session's own
/// packs promise nothing: completeness is looked at where they are not.
pub const PROMISED: &str = "--missing=allow-promisor";

/// A bare repository with nothing in it, whose configuration is ours.
///
/// # Errors
/// What the file system says.
pub fn bare(path: &Path, (format, partial): (ObjectFormat, bool), stores: &[PathBuf]) -> io::Result<()> {
    fs::create_dir_all(path.join("objects/info"))?;
    fs::create_dir_all(path.join("objects/pack"))?;
    fs::create_dir_all(path.join("refs"))?;
    fs::write(path.join("HEAD"), "ref: refs/heads/none\n")?;
    let mut config = match format {
        ObjectFormat::Sha1 => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n".to_owned(),
        ObjectFormat::Sha256 => {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
                .into()
        }
    };
    if partial {
        // Without one git looks for no promises. It is never asked for anything: it has no address.
        config.push_str("[remote \"host\"]\n\tpromisor = true\n");
    }
    fs::write(path.join("config"), config)?;
    let alternates: String = stores.iter().map(|store| format!("{}\n", store.display())).collect();
    fs::write(path.join("objects/info/alternates"), alternates)
}
