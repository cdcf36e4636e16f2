#include "common.h"
#include "link.h"

#include <errno.h>
#include <sys/socket.h>

void link_secure(struct link *link) { (void)link; }

enum wait link_handshake(struct link *link) {
    (void)link;
    return WAIT_NOTHING;
}

ssize_t link_receive(struct link *link, void *buffer, size_t size) {
    ssize_t count = recv(link->fd, buffer, size, 0);
    if (count < 0 && errno != EAGAIN) give_up_errno("recv");
    return count;
}

ssize_t link_send(struct link *link, const void *data, size_t size) {
    ssize_t count = send(link->fd, data, size, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) give_up_errno("send");
    return count;
}

void link_finish(struct link *link) { (void)link; }
