//! What programs need: compilers, package managers, language runtimes, git, browsers.

use keyhatch_seccomp::calls;
use keyhatch_seccomp::table::{Call, Entry, Test, Verdict};

const fn allow(calls: &'static [Call], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::Allow, reason }
}

/// Allowed whatever their arguments.
pub(super) const ALLOWED: &[Entry] = &[
    allow(
        calls![SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2
            SYS_pwritev2 SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_sendfile
            SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_readahead SYS_fadvise64 SYS_sync SYS_syncfs
            SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_pipe2 SYS_eventfd2 SYS_io_setup SYS_io_destroy
            SYS_io_submit SYS_io_cancel SYS_io_getevents],
        "every program moves bytes; descriptors are its own",
    ),
    #[cfg(target_arch = "x86_64")]
    allow(&[Call::newer("io_pgetevents", 333)], "databases wait for their own disk requests"),
    allow(
        calls![SYS_chdir SYS_fchdir SYS_getcwd SYS_getdents64 SYS_fstat SYS_newfstatat SYS_statx SYS_statfs
            SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_mkdirat SYS_unlinkat SYS_renameat
            SYS_renameat2 SYS_linkat SYS_symlinkat SYS_truncate SYS_ftruncate SYS_fallocate SYS_umask
            SYS_utimensat SYS_fchown SYS_fchownat SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
            SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_setxattr
            SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr],
        "files: the mounts and Landlock decide which",
    ),
    allow(
        &[
            Call::newer("cachestat", 451),
            Call::newer("setxattrat", 463),
            Call::newer("getxattrat", 464),
            Call::newer("listxattrat", 465),
            Call::newer("removexattrat", 466),
            Call::newer("file_getattr", 468),
            Call::newer("file_setattr", 469),
        ],
        "files, by calls of newer kernels",
    ),
    allow(
        calls![SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk SYS_msync SYS_mincore SYS_mlock
            SYS_mlock2 SYS_mlockall SYS_munlock SYS_munlockall SYS_memfd_create SYS_membarrier SYS_pkey_alloc
            SYS_pkey_free SYS_pkey_mprotect SYS_mseal SYS_remap_file_pages SYS_get_mempolicy],
        "a program's own memory",
    ),
    allow(
        &[Call::newer("map_shadow_stack", 453)],
        "a hardening that libraries turn on: refused, they run without it",
    ),
    allow(
        calls![SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
            SYS_pidfd_open SYS_pidfd_send_signal SYS_process_mrelease SYS_getpid SYS_getppid SYS_gettid
            SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_set_tid_address SYS_set_robust_list
            SYS_get_robust_list SYS_rseq SYS_restart_syscall SYS_getrusage SYS_times SYS_getcpu SYS_getpriority
            SYS_getrlimit SYS_setrlimit SYS_ioprio_get SYS_sched_yield SYS_sched_getaffinity
            SYS_sched_getscheduler SYS_sched_getparam SYS_sched_getattr SYS_sched_get_priority_max
            SYS_sched_get_priority_min SYS_sched_rr_get_interval],
        "processes and threads: the pid namespace and Landlock's scope decide which",
    ),
    allow(
        calls![SYS_sched_setaffinity SYS_sched_setscheduler SYS_sched_setparam SYS_sched_setattr],
        "thread libraries set these by thread id; no thread outside has a number in the pid namespace",
    ),
    allow(
        calls![SYS_ptrace SYS_process_vm_readv],
        "debuggers and sanitizers; init is not dumpable, and nobody else is in the pid namespace",
    ),
    allow(
        calls![SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend
            SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_signalfd4],
        "signals to itself and its own",
    ),
    allow(
        calls![SYS_futex SYS_futex_waitv SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres
            SYS_gettimeofday SYS_getitimer SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime
            SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime
            SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6],
        "waiting and time",
    ),
    allow(
        &[Call::newer("futex_wake", 454), Call::newer("futex_wait", 455), Call::newer("futex_requeue", 456)],
        "waiting, by calls of newer kernels",
    ),
    allow(
        calls![SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_shutdown
            SYS_getsockopt SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg
            SYS_recvmmsg],
        "sockets: which kinds exist is decided where one is made",
    ),
    allow(
        calls![SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid
            SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid
            SYS_setgroups SYS_capget SYS_capset],
        "installers drop powers that nobody has; there are no others to take",
    ),
    allow(calls![SYS_uname SYS_sysinfo SYS_getrandom], "facts that every runtime asks for at its start"),
    allow(
        calls![SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self],
        "a program may confine itself further: browsers do",
    ),
    allow(
        calls![SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget
            SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive
            SYS_mq_notify SYS_mq_getsetattr],
        "databases in tests; the ipc namespace holds only the sandbox's own",
    ),
    #[cfg(target_arch = "x86_64")]
    allow(
        calls![SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_rename SYS_link
            SYS_symlink SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_getdents SYS_inotify_init
            SYS_pipe SYS_dup2 SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_pause
            SYS_alarm SYS_time SYS_fork SYS_vfork SYS_getpgrp SYS_arch_prctl],
        "older forms of the calls above",
    ),
];

