//! The root inside: a fresh one in memory, with read-only system directories, own /proc, /dev, /tmp and home, and the
//! mounts of the rules over that.
//!
//! It is begun with the system's part before the session is open, and nothing of the host's is covered meanwhile. Every
//! source is copied as a detached mount and gets its attributes before it appears: nothing is ever visible in a looser
//! form. Targets are opened beneath the new root without following links.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keyhatch_sandbox_rules::rules::{Foundation, Mount, SandboxRules};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

fn nosuid() -> u64 {
    if mutation::is_off(Mitigation::Nosuid) { 0 } else { NOSUID }
}

/// Devices that hold nothing of anybody's.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// What a process namespace does not keep apart: names and owners of the user's keys on the host.
const UNSEEN: &[&str] = &["/proc/keys", "/proc/key-users"];

fn unseen() -> &'static [&'static str] {
    if mutation::is_off(Mitigation::Unseen) { &[] } else { UNSEEN }
}

/// Something that will be in the new root.
enum Piece {
    /// A symbolic link of the host's system directories (`/bin -> usr/bin`).
    Link { path: PathBuf, target: PathBuf },
    /// A copied mount.
    Tree { path: PathBuf, tree: OwnedFd, directory: bool },
}

/// The new root with the system in it: begun before the rest of the rules is there.
pub(crate) struct Begun {
    /// None where the mitigation is off.
    root: Option<Root>,
    memory_files: Option<u64>,
}

/// The same, and copies of what the rules mount over it, made while the host's root is still there.
pub(crate) struct Prepared {
    begun: Begun,
    mounts: Vec<Piece>,
    home: Option<Piece>,
}

/// Begins the root with what every session has of the machine. Paths go on meaning the host's.
pub(crate) fn begin(foundation: &Foundation) -> Result<Begun, RunError> {
    // Nothing that is mounted here shows on the host; what the host unmounts goes here too.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .map_err(at("detach", "the mounts"))?;
    let memory_files = foundation.limits.memory_files;
    if mutation::is_off(Mitigation::Root) {
        return Ok(Begun { root: None, memory_files });
    }
    let root = Root::attach()?;
    for path in &foundation.system {
        if let Some(piece) = system(path)? {
            root.place(piece)?;
        }
    }
    root.make_dev()?;
    root.mount("/proc", "proc", &[], NOSUID | NODEV | NOEXEC)?;
    for path in unseen().iter().map(Path::new).filter(|path| path.exists()) {
        root.place(nothing(path)?)?;
    }
    let begun = Begun { root: Some(root), memory_files };
    for shared in ["/tmp", "/dev/shm"] {
        begun.in_memory(shared.as_ref(), "1777")?;
    }
    Ok(begun)
}

impl Begun {
    /// Copies what the rules name.
    pub(crate) fn prepare(self, rules: &SandboxRules) -> Result<Prepared, RunError> {
        let home = rules.home_source.as_ref().map(|source| {
            copied(&Mount { source: source.clone(), target: rules.home.clone(), read_only: false })
        });
        let mounts = rules.mounts.iter().map(copied).collect::<Result<Vec<_>, _>>()?;
        Ok(Prepared { begun: self, mounts, home: home.transpose()? })
    }

    /// Mounts a file system that is memory: without a size it takes half of the machine's.
    fn in_memory(&self, path: &Path, mode: &str) -> Result<(), RunError> {
        let size = self.memory_files.map(|bytes| bytes.to_string());
        let options = std::iter::once(("mode", mode)).chain(size.as_deref().map(|size| ("size", size)));
        let options: Vec<_> = options.collect();
        self.root.as_ref().map_or(Ok(()), |root| root.mount_at(path, "tmpfs", &options, NOSUID | NODEV))
    }
}

impl Prepared {
    /// Finishes the root and goes there.
    pub(crate) fn enforce(self, rules: &SandboxRules) -> Result<(), RunError> {
        let Self { begun, mounts, home } = self;
        let Some(root) = &begun.root else {
            return rustix::process::chdir(&rules.cwd).map_err(at("enter", rules.cwd.display().to_string()));
        };
        match home {
            Some(kept) => root.place(kept)?,
            None => begun.in_memory(&rules.home, "0700")?,
        }
        for file in &rules.files {
            root.write(&file.path, &file.content)?;
        }
        for piece in mounts {
            root.place(piece)?;
        }
        root.make_directory(Path::new("/run"))?;
        root.seal()?;
        root.enter(&rules.cwd)
    }
}

