/* Prints the IPv4 addresses of a name, one a line, as the C library it is linked with finds them. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints, *found, *it;
    char text[INET_ADDRSTRLEN];
    memset(&hints, 0, sizeof hints);
    /* Both families, as most programs ask: an error for AAAA would spoil the answer for A. */
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    int error = argc == 2 ? getaddrinfo(argv[1], NULL, &hints, &found) : EAI_FAIL;
    if (error) {
        fprintf(stderr, "%s\n", gai_strerror(error));
        return 1;
    }
    for (it = found; it; it = it->ai_next) {
        if (it->ai_family != AF_INET) continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)it->ai_addr)->sin_addr, text, sizeof text);
        puts(text);
    }
    return 0;
}
