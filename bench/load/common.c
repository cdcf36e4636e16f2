#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { NS_PER_S = 1000000000 };

struct settings parse_settings(int argc, char **argv) {
    static const struct option options[] = {
        {"pid", required_argument, NULL, 'p'},   {"port", required_argument, NULL, 'P'},
        {"connections", required_argument, NULL, 'c'}, {"idle", required_argument, NULL, 'i'},
        {"size", required_argument, NULL, 's'},  {"bytes", required_argument, NULL, 'b'},
        {"rate", required_argument, NULL, 'r'},  {"seconds", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = {.connections = 1, .size = 1, .seconds = 0.5};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': settings.pid = atoi(optarg); break;
        case 'P': settings.port = (uint16_t)atoi(optarg); break;
        case 'c': settings.connections = atoi(optarg); break;
        case 'i': settings.idle = atoi(optarg); break;
        case 's': settings.size = strtoull(optarg, NULL, 10); break;
        case 'b': settings.bytes = strtoull(optarg, NULL, 10); break;
        case 'r': settings.rate = atof(optarg); break;
        case 'd': settings.seconds = atof(optarg); break;
        default: exit(2);
        }
    }
    return settings;
}

_Noreturn void give_up(const char *step, const char *reason) {
    fprintf(stderr, "%s: %s\n", step, reason);
    exit(1);
}

_Noreturn void give_up_errno(const char *step) { give_up(step, strerror(errno)); }

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) give_up_errno("calloc");
    return memory;
}

static int64_t read_clock(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) give_up_errno("clock_gettime");
    return (int64_t)time.tv_sec * NS_PER_S + time.tv_nsec;
}

int64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

/* The process's CPU clock has nanoseconds where /proc/PID/stat has ticks of 10 ms. */
struct reading take_reading(pid_t pid) {
    clockid_t clock;
    if ((errno = clock_getcpuclockid(pid, &clock)) != 0) give_up_errno("clock_getcpuclockid");
    return (struct reading){.cpu_ns = read_clock(clock), .wall_ns = now_ns()};
}

/* smaps_rollup is exact; the counters in /proc/PID/statm lag by some hundred kilobytes. */
long resident_bytes(pid_t pid) {
    char line[256];
    snprintf(line, sizeof line, "/proc/%d/smaps_rollup", (int)pid);
    FILE *file = fopen(line, "r");
    if (file == NULL) give_up_errno(line);
    long kilobytes = -1;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Rss: %ld", &kilobytes) == 1) break;
    fclose(file);
    if (kilobytes < 0) give_up("smaps_rollup", "has no Rss");
    return kilobytes * 1024;
}

void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) give_up_errno("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) give_up_errno("setrlimit");
}

void fill_message(unsigned char *message, size_t size, unsigned index) {
    uint32_t state = 2463534242u ^ (index * 2654435761u);
    if (state == 0) state = 1;
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        message[i] = (unsigned char)state;
    }
}

void report(struct reading before, struct reading after, int64_t operations) {
    printf("{\"operations\": %" PRId64 ", \"cpu_ns\": %" PRId64 ", \"wall_ns\": %" PRId64 "}\n",
           operations, after.cpu_ns - before.cpu_ns, after.wall_ns - before.wall_ns);
}
