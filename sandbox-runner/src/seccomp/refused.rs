//! What reaches past the walls: refused, or absent so that libraries fall back.

use keyhatch_seccomp::calls;
use keyhatch_seccomp::table::{Call, Entry, Test, Verdict};

const fn refuse(calls: &'static [Call], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::Refuse, reason }
}

const fn absent(calls: &'static [Call], reason: &'static str) -> Entry {
    Entry { calls, verdict: Verdict::Absent, reason }
}

/// Refused by name.
pub(super) const REFUSED: &[Entry] = &[
    refuse(
        calls![SYS_keyctl SYS_add_key SYS_request_key],
        "keyrings are not namespaced: a key of the user's is read by its serial",
    ),
    refuse(calls![SYS_bpf], "loads programs into the kernel"),
    refuse(calls![SYS_perf_event_open], "measures other processes, and has a long record of kernel bugs"),
    refuse(calls![SYS_userfaultfd], "stretches races in the kernel"),
    refuse(calls![SYS_unshare], "a new user namespace gives the kernel's whole attack surface"),
    refuse(calls![SYS_setns], "joins other namespaces"),
    refuse(
        calls![SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree SYS_fsopen
            SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr],
        "changes or uncovers what is protected",
    ),
    refuse(&[Call::newer("open_tree_attr", 467)], "makes a read-only mount writable"),
    refuse(calls![SYS_open_by_handle_at SYS_name_to_handle_at], "opens files outside of every mount"),
    refuse(calls![SYS_fanotify_init SYS_fanotify_mark], "watches whole file systems"),
    refuse(
        calls![SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load],
        "changes or replaces the kernel",
    ),
    #[cfg(target_arch = "x86_64")]
    refuse(calls![SYS_kexec_file_load], "replaces the kernel"),
    refuse(
        calls![SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd SYS_sethostname
            SYS_setdomainname SYS_vhangup],
        "machine-wide",
    ),
    refuse(calls![SYS_syslog], "reads the kernel's log"),
    refuse(calls![SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime], "the machine's clock"),
    refuse(
        calls![SYS_pidfd_getfd SYS_process_vm_writev SYS_process_madvise SYS_kcmp],
        "takes from, writes into or compares other processes",
    ),
    refuse(
        calls![SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_migrate_pages SYS_move_pages],
        "moves memory of other processes, or wears one node of the machine out",
    ),
    refuse(&[Call::newer("lsm_set_self_attr", 460)], "asks a security module for another label"),
    refuse(calls![SYS_lookup_dcookie SYS_nfsservctl], "gone from the kernel, with a bad record before"),
    #[cfg(target_arch = "x86_64")]
    refuse(
        calls![SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl],
        "replaced long ago; what is left of them is attack surface",
    ),
    #[cfg(target_arch = "x86_64")]
    refuse(calls![SYS_iopl SYS_ioperm], "reaches hardware"),
    #[cfg(target_arch = "x86_64")]
    refuse(calls![SYS_modify_ldt], "16-bit segments, with a long record of kernel bugs"),
];

/// Not there.
pub(super) const ABSENT: &[Entry] = &[
    absent(calls![SYS_clone3], "its flags are behind a pointer, which a filter cannot read"),
    absent(calls![SYS_openat2], "its mode is behind a pointer: it could make a setuid file"),
    absent(
        calls![SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register],
        "its operations pass every filter by",
    ),
];

/// What the namespaces would have hidden, where there are none.
pub(super) const WITHOUT_NAMESPACES: &[Entry] = &[
    Entry {
        calls: calls![SYS_socket],
        verdict: Verdict::RefuseWhen(&[&[Test::is_not(0, &[libc::AF_UNIX as u32])]]),
        reason: "Landlock's rights over the network are passed by with MPTCP, TCP Fast Open, UDP and netlink",
    },
    refuse(
        calls![SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget
            SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive
            SYS_mq_notify SYS_mq_getsetattr],
        "the user's own shared memory, semaphores and queues are in reach",
    ),
    refuse(calls![SYS_ptrace SYS_process_vm_readv], "the user's other processes are in reach"),
    Entry {
        calls: calls![SYS_sched_setaffinity SYS_sched_setscheduler SYS_sched_setparam SYS_sched_setattr],
        verdict: Verdict::RefuseWhen(&[&[Test::is_not(0, &[0])]]),
        reason: "the user's other processes are in reach",
    },
];

/// On a kernel whose Landlock cannot tell local sockets apart.
pub(super) const WITHOUT_SOCKETS: &[Entry] = &[refuse(
    calls![SYS_socket],
    "the session bus, the ssh-agent and the container daemons are reached by path, whatever may be read",
)];
