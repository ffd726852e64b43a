"""Against sockets: whatever listens on the host, by path, by name and by number. Each sends its own name as the proof."""
import array
import os
import socket
import sys

from act import act, call


def me():
    return sys._getframe(1).f_code.co_name.encode()


def stream(family, address, name, protocol=0):
    connection = socket.socket(family, socket.SOCK_STREAM, protocol)
    connection.settimeout(2)
    connection.connect(address)
    connection.sendall(name)
    return "connected"


@act("2.2 pathname socket")
def connects_to_the_session_bus(scene):
    return stream(socket.AF_UNIX, scene["bus"], me())


@act("2.2 pathname socket")
def connects_to_the_ssh_agent(scene):
    return stream(socket.AF_UNIX, scene["agent"], me())


@act("2.2 pathname socket")
def connects_to_a_socket_in_the_hosts_tmp(scene):
    return stream(socket.AF_UNIX, scene["outside"] + "/x11", me())


@act("2.2 pathname socket")
def sends_a_datagram_to_a_socket_by_path(scene):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(me(), scene["journal"])
    return "sent"


@act("2.2 pathname socket")
def connects_through_the_proc_of_another_process(scene):
    return stream(socket.AF_UNIX, f"/proc/{scene['victim']}/root{scene['bus']}", me())


@act("2.2 abstract socket")
def connects_to_an_abstract_socket(scene):
    return stream(socket.AF_UNIX, "\0" + scene["abstract"], me())


@act("2.2 abstract socket")
def sends_a_datagram_to_an_abstract_socket(scene):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(me(), "\0" + scene["abstract"] + "-datagram")
    return "sent"


@act("2.2 TCP")
def connects_by_tcp(scene):
    return stream(socket.AF_INET, ("127.0.0.1", scene["tcp"]), me())


@act("2.2 TCP")
def connects_by_tcp_over_ipv6(scene):
    return stream(socket.AF_INET6, ("::ffff:127.0.0.1", scene["tcp"]), me())


@act("2.2 MPTCP")
def connects_by_multipath_tcp(scene):
    return stream(socket.AF_INET, ("127.0.0.1", scene["tcp"]), me(), 262)


@act("2.2 MPTCP")
def makes_a_multipath_socket(scene):
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).fileno()


@act("2.2 TCP Fast Open")
def connects_by_tcp_fast_open(scene):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.sendto(me(), 0x20000000, ("127.0.0.1", scene["tcp"]))
    return "sent"


@act("2.2 TCP Fast Open")
def connects_by_tcp_fast_open_over_ipv6(scene):
    connection = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    connection.sendto(me(), 0x20000000, ("::ffff:127.0.0.1", scene["tcp"]))
    return "sent"


@act("2.2 UDP")
def sends_by_udp(scene):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(me(), ("127.0.0.1", scene["udp"]))
    return None  # a datagram to nowhere is sent too: what counts is what arrives


@act("2.4 UDP")
def sends_to_the_network(scene):
    # TEST-NET-1: nobody is there; with a route the datagram would leave.
    local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    local.connect(("192.0.2.1", 9))
    return local.getsockname()


@act("2.4 ICMP")
def makes_a_ping_socket(scene):
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).fileno()


@act("2.4 netlink")
def listens_to_kernel_events(scene):
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
    events.bind((0, 1))
    return "listens"


@act("2.4 netlink")
def speaks_to_the_firewall(scene):
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).fileno()


@act("2.4 netlink")
def sees_the_hosts_interfaces(scene):
    return [name for _, name in socket.if_nameindex() if name != "lo"] or None


@act("2.4 vsock")
def makes_a_virtual_machine_socket(scene):
    return socket.socket(40, socket.SOCK_STREAM).fileno()


@act("2.4 vsock")
def makes_a_virtual_machine_socket_with_high_bits(scene):
    return call(41, (1 << 32) | 40, 1, 0)


@act("2.5 families")
def makes_a_kernel_crypto_socket(scene):
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).fileno()


@act("2.4 broker")
def reads_the_control_token(scene):
    with open(scene["runtime"] + "/keyhatch/control.token") as file:
        return file.read()


@act("2.4 broker")
def connects_to_the_control_socket(scene):
    return stream(socket.AF_UNIX, scene["runtime"] + "/keyhatch/control.sock", me())


@act("2.4 broker")
def sees_other_sessions(scene):
    return os.listdir(scene["runtime"] + "/keyhatch/sessions")


@act("2.4 broker")
def receives_a_descriptor_of_the_host(scene):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(2)
    client.connect(scene["bus"])
    client.sendall(me())
    _, ancillary, _, _ = client.recvmsg(16, socket.CMSG_LEN(4))
    numbers = array.array("i")
    numbers.frombytes(ancillary[0][2][:4])
    return os.pread(numbers[0], 4096, 0).decode()
