"""The server that is soaked: ``python -m soaking.server CHAIN``, in a process of its own.

It answers each line with that line, on a plain port and on one with TLS. Each second it
prints its figures as a line of JSON. It drains when its standard input ends, and prints
them once more.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import ssl
import sys

import trio

from soaking import DENIED, LONGEST_LINE, TOO_LONG
from sockscope import serve_passive, tls_upgrade
from sockscope.buffered import BufferedStream, RecordTooLongError

LIMITS = {
    "max_connections": 20_000,
    "max_connections_per_host": 2_000,
    "deny": DENIED,
    # The clients are one process with thousands of tasks: it may be late by seconds.
    "handshake_timeout": 20.0,
    "idle_timeout": 20.0,
    "lifetime": 3600.0,
    "drain_timeout": 20.0,
}


async def answer(stream):
    lines = BufferedStream(stream, input_buffer_size=4096).lines(max_size=LONGEST_LINE)
    try:
        async for line in lines:
            await stream.send_all(bytes(line) + b"\n")
    except RecordTooLongError:
        await stream.send_all(TOO_LONG)


def figures(servers):
    ports = [address.port for server in servers for address in server.addresses]
    living = trio.lowlevel.current_statistics().tasks_living
    statistics = [dataclasses.asdict(server.statistics()) for server in servers]
    blocks = sys.getallocatedblocks()
    return {"ports": ports, "tasks": living, "blocks": blocks, "servers": statistics}


def say(what):
    print(json.dumps(what, default=str), flush=True)


async def report(servers):
    while True:
        say(figures(servers))
        await trio.sleep(1)


async def main(chain):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    async with (
        serve_passive(("127.0.0.1", 0), answer, **LIMITS) as plain,
        serve_passive(("127.0.0.1", 0), answer, upgrade=tls_upgrade(context), **LIMITS) as secure,
    ):
        servers = [plain, secure]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report, servers)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()
    gc.collect()
    say(figures(servers))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    trio.run(main, sys.argv[1])
