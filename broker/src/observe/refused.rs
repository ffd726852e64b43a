//! A system call that is refused: what it was for, in words.

use crate::sys::Notification;

use super::Denial;

/// Describes a call that the filter refuses, by its number and by the arguments for which it is refused.
pub(super) fn denial(call: &Notification) -> Denial {
    let (what, why) = words(call);
    let object = match what {
        Some(what) => format!("system call {} ({what})", name(call.call)),
        None => format!("system call {}", name(call.call)),
    };
    Denial { program: String::new(), object, why: why.into(), line: None }
}

fn words(call: &Notification) -> (Option<&'static str>, &'static str) {
    let number = |index: usize| call.arguments[index] as libc::c_int;
    match call.call {
        libc::SYS_socket => socket(number(0), number(1)),
        libc::SYS_clone | libc::SYS_unshare => {
            (Some("namespaces"), "a sandbox inside the sandbox opens the whole kernel to attack")
        }
        libc::SYS_ioctl => {
            (Some("of a terminal or its keyboard"), "it types into terminals, or rewires them")
        }
        libc::SYS_personality => (None, "it weakens the memory of every later program"),
        libc::SYS_prctl => (None, "it rewrites how the kernel sees a process"),
        libc::SYS_prlimit64 | libc::SYS_setpriority | libc::SYS_ioprio_set => {
            (Some("of another process"), "a process changes its own limits and priority only")
        }
        libc::SYS_sched_setaffinity
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_setparam
        | libc::SYS_sched_setattr => {
            (Some("of another process"), "without namespaces, the user's other processes are in reach")
        }
        libc::SYS_fchmod | libc::SYS_fchmodat | 452 => (Some("setuid"), SET_ID),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod | libc::SYS_creat => (Some("setuid"), SET_ID),
        libc::SYS_mknodat => (Some("a device, or setuid"), SET_ID),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mknod => (Some("a device, or setuid"), SET_ID),
        _ => (None, "it reaches past the sandbox's walls"),
    }
}

const SET_ID: &str = "such a file in the project gives powers away on the host too";

fn socket(family: libc::c_int, kind: libc::c_int) -> (Option<&'static str>, &'static str) {
    const NOT_APART: &str = "such sockets are not kept apart by the kernel: they reach the machine itself";
    match (family, kind & 0xf) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => {
            (Some("raw"), "raw sockets, ping among them, are not for a session")
        }
        (libc::AF_INET | libc::AF_INET6, _) => (
            Some("of the internet"),
            "plain TCP and UDP only, and without namespaces none at all: keyhatch doctor says how to get them",
        ),
        (libc::AF_PACKET, _) => (Some("packets"), "raw packets are not for a session"),
        (libc::AF_NETLINK, _) => {
            (Some("netlink"), "of the kernel's own protocols only routes can be asked for")
        }
        (libc::AF_VSOCK, _) => (Some("vsock"), NOT_APART),
        (libc::AF_ALG, _) => (Some("AF_ALG"), NOT_APART),
        (libc::AF_BLUETOOTH, _) => (Some("Bluetooth"), NOT_APART),
        (libc::AF_UNIX, _) => {
            (Some("local"), "on this kernel local sockets cannot be told apart: keyhatch doctor says more")
        }
        _ => (Some("of another family"), NOT_APART),
    }
}

/// The names of those that programs try.
fn name(call: i64) -> String {
    macro_rules! names {
        ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
    }
    const NAMES: &[(i64, &str)] = names!(
        SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree SYS_fsopen
        SYS_fsmount SYS_fsconfig SYS_mount_setattr SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key
        SYS_request_key SYS_open_by_handle_at SYS_name_to_handle_at SYS_fanotify_init SYS_init_module
        SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl
        SYS_syslog SYS_sethostname SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime SYS_ptrace
        SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_vhangup SYS_socket SYS_socketpair
        SYS_clone SYS_ioctl SYS_personality SYS_prctl SYS_prlimit64 SYS_setpriority SYS_ioprio_set SYS_fchmod
        SYS_fchmodat SYS_mknodat SYS_mbind SYS_set_mempolicy SYS_migrate_pages SYS_move_pages SYS_process_madvise
        SYS_sched_setaffinity SYS_sched_setscheduler SYS_sched_setparam SYS_sched_setattr SYS_shmget SYS_semget
        SYS_msgget SYS_mq_open
    );
    #[cfg(target_arch = "x86_64")]
    const OLD_NAMES: &[(i64, &str)] =
        names!(SYS_chmod SYS_creat SYS_mknod SYS_modify_ldt SYS_iopl SYS_ioperm);
    #[cfg(not(target_arch = "x86_64"))]
    const OLD_NAMES: &[(i64, &str)] = &[];
    let known = NAMES.iter().chain(OLD_NAMES).find(|(number, _)| *number == call);
    known.map_or_else(|| format!("number {call}"), |(_, name)| name.trim_start_matches("SYS_").to_owned())
}
