/* Every way out of a network that a program has without asking anybody: each is tried, and what the kernel says is printed.
   Static and without a word of proxies: also the tool that knows none. Arguments: ADDRESS PORT IPV6-ADDRESS [NAME]. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void say(const char *way, int ok) { printf("%s: %s\n", way, ok ? "WORKED" : strerror(errno)); fflush(stdout); }

/* Connects within two seconds. */
static int dial(int fd, const void *to, socklen_t size) {
    if (fd < 0) return 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (connect(fd, to, size) == 0) return 1;
    if (errno != EINPROGRESS) return 0;
    struct pollfd p = {fd, POLLOUT, 0};
    if (poll(&p, 1, 2000) == 0) { errno = ETIMEDOUT; return 0; }
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    errno = error;
    return error == 0;
}

int main(int argc, char **argv) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port}, mapped = v6;
    char text[64];
    snprintf(text, sizeof text, "::ffff:%s", argv[1]);
    inet_pton(AF_INET, argv[1], &v4.sin_addr);
    inet_pton(AF_INET6, argv[3], &v6.sin6_addr);
    inet_pton(AF_INET6, text, &mapped.sin6_addr);

    say("tcp", dial(socket(AF_INET, SOCK_STREAM, 0), &v4, sizeof v4));
    say("tcp6", dial(socket(AF_INET6, SOCK_STREAM, 0), &v6, sizeof v6));
    say("tcp-mapped", dial(socket(AF_INET6, SOCK_STREAM, 0), &mapped, sizeof mapped));
    say("mptcp", dial(socket(AF_INET, SOCK_STREAM, 262), &v4, sizeof v4));
    say("sctp", dial(socket(AF_INET, SOCK_STREAM, 132), &v4, sizeof v4));
    int fast = socket(AF_INET, SOCK_STREAM, 0);
    say("fast-open", sendto(fast, "x", 1, MSG_FASTOPEN, (void *)&v4, sizeof v4) >= 0);
    int datagram = socket(AF_INET, SOCK_DGRAM, 0);
    say("udp", sendto(datagram, "x", 1, 0, (void *)&v4, sizeof v4) >= 0);
    struct sockaddr_in dns = v4;
    dns.sin_port = htons(53);
    say("dns", sendto(datagram, "x", 1, 0, (void *)&dns, sizeof dns) >= 0);
    struct sockaddr_in6 neighbours = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port, .sin6_scope_id = 1};
    inet_pton(AF_INET6, "ff02::1", &neighbours.sin6_addr);
    say("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0);
    say("ping", sendto(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), "\10\0\0\0\0\0\0\0", 8, 0, (void *)&v4, sizeof v4) >= 0);
    say("packet", socket(AF_PACKET, SOCK_RAW, htons(3)) >= 0);
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 22};
    say("vsock", dial(socket(AF_VSOCK, SOCK_STREAM, 0), &host, sizeof host));
    struct sockaddr_in decimal = v4;
    decimal.sin_addr.s_addr = htonl(strtoul("3405803786", NULL, 10)); /* 203.0.113.10 */
    say("decimal", dial(socket(AF_INET, SOCK_STREAM, 0), &decimal, sizeof decimal));
    struct { struct nlmsghdr header; struct ifinfomsg info; } link = {
        {sizeof link, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0}, {.ifi_family = AF_UNSPEC}};
    struct { struct nlmsghdr header; struct nlmsgerr error; char rest[512]; } answer = {0};
    int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (netlink >= 0 && send(netlink, &link, sizeof link, 0) > 0 && recv(netlink, &answer, sizeof answer, 0) > 0) errno = -answer.error.error;
    say("new-interface", netlink >= 0 && errno == 0);
    if (argc > 4) {
        struct addrinfo *found;
        int error = getaddrinfo(argv[4], "443", NULL, &found);
        char address[64] = "";
        if (!error) getnameinfo(found->ai_addr, found->ai_addrlen, address, sizeof address, NULL, 0, NI_NUMERICHOST);
        printf("name: %s %s\n", error ? gai_strerror(error) : "WORKED", address);
    }
    return 0;
}