/// A directory or file of the system's; none where this machine has none.
fn system(path: &Path) -> Result<Option<Piece>, RunError> {
    let name = || path.display().to_string();
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(at("look at", name())(error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            let target = std::fs::read_link(path).map_err(at("read", name()))?;
            Ok(Some(Piece::Link { path: path.to_owned(), target }))
        }
        Ok(_) => {
            copied(&Mount { source: path.to_owned(), target: path.to_owned(), read_only: true }).map(Some)
        }
    }
}

/// Copies a mount of the rules, detached, with its attributes set.
fn copied(mount: &Mount) -> Result<Piece, RunError> {
    let name = || mount.source.display().to_string();
    let tree = copy(&mount.source)?;
    let stat = rustix::fs::fstat(&tree).map_err(at("look at", name()))?;
    let read_only = mount.read_only && !mutation::is_off(Mitigation::ReadOnly);
    let attributes = nosuid() | NODEV | if read_only { RDONLY } else { 0 };
    sys::mount_setattr(tree.as_fd(), attributes, true).map_err(at("protect", name()))?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Piece::Tree { path: mount.target.clone(), tree, directory })
}

fn device(name: &str) -> Result<Piece, RunError> {
    let path = Path::new("/dev").join(name);
    let tree = copy(&path)?;
    sys::mount_setattr(tree.as_fd(), NOSUID | NOEXEC, false)
        .map_err(at("protect", path.display().to_string()))?;
    Ok(Piece::Tree { path, tree, directory: false })
}

/// The null device in place of a file.
fn nothing(path: &Path) -> Result<Piece, RunError> {
    let tree = copy(Path::new("/dev/null"))?;
    sys::mount_setattr(tree.as_fd(), NOSUID | NOEXEC | RDONLY, false)
        .map_err(at("protect", path.display().to_string()))?;
    Ok(Piece::Tree { path: path.to_owned(), tree, directory: false })
}

fn copy(source: &Path) -> Result<OwnedFd, RunError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, source, flags).map_err(at("show", source.display().to_string()))
}

/// A new file system in memory, or a kernel's own, detached.
fn fresh(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd, RunError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("make", kind))?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value).map_err(at("set up", kind))?;
    }
    fsconfig_create(context.as_fd()).map_err(at("make", kind))?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("make", kind))
}

