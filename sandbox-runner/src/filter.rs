//! The seccomp filter: system calls that nothing inside needs, and that the walls around it do not stop.
//!
//! Data, with a reason on each entry. What is not listed is allowed: namespaces and Landlock carry the confinement,
//! this takes away what reaches past them. The architecture and x32's bit are checked first.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use crate::error::RunError;

/// When a call is refused.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Whatever its arguments.
    Always,
    /// When this argument has one of these bits. The kernel reads 64 bits of it.
    Bits(u8, u64),
    /// When the low 32 bits of this argument are one of these: the kernel reads no more of it.
    Is(u8, &'static [u32]),
    /// When the low 32 bits of this argument are none of these.
    IsNot(u8, &'static [u32]),
}

/// One refused call.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// Its number.
    pub call: i64,
    /// When.
    pub when: When,
    /// The attack that it stops.
    pub reason: &'static str,
}

const fn always(call: i64, reason: &'static str) -> Refusal {
    Refusal { call, when: When::Always, reason }
}

/// Every flag of `clone(2)` that makes a namespace, CLONE_NEWTIME (0x80) apart: it shares its bit with an exit signal.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Families that stay: within an own network namespace these reach nothing but loopback.
const FAMILIES: &[u32] =
    &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];
/// Terminal requests that type into, redirect or rewire a terminal.
const TERMINAL: &[u32] = &[0x5412, 0x541C, 0x5423, 0x541D];

/// Answered with EPERM.
pub const REFUSED: &[Refusal] = &[
    always(libc::SYS_keyctl, "keyrings are not namespaced: keys of the user's can be read by serial"),
    always(libc::SYS_add_key, "keyrings are not namespaced"),
    always(libc::SYS_request_key, "keyrings are not namespaced, and the kernel runs a helper on the host"),
    always(libc::SYS_bpf, "loads programs into the kernel"),
    always(libc::SYS_perf_event_open, "measures other processes, and has a long record of kernel bugs"),
    always(libc::SYS_userfaultfd, "stretches races in the kernel"),
    always(libc::SYS_unshare, "a new user namespace gives the kernel's whole attack surface"),
    always(libc::SYS_setns, "joins other namespaces"),
    always(libc::SYS_mount, "changes what is protected"),
    always(libc::SYS_umount2, "uncovers what is protected"),
    always(libc::SYS_pivot_root, "changes what is protected"),
    always(libc::SYS_chroot, "changes what is protected"),
    always(libc::SYS_move_mount, "changes what is protected"),
    always(libc::SYS_open_tree, "copies what is mounted"),
    always(libc::SYS_fsopen, "mounts"),
    always(libc::SYS_fsconfig, "mounts"),
    always(libc::SYS_fsmount, "mounts"),
    always(libc::SYS_fspick, "mounts"),
    always(libc::SYS_mount_setattr, "makes a read-only mount writable"),
    always(libc::SYS_open_by_handle_at, "opens files outside of every mount"),
    always(libc::SYS_fanotify_init, "watches the whole file system"),
    always(libc::SYS_init_module, "loads code into the kernel"),
    always(libc::SYS_finit_module, "loads code into the kernel"),
    always(libc::SYS_delete_module, "changes the kernel"),
    always(libc::SYS_kexec_load, "replaces the kernel"),
    always(libc::SYS_kexec_file_load, "replaces the kernel"),
    always(libc::SYS_reboot, "ends the machine"),
    always(libc::SYS_swapon, "machine-wide"),
    always(libc::SYS_swapoff, "machine-wide"),
    always(libc::SYS_acct, "machine-wide, writes a file"),
    always(libc::SYS_quotactl, "machine-wide"),
    always(libc::SYS_syslog, "reads the kernel's log"),
    always(libc::SYS_settimeofday, "machine-wide"),
    always(libc::SYS_clock_settime, "machine-wide"),
    always(libc::SYS_adjtimex, "machine-wide"),
    always(libc::SYS_clock_adjtime, "machine-wide"),
    always(libc::SYS_pidfd_getfd, "takes descriptors of other processes"),
    always(libc::SYS_process_vm_writev, "writes into other processes"),
    always(libc::SYS_kcmp, "compares kernel pointers"),
    always(libc::SYS_vhangup, "hangs the terminal up"),
    always(libc::SYS_lookup_dcookie, "names files of the host"),
    #[cfg(target_arch = "x86_64")]
    always(libc::SYS_iopl, "reaches hardware"),
    #[cfg(target_arch = "x86_64")]
    always(libc::SYS_ioperm, "reaches hardware"),
    #[cfg(target_arch = "x86_64")]
    always(libc::SYS_modify_ldt, "16-bit segments, with a long record of kernel bugs"),
    Refusal {
        call: libc::SYS_clone,
        when: When::Bits(0, NEW_NAMESPACES),
        reason: "a new user namespace gives the kernel's whole attack surface",
    },
    Refusal {
        call: libc::SYS_socket,
        when: When::IsNot(0, FAMILIES),
        reason: "vsock, Bluetooth, AF_ALG and others are not namespaced",
    },
    Refusal {
        call: libc::SYS_ioctl,
        when: When::Is(1, TERMINAL),
        reason: "TIOCSTI and TIOCLINUX type into a terminal, TIOCSETD and TIOCCONS rewire it",
    },
];

