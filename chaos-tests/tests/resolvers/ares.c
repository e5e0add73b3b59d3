/* Prints the IPv4 addresses of a name, one a line, as c-ares finds them. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>

static int failed = 1;

static void done(void *unused, int status, int timeouts, struct ares_addrinfo *found) {
    struct ares_addrinfo_node *it;
    char text[INET_ADDRSTRLEN];
    (void)unused, (void)timeouts;
    if (status != ARES_SUCCESS) {
        fprintf(stderr, "%s\n", ares_strerror(status));
        return;
    }
    failed = 0;
    for (it = found->nodes; it; it = it->ai_next) {
        if (it->ai_family != AF_INET) continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)it->ai_addr)->sin_addr, text, sizeof text);
        puts(text);
    }
    ares_freeaddrinfo(found);
}

int main(int argc, char **argv) {
    ares_channel channel;
    struct ares_addrinfo_hints hints;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel)) return 1;
    ares_getaddrinfo(channel, argv[1], NULL, &hints, done, NULL);
    for (;;) {
        fd_set readers, writers;
        struct timeval wait, *until;
        FD_ZERO(&readers);
        FD_ZERO(&writers);
        int count = ares_fds(channel, &readers, &writers);
        if (count == 0) break;
        until = ares_timeout(channel, NULL, &wait);
        select(count, &readers, &writers, NULL, until);
        ares_process(channel, &readers, &writers);
    }
    ares_destroy(channel);
    return failed;
}
