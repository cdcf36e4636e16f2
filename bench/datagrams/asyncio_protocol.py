"""asyncio's DatagramProtocol, on asyncio's own loop or uvloop's: a callback a datagram.

Its sending never waits, so the loop gets its turn once in a batch.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys

from common import (
    BATCH,
    DIRECTION,
    HOST,
    PAYLOAD,
    RECEIVE_BUFFER,
    TARGET,
    Stopwatch,
    check,
    in_turn,
)


class Protocol(asyncio.DatagramProtocol):
    """Checks the first datagram; then counts them, if it is to receive."""

    def __init__(self) -> None:
        self.first = asyncio.get_running_loop().create_future()
        self.finished = asyncio.get_running_loop().create_future()
        self.stopwatch = Stopwatch()
        self.pending = 0

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if not self.first.done():
            self.first.set_result(data)
        self.pending += 1
        if self.pending == BATCH:
            self.pending = 0
            if not self.stopwatch.going_on(BATCH) and not self.finished.done():
                check(data)
                self.finished.set_result(None)


async def send(transport: asyncio.DatagramTransport) -> Stopwatch:
    stopwatch, targets = Stopwatch(), in_turn()
    while stopwatch.going_on(BATCH):
        for target in targets:
            transport.sendto(PAYLOAD, target)
        await asyncio.sleep(0)
    return stopwatch


async def receive(protocol: Protocol) -> Stopwatch:
    await protocol.finished
    return protocol.stopwatch


async def main() -> None:
    # glibc maps memory for each of asyncio's receives, of 256 KiB, until a block as large has
    # been freed, as it has in most programs that have run for a while: twice as dear before.
    bytes(1 << 19)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Protocol, local_addr=(HOST, 0))
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER
    )
    transport.sendto(PAYLOAD, TARGET)
    check(await protocol.first)
    stopwatch = await (receive(protocol) if DIRECTION == "receive" else send(transport))
    stopwatch.report()
    transport.close()


importlib.import_module(sys.argv[5]).run(main())
