//! The system calls that no safe crate offers. Each block: why no safe call does this, and what must hold.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::process::Pid;

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy)]
pub enum Forked {
    /// The parent, with the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that was inherited under a number; none for one that is not open, or is a standard one.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // JUSTIFICATION: std takes numbers only by from_raw_fd. SAFETY: F_GETFD has no memory effects and says whether it
    // is open; this runs before anything else opens or owns a descriptor above 2.
    (number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } != -1)
        .then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// `fork(2)`.
///
/// # Errors
/// What the kernel says.
pub fn fork() -> io::Result<Forked> {
    // JUSTIFICATION: no safe crate forks. SAFETY: this program starts no thread before its
    // last fork, so the child's memory is whole.
    match checked(unsafe { libc::fork() }.into())? {
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(i32::try_from(pid).unwrap_or(0))
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// `unshare(2)`.
///
/// # Errors
/// What the kernel says.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // JUSTIFICATION: rustix marks it unsafe, because of CLONE_FILES among threads. SAFETY: one thread, no CLONE_FILES.
    checked(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Sets attributes of a mount, with all below it where `recursive`: `mount_setattr(2)`.
///
/// # Errors
/// What the kernel says.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // JUSTIFICATION: rustix lacks it. SAFETY: the path is a constant, the structure lives across the call and its
    // size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result).map(drop)
}

/// Brings the loopback interface of this network namespace up: `netdevice(7)` SIOCSIFFLAGS.
///
/// # Errors
/// What the kernel says.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // JUSTIFICATION: no safe crate in this tree speaks to interfaces. SAFETY: ifreq is plain data, for which zeros are
    // valid; the name fits and ends with a zero; the ioctl reads the structure and keeps no pointer.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed() as libc::c_char;
        request.ifr_name[1] = b'o'.cast_signed() as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request).into()).map(drop)
    }
}

/// Joins a fresh, anonymous session keyring: `keyctl(2)` KEYCTL_JOIN_SESSION_KEYRING.
///
/// # Errors
/// What the kernel says.
pub fn join_fresh_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // JUSTIFICATION: no safe crate in this tree has it. SAFETY: a null name asks for an anonymous keyring.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) }).map(drop)
}

/// Closes every descriptor from `first` on: `close_range(2)`.
///
/// # Errors
/// What the kernel says.
pub fn close_from(first: u32) -> io::Result<()> {
    // JUSTIFICATION: rustix lacks it. SAFETY: the caller owns no descriptor from `first` on any more.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Loads a seccomp filter with an observer, and returns the observer's end: `seccomp_unotify(2)`.
///
/// # Errors
/// What the kernel says; EACCES where `no_new_privs` is not set.
pub fn load_observed_filter(steps: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    /// Linux 5.19: a call that is being looked at is not interrupted by signals that do not kill.
    const WAIT_KILLABLE: libc::c_ulong = 1 << 5;
    let load = |flags| keyhatch_seccomp::sys::load_filter(steps, flags);
    let listener = load(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE)
        .or_else(|_| load(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER))?;
    let number = RawFd::try_from(listener).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // JUSTIFICATION: the number comes from the kernel. SAFETY: it is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The newest Landlock ABI of the kernel: `landlock_create_ruleset(2)` LANDLOCK_CREATE_RULESET_VERSION.
///
/// # Errors
/// ENOSYS where the kernel was built without it, EOPNOTSUPP where it is switched off.
pub fn landlock_abi() -> io::Result<i32> {
    const VERSION: libc::c_int = 1;
    // JUSTIFICATION: the crate keeps the number to itself. SAFETY: with this flag both pointer and size must be zero.
    let abi = checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) })?;
    Ok(i32::try_from(abi).unwrap_or(i32::MAX))
}

/// The signals that pass through the sandbox's wall, and the children's own.
const SIGNALS: &[libc::c_int] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGCHLD,
];

fn signal_set() -> libc::sigset_t {
    // JUSTIFICATION: std and rustix have no signal sets for a program with libc. SAFETY: sigset_t is plain data, made
    // valid by sigemptyset; the numbers are legal signals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Holds the signals back, so that [`next_signal`] sees each; or lets them through again.
///
/// # Errors
/// What the kernel says.
pub fn hold_signals(hold: bool) -> io::Result<()> {
    let set = signal_set();
    let how = if hold { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // JUSTIFICATION: as above. SAFETY: the set is valid; the old mask is not wanted.
    checked(unsafe { libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) }.into()).map(drop)
}

/// Waits for a signal that is held back, and names it.
///
/// # Errors
/// What the kernel says; an interruption is not an error.
pub fn next_signal() -> io::Result<libc::c_int> {
    let set = signal_set();
    loop {
        // JUSTIFICATION: as above. SAFETY: the set is valid; no information is asked for.
        match checked(unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) }.into()) {
            Ok(signal) => return Ok(i32::try_from(signal).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// As [`next_signal`], for so long; none where the time is up.
///
/// # Errors
/// What the kernel says; an interruption is not an error.
pub fn next_signal_within(patience: std::time::Duration) -> io::Result<Option<libc::c_int>> {
    let set = signal_set();
    let until = std::time::Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let left = libc::timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: libc::c_long::from(left.subsec_nanos()),
        };
        // JUSTIFICATION: as above. SAFETY: set and time are valid and live across the call; no information is asked for.
        let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const left) };
        match checked(signal.into()) {
            Ok(signal) => return Ok(i32::try_from(signal).ok()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Asks `seccomp(2)` whether it can kill a process, which changes nothing.
///
/// # Errors
/// What the kernel says.
pub fn asks_seccomp() -> io::Result<()> {
    const GET_ACTION_AVAIL: libc::c_long = 2;
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // JUSTIFICATION: no safe crate asks. SAFETY: the action lives across the call, which reads it and keeps no pointer.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) }).map(drop)
}

/// Ignores a signal.
pub fn ignore(signal: libc::c_int) {
    // JUSTIFICATION: std offers no signal dispositions. SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives a signal its default effect: the Rust runtime ignores SIGPIPE, which a command must not inherit.
pub fn default_effect(signal: libc::c_int) {
    // JUSTIFICATION: std offers no signal dispositions. SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Sends a signal to a process, or with a negative number to a process group: `kill(2)`.
///
/// # Errors
/// What the kernel says.
pub fn kill(target: i32, signal: libc::c_int) -> io::Result<()> {
    // JUSTIFICATION: rustix's signal type cannot hold every number that is passed on. SAFETY: no memory is involved.
    checked(unsafe { libc::kill(target, signal) }.into()).map(drop)
}

/// Replaces this process: `execve(2)`. Returns only on failure.
pub fn exec(program: &OsStr, arguments: &[String], environment: &[String]) -> io::Error {
    let c_strings =
        |texts: &[String]| texts.iter().map(|t| CString::new(t.as_bytes())).collect::<Result<Vec<_>, _>>();
    let (Ok(program), Ok(arguments), Ok(environment)) =
        (CString::new(program.as_bytes()), c_strings(arguments), c_strings(environment))
    else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const libc::c_char>>()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // JUSTIFICATION: std's exec spawns through its own environment and search; here the environment is exactly the
    // rules'. SAFETY: both arrays end with null and point to strings that live across the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// A system call that must be refused inside, for the probe: returns what the kernel said.
///
/// # Errors
/// Always, where the sandbox holds.
pub fn try_forbidden(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    // JUSTIFICATION: a probe must make the very call. SAFETY: callers pass numbers only, never pointers but null.
    checked(unsafe { libc::syscall(number, first, second, third, 0, 0) }).map(drop)
}
