"""The judge, outside: sets the host up as the user has it, lets the actor loose, and looks at what happened.

Runs as the user. Takes one JSON object as its argument, prints one: each act with what it claims and what was seen here.
"""
import ctypes
import fcntl
import json
import os
import pty
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
# How every secret begins.
BEGINNING = "canary-"
VICTIM = """
import os, signal, sys
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGIO, signal.SIGRTMAX):
    signal.signal(number, lambda number, _: os.write(1, signal.Signals(number).name.encode() + b"\\n"))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


class Ears:
    """Listens on every kind of socket, and keeps the names that arrive."""

    def __init__(self):
        self.heard = set()
        self.gift = None

    def keep(self, said):
        self.heard.update(said.decode(errors="replace").split("\0"))

    def stream(self, family, address):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(64)
        threading.Thread(target=self.serve, args=(listener,), daemon=True).start()
        return listener

    def serve(self, listener):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(5)
            try:
                self.keep(connection.recv(256))
                if connection.family == socket.AF_UNIX and self.gift is not None:
                    socket.send_fds(connection, [b"g"], [self.gift])
            except OSError:
                pass  # most hang up at once
            connection.close()

    def datagram(self, family, address):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind(address)
        threading.Thread(target=self.receive, args=(receiver,), daemon=True).start()
        return receiver

    def receive(self, receiver):
        while True:
            self.keep(receiver.recv(256))


def write(path, text, mode=0o600):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def furnish(scene):
    """Files of the user's, each with the secret or with what must not change."""
    home, secret = scene["home"], scene["secret"]
    for name in ("/.ssh/id_ed25519", "/.aws/credentials"):
        if os.path.exists(home + name):
            os.unlink(home + name)  # an earlier act may have changed more than its content
        write(home + name, secret)
        os.setxattr(home + name, "user.mark", b"1")
    if os.path.islink(home + "/.current"):
        os.unlink(home + "/.current")
    os.symlink("/nowhere/" + secret, home + "/.current")
    write(home + "/.bashrc", "# mine\n")
    write(home + "/.profile", "# mine\n")
    write(scene["project"] + "/.cargo/config.toml", "# mine\n")
    shutil.rmtree(home + "/.config/autostart", ignore_errors=True)
    os.makedirs(home + "/.config/autostart")
    os.makedirs(scene["outside"], exist_ok=True)
    write(scene["outside"] + "/there", secret)
    write(scene["outside"] + "/input", "from the host")
    write("/dev/shm/" + scene["shm_file"], secret)


def listen(scene):
    ears = Ears()
    ears.gift = os.open(scene["home"] + "/.ssh/id_ed25519", os.O_RDONLY)
    keep = [ears.stream(socket.AF_UNIX, scene[name]) for name in ("bus", "agent")]
    keep.append(ears.stream(socket.AF_UNIX, scene["outside"] + "/x11"))
    keep.append(ears.stream(socket.AF_UNIX, "\0" + scene["abstract"]))
    keep.append(ears.datagram(socket.AF_UNIX, scene["journal"]))
    keep.append(ears.datagram(socket.AF_UNIX, "\0" + scene["abstract"] + "-datagram"))
    tcp, udp = ears.stream(socket.AF_INET, ("127.0.0.1", 0)), ears.datagram(socket.AF_INET, ("127.0.0.1", 0))
    scene["tcp"], scene["udp"] = tcp.getsockname()[1], udp.getsockname()[1]
    return ears, keep + [tcp, udp]


def share(scene):
    """Keys, shared memory and queues."""
    secret = scene["secret"].encode()
    LIBC.syscall(ctypes.c_long(250), ctypes.c_long(1), None)  # a session keyring like a login's
    scene["key"] = LIBC.syscall(ctypes.c_long(248), b"user", scene["key_name"].encode(), secret,
                                ctypes.c_long(len(secret)), ctypes.c_long(-3))
    scene["kept"] = LIBC.syscall(ctypes.c_long(248), b"user", scene["key_name"].encode() + b"-kept", secret,
                                 ctypes.c_long(len(secret)), ctypes.c_long(-4))
    LIBC.shmat.restype = ctypes.c_void_p
    memory = LIBC.shmget(scene["shm"], 4096, 0o1600)
    ctypes.memmove(LIBC.shmat(memory, None, 0), secret + b"\0", len(secret) + 1)
    queue = LIBC.msgget(scene["shm"], 0o1600)
    semaphore = LIBC.semget(scene["shm"], 1, 0o1600)
    LIBC.syscall(ctypes.c_long(240), scene["mq"].encode(), ctypes.c_long(0o102), ctypes.c_long(0o600), None)
    return memory, queue, semaphore


def unshare(scene, memory, queue, semaphore):
    LIBC.syscall(ctypes.c_long(250), ctypes.c_long(9), ctypes.c_long(scene["kept"]), ctypes.c_long(-4))
    LIBC.semctl(semaphore, 0, 0)
    LIBC.shmctl(memory, 0, None)
    LIBC.msgctl(queue, 0, None)
    LIBC.syscall(ctypes.c_long(241), scene["mq"].encode())
    os.unlink("/dev/shm/" + scene["shm_file"])


def start_victim(scene):
    victim = subprocess.Popen(["/usr/bin/python3", "-c", VICTIM, scene["mark"]], stdout=subprocess.PIPE,
                              env={"TOKEN": scene["secret"]}, cwd=scene["home"], start_new_session=True)
    assert victim.stdout.readline() == b"ready\n"
    scene["victim"] = victim.pid
    return victim


