#include "link.h"

#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SOURCES = 8,         /* 127.0.0.1 to 127.0.0.8: one has too few ports for many closed ones */
    PATIENCE_MS = 20000, /* a server that is silent for longer has failed */
    OPENING = 64,        /* connections under way at a time */
    WARM_UP = 64,        /* connections that come and go before anything counts */
};

void link_wait(struct link *link, enum wait wait) {
    struct pollfd waiting = {.fd = link->fd, .events = wait == WAIT_READABLE ? POLLIN : POLLOUT};
    int ready = poll(&waiting, 1, PATIENCE_MS);
    if (ready < 0) give_up_errno("poll");
    if (ready == 0) give_up("poll", "the server does not answer");
}

void link_start(struct link *link, uint16_t port, unsigned index) {
    int yes = 1;
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + index % SOURCES),
    };
    struct sockaddr_in target = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    link->session = NULL;
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (link->fd < 0) give_up_errno("socket");
    /* The port is chosen at connect, where one port serves many targets. */
    setsockopt(link->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(link->fd, (struct sockaddr *)&source, sizeof source) != 0) give_up_errno("bind");
    if (connect(link->fd, (struct sockaddr *)&target, sizeof target) != 0 && errno != EINPROGRESS)
        give_up_errno("connect");
}

enum wait link_advance(struct link *link) {
    if (link->session == NULL) {
        int error;
        socklen_t size = sizeof error;
        getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        errno = error;
        if (error != 0) give_up_errno("connect");
        link_secure(link);
    }
    return link_handshake(link);
}

void link_open(struct link *link, uint16_t port, unsigned index) {
    link_start(link, port, index);
    for (enum wait wait = WAIT_WRITABLE; wait != WAIT_NOTHING; wait = link_advance(link))
        link_wait(link, wait);
}

/* Some at a time, so that neither the backlog overflows nor each waits for the one before. */
void link_open_all(struct link *links, int count, uint16_t port) {
    for (int first = 0; first < count; first += OPENING) {
        int end = first + OPENING < count ? first + OPENING : count;
        for (int i = first; i < end; i++) link_start(&links[i], port, (unsigned)i);
        for (int i = first; i < end; i++)
            for (enum wait wait = WAIT_WRITABLE; wait != WAIT_NOTHING;
                 wait = link_advance(&links[i]))
                link_wait(&links[i], wait);
    }
}

void link_send_all(struct link *link, const void *data, size_t size) {
    for (size_t sent = 0; sent < size;) {
        ssize_t count = link_send(link, (const char *)data + sent, size - sent);
        if (count < 0)
            link_wait(link, WAIT_WRITABLE);
        else
            sent += (size_t)count;
    }
}

void link_receive_all(struct link *link, void *buffer, size_t size) {
    for (size_t received = 0; received < size;) {
        ssize_t count = link_receive(link, (char *)buffer + received, size - received);
        if (count == 0) give_up("receive", "the server closed the connection too early");
        if (count < 0)
            link_wait(link, WAIT_READABLE);
        else
            received += (size_t)count;
    }
}

void link_echo_once(struct link *link, size_t size, unsigned index) {
    unsigned char *message = allocate(2, size);
    fill_message(message, size, index);
    link_send_all(link, message, size);
    link_receive_all(link, message + size, size);
    if (memcmp(message, message + size, size) != 0) give_up("echo", "other bytes came back");
    free(message);
}

/* A server that has run for a while has seen connections come and go, all at once too. It
 * matters: glibc maps and unmaps memory for every large receive (asyncio's are of 256 KiB)
 * until the first whole one is freed, which an end of stream does; echoes cost thrice before.
 */
void link_warm_up(uint16_t port, size_t size) {
    struct link links[WARM_UP];
    link_open_all(links, WARM_UP, port);
    for (int i = 0; i < WARM_UP; i++) link_echo_once(&links[i], size, (unsigned)i);
    for (int i = 0; i < WARM_UP; i++) link_close(&links[i]);
}

void link_close(struct link *link) {
    link_finish(link);
    close(link->fd);
}
