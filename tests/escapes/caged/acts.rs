//! What a child tries that was taken over: each act is done with the confinement off, and fails with it on.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the acts are aimed at.
pub struct Target {
    /// A directory of the user's.
    pub directory: PathBuf,
    /// The process that holds secrets.
    pub parent: i32,
    /// The descriptor that the child was given.
    pub spool: i32,
}

/// One act.
pub struct Act {
    /// What it is.
    pub name: &'static str,
    /// Whether every kernel and machine lets an ordinary user do it who is not confined.
    pub is_open: bool,
    /// Does it.
    pub attempt: fn(&Target) -> io::Result<()>,
}

/// Files of the user's, each for the acts that change it.
pub const VICTIMS: &[&str] = &["secret", "spool", "mode", "times", "attributes", "target", "cut"];
/// Where the parent forgot to close a descriptor.
const FORGOTTEN: i32 = 100;

/// Whether a descriptor is open that the parent forgot.
pub fn is_forgotten() -> bool {
    done(libc::SYS_fcntl, &[FORGOTTEN as usize, libc::F_GETFD as usize]).is_ok()
}

/// Leaves a descriptor open for everything that is started.
pub fn forget(descriptor: i32) {
    // SAFETY: dup2 makes a number that nothing else in this program uses.
    assert_eq!(unsafe { libc::dup2(descriptor, FORGOTTEN) }, FORGOTTEN);
}

type Six = [usize; 6];

fn call(number: libc::c_long, arguments: &[usize]) -> io::Result<libc::c_long> {
    let mut all: Six = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: the acts pass numbers, or pointers to values that live across the call.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn done(number: libc::c_long, arguments: &[usize]) -> io::Result<()> {
    call(number, arguments).map(drop)
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero")
}

const HERE: usize = libc::AT_FDCWD as usize;

/// A call on a victim's path at the place of the directory's descriptor.
fn on(target: &Target, name: &str, number: libc::c_long, rest: &[usize]) -> io::Result<()> {
    let file = path(&target.directory.join(name));
    done(number, &[&[HERE, file.as_ptr() as usize], rest].concat())
}

fn open(file: &Path, flags: libc::c_int) -> io::Result<()> {
    let file = path(file);
    done(libc::SYS_openat, &[HERE, file.as_ptr() as usize, flags as usize, 0o600])
}

fn of_parent(target: &Target, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", target.parent))
}

fn spool_again(target: &Target) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", target.spool))
}

/// Something that takes longer to have than to use: a fork that ends at once, to see whether flags are allowed.
fn clone(flags: usize) -> io::Result<()> {
    match call(libc::SYS_clone, &[flags | libc::SIGCHLD as usize, 0, 0, 0, 0])? {
        // SAFETY: the copy ends here.
        0 => unsafe { libc::_exit(0) },
        child => {
            // A sibling is the parent's to wait for.
            drop(call(libc::SYS_wait4, &[child as usize, 0, 0, 0]));
            Ok(())
        }
    }
}

