//! The root inside: a fresh one in memory, with read-only system directories, own /proc, /dev, /tmp and home, and the
//! mounts of the rules over that.
//!
//! Every source is copied as a detached mount before anything is covered, and gets its attributes before it appears:
//! nothing is ever visible in a looser form. Targets are opened beneath the new root without following links.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keyhatch_policies::rules::{Mount, SandboxRules};
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

/// Everything that will be in the new root, copied while the host's is still there.
pub(crate) struct Pieces {
    system: Vec<Piece>,
    mounts: Vec<Piece>,
    home: Option<Piece>,
    devices: Vec<Piece>,
    unseen: Vec<Piece>,
}

/// Copies what the rules name.
pub(crate) fn prepare(rules: &SandboxRules) -> Result<Pieces, RunError> {
    // Nothing that is mounted here shows on the host; what the host unmounts goes here too.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .map_err(at("detach", "the mounts"))?;
    let home = rules.home_source.as_ref().map(|source| {
        copied(&Mount { source: source.clone(), target: rules.home.clone(), read_only: false })
    });
    Ok(Pieces {
        system: pieces(rules)?,
        mounts: rules.mounts.iter().map(copied).collect::<Result<Vec<_>, _>>()?,
        home: home.transpose()?,
        devices: DEVICES.iter().map(|name| device(name)).collect::<Result<Vec<_>, _>>()?,
        unseen: unseen()
            .iter()
            .map(Path::new)
            .filter(|path| path.exists())
            .map(nothing)
            .collect::<Result<_, _>>()?,
    })
}

impl Pieces {
    /// Builds the root and goes there.
    pub(crate) fn enforce(self, rules: &SandboxRules) -> Result<(), RunError> {
        if mutation::is_off(Mitigation::Root) {
            return rustix::process::chdir(&rules.cwd).map_err(at("enter", rules.cwd.display().to_string()));
        }
        build(self, rules)
    }
}

fn build(
    Pieces { system, mounts, home, devices, unseen }: Pieces,
    rules: &SandboxRules,
) -> Result<(), RunError> {
    let root = Root::attach()?;
    for piece in system {
        root.place(piece)?;
    }
    root.make_dev(devices)?;
    root.mount("/proc", "proc", &[], NOSUID | NODEV | NOEXEC)?;
    for piece in unseen {
        root.place(piece)?;
    }
    let size = rules.limits.memory_files.map(|bytes| bytes.to_string());
    for shared in ["/tmp", "/dev/shm"] {
        root.mount(shared, "tmpfs", &in_memory("1777", size.as_deref()), NOSUID | NODEV)?;
    }
    match home {
        Some(kept) => root.place(kept)?,
        None => root.mount_at(&rules.home, "tmpfs", &in_memory("0700", size.as_deref()), NOSUID | NODEV)?,
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

/// The options of a file system that is memory: without a size it takes half of the machine's.
fn in_memory<'a>(mode: &'a str, size: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    std::iter::once(("mode", mode)).chain(size.map(|size| ("size", size))).collect()
}

/// The system's directories and files, as far as this machine has them.
fn pieces(rules: &SandboxRules) -> Result<Vec<Piece>, RunError> {
    let mut pieces = Vec::new();
    for path in &rules.system {
        let name = || path.display().to_string();
        match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(at("look at", name())(error)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                let target = std::fs::read_link(path).map_err(at("read", name()))?;
                pieces.push(Piece::Link { path: path.clone(), target });
            }
            Ok(_) => {
                pieces.push(copied(&Mount { source: path.clone(), target: path.clone(), read_only: true })?)
            }
        }
    }
    Ok(pieces)
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
    /// Attaches it where it can be populated: over /tmp, which every machine has. All sources are copied already.
    fn attach() -> Result<Self, RunError> {
        let tree = fresh("tmpfs", &[("mode", "0755")], NOSUID | NODEV)?;
        move_mount(tree.as_fd(), "", CWD, "/tmp", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
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

    fn make_dev(&self, devices: Vec<Piece>) -> Result<(), RunError> {
        self.mount("/dev", "tmpfs", &[("mode", "0755")], NOSUID | NOEXEC)?;
        for piece in devices {
            self.place(piece)?;
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
    fn enter(self, cwd: &Path) -> Result<(), RunError> {
        rustix::process::fchdir(&self.directory).map_err(at("enter", "the new root"))?;
        // pivot_root(2), "pivot_root(".", ".")": the old root is stacked below the new one, and taken away there.
        rustix::process::pivot_root(".", ".").map_err(at("enter", "the new root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(at("leave", "the old root"))?;
        rustix::process::chdir("/").map_err(at("enter", "the new root"))?;
        rustix::process::chdir(cwd).map_err(at("enter", cwd.display().to_string()))
    }
}
