/* Each workload opens its connections, checks what comes back, then times and reports. */
#ifndef SOCKSCOPE_BENCH_WORKLOADS_H
#define SOCKSCOPE_BENCH_WORKLOADS_H

#include "common.h"

void run_echo(const struct settings *settings);
void run_churn(const struct settings *settings);
void run_upload(const struct settings *settings);
void run_download(const struct settings *settings);
void run_latency(const struct settings *settings);
void run_memory(const struct settings *settings);

#endif
