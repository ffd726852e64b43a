"""Against processes: the user's others on the host, the one that watches, and the terminal."""
import ctypes
import fcntl
import os
import pty
import resource
import signal
import struct
import termios

from act import act, call, LIBC


@act("2.2 signals")
def signals_a_process_of_the_host(scene):
    os.kill(scene["victim"], signal.SIGUSR1)
    return None  # what counts is whether the victim had it: the number may be somebody else's inside


@act("2.2 signals")
def signals_a_process_by_descriptor(scene):
    signal.pidfd_send_signal(os.pidfd_open(scene["victim"]), signal.SIGUSR2)
    return None


@act("2.5 fcntl")
def signals_a_process_through_a_pipe(scene):
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, scene["victim"])
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writer, b"x")
    return None


@act("2.4 signals")
def signals_the_group_that_it_was_started_in(scene):
    os.kill(-scene["group"], signal.SIGWINCH)
    return "sent"


@act("2.4 signals")
def signals_the_process_that_watches(scene):
    os.kill(1 if scene["inside"] else scene["stage"], 0)
    return "allowed"


@act("2.4 signals")
def stops_everything_it_may(scene):
    # Every process of the user's: on the host that is the victim too.
    os.kill(scene["victim"], 0)
    os.kill(scene["victim"], signal.SIGURG)
    return None


@act("2.4 priority")
def changes_the_priority_of_others(scene):
    os.setpriority(os.PRIO_PROCESS, 1 if scene["inside"] else scene["victim"], 19)
    return "changed"


@act("2.4 limits")
def changes_the_limits_of_others(scene):
    resource.prlimit(1 if scene["inside"] else scene["victim"], resource.RLIMIT_NOFILE, (64, 64))
    return "changed"


@act("2.4 affinity")
def pins_a_process_of_the_host(scene):
    os.sched_setaffinity(scene["victim"], {0})
    return "pinned"


@act("2.4 oom")
def offers_a_process_of_the_host_to_the_oom_killer(scene):
    with open(f"/proc/{scene['victim']}/oom_score_adj", "w") as file:
        file.write("1000")
    return "offered"


@act("2.2 /proc")
def reads_the_environment_of_a_process_of_the_host(scene):
    with open(f"/proc/{scene['victim']}/environ") as file:
        text = file.read()
    return text if scene["secret"] in text else None


@act("2.2 /proc")
def reads_command_lines_of_the_host(scene):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if scene["mark"] in file.read():
                    return pid
        except OSError:
            pass
    return None


@act("2.2 /proc")
def reads_the_memory_of_a_process_of_the_host(scene):
    with open(f"/proc/{scene['victim']}/mem", "rb") as memory, open(f"/proc/{scene['victim']}/maps") as maps:
        memory.seek(int(maps.readline().split("-")[0], 16))
        return len(memory.read(64))


@act("2.2 /proc")
def enters_the_directory_of_a_process_of_the_host(scene):
    os.chdir(f"/proc/{scene['victim']}/cwd")
    return os.listdir(".")


@act("2.2 /proc")
def lists_keys_that_others_hold(scene):
    with open("/proc/keys") as file:
        return scene["key_name"] in file.read() or None


@act("2.2 ptrace")
def traces_a_process_of_the_host(scene):
    call(101, 16, scene["victim"], 0, 0)
    return "attached"


@act("2.2 ptrace")
def traces_init(scene):
    call(101, 16, 1 if scene["inside"] else scene["victim"], 0, 0)
    return "attached"


@act("2.4 init")
def reads_the_memory_of_init(scene):
    with open(f"/proc/{1 if scene['inside'] else scene['victim']}/mem", "rb"):
        return "opened"


@act("2.4 init")
def lists_the_descriptors_of_init(scene):
    return os.listdir(f"/proc/{1 if scene['inside'] else scene['victim']}/fd") and "listed"


@act("3 CVE-2019-5736")
def opens_the_program_of_init(scene):
    return os.open(f"/proc/{1 if scene['inside'] else scene['victim']}/exe", os.O_RDONLY) and "opened"


