/* The other end of the datagram benchmarks.
 *
 * load_udp sink SIZE               sends the first datagram back, then takes all that come
 * load_udp sink-joined SIZE        the same, taking trains as one (UDP_GRO)
 * load_udp blast SIZE              answers the first datagram with as many as it can send
 * load_udp blast-segmented SIZE    the same, handed over in trains (UDP_SEGMENT)
 *
 * It prints its port and runs until it is stopped. Every datagram is SIZE bytes, 0 1 2 ... 250
 * over and over. sink has a second port, after a comma, for those who send to two.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    PERIOD = 251,
    LARGEST = 65507,
    MOST_JOINED = 128,
    BATCH = 32,
    TRAIN = 64, /* datagrams: what older kernels take, and our batches bring; fewer if longer */
    BUFFER = 4 << 20,
    PATIENCE_MS = 20000,
};

static unsigned char payload[LARGEST + PERIOD], received[LARGEST];

static int bound_socket(const char *separator) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = BUFFER;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t length = sizeof address;
    if (fd < 0) give_up_errno("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&address, length) != 0) give_up_errno("bind");
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0) give_up_errno("getsockname");
    printf("%d%s", ntohs(address.sin_port), separator);
    fflush(stdout);
    return fd;
}

static void take(int fd, size_t size, struct sockaddr_in *sender) {
    socklen_t length = sizeof *sender;
    ssize_t count = recvfrom(fd, received, sizeof received, 0, (struct sockaddr *)sender, &length);
    if (count < 0) give_up_errno("recvfrom");
    /* Without UDP_GRO, and of who sends one by one, there is one. */
    if (count == 0 || (size_t)count % size != 0 || (size_t)count / size > MOST_JOINED)
        give_up("sink", "a datagram came with another size");
    for (ssize_t start = 0; start < count; start += (ssize_t)size)
        if (memcmp(received + start, payload, size) != 0)
            give_up("sink", "a datagram came with other bytes");
}

static void sink(size_t size, bool joined) {
    struct pollfd sockets[] = {{.fd = bound_socket(","), .events = POLLIN},
                               {.fd = bound_socket("\n"), .events = POLLIN}};
    struct sockaddr_in sender;
    int on = joined;
    for (int i = 0; i < 2; i++)
        if (joined && setsockopt(sockets[i].fd, SOL_UDP, UDP_GRO, &on, sizeof on) != 0)
            give_up_errno("UDP_GRO");
    take(sockets[0].fd, size, &sender);
    sendto(sockets[0].fd, received, size, 0, (struct sockaddr *)&sender, sizeof sender);
    while (poll(sockets, 2, PATIENCE_MS) > 0)
        for (int i = 0; i < 2; i++)
            if (sockets[i].revents & POLLIN) take(sockets[i].fd, size, &sender);
}

/* Until the receiver's socket is gone, which the kernel reports as a refusal. */
static void blast(size_t size, bool segmented) {
    int fd = bound_socket("\n"), segment = (int)size;
    struct sockaddr_in receiver;
    take(fd, size, &receiver);
    if (connect(fd, (struct sockaddr *)&receiver, sizeof receiver) != 0) give_up_errno("connect");
    size_t together = 1;
    if (segmented) {
        if (setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof segment) != 0)
            give_up_errno("UDP_SEGMENT");
        together = LARGEST / size < TRAIN ? LARGEST / size : TRAIN;
    }
    unsigned char *train = allocate(together, size);
    for (size_t i = 0; i < together; i++) memcpy(train + i * size, payload, size);
    struct iovec part = {.iov_base = train, .iov_len = together * size};
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) messages[i].msg_hdr = (struct msghdr){.msg_iov = &part,
                                                                         .msg_iovlen = 1};
    while (sendmmsg(fd, messages, BATCH, 0) > 0) continue;
    if (errno != ECONNREFUSED) give_up_errno("sendmmsg");
}

int main(int argc, char **argv) {
    size_t size = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (size == 0 || size > LARGEST) give_up("usage", "load_udp sink|sink-joined|blast|blast-segmented SIZE");
    for (int i = 0; i < LARGEST + PERIOD; i++) payload[i] = (unsigned char)(i % PERIOD);
    if (strncmp(argv[1], "sink", 4) == 0)
        sink(size, strcmp(argv[1], "sink-joined") == 0);
    else
        blast(size, strcmp(argv[1], "blast-segmented") == 0);
    return 0;
}
