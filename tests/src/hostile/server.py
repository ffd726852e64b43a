#!/usr/bin/python3
"""A git server that means harm, as CGI: what it does is the name of the repository."""
import os
import sys
import time

path = os.environ["PATH_INFO"]
service = "receive-pack" if "receive-pack" in os.environ.get("QUERY_STRING", "") + path else "upload-pack"
out = sys.stdout.buffer


def send(data):
    out.write(data)
    out.flush()


def pkt(data):
    return b"%04x" % (len(data) + 4) + data


send(f"Content-Type: application/x-git-{service}-advertisement\r\n\r\n".encode())
head = pkt(f"# service=git-{service}\n".encode()) + b"0000"
oid = b"1" * 40
first = pkt(oid + b" refs/heads/first\0report-status ofs-delta\n")
if path.startswith("/many/"):
    # 120 MiB of refs with long names, and then the end.
    send(head + first)
    for block in range(1200):
        names = (b"refs/heads/%08d-%s" % (block * 500 + n, b"x" * 150) for n in range(500))
        send(b"".join(pkt(oid + b" " + name + b"\n") for name in names))
    send(b"0000")
elif path.startswith("/endless/"):
    send(head + first)
    number = 0
    while True:
        number += 500
        send(b"".join(pkt(oid + b" refs/heads/%012d\n" % (number + n)) for n in range(500)))
elif path.startswith("/no-line/"):
    # One packet that never ends, a byte at a time.
    send(head + b"ffff")
    while True:
        send(b"x")
        time.sleep(0.05)
elif path.startswith("/no-packet/"):
    # No packet at all, endlessly.
    send(head)
    while True:
        send(b"z" * 65536)
elif path.startswith("/flushes/"):
    # Nothing, endlessly.
    send(head + first)
    while True:
        send(b"0001" * 16384)
