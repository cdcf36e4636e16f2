/* Connect, send one byte, get it back, close: as often as the time allows, some at a time. */
#include "link.h"
#include "workloads.h"

#include <sys/epoll.h>

enum { BATCH = 64, PATIENCE_MS = 20000 };

struct visitor {
    struct link link;
    bool open; /* connected, and its byte is under way */
    unsigned char byte;
};

struct loop {
    int poller;
    uint16_t port;
    unsigned started;
};

static void watch(struct loop *loop, struct visitor *visitor, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = visitor};
    if (epoll_ctl(loop->poller, operation, visitor->link.fd, &event) != 0)
        give_up_errno("epoll_ctl");
}

static void enter(struct loop *loop, struct visitor *visitor) {
    visitor->byte = (unsigned char)loop->started;
    visitor->open = false;
    link_start(&visitor->link, loop->port, loop->started++);
    watch(loop, visitor, EPOLL_CTL_ADD, EPOLLOUT);
}

/* Whether the visit is over. */
static bool go_on(struct loop *loop, struct visitor *visitor) {
    if (!visitor->open) {
        enum wait wait = link_advance(&visitor->link);
        visitor->open = wait == WAIT_NOTHING;
        if (visitor->open) link_send_all(&visitor->link, &visitor->byte, 1);
        watch(loop, visitor, EPOLL_CTL_MOD, visitor->open ? EPOLLIN : (uint32_t)wait);
        return false;
    }
    unsigned char answer;
    ssize_t count = link_receive(&visitor->link, &answer, 1);
    if (count < 0) return false;
    if (count == 0) give_up("churn", "the server closed the connection");
    if (answer != visitor->byte) give_up("churn", "another byte came back");
    link_close(&visitor->link);
    return true;
}

static int64_t run_until(struct loop *loop, struct visitor *visitors, int count,
                         int64_t deadline) {
    struct epoll_event events[BATCH];
    int64_t done = 0;
    int present = count;
    for (int i = 0; i < count; i++) enter(loop, &visitors[i]);
    while (present > 0) {
        int ready = epoll_wait(loop->poller, events, BATCH, PATIENCE_MS);
        if (ready < 0) give_up_errno("epoll_wait");
        if (ready == 0) give_up("churn", "the server does not answer");
        bool over = now_ns() >= deadline;
        for (int i = 0; i < ready; i++) {
            struct visitor *visitor = events[i].data.ptr;
            if (!go_on(loop, visitor)) continue;
            done++;
            if (over)
                present--;
            else
                enter(loop, visitor);
        }
    }
    return done;
}

void run_churn(const struct settings *settings) {
    struct loop loop = {.poller = epoll_create1(EPOLL_CLOEXEC), .port = settings->port};
    int count = settings->connections;
    struct visitor *visitors = allocate((size_t)count, sizeof *visitors);
    run_until(&loop, visitors, count, now_ns() + (int64_t)(settings->seconds * 1e8));

    struct reading before = take_reading(settings->pid);
    int64_t end = before.wall_ns + (int64_t)(settings->seconds * 1e9);
    int64_t done = run_until(&loop, visitors, count, end);
    report(before, take_reading(settings->pid), done);
}