/// Does something in a process of its own: what it changes is gone with that.
fn apart(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match call(libc::SYS_clone, &[libc::SIGCHLD as usize, 0, 0, 0, 0])? {
        0 => {
            let failed = attempt().is_err();
            // SAFETY: the copy ends here.
            unsafe { libc::_exit(i32::from(failed)) }
        }
        child => {
            let mut status = 0i32;
            call(libc::SYS_wait4, &[child as usize, &raw mut status as usize, 0, 0])?;
            if status == 0 { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
        }
    }
}

const fn act(name: &'static str, attempt: fn(&Target) -> io::Result<()>) -> Act {
    Act { name, is_open: true, attempt }
}

/// An act that some machines keep from everybody: it needs a power, or is switched off.
const fn closed(name: &'static str, attempt: fn(&Target) -> io::Result<()>) -> Act {
    Act { name, is_open: false, attempt }
}

/// The table.
pub const ACTS: &[Act] = &[
    // What it was given can only be read.
    act("reads a file of the user's", |t| open(&t.directory.join("secret"), libc::O_RDONLY)),
    closed("writes to the spool", |t| done(libc::SYS_write, &[t.spool as usize, b"x".as_ptr() as usize, 1])),
    closed("writes into the spool", |t| {
        done(libc::SYS_pwrite64, &[t.spool as usize, b"x".as_ptr() as usize, 1, 0])
    }),
    closed("cuts the spool", |t| done(libc::SYS_ftruncate, &[t.spool as usize, 0])),
    act("opens the spool again for writing", |t| open(&spool_again(t), libc::O_RDWR)),
    act("opens and empties the spool again", |t| open(&spool_again(t), libc::O_RDONLY | libc::O_TRUNC)),
    closed("maps the spool for writing", |t| {
        let both = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        done(libc::SYS_mmap, &[0, 4096, both, libc::MAP_SHARED as usize, t.spool as usize, 0])
    }),
    act("changes the spool's mode", |t| done(libc::SYS_fchmod, &[t.spool as usize, 0o666])),
    act("changes the spool's times", |t| done(libc::SYS_utimensat, &[t.spool as usize, 0, 0, 0])),
    act("takes a lease on the spool", |t| {
        done(libc::SYS_fcntl, &[t.spool as usize, libc::F_SETLEASE as usize, libc::F_RDLCK as usize])
            .or_else(|_| done(libc::SYS_flock, &[t.spool as usize, libc::LOCK_SH as usize]))
    }),
    act("has a stranger signalled about the spool", |t| {
        done(libc::SYS_fcntl, &[t.spool as usize, libc::F_SETOWN as usize, t.parent as usize])
    }),
    act("locks the spool", |t| done(libc::SYS_flock, &[t.spool as usize, libc::LOCK_EX as usize])),
    closed("links the spool into its directory", |t| {
        let (from, to) = (path(&spool_again(t)), path(&t.directory.join("quarantine/spool")));
        let follow = libc::AT_SYMLINK_FOLLOW as usize;
        done(libc::SYS_linkat, &[HERE, from.as_ptr() as usize, HERE, to.as_ptr() as usize, follow])
    }),
    // Files by name.
    act("writes a file of the user's", |t| open(&t.directory.join("target"), libc::O_WRONLY)),
    act("empties a file of the user's", |t| {
        open(&t.directory.join("target"), libc::O_RDONLY | libc::O_TRUNC)
    }),
    act("empties a file of the user's, the newer way", |t| {
        let (file, how) =
            (path(&t.directory.join("target")), [(libc::O_RDONLY | libc::O_TRUNC) as u64, 0, 0]);
        done(libc::SYS_openat2, &[HERE, file.as_ptr() as usize, how.as_ptr() as usize, 24])
    }),
    act("makes a file of the user's", |t| open(&t.directory.join("new"), libc::O_CREAT | libc::O_WRONLY)),
    act("makes a directory of the user's", |t| on(t, "made", libc::SYS_mkdirat, &[0o700])),
    act("moves a file of the user's", |t| {
        let (from, to) = (path(&t.directory.join("target")), path(&t.directory.join("moved")));
        done(libc::SYS_renameat2, &[HERE, from.as_ptr() as usize, HERE, to.as_ptr() as usize, 0])
    }),
    act("removes a file of the user's", |t| on(t, "moved", libc::SYS_unlinkat, &[0])),
    act("cuts a file of the user's", |t| {
        let file = path(&t.directory.join("cut"));
        done(libc::SYS_truncate, &[file.as_ptr() as usize, 0])
    }),
    act("lists the user's directory", |t| open(&t.directory, libc::O_RDONLY | libc::O_DIRECTORY)),
    act("makes a file of the user's for everybody", |t| on(t, "mode", libc::SYS_fchmodat, &[0o666])),
    #[cfg(target_arch = "x86_64")]
    act("makes a file of the user's for everybody, the older way", |t| {
        let file = path(&t.directory.join("mode"));
        done(libc::SYS_chmod, &[file.as_ptr() as usize, 0o644])
    }),
    closed("makes a file of the user's for everybody, the newer way", |t| {
        on(t, "mode", libc::SYS_fchmodat2, &[0o666, 0])
    }),
    act("gives a file of the user's away", |t| {
        on(t, "mode", libc::SYS_fchownat, &[u32::MAX as usize, u32::MAX as usize, 0])
    }),
    act("changes the times of a file of the user's", |t| on(t, "times", libc::SYS_utimensat, &[0, 0])),
    closed("writes an attribute of a file of the user's", |t| {
        let file = path(&t.directory.join("attributes"));
        let name = c"user.keyhatch".as_ptr() as usize;
        done(libc::SYS_setxattr, &[file.as_ptr() as usize, name, b"x".as_ptr() as usize, 1, 0])
    }),
    closed("removes an attribute of a file of the user's", |t| {
        let file = path(&t.directory.join("attributes"));
        done(libc::SYS_removexattr, &[file.as_ptr() as usize, c"user.keyhatch".as_ptr() as usize])
    }),
    closed("sets the flags of the spool's inode", |t| {
        let flags: libc::c_long = 0x80; // FS_NOATIME_FL
        done(libc::SYS_ioctl, &[t.spool as usize, 0x4008_6602, &raw const flags as usize])
    }),
    act("makes a link in its directory", |t| {
        let to = path(&t.directory.join("quarantine/link"));
        done(libc::SYS_symlinkat, &[c"/etc/passwd".as_ptr() as usize, HERE, to.as_ptr() as usize])
    }),
    act("makes a pipe in its directory", |t| {
        on(t, "quarantine/pipe", libc::SYS_mknodat, &[(libc::S_IFIFO | 0o600) as usize, 0])
    }),
    act("makes a setuid file in its directory", |t| {
        let file = t.directory.join("quarantine/setuid");
        open(&file, libc::O_CREAT | libc::O_WRONLY)?;
        on(t, "quarantine/setuid", libc::SYS_fchmodat, &[0o4755])
    }),
    act("executes a program that it wrote", |t| {
        let program = t.directory.join("quarantine/program");
        std::fs::copy("/bin/true", &program)?;
        std::process::Command::new(&program).status().map(drop)
    }),
    act("reads the user's passwords", |_| open(Path::new("/etc/passwd"), libc::O_RDONLY)),
    closed("opens a file by its handle", |t| {
        let mut handle = [0u8; 136];
        handle[0] = 128;
        let (file, mut mount) = (path(&t.directory.join("secret")), 0i32);
        done(
            libc::SYS_name_to_handle_at,
            &[HERE, file.as_ptr() as usize, handle.as_mut_ptr() as usize, &raw mut mount as usize, 0],
        )
    }),
    act("watches the user's files", |t| {
        let watch = call(libc::SYS_inotify_init1, &[0])?;
        let file = path(&t.directory.join("secret"));
        done(libc::SYS_inotify_add_watch, &[watch as usize, file.as_ptr() as usize, 1])
    }),
    // Other processes.
    act("asks whether the parent can be signalled", |t| done(libc::SYS_kill, &[t.parent as usize, 0])),
    act("signals the parent", |t| done(libc::SYS_kill, &[t.parent as usize, libc::SIGWINCH as usize])),
    act("signals a thread of the parent", |t| {
        done(libc::SYS_tgkill, &[t.parent as usize, t.parent as usize, libc::SIGWINCH as usize])
    }),
    act("signals the parent by a descriptor", |t| {
        let pidfd = call(libc::SYS_pidfd_open, &[t.parent as usize, 0])?;
        done(libc::SYS_pidfd_send_signal, &[pidfd as usize, libc::SIGWINCH as usize, 0, 0])
    }),
    act("queues a signal for the parent", |t| {
        // SAFETY: plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        info.si_code = -1;
        info.si_signo = libc::SIGWINCH;
        done(
            libc::SYS_rt_sigqueueinfo,
            &[t.parent as usize, libc::SIGWINCH as usize, &raw const info as usize],
        )
    }),
    act("signals everything of the user's", |_| done(libc::SYS_kill, &[usize::MAX, 0])),
    closed("traces the parent", |t| done(libc::SYS_ptrace, &[0x4206, t.parent as usize, 0, 0])),
    closed("reads the parent's memory", |t| {
        let mut buffer = [0u8; 8];
        let local = [buffer.as_mut_ptr() as usize, 8];
        let remote = [0x40_0000usize, 8];
        let vectors = [local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
        done(libc::SYS_process_vm_readv, &[&[t.parent as usize], &vectors[..]].concat())
    }),
    act("reads the parent's command line", |t| open(&of_parent(t, "cmdline"), libc::O_RDONLY)),
    closed("reads the parent's environment", |t| open(&of_parent(t, "environ"), libc::O_RDONLY)),
    closed("opens the parent's memory", |t| open(&of_parent(t, "mem"), libc::O_RDWR)),
    closed("enters the parent's root", |t| open(&of_parent(t, "root/etc/passwd"), libc::O_RDONLY)),
    act("has the parent killed first when memory is short", |t| {
        open(&of_parent(t, "oom_score_adj"), libc::O_WRONLY)
    }),
    act("sets the parent's limits", |t| {
        let limit = libc::rlimit { rlim_cur: 512, rlim_max: 512 };
        let number = libc::RLIMIT_NOFILE as usize;
        done(libc::SYS_prlimit64, &[t.parent as usize, number, &raw const limit as usize, 0])
    }),
    act("reads the parent's limits", |t| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let number = libc::RLIMIT_NOFILE as usize;
        done(libc::SYS_prlimit64, &[t.parent as usize, number, 0, &raw mut limit as usize])
    }),
    act("renices the parent", |t| done(libc::SYS_setpriority, &[0, t.parent as usize, 1])),
    act("lowers the parent's disk priority", |t| {
        done(libc::SYS_ioprio_set, &[1, t.parent as usize, (3 << 13) as usize])
    }),
    act("moves the parent to one processor", |t| {
        let mut mask = [0usize; 16];
        call(libc::SYS_sched_getaffinity, &[t.parent as usize, 128, mask.as_mut_ptr() as usize])?;
        done(libc::SYS_sched_setaffinity, &[t.parent as usize, 128, mask.as_ptr() as usize])
    }),
    closed("takes a descriptor of the parent's", |t| {
        let pidfd = call(libc::SYS_pidfd_open, &[t.parent as usize, 0])?;
        done(libc::SYS_pidfd_getfd, &[pidfd as usize, 2, 0])
    }),
    closed("compares itself with the parent", |t| {
        done(libc::SYS_kcmp, &[t.parent as usize, t.parent as usize, 1, 0, 0])
    }),
    // Leaving the parent's hand.
    act("does not die with the parent", |_| done(libc::SYS_prctl, &[1, 0, 0, 0, 0])),
    act("dies gently with the parent", |_| done(libc::SYS_prctl, &[1, libc::SIGTERM as usize, 0, 0, 0])),
    act("becomes a child of the parent's", |_| clone(libc::CLONE_PARENT as usize)),
    closed("leaves its process group", |_| done(libc::SYS_setpgid, &[0, 0])),
    act("leaves its session", |_| apart(|| done(libc::SYS_setsid, &[]))),
    act("shows its memory", |_| done(libc::SYS_prctl, &[4, 1, 0, 0, 0])),
    act("names who may trace it", |t| done(libc::SYS_prctl, &[0x5961_6d61, t.parent as usize, 0, 0, 0]))
        .unless_switched_off(),
    // The kernel's attack surface.
    act("makes a user namespace", |_| apart(|| done(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])))
        .unless_switched_off(),
    act("starts something in a user namespace", |_| clone(libc::CLONE_NEWUSER as usize))
        .unless_switched_off(),
    act("starts something in a network of its own", |_| {
        clone((libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as usize)
    })
    .unless_switched_off(),
    act("starts something by the newer call", |_| {
        let mut arguments = [0u64; 11];
        arguments[4] = libc::SIGCHLD as u64;
        match call(libc::SYS_clone3, &[arguments.as_ptr() as usize, 88])? {
            // SAFETY: the copy ends here.
            0 => unsafe { libc::_exit(0) },
            child => done(libc::SYS_wait4, &[child as usize, 0, 0, 0]),
        }
    }),
    closed("joins a namespace", |_| {
        let own = call(libc::SYS_openat, &[HERE, c"/proc/self/ns/user".as_ptr() as usize, 0])?;
        done(libc::SYS_setns, &[own as usize, 0])
    }),
    closed("mounts", |_| {
        let kind = c"tmpfs".as_ptr() as usize;
        done(libc::SYS_mount, &[kind, c"/tmp".as_ptr() as usize, kind, 0, 0])
    }),
    closed("opens a file system", |_| done(libc::SYS_fsopen, &[c"tmpfs".as_ptr() as usize, 0])),
    closed("changes its root", |_| done(libc::SYS_chroot, &[c"/tmp".as_ptr() as usize])),
    act("makes an io_uring", |_| {
        let parameters = [0u64; 15];
        done(libc::SYS_io_uring_setup, &[1, parameters.as_ptr() as usize])
    })
    .unless_switched_off(),
    closed("loads a program into the kernel", |_| {
        let attributes = [0u64; 16];
        done(libc::SYS_bpf, &[0, attributes.as_ptr() as usize, 128])
    }),
    closed("counts events of the kernel's", |_| {
        let mut attributes = [0u32; 32];
        (attributes[0], attributes[1]) = (1, 128);
        done(libc::SYS_perf_event_open, &[attributes.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0])
    }),
    closed("handles page faults by itself", |_| done(libc::SYS_userfaultfd, &[1])),
    act("joins the user's keyring", |_| done(libc::SYS_keyctl, &[0, (-4i64) as usize, 1]))
        .unless_switched_off(),
    act("adds a key", |_| {
        let text = c"keyhatch".as_ptr() as usize;
        done(libc::SYS_add_key, &[c"user".as_ptr() as usize, text, text, 8, (-1i64) as usize])
    })
    .unless_switched_off(),
    closed("asks for a key", |_| {
        let text = c"keyhatch".as_ptr() as usize;
        done(libc::SYS_request_key, &[c"user".as_ptr() as usize, text, 0, 0])
    }),
    act("makes a file without a name", |_| done(libc::SYS_memfd_create, &[c"program".as_ptr() as usize, 0])),
    act("executes a file without a name", |_| {
        let file = call(libc::SYS_memfd_create, &[c"program".as_ptr() as usize, 0])?;
        let text = b"#!/bin/true\n";
        call(libc::SYS_write, &[file as usize, text.as_ptr() as usize, text.len()])?;
        let arguments = [c"program".as_ptr() as usize, 0];
        apart(|| {
            let (empty, at) = (c"".as_ptr() as usize, libc::AT_EMPTY_PATH as usize);
            done(libc::SYS_execveat, &[file as usize, empty, arguments.as_ptr() as usize, 0, at])
        })
    }),
    // Ways out.
    act("makes a local socket", |_| done(libc::SYS_socket, &[libc::AF_UNIX as usize, 1, 0])),
    act("makes an internet socket", |_| done(libc::SYS_socket, &[libc::AF_INET as usize, 1, 0])),
    act("makes a datagram socket", |_| done(libc::SYS_socket, &[libc::AF_INET as usize, 2, 0])),
    act("makes a netlink socket", |_| done(libc::SYS_socket, &[libc::AF_NETLINK as usize, 3, 0])),
    act("binds an abstract socket", |_| {
        let socket = call(libc::SYS_socket, &[libc::AF_UNIX as usize, 1, 0])?;
        let mut address = vec![1, 0, 0];
        address.extend(format!("keyhatch-{}", std::process::id()).bytes());
        done(libc::SYS_bind, &[socket as usize, address.as_ptr() as usize, address.len()])
    }),
    act("makes a pair of sockets", |_| {
        let mut pair = [0i32; 2];
        done(libc::SYS_socketpair, &[libc::AF_UNIX as usize, 1, 0, pair.as_mut_ptr() as usize])
    }),
    act("shares memory with the user's other programs", |_| {
        let segment = call(libc::SYS_shmget, &[0, 4096, 0o600])?;
        done(libc::SYS_shmctl, &[segment as usize, 0, 0])
    }),
    act("makes a queue of messages", |_| {
        let queue = call(libc::SYS_msgget, &[0, 0o600])?;
        done(libc::SYS_msgctl, &[queue as usize, 0, 0])
    }),
    act("fills the pipes that the user may have", |_| {
        let mut pair = [0i32; 2];
        call(libc::SYS_pipe2, &[pair.as_mut_ptr() as usize, 0])?;
        done(libc::SYS_fcntl, &[pair[0] as usize, libc::F_SETPIPE_SZ as usize, 1 << 20])
    }),
    act("raises its own limits", |_| {
        let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
        done(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, &raw const limit as usize, 0])
    }),
    act("loads a filter of its own", |_| done(libc::SYS_landlock_create_ruleset, &[0, 0, 1])),
    act("changes how it is executed", |_| done(libc::SYS_personality, &[0x004_0000])),
    // What the parent forgot.
    closed("uses a descriptor that the parent forgot", |_| {
        done(libc::SYS_fcntl, &[FORGOTTEN as usize, libc::F_GETFD as usize])
    }),
    closed("reads a secret from its environment", |_| {
        let secrets = std::env::vars_os().filter(|(name, _)| name != "PATH").count();
        if secrets == 0 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }),
    closed("writes to a terminal of the user's", |_| {
        open(Path::new("/dev/tty"), libc::O_RDWR | libc::O_NOCTTY)
    }),
    // The last one: whoever is traced stops at every signal.
    act("has itself traced by the parent", |_| done(libc::SYS_ptrace, &[0, 0, 0, 0])),
];

impl Act {
    /// The same, where a machine may have it switched off.
    const fn unless_switched_off(self) -> Self {
        Self { is_open: false, ..self }
    }
}
