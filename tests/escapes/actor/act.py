"""The attacker's tools: each act is a function that returns its proof, or fails. Runs inside, and plainly outside."""
import ctypes
import errno
import json
import os
import signal
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
ACTS = {}


def act(row):
    """Registers a function as an act against one row of the threat model."""
    def register(function):
        ACTS[function.__name__] = (row, function)
        return function
    return register


def call(number, *arguments):
    """A raw system call with 64-bit arguments; raises what the kernel says."""
    given = [a if isinstance(a, (bytes, ctypes.Array, ctypes.Structure)) or a is None else ctypes.c_long(a)
             for a in arguments]
    given = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in given]
    result = LIBC.syscall(ctypes.c_long(number), *given)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def unless(allowed, number, *arguments):
    """Makes a call that the kernel would answer with one of these errors; any other is a wall."""
    try:
        call(number, *arguments)
    except OSError as error:
        if errno.errorcode.get(error.errno) not in allowed:
            raise
    return "the call was made"


def attempt(name, scene):
    """Runs one act in a child: some end it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(5)
        try:
            proof = ACTS[name][1](scene)
            answer = {"worked": proof is not None and proof is not False, "detail": str(proof)[:300]}
        except BaseException as error:  # whatever it is, the act did not work
            answer = {"worked": False, "detail": f"{type(error).__name__}: {error}"[:300]}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    said = b""
    while part := os.read(reader, 4096):
        said += part
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if not said:
        return {"worked": False, "detail": f"killed by signal {status & 0x7f}"}
    return json.loads(said)


def main():
    with open("scene.json") as file:
        scene = json.load(file)
    for module in ("files", "sockets", "processes", "kernel"):
        __import__(module)
    for name, (row, _) in ACTS.items():
        if scene["only"] and name not in scene["only"]:
            continue
        answer = attempt(name, scene) | {"act": name, "row": row}
        print("ACT " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    # One module, whether it is the program or imported by the acts.
    sys.modules["act"] = sys.modules["__main__"]
    main()