/// The new root while it is built.
struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Attaches it where it can be populated: over the root itself. Whoever is below already stays there (a path begins at
    /// the process's own root, whatever is mounted over it), so that the host's paths can still be named.
    fn attach() -> Result<Self, RunError> {
        let tree = fresh("tmpfs", &[("mode", "0755")], NOSUID | NODEV)?;
        move_mount(tree.as_fd(), "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(at("attach", "the new root"))?;
        Ok(Self { directory: tree })
    }

    fn place(&self, piece: Piece) -> Result<(), RunError> {
        match piece {
            Piece::Link { path, target } => {
                let name = path.display().to_string();
                let (parent, leaf) = self.parent(&path)?;
                symlinkat(&target, &parent, leaf).map_err(at("link", name))
            }
            Piece::Tree { path, tree, directory } => {
                let target = if directory { self.make_directory(&path)? } else { self.make_file(&path)? };
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                move_mount(tree.as_fd(), "", target.as_fd(), "", flags)
                    .map_err(at("mount", path.display().to_string()))
            }
        }
    }

    fn mount(
        &self,
        path: &str,
        kind: &str,
        options: &[(&str, &str)],
        attributes: u64,
    ) -> Result<(), RunError> {
        self.mount_at(Path::new(path), kind, options, attributes)
    }

    fn mount_at(
        &self,
        path: &Path,
        kind: &str,
        options: &[(&str, &str)],
        attributes: u64,
    ) -> Result<(), RunError> {
        let tree = fresh(kind, options, attributes)?;
        self.place(Piece::Tree { path: path.to_owned(), tree, directory: true })
    }

    fn make_dev(&self) -> Result<(), RunError> {
        self.mount("/dev", "tmpfs", &[("mode", "0755")], NOSUID | NOEXEC)?;
        for name in DEVICES {
            self.place(device(name)?)?;
        }
        self.mount(
            "/dev/pts",
            "devpts",
            &[("newinstance", "1"), ("ptmxmode", "0666"), ("mode", "620")],
            NOSUID | NOEXEC,
        )
        .or_else(|_| {
            self.mount("/dev/pts", "devpts", &[("ptmxmode", "0666"), ("mode", "620")], NOSUID | NOEXEC)
        })?;
        self.make_directory(Path::new("/dev/shm"))?;
        let links = [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ];
        for (name, target) in links {
            self.place(Piece::Link { path: Path::new("/dev").join(name), target: target.into() })?;
        }
        Ok(())
    }

    /// Opens a directory beneath the root, making what is missing. No link is followed: a session may have made one.
    fn make_directory(&self, path: &Path) -> Result<OwnedFd, RunError> {
        let name = || path.display().to_string();
        let beneath = path.strip_prefix("/").ok().filter(|beneath| *beneath != "").unwrap_or(Path::new("."));
        // Most are there already, and one call opens them.
        if let Ok(there) = self.open(&self.directory, beneath, OFlags::DIRECTORY) {
            return Ok(there);
        }
        let (parent, leaf) = self.parent(path)?;
        match mkdirat(&parent, leaf, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // A directory that is there already, on a file system that takes no new one.
            Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => {}
            Err(error) => return Err(at("make", name())(error)),
        }
        self.open(&parent, Path::new(leaf), OFlags::DIRECTORY).map_err(|error| match error {
            RunError::Step { act, source, .. } => RunError::Step { act, object: name(), source },
            other => other,
        })
    }

    fn make_file(&self, path: &Path) -> Result<OwnedFd, RunError> {
        let name = || path.display().to_string();
        let (parent, leaf) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, leaf, flags, Mode::from_raw_mode(0o444)) {
            Ok(_) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
            Err(error) => return Err(at("make", name())(error)),
        }
        self.open(&parent, Path::new(leaf), OFlags::empty())
    }

    fn write(&self, path: &Path, content: &str) -> Result<(), RunError> {
        let name = || path.display().to_string();
        let (parent, leaf) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, leaf, flags, Mode::from_raw_mode(0o444))
            .map_err(at("make", name()))?;
        File::from(file).write_all(content.as_bytes()).map_err(at("write", name()))
    }

    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a std::ffi::OsStr), RunError> {
        let invalid = || at("use", path.display().to_string())(rustix::io::Errno::INVAL);
        let leaf = path.file_name().ok_or_else(invalid)?;
        let parent = self.make_directory(path.parent().ok_or_else(invalid)?)?;
        Ok((parent, leaf))
    }

    fn open(&self, from: &OwnedFd, path: &Path, extra: OFlags) -> Result<OwnedFd, RunError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(from, path, flags, Mode::empty(), resolve).map_err(at("open", path.display().to_string()))
    }

    /// Makes the root itself, and the directory of devices, read-only; what is mounted in them keeps its own.
    fn seal(&self) -> Result<(), RunError> {
        if mutation::is_off(Mitigation::Seal) {
            return Ok(());
        }
        for path in ["dev", "."] {
            let directory = self.open(&self.directory, Path::new(path), OFlags::DIRECTORY)?;
            sys::mount_setattr(directory.as_fd(), RDONLY, false).map_err(at("seal", "the new root"))?;
        }
        Ok(())
    }

    /// Makes it the root and lets the old one go.
    fn enter(&self, cwd: &Path) -> Result<(), RunError> {
        rustix::process::fchdir(&self.directory).map_err(at("enter", "the new root"))?;
        // pivot_root(2), "pivot_root(".", ".")": the old root is stacked below the new one, and taken away there.
        rustix::process::pivot_root(".", ".").map_err(at("enter", "the new root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(at("leave", "the old root"))?;
        rustix::process::chdir("/").map_err(at("enter", "the new root"))?;
        rustix::process::chdir(cwd).map_err(at("enter", cwd.display().to_string()))
    }
}
