/* Closed loop: every connection sends its next message when the last one has come back. */
#include "link.h"
#include "workloads.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { BATCH = 256, PATIENCE_MS = 20000, IDLE_SIZE = 64 };

struct talker {
    struct link link;
    unsigned char *message;
    size_t received;
};

struct loop {
    struct talker *talkers;
    int count;
    int poller;
    size_t size;
    unsigned char *buffer;
};

static void register_talkers(struct loop *loop) {
    loop->poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < loop->count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &loop->talkers[i]};
        if (epoll_ctl(loop->poller, EPOLL_CTL_ADD, loop->talkers[i].link.fd, &event) != 0)
            give_up_errno("epoll_ctl");
    }
}

/* Whether the whole message is back. */
static bool take_answer(struct loop *loop, struct talker *talker) {
    while (talker->received < loop->size) {
        size_t missing = loop->size - talker->received;
        ssize_t count = link_receive(&talker->link, loop->buffer, missing);
        if (count < 0) return false;
        if (count == 0) give_up("echo", "the server closed the connection");
        if (memcmp(loop->buffer, talker->message + talker->received, (size_t)count) != 0)
            give_up("echo", "other bytes came back");
        talker->received += (size_t)count;
    }
    return true;
}

static void send_message(struct loop *loop, struct talker *talker) {
    talker->received = 0;
    link_send_all(&talker->link, talker->message, loop->size);
}

/* Each talker sends at least once, and again until the deadline; returns when all are back. */
static int64_t run_until(struct loop *loop, int64_t deadline) {
    struct epoll_event events[BATCH];
    int64_t done = 0;
    int outstanding = loop->count;
    for (int i = 0; i < loop->count; i++) send_message(loop, &loop->talkers[i]);
    while (outstanding > 0) {
        int ready = epoll_wait(loop->poller, events, BATCH, PATIENCE_MS);
        if (ready < 0) give_up_errno("epoll_wait");
        if (ready == 0) give_up("echo", "the server does not answer");
        bool over = now_ns() >= deadline;
        for (int i = 0; i < ready; i++) {
            struct talker *talker = events[i].data.ptr;
            if (!take_answer(loop, talker)) continue;
            done++;
            if (over)
                outstanding--;
            else
                send_message(loop, talker);
        }
    }
    return done;
}

static void open_talkers(struct loop *loop, uint16_t port, int idle) {
    int total = loop->count + idle;
    struct link *links = allocate((size_t)total, sizeof *links);
    link_open_all(links, total, port);
    for (int i = 0; i < idle; i++) link_echo_once(&links[loop->count + i], IDLE_SIZE, (unsigned)i);
    for (int i = 0; i < loop->count; i++) {
        struct talker *talker = &loop->talkers[i];
        talker->link = links[i];
        talker->message = allocate(1, loop->size);
        fill_message(talker->message, loop->size, (unsigned)i);
    }
    free(links); /* the idle ones stay open until the end of this process */
}

void run_echo(const struct settings *settings) {
    struct loop loop = {
        .count = settings->connections,
        .size = settings->size,
        .talkers = allocate((size_t)settings->connections, sizeof(struct talker)),
        .buffer = allocate(1, settings->size),
    };
    link_warm_up(settings->port, settings->size);
    open_talkers(&loop, settings->port, settings->idle);
    register_talkers(&loop);
    /* The first turn of all checks and warms; it also lets the server settle. */
    run_until(&loop, now_ns() + (int64_t)(settings->seconds * 1e8));

    struct reading before = take_reading(settings->pid);
    int64_t done = run_until(&loop, before.wall_ns + (int64_t)(settings->seconds * 1e9));
    report(before, take_reading(settings->pid), done);
    for (int i = 0; i < loop.count; i++) link_close(&loop.talkers[i].link);
}
