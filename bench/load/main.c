#include "workloads.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    void (*run)(const struct settings *settings);
} WORKLOADS[] = {
    {"echo", run_echo},         {"churn", run_churn},     {"upload", run_upload},
    {"download", run_download}, {"latency", run_latency}, {"memory", run_memory},
};

int main(int argc, char **argv) {
    struct settings settings = parse_settings(argc - 1, argv + 1);
    raise_descriptor_limit();
    for (size_t i = 0; argc > 1 && i < sizeof WORKLOADS / sizeof *WORKLOADS; i++) {
        if (strcmp(argv[1], WORKLOADS[i].name) != 0) continue;
        WORKLOADS[i].run(&settings);
        return 0;
    }
    fprintf(stderr, "usage: load WORKLOAD --port N --pid N [--connections N] ...\n");
    return 2;
}