@act("2.5 pidfd_getfd")
def takes_a_descriptor_of_another_process(scene):
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return call(438, os.pidfd_open(child), 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@act("2.5 process_vm_writev")
def writes_into_another_process(scene):
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        place = ctypes.create_string_buffer(b"x")
        vector = (ctypes.c_uint64 * 2)(ctypes.addressof(place), 1)
        return call(311, child, vector, 1, vector, 1, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@act("2.2 keyrings")
def reads_a_key_of_the_session_keyring(scene):
    found = call(250, 10, -3, b"user", scene["key_name"].encode(), 0)
    return read_key(found, scene)


@act("2.2 keyrings")
def reads_a_key_by_its_serial(scene):
    return read_key(scene["key"], scene)


@act("2.2 keyrings")
def reads_a_key_of_the_users_keyring(scene):
    call(250, 8, -4, -3)  # linked to a keyring that is its own, what the user's holds is its own too
    found = call(250, 10, -3, b"user", scene["key_name"].encode() + b"-kept", 0)
    return read_key(found, scene)


def read_key(serial, scene):
    buffer = ctypes.create_string_buffer(256)
    call(250, 11, serial, buffer, 256)
    return buffer.value.decode() if scene["secret"] in buffer.value.decode() else None


@act("2.2 keyrings")
def adds_a_key(scene):
    return call(248, b"user", b"x", b"y", 1, -2)


@act("2.2 keyrings")
def asks_the_kernel_for_a_key(scene):
    try:
        return call(249, b"user", b"no-such-key", None, 0)
    except OSError as error:
        if error.errno == 126:  # ENOKEY: it looked
            return "it looked"
        raise


@act("2.2 SysV IPC")
def reads_the_hosts_shared_memory(scene):
    LIBC.shmat.restype = ctypes.c_void_p
    at = LIBC.shmat(call(29, scene["shm"], 0, 0), None, 0)
    text = ctypes.string_at(at).decode()
    return text if scene["secret"] in text else None


@act("2.2 SysV IPC")
def finds_a_message_queue_of_the_host(scene):
    return call(68, scene["shm"], 0)


@act("2.2 SysV IPC")
def finds_a_semaphore_of_the_host(scene):
    return call(64, scene["shm"], 1, 0)


@act("2.2 POSIX mq")
def opens_a_posix_queue_of_the_host(scene):
    return call(240, scene["mq"].encode(), os.O_RDWR, 0, None)


@act("2.4 terminal")
def types_into_the_terminal_that_it_was_started_from(scene):
    terminal = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSTI, b"#")
    return "typed"


@act("2.4 terminal")
def opens_the_terminal_that_it_was_started_from(scene):
    return os.open("/dev/tty", os.O_RDWR)


@act("2.4 terminal")
def opens_the_hosts_terminal(scene):
    terminal = os.open(scene["tty"], os.O_RDWR | os.O_NOCTTY)
    os.write(terminal, b"opens_the_hosts_terminal")
    return None  # the number may be a terminal of its own: what counts is what the host's shows


def own_terminal():
    """A terminal of its own, as its controlling one."""
    _, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave


@act("2.4 terminal")
def types_into_a_terminal(scene):
    fcntl.ioctl(own_terminal(), termios.TIOCSTI, b"#")
    return "typed"


@act("2.4 terminal")
def types_into_a_terminal_with_high_bits(scene):
    return call(16, own_terminal(), (1 << 32) | termios.TIOCSTI, ctypes.create_string_buffer(b"#")) == 0


@act("2.4 terminal")
def changes_the_line_discipline(scene):
    fcntl.ioctl(own_terminal(), 0x5423, struct.pack("i", 0))
    return "changed"


@act("2.4 core dumps")
def raises_its_core_limit(scene):
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
    return "raised"


@act("2.4 powers")
def has_a_way_to_new_powers(scene):
    with open("/proc/self/status") as file:
        return "NoNewPrivs:\t0" in file.read() or None


@act("2.4 powers")
def has_powers_in_its_bounding_set(scene):
    with open("/proc/self/status") as file:
        return "CapBnd:\t0000000000000000" not in file.read() or None


@act("2.4 nosuid")
def finds_a_mount_that_honours_setuid(scene):
    with open("/proc/self/mountinfo") as file:
        options = [(line.split()[4], line.split()[5].split(",")) for line in file]
    return [path for path, words in options if "nosuid" not in words] or None


@act("2.4 read-only")
def finds_system_directories_writable(scene):
    with open("/proc/self/mountinfo") as file:
        options = [(line.split()[4], line.split()[5].split(",")) for line in file]
    return [path for path, words in options if path in ("/", "/usr", "/dev") and "ro" not in words] or None