/// Setuid and setgid: a file of the user's with these, left in the project, hands the user's powers to whoever runs it.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
/// Only with one of these does `open(2)` read a mode; without, the register holds anything.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// Every flag of `clone(2)` that makes a namespace, CLONE_NEWTIME apart: it shares its bit with an exit signal there.
const NEW_NAMESPACES: u32 = 0x7E02_0000;

const INTERNET: &[u32] = &[libc::AF_INET as u32, libc::AF_INET6 as u32];
/// Families that stay: within an own network namespace these reach nothing but loopback.
const FAMILIES: &[u32] =
    &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];
/// SOCK_STREAM and SOCK_DGRAM; the bits above the low four are flags.
const KINDS: Test = Test {
    argument: 1,
    mask: 0xf,
    among: false,
    values: &[libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32],
};
/// The kind's own, TCP, UDP. Not MPTCP, SCTP, raw: they pass Landlock's TCP rights by.
const PROTOCOLS: &[u32] = &[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32];
/// TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD, KDSKBENT, KDSKBSENT, KDSETKEYCODE, KDSETMODE.
const TERMINAL: &[u32] = &[0x5412, 0x541C, 0x541D, 0x5423, 0x4B47, 0x4B49, 0x4B4D, 0x4B3A];
/// Linux, with and without a 32-bit address space, as `setarch(8)` sets them; and the question.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];
/// PR_SET_MM, PR_SET_SECUREBITS.
const PROCESS_CONTROL: &[u32] = &[35, 28];

const fn check(calls: &'static [Call], clauses: &'static [&'static [Test]], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::RefuseWhen(clauses), reason }
}

/// Refused with some arguments.
pub(super) const CHECKED: &[Entry] = &[
    check(
        calls![SYS_socket],
        &[
            &[Test::is_not(0, FAMILIES)],
            &[Test::is(0, INTERNET), KINDS],
            &[Test::is(0, INTERNET), Test::is_not(2, PROTOCOLS)],
            &[Test::is(0, &[libc::AF_NETLINK as u32]), Test::is_not(2, &[0])],
        ],
        "vsock, Bluetooth, AF_ALG and others are not namespaced; netlink beyond routes has a long record of bugs",
    ),
    check(
        calls![SYS_socketpair],
        &[&[Test::is_not(0, &[libc::AF_UNIX as u32])]],
        "pairs are local; other families have them only by name",
    ),
    check(
        calls![SYS_clone],
        &[&[Test::has(0, NEW_NAMESPACES)]],
        "a new user namespace gives the kernel's whole attack surface",
    ),
    check(
        calls![SYS_ioctl],
        &[&[Test::is(1, TERMINAL)]],
        "TIOCSTI and TIOCLINUX type into a terminal, TIOCSETD and TIOCCONS rewire it, KD* rewrite the keyboard",
    ),
    check(
        calls![SYS_personality],
        &[&[Test::is_not(0, PERSONALITIES)]],
        "READ_IMPLIES_EXEC and friends weaken every later program",
    ),
    check(calls![SYS_prctl], &[&[Test::is(0, PROCESS_CONTROL)]], "rewrites how the kernel sees a process"),
    check(
        calls![SYS_prlimit64],
        &[&[Test::is_not(0, &[0])]],
        "sets limits of other processes of the user's, init among them",
    ),
    check(
        calls![SYS_setpriority SYS_ioprio_set],
        &[&[Test::is_not(1, &[0])]],
        "sets priorities of other processes of the user's, init among them",
    ),
    check(
        calls![SYS_fchmod],
        &[&[Test::has(1, SET_ID)]],
        "a setuid file in the project is there on the host too, where mounts allow it",
    ),
    check(
        calls![SYS_fchmodat SYS_fchmodat2],
        &[&[Test::has(2, SET_ID)]],
        "a setuid file in the project is there on the host too",
    ),
    check(
        calls![SYS_openat],
        &[&[Test::has(2, CREATES), Test::has(3, SET_ID)]],
        "makes a setuid file without a chmod",
    ),
    check(
        calls![SYS_mknodat],
        &[
            &[Test::has(2, SET_ID)],
            &[Test { argument: 2, mask: libc::S_IFMT, among: true, values: &[libc::S_IFCHR, libc::S_IFBLK] }],
        ],
        "devices, and setuid files without a chmod",
    ),
    #[cfg(target_arch = "x86_64")]
    check(calls![SYS_chmod SYS_creat], &[&[Test::has(1, SET_ID)]], "setuid files"),
    #[cfg(target_arch = "x86_64")]
    check(
        calls![SYS_open],
        &[&[Test::has(1, CREATES), Test::has(2, SET_ID)]],
        "makes a setuid file without a chmod",
    ),
    #[cfg(target_arch = "x86_64")]
    check(
        calls![SYS_mknod],
        &[
            &[Test::has(1, SET_ID)],
            &[Test { argument: 1, mask: libc::S_IFMT, among: true, values: &[libc::S_IFCHR, libc::S_IFBLK] }],
        ],
        "devices, and setuid files without a chmod",
    ),
];
