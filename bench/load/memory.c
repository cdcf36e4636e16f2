/* Resident memory of the server for each connection that has echoed once and is idle. */
#include "link.h"
#include "workloads.h"

#include <stdio.h>

void run_memory(const struct settings *settings) {
    int count = settings->connections;
    struct link *links = allocate((size_t)count, sizeof *links);
    /* What the first connections load and allocate once is not theirs. */
    link_warm_up(settings->port, settings->size);
    long before = resident_bytes(settings->pid);
    link_open_all(links, count, settings->port);
    for (int i = 0; i < count; i++) link_echo_once(&links[i], settings->size, (unsigned)i);
    printf("{\"operations\": %d, \"bytes\": %ld}\n", count,
           resident_bytes(settings->pid) - before);
}
