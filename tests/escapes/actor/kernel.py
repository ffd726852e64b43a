"""Against the kernel: what would give powers, or passes every wall by."""
import ctypes
import mmap
import os

from act import act, call, unless

CLONE_NEWUSER = 0x10000000


@act("2.4 user namespaces")
def unshares_a_user_namespace(scene):
    call(272, CLONE_NEWUSER)
    return "made"


@act("2.4 user namespaces")
def clones_into_a_user_namespace(scene):
    pid = call(56, CLONE_NEWUSER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


@act("2.4 user namespaces")
def clones_into_a_user_namespace_behind_a_pointer(scene):
    arguments = (ctypes.c_uint64 * 8)(CLONE_NEWUSER, 0, 0, 0, 17, 0, 0, 0)
    pid = call(435, arguments, 64)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


@act("2.4 user namespaces")
def joins_its_own_namespace(scene):
    # Its own user namespace is refused with EINVAL by a kernel that looks at it.
    return unless(["EINVAL"], 308, os.open("/proc/self/ns/user", os.O_RDONLY), 0)


@act("2.3 namespaces")
def learns_the_machines_name(scene):
    return os.uname().nodename == scene["machine"] or None


@act("2.4 mounts")
def mounts_a_file_system(scene):
    return unless(["EFAULT"], 165, None, None, None, 0, None)


@act("2.4 mounts")
def copies_a_mount(scene):
    return call(428, -100, b"/", 0)


@act("2.4 mounts")
def reconfigures_a_mount(scene):
    # A size of nothing is EINVAL before any permission is looked at.
    return unless(["EINVAL"], 442, -100, b"/", 0, None, 0)


@act("2.5 handles")
def names_a_file_by_handle(scene):
    handle = (ctypes.c_uint32 * 34)(128, 0)
    mount = (ctypes.c_int * 1)(0)
    return call(303, -100, b"/usr", handle, mount, 0)


@act("2.5 fanotify")
def watches_with_fanotify(scene):
    return call(300, 0x200, 0)  # FAN_REPORT_FID: allowed to anybody


@act("2.5 io_uring")
def sets_an_io_uring_up(scene):
    return call(425, 1, (ctypes.c_uint8 * 120)())


@act("2.5 userfaultfd")
def makes_a_userfaultfd(scene):
    return call(323, 1)  # UFFD_USER_MODE_ONLY: allowed to anybody


@act("2.5 perf")
def measures_with_perf(scene):
    attributes = (ctypes.c_uint8 * 112)()
    ctypes.memmove(attributes, (ctypes.c_uint32 * 3)(1, 112, 0), 12)
    attributes[40] = 0x61  # disabled, exclude_kernel, exclude_hv
    return call(298, attributes, 0, -1, -1, 0)


@act("2.5 modify_ldt")
def reads_its_descriptor_table(scene):
    return call(154, 0, ctypes.create_string_buffer(64), 64) >= 0


@act("2.5 kcmp")
def compares_kernel_pointers(scene):
    return call(312, os.getpid(), os.getpid(), 1, 0, 0) >= 0


@act("2.5 personality")
def makes_all_memory_executable(scene):
    return call(135, 0x0400000) >= 0


@act("2.5 mempolicy")
def sets_a_memory_policy(scene):
    return call(238, 0, None, 0) >= 0


@act("2.5 prctl")
def rewrites_its_memory_map(scene):
    # PR_SET_MM with an unknown option is EINVAL to a kernel that looks at it, EPERM without the power.
    return unless(["EINVAL", "EFAULT"], 157, 35, 14, 0, 0, 0)  # PR_SET_MM_MAP: needs no power


@act("2.5 acct")
def asks_for_machine_wide_quota(scene):
    # Q_SYNC over everything: allowed to anybody.
    return call(179, 0x800001 << 8, None, 0, None) == 0


@act("2.4 syslog")
def reads_the_kernels_log(scene):
    return call(103, 3, ctypes.create_string_buffer(4096), 4096) >= 0


def machine_code(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    run = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    return run()


@act("2.4 int 0x80")
def calls_through_the_32_bit_door(scene):
    # mov eax, 20 (getpid of i386); int 0x80; ret
    return machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")


@act("2.4 x32")
def calls_through_the_x32_door(scene):
    # mov eax, 0x40000027 (getpid of x32); syscall; ret. Where the kernel has no x32 it answers ENOSYS, and goes on.
    machine_code(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")
    return "not killed"


@act("2.5 newer")
def calls_what_no_list_knows(scene):
    return unless(["EFAULT", "EINVAL"], 457, None, None, 0, 0)  # statmount
