/* A client that knows no proxy: resolves a host, connects to a port, and says what happened. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = argc == 3 ? getaddrinfo(argv[1], argv[2], &hints, &found) : EAI_NONAME;
    if (error) {
        printf("%s: %s\n", argv[1], gai_strerror(error));
        return 2;
    }
    if (connect(socket(found->ai_family, SOCK_STREAM, 0), found->ai_addr, found->ai_addrlen) == 0) {
        printf("%s: connected\n", argv[1]);
        return 0;
    }
    printf("%s: %s\n", argv[1], strerror(errno));
    return 1;
}
