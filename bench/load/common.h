/* What every load generator needs: settings, clocks, memory, and a way to give up. */
#ifndef SOCKSCOPE_BENCH_COMMON_H
#define SOCKSCOPE_BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct settings {
    pid_t pid; /* the measured process */
    uint16_t port;
    int connections;
    int idle; /* further connections that echo once and then stay silent */
    size_t size;  /* bytes of one message */
    size_t bytes; /* bytes of one bulk transfer */
    double rate;  /* messages a second of the open loop */
    double seconds;
};

/* Where the measured process stands: its CPU time and the clock on the wall. */
struct reading {
    int64_t cpu_ns;
    int64_t wall_ns;
};

struct settings parse_settings(int argc, char **argv);
_Noreturn void give_up(const char *step, const char *reason);
_Noreturn void give_up_errno(const char *step);
void *allocate(size_t count, size_t size);
int64_t now_ns(void);
struct reading take_reading(pid_t pid);
long resident_bytes(pid_t pid);
void raise_descriptor_limit(void);
/* The message that connection number `index` sends: another one for each. */
void fill_message(unsigned char *message, size_t size, unsigned index);
void report(struct reading before, struct reading after, int64_t operations);

#endif
