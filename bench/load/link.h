/* One connection to the server, over TCP or over TLS: which one is chosen when linking. */
#ifndef SOCKSCOPE_BENCH_LINK_H
#define SOCKSCOPE_BENCH_LINK_H

#include <stdint.h>
#include <sys/types.h>

struct link {
    int fd;
    void *session; /* the TLS state; NULL over TCP */
};

/* What a call that could not go on waits for, as epoll says it. */
enum wait { WAIT_NOTHING = 0, WAIT_READABLE = 1, WAIT_WRITABLE = 4 };

/* Of the transport: link_plain.c or link_tls.c. */
void link_secure(struct link *link);
enum wait link_handshake(struct link *link);
ssize_t link_receive(struct link *link, void *buffer, size_t size); /* -1: nothing there yet */
ssize_t link_send(struct link *link, const void *data, size_t size); /* -1: no room yet */
void link_finish(struct link *link); /* says goodbye, before the descriptor closes */

/* Common to both, in link.c. */
void link_start(struct link *link, uint16_t port, unsigned index);
enum wait link_advance(struct link *link); /* connect, then handshake; WAIT_NOTHING when open */
void link_open(struct link *link, uint16_t port, unsigned index);
void link_open_all(struct link *links, int count, uint16_t port);
void link_send_all(struct link *link, const void *data, size_t size);
void link_receive_all(struct link *link, void *buffer, size_t size);
void link_echo_once(struct link *link, size_t size, unsigned index);
void link_warm_up(uint16_t port, size_t size);
void link_wait(struct link *link, enum wait wait);
void link_close(struct link *link);

#endif
