"""Measures TCP servers and clients side by side: ours, Trio's, anyio's, asyncio's, uvloop's."""

from __future__ import annotations

import sys

from harness import goals
from harness.cli import main
from harness.programs import CLIENTS, SERVERS
from harness.tcp import ECHO, accept, echo, memory
from harness.workloads import Figure, SelfMeasuredWorkload, ServerWorkload, cpu_per_operation

BULK = "Bulk transfer on one connection, CPU of the server"
LATENCY = "Latency, open loop: 64 connections, 20,000 messages of 64 B a second"
CLIENT = "Client, connect, one byte each way, close"


def percentile(name: str, title: str) -> Figure:
    return Figure(
        f"latency-{name}", title, "µs", lambda result: result[f"{name.replace('.', '')}_ns"] / 1e3
    )


def bulk(name: str, title: str, role: str) -> ServerWorkload:
    return ServerWorkload(
        name,
        BULK,
        (cpu_per_operation(name, title, "CPU µs / MiB"),),
        SERVERS,
        (name,),
        role=role,
        sized=lambda settings: {"bytes": settings.bulk_mib << 20},
    )


def client(tasks: int, title: str) -> SelfMeasuredWorkload:
    name = f"client-{tasks}"
    return SelfMeasuredWorkload(
        name,
        CLIENT,
        (cpu_per_operation(name, title),),
        # Blocking sockets do one thing at a time.
        CLIENTS if tasks == 1 else CLIENTS[1:],
        ("epoll", "echo"),
        (str(tasks),),
    )


WORKLOADS = (
    echo("echo-1", "64 B, 1 conn", 1, 64, SERVERS),
    echo("echo-64", "64 B, 64 conns", 64, 64, SERVERS),
    echo("echo-512", "64 B, 512 conns", 512, 64, SERVERS),
    echo("echo-4000", "64 B, 4,000 conns", 4000, 64, SERVERS),
    echo("echo-16k", "16 KiB, 64 conns", 64, 16384, SERVERS),
    ServerWorkload(
        "idle",
        ECHO,
        (cpu_per_operation("idle", "64 B, 1 busy, 1,000 idle"),),
        SERVERS,
        ("echo", "--size", "64", "--connections", "1", "--idle", "1000"),
    ),
    accept(SERVERS),
    memory(SERVERS),
    bulk("upload", "to the server", "sink"),
    bulk("download", "from the server", "source"),
    ServerWorkload(
        "latency",
        LATENCY,
        (percentile("p50", "50 %"), percentile("p99", "99 %"), percentile("p99.9", "99.9 %")),
        SERVERS,
        ("latency", "--connections", "64", "--size", "64", "--rate", "20000"),
        lasts=2.0,
    ),
    client(1, "one after the other"),
    client(16, "16 at once"),
)

if __name__ == "__main__":
    sys.exit(main("run", __doc__, WORKLOADS, [goals.TCP]))