def terminal():
    """A terminal that is the controlling one of everything from here on, as of any program that a user starts."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    return master, slave


def readable(descriptor):
    if not select.select([descriptor], [], [], 0)[0]:
        return b""
    return os.read(descriptor, 4096)


def run(scene, command):
    """Starts the actor with what a careless caller leaves open. It knows everything but the end of the secret."""
    write(scene["project"] + "/scene.json", json.dumps(scene | {"secret": BEGINNING}))
    secret, directory = os.open(scene["home"] + "/.ssh/id_ed25519", os.O_RDONLY), os.open(scene["home"], os.O_RDONLY)
    environment = dict(os.environ, GITHUB_TOKEN=scene["secret"])
    with open(scene["outside"] + "/input") as given:
        ran = subprocess.run(command, stdin=given, capture_output=True, text=True,
                             env=environment, cwd=scene["project"], pass_fds=(secret, directory))
    claims = [json.loads(line[4:]) for line in ran.stdout.splitlines() if line.startswith("ACT ")]
    for claim in claims:
        # Who says that it read the secret must show the whole of it.
        if BEGINNING in claim["detail"] and scene["secret"] not in claim["detail"]:
            claim["worked"] = False
    return {claim["act"]: claim for claim in claims}, ran


def changed_files(scene):
    """Names of acts that left their mark on the host's files."""
    marks = set()
    for path in (scene["home"] + "/.bashrc", scene["home"] + "/.profile", scene["outside"] + "/dropped",
                 scene["outside"] + "/input", scene["home"] + "/.config/autostart/x.desktop",
                 *(scene["project"] + name for name in ("/.envrc", "/.claude/settings.json", "/.cargo/config.toml", "/.cargo-old/config.toml")),
                 "/dev/shm/" + scene["shm_file"], *(f"{scene['project']}/{git}/{file}" for git in (".git", ".git-old")
                                                    for file in ("config", "hooks/post-commit"))):
        try:
            with open(path) as file:
                marks.update(word for word in file.read().replace("#", " ").replace("//", " ").split())
        except OSError:
            pass
    if os.path.exists(scene["project"] + "/.git/replaces_the_hosts_git_directory"):
        marks.add("replaces_the_hosts_git_directory")
    for way in ("chmod", "open", "openat2", "fchmodat2"):
        path = f"{scene['project']}/setuid-{way}"
        if os.path.exists(path) and os.stat(path).st_mode & 0o6000:
            marks.add(f"leaves_a_setuid_file_by_{way}")
    if os.path.exists(scene["project"] + "/whiteout") and stat.S_ISCHR(os.lstat(scene["project"] + "/whiteout").st_mode):
        marks.add("makes_a_device_node")
    state = os.stat(scene["home"] + "/.aws/credentials")
    if state.st_mode & 0o777 != 0o600:
        marks.add("changes_the_mode_of_a_key")
    if state.st_mtime == 1:
        marks.add("changes_the_times_of_a_key")
    if "user.mine" in os.listxattr(scene["home"] + "/.aws/credentials"):
        marks.add("sets_an_extended_attribute")
    return marks


def harmed(victim):
    """Names of acts that the victim felt."""
    marks = set()
    signals = {"SIGUSR1": "signals_a_process_of_the_host", "SIGUSR2": "signals_a_process_by_descriptor",
               "SIGURG": "stops_everything_it_may", "SIGIO": "signals_a_process_through_a_pipe",
               "SIGPOLL": "signals_a_process_through_a_pipe"}
    felt = b""
    # The victim may be slow by now, niced and pinned as it is: the last of all signals tells that it felt the others.
    os.kill(victim.pid, signal.SIGRTMAX)
    while b"SIGRTMAX" not in felt and select.select([victim.stdout], [], [], 60)[0]:
        read = os.read(victim.stdout.fileno(), 4096)
        if not read:
            break
        felt += read
    marks.update(signals.get(name) for name in felt.decode().split())
    if os.getpriority(os.PRIO_PROCESS, victim.pid) == 19:
        marks.add("changes_the_priority_of_others")
    if len(os.sched_getaffinity(victim.pid)) == 1 and os.cpu_count() > 1:
        marks.add("pins_a_process_of_the_host")
    if resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)[0] == 64:
        marks.add("changes_the_limits_of_others")
    with open(f"/proc/{victim.pid}/oom_score_adj") as file:
        if file.read().strip() == "1000":
            marks.add("offers_a_process_of_the_host_to_the_oom_killer")
    return marks


def main():
    scene = json.loads(sys.argv[1])
    command = scene.pop("command")
    signal.signal(signal.SIGWINCH, signal.SIG_IGN)
    # Whatever this process or the actor leaves alive ends with the test's process group.
    master, slave = terminal()
    scene |= {"stage": os.getpid(), "group": os.getpgid(0), "tty": os.ttyname(slave),
              "machine": os.uname().nodename}
    furnish(scene)
    ears, keep = listen(scene)
    shared = share(scene)
    victim = start_victim(scene)
    try:
        claims, ran = run(scene, command)
        seen = ears.heard | changed_files(scene) | harmed(victim)
        if b"#" in readable(slave):
            seen.add("types_into_the_terminal_that_it_was_started_from")
        if b"opens_the_hosts_terminal" in readable(master):
            seen.add("opens_the_hosts_terminal")
    finally:
        victim.kill()
        unshare(scene, *shared)
        del keep
    for name, claim in claims.items():
        claim["seen"] = name in seen
    print(json.dumps({"acts": claims, "stdout": ran.stdout[-2000:], "stderr": ran.stderr[-4000:], "code": ran.returncode}))


if __name__ == "__main__":
    main()
