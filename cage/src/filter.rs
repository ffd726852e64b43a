//! Which system calls exist in a confined child: what libgit2 and git need to read packs and to write into one directory.
//!
//! An allow list. Landlock says which files can be opened; it says nothing of modes, times, owners and attributes, of other
//! processes, or of what is done with a descriptor, so none of that is here. A call that is not named is ENOSYS; what an attack
//! would try first is refused by name (EPERM), with the attack as its reason.

use keyhatch_seccomp::calls;
use keyhatch_seccomp::program::Program;
use keyhatch_seccomp::table::{Call, Entry, Test, Verdict};

/// The filter of every confined child.
pub(crate) static FILTER: Program = Program::compile(&[ALLOWED, CHECKED, REFUSED]);

const fn allow(calls: &'static [Call], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::Allow, reason }
}

const fn check(calls: &'static [Call], clauses: &'static [&'static [Test]], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::RefuseWhen(clauses), reason }
}

const fn refuse(calls: &'static [Call], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::Refuse, reason }
}

/// Allowed whatever their arguments.
const ALLOWED: &[Entry] = &[
    allow(
        calls![SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_lseek SYS_close SYS_close_range
            SYS_dup SYS_dup3 SYS_pipe2 SYS_copy_file_range SYS_sendfile SYS_ftruncate SYS_fsync SYS_fdatasync],
        "bytes between descriptors: every one is its own, and none that it was given can be written",
    ),
    allow(
        calls![SYS_chdir SYS_fchdir SYS_getcwd SYS_getdents64 SYS_fstat SYS_newfstatat SYS_statx SYS_faccessat
            SYS_faccessat2 SYS_readlinkat SYS_mkdirat SYS_unlinkat SYS_renameat SYS_renameat2 SYS_umask],
        "files by name: Landlock says which; a mask counts for what it makes alone",
    ),
    allow(
        calls![SYS_openat2],
        "opens beneath a directory; its flags are behind a pointer, so that before Linux 6.2 a file can be emptied with it \
         that may be read and is the user's to write",
    ),
    allow(
        calls![SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk],
        "its own memory: packs are mapped",
    ),
    allow(
        calls![SYS_execve SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_getpid SYS_getppid SYS_gettid
            SYS_set_tid_address SYS_set_robust_list SYS_rseq SYS_restart_syscall SYS_getrusage SYS_times
            SYS_getrlimit SYS_sched_yield SYS_sched_getaffinity],
        "git index-pack and its kin are started, and every program asks who and where it is",
    ),
    allow(
        calls![SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack],
        "what it does with signals that come; it sends none",
    ),
    allow(
        calls![SYS_futex SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday
            SYS_setitimer SYS_ppoll],
        "waiting and time, its own",
    ),
    allow(
        calls![SYS_recvfrom],
        "how std hears whether a program started; the pairs that exist lead nowhere else",
    ),
    allow(calls![SYS_getuid SYS_geteuid SYS_getgid SYS_getegid], "git compares owners with its own"),
    allow(calls![SYS_uname SYS_sysinfo SYS_getrandom], "facts that every runtime asks for at its start"),
    #[cfg(target_arch = "x86_64")]
    allow(
        calls![SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename SYS_getdents
            SYS_pipe SYS_dup2 SYS_poll SYS_fork SYS_vfork SYS_time],
        "older forms of the calls above",
    ),
];

/// Bits of `clone(2)` that are refused: every namespace (CLONE_NEWTIME has no bit there), and to be a child of the parent's,
/// to be traced, or not to be.
const APART: u32 = 0x7E02_0000
    | libc::CLONE_PARENT.cast_unsigned()
    | libc::CLONE_PTRACE.cast_unsigned()
    | libc::CLONE_UNTRACED.cast_unsigned();
/// F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN and F_SETSIG (signals to others), F_SETLEASE and
/// F_NOTIFY (they hold the user's programs up), locks (they too), F_SETPIPE_SZ (the user's share of pipe memory).
const DESCRIPTOR: &[u32] = &[0, 1, 2, 3, 4, 1030];
/// O_ASYNC: signals to whoever owns a descriptor.
const SIGNALS: u32 = libc::O_ASYNC.cast_unsigned();
/// FIONBIO, FIOCLEX, TCGETS: a descriptor's own flags, and whether it is a terminal. Not FS_IOC_SETFLAGS and the like, which
/// change a file through a descriptor that can only be read.
const ASKED: &[u32] = &[0x5421, 0x5451, 0x5401];
/// PR_SET_PDEATHSIG, PR_SET_NAME.
const PROCESS: &[u32] = &[1, 15];
/// Another type than SOCK_SEQPACKET; the bits above are flags.
const SEQUENCED: Test = Test::is_not(1, &[libc::SOCK_SEQPACKET.cast_unsigned()]);
const TRUNCATES: u32 = libc::O_TRUNC.cast_unsigned();
/// `O_RDONLY` by the bits of the access mode.
const READS: Test = Test { argument: 2, mask: libc::O_ACCMODE.cast_unsigned(), among: true, values: &[0] };

/// Refused with some arguments.
const CHECKED: &[Entry] = &[
    check(
        calls![SYS_clone],
        &[&[Test::has(0, APART)]],
        "processes of its own; a user namespace gives the kernel's whole attack surface, and a sibling outlives it",
    ),
    check(
        calls![SYS_fcntl],
        &[&[Test::is_not(1, DESCRIPTOR)], &[Test::is(1, &[4]), Test::has(2, SIGNALS)]],
        "flags of its descriptors",
    ),
    check(
        calls![SYS_ioctl],
        &[&[Test::is_not(1, ASKED)]],
        "flags of its descriptors, and nothing of any driver",
    ),
    check(
        calls![SYS_prctl],
        &[&[Test::is_not(0, PROCESS)], &[Test::is(0, &[1]), Test::is_not(1, &[9])]],
        "names itself, and has what it starts killed with it: that cannot be taken back",
    ),
    check(
        calls![SYS_socketpair],
        &[&[Test::is_not(0, &[libc::AF_UNIX.cast_unsigned()])], &[Test { mask: 0xf, ..SEQUENCED }]],
        "how std hears whether a program started: a pair that is connected for ever, and nothing to send a descriptor with",
    ),
    check(calls![SYS_prlimit64], &[&[Test::is_not(0, &[0])]], "its own limits, whose ceilings only fall"),
    check(
        calls![SYS_openat],
        &[&[Test::has(2, TRUNCATES), READS]],
        "Landlock before Linux 6.2 lets a file be emptied that may only be read",
    ),
    #[cfg(target_arch = "x86_64")]
    check(calls![SYS_open], &[&[Test::has(1, TRUNCATES), Test { argument: 1, ..READS }]], "as openat"),
    #[cfg(target_arch = "x86_64")]
    check(
        calls![SYS_arch_prctl],
        &[&[Test::is_not(0, &[0x1002])]],
        "where a thread's own memory is: ARCH_SET_FS",
    ),
];

/// What an attack would try: refused by name, so that a program that falls back reads "not permitted".
const REFUSED: &[Entry] = &[
    refuse(
        calls![SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_utimensat SYS_setxattr
            SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_truncate],
        "Landlock does not stop these on files that cannot even be opened",
    ),
    refuse(&[Call::newer("setxattrat", 463), Call::newer("file_setattr", 469)], "the same, by newer calls"),
    refuse(
        calls![SYS_linkat SYS_symlinkat SYS_mknodat],
        "git renames where it cannot link; a link would give a file a second name",
    ),
    refuse(
        calls![SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_send_signal SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo],
        "Landlock before Linux 6.12 does not keep signals in",
    ),
    refuse(
        calls![SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_open SYS_pidfd_getfd SYS_kcmp
            SYS_process_madvise SYS_process_mrelease],
        "other processes of the user's",
    ),
    refuse(
        calls![SYS_setpriority SYS_ioprio_set SYS_sched_setaffinity SYS_sched_setscheduler SYS_sched_setparam
            SYS_sched_setattr SYS_setrlimit SYS_setpgid SYS_setsid SYS_personality],
        "priorities of others; and its process group is by what it is ended",
    ),
    refuse(
        calls![SYS_socket SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_sendto
            SYS_sendmsg SYS_sendmmsg SYS_recvmsg],
        "bytes leave by the answer alone; a descriptor could be handed over",
    ),
    refuse(
        calls![SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree
            SYS_fsopen SYS_fsmount SYS_mount_setattr SYS_open_by_handle_at SYS_name_to_handle_at],
        "namespaces and mounts; files outside of every mount",
    ),
    refuse(
        calls![SYS_keyctl SYS_add_key SYS_request_key SYS_bpf SYS_perf_event_open SYS_userfaultfd
            SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_fanotify_init SYS_inotify_init1],
        "the user's keys, and the kernel's own attack surface",
    ),
    refuse(
        calls![SYS_memfd_create SYS_execveat SYS_shmget SYS_shmat SYS_msgget SYS_semget SYS_mq_open],
        "programs without a file, and memory shared with others of the user's",
    ),
    refuse(
        calls![SYS_setuid SYS_setgid SYS_setresuid SYS_setresgid SYS_setgroups SYS_capset SYS_seccomp],
        "powers that it has none of",
    ),
    #[cfg(target_arch = "x86_64")]
    refuse(
        calls![SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_link SYS_symlink SYS_mknod
            SYS_creat SYS_inotify_init SYS_modify_ldt SYS_iopl SYS_ioperm],
        "older forms of the calls above",
    ),
];
