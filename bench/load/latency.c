/* Open loop: messages leave by the clock, whether or not the last ones are back.
 *
 * A message's time runs from when it was due, not from when it was sent, so that a server
 * that stalls is charged for every message it held up. The generator never sleeps: waking
 * up would cost more than what is measured.
 */
#include "link.h"
#include "workloads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { BATCH = 64, IN_FLIGHT = 4096, PATIENCE_S = 20 };

struct talker {
    struct link link;
    unsigned char *message;
    size_t received;           /* of the message that is due back next */
    int64_t due[IN_FLIGHT];    /* when those under way were to leave, a ring */
    unsigned first, last;
};

struct loop {
    struct talker *talkers;
    int count;
    int poller;
    size_t size;
    unsigned char *buffer;
    int64_t *samples;
    size_t sampled;
};

static void send_due(struct loop *loop, struct talker *talker, int64_t due) {
    if (talker->last - talker->first == IN_FLIGHT) give_up("latency", "the server fell behind");
    talker->due[talker->last++ % IN_FLIGHT] = due;
    link_send_all(&talker->link, talker->message, loop->size);
}

static void take_answers(struct loop *loop, struct talker *talker) {
    for (;;) {
        size_t missing = loop->size - talker->received;
        ssize_t count = link_receive(&talker->link, loop->buffer, missing);
        if (count < 0) return;
        if (count == 0) give_up("latency", "the server closed the connection");
        if (memcmp(loop->buffer, talker->message + talker->received, (size_t)count) != 0)
            give_up("latency", "other bytes came back");
        talker->received += (size_t)count;
        if (talker->received < loop->size) continue;
        talker->received = 0;
        int64_t due = talker->due[talker->first++ % IN_FLIGHT];
        loop->samples[loop->sampled++] = now_ns() - due;
        if (talker->first == talker->last) return;
    }
}

static void drive(struct loop *loop, size_t messages, double rate) {
    struct epoll_event events[BATCH];
    int64_t start = now_ns(), now = start;
    int64_t give_up_at = start + (int64_t)(((double)messages / rate + PATIENCE_S) * 1e9);
    loop->sampled = 0;
    for (size_t sent = 0; loop->sampled < messages; now = now_ns()) {
        if (now > give_up_at) give_up("latency", "the server does not answer");
        int64_t due = start + (int64_t)((double)sent * 1e9 / rate);
        if (sent < messages && now >= due) {
            send_due(loop, &loop->talkers[sent % (size_t)loop->count], due);
            sent++;
            continue;
        }
        int ready = epoll_wait(loop->poller, events, BATCH, 0);
        if (ready < 0) give_up_errno("epoll_wait");
        for (int i = 0; i < ready; i++) take_answers(loop, events[i].data.ptr);
    }
}

static void open_talkers(struct loop *loop, uint16_t port) {
    loop->poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < loop->count; i++) {
        struct talker *talker = &loop->talkers[i];
        talker->message = allocate(1, loop->size);
        fill_message(talker->message, loop->size, (unsigned)i);
        link_open(&talker->link, port, (unsigned)i);
        link_echo_once(&talker->link, loop->size, (unsigned)i);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = talker};
        if (epoll_ctl(loop->poller, EPOLL_CTL_ADD, talker->link.fd, &event) != 0)
            give_up_errno("epoll_ctl");
    }
}

static int compare(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double percentile(const struct loop *loop, double percent) {
    return (double)loop->samples[(size_t)((double)(loop->sampled - 1) * percent / 100)];
}

void run_latency(const struct settings *settings) {
    size_t messages = (size_t)(settings->rate * settings->seconds);
    struct loop loop = {
        .count = settings->connections,
        .size = settings->size,
        .talkers = allocate((size_t)settings->connections, sizeof(struct talker)),
        .buffer = allocate(1, settings->size),
        .samples = allocate(messages + 1, sizeof(int64_t)),
    };
    link_warm_up(settings->port, settings->size);
    open_talkers(&loop, settings->port);
    drive(&loop, messages / 10 + 1, settings->rate);

    struct reading before = take_reading(settings->pid);
    drive(&loop, messages, settings->rate);
    struct reading after = take_reading(settings->pid);
    qsort(loop.samples, loop.sampled, sizeof *loop.samples, compare);
    printf("{\"operations\": %zu, \"cpu_ns\": %" PRId64 ", \"p50_ns\": %.0f, \"p99_ns\": %.0f, "
           "\"p999_ns\": %.0f}\n",
           loop.sampled, after.cpu_ns - before.cpu_ns, percentile(&loop, 50),
           percentile(&loop, 99), percentile(&loop, 99.9));
}
