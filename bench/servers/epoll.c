/* The floor: the same server as the others, with nothing between it and the kernel.
 *
 * usage: epoll echo|sink|source
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, BATCH = 256, BACKLOG = 4096, DESCRIPTORS = 1 << 15 };

static unsigned char buffer[CHUNK], block[CHUNK];
static uint64_t counts[DESCRIPTORS]; /* received by a sink; still owed by a source */
static int poller;

static void give_up(const char *step) {
    perror(step);
    exit(1);
}

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) != 0) give_up("epoll_ctl");
}

/* Each returns whether the connection goes on. */

static bool echo(int fd) {
    ssize_t received = recv(fd, buffer, sizeof buffer, 0);
    if (received <= 0) return received < 0 && errno == EAGAIN;
    for (ssize_t sent = 0; sent < received;) {
        ssize_t count = send(fd, buffer + sent, (size_t)(received - sent), MSG_NOSIGNAL);
        if (count > 0)
            sent += count;
        else if (errno != EAGAIN) /* a full buffer: no workload holds it for long */
            return false;
    }
    return true;
}

static bool sink(int fd) {
    ssize_t received = recv(fd, buffer, sizeof buffer, 0);
    if (received > 0) counts[fd] += (uint64_t)received;
    if (received != 0) return received > 0 || errno == EAGAIN;
    uint64_t answer = htobe64(counts[fd]);
    send(fd, &answer, sizeof answer, MSG_NOSIGNAL);
    return false;
}

static bool source(int fd) {
    if (counts[fd] == 0) {
        uint64_t request;
        if (recv(fd, &request, sizeof request, 0) != sizeof request) return false;
        counts[fd] = be64toh(request);
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    }
    size_t size = counts[fd] < CHUNK ? counts[fd] : CHUNK;
    /* Begin where the pattern of 256 bytes stands; a transfer is a multiple of them. */
    size_t offset = (256 - counts[fd] % 256) % 256;
    if (offset != 0 && size > CHUNK - offset) size = CHUNK - offset;
    ssize_t sent = send(fd, block + offset, size, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    counts[fd] -= (uint64_t)sent;
    return counts[fd] > 0;
}

static int listen_on_loopback(void) {
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof address;
    if (fd < 0) give_up("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* children inherit it */
    if (bind(fd, (struct sockaddr *)&address, size) != 0) give_up("bind");
    if (listen(fd, BACKLOG) != 0) give_up("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) give_up("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno == EAGAIN) return;
        if (fd < 0 || fd >= DESCRIPTORS) give_up("accept4");
        counts[fd] = 0;
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void serve(int listener, bool (*handle)(int)) {
    struct epoll_event events[BATCH];
    for (;;) {
        int ready = epoll_wait(poller, events, BATCH, -1);
        if (ready < 0 && errno != EINTR) give_up("epoll_wait");
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(listener);
            else if (!handle(fd))
                close(fd);
        }
    }
}

int main(int argc, char **argv) {
    struct rlimit limit;
    bool (*handle)(int) = echo;
    if (argc > 1 && strcmp(argv[1], "sink") == 0) handle = sink;
    if (argc > 1 && strcmp(argv[1], "source") == 0) handle = source;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < CHUNK; i++) block[i] = (unsigned char)i;
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on_loopback();
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    serve(listener, handle);
}