/// Answered with ENOSYS, so that libraries fall back to what can be filtered.
pub const ABSENT: &[Refusal] = &[
    always(libc::SYS_clone3, "its flags are behind a pointer, which a filter cannot read"),
    always(libc::SYS_io_uring_setup, "its operations pass every filter by"),
    always(libc::SYS_io_uring_enter, "its operations pass every filter by"),
    always(libc::SYS_io_uring_register, "its operations pass every filter by"),
];

/// Enforces the filter on this process and everything it starts.
pub(crate) fn enforce() -> Result<(), RunError> {
    let failed = |what: String| RunError::Filter { what };
    for (entries, errno) in [(REFUSED, libc::EPERM), (ABSENT, libc::ENOSYS)] {
        let program = compile(entries, errno).map_err(|error| failed(error.to_string()))?;
        apply_filter(&program).map_err(|error| failed(error.to_string()))?;
    }
    apply_filter(&native_only()).map_err(|error| failed(error.to_string()))
}

/// Compiles refusals to a program.
///
/// # Errors
/// When an entry cannot be expressed.
pub fn compile(entries: &[Refusal], errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for entry in entries {
        let rules = rules.entry(entry.call).or_default();
        for conditions in conditions(entry.when)? {
            if !conditions.is_empty() {
                rules.push(SeccompRule::new(conditions)?);
            }
        }
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

/// Alternatives of conditions that hold together; none at all is "always".
fn conditions(when: When) -> Result<Vec<Vec<SeccompCondition>>, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    match when {
        When::Always => Ok(Vec::new()),
        When::Bits(argument, bits) => (0..64)
            .map(|bit| 1u64 << bit)
            .filter(|bit| bits & bit != 0)
            .map(|bit| Ok(vec![SeccompCondition::new(argument, Qword, SeccompCmpOp::MaskedEq(bit), bit)?]))
            .collect(),
        When::Is(argument, values) => values
            .iter()
            .map(|value| Ok(vec![SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, (*value).into())?]))
            .collect(),
        When::IsNot(argument, values) => {
            let all: Result<Vec<_>, _> = values
                .iter()
                .map(|value| SeccompCondition::new(argument, Dword, SeccompCmpOp::Ne, (*value).into()))
                .collect();
            Ok(vec![all?])
        }
    }
}

/// Kills for x32's numbers (bit 30): their table has other numbers than the entries above. The crate kills for foreign
/// architectures itself.
fn native_only() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_GE, 0, 1, 0x4000_0000),
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_reason_and_compiles() {
        for entries in [REFUSED, ABSENT] {
            assert!(entries.iter().all(|entry| !entry.reason.is_empty()));
            compile(entries, libc::EPERM).expect("compiles");
        }
    }
}
