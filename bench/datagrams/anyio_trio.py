"""anyio's UDP sockets on Trio: one datagram an await."""

from __future__ import annotations

import socket

import anyio
from anyio.abc import SocketAttribute, UDPSocket
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


async def send(udp: UDPSocket) -> Stopwatch:
    stopwatch, targets = Stopwatch(), in_turn()
    while stopwatch.going_on(BATCH):
        for host, port in targets:
            await udp.sendto(PAYLOAD, host, port)
    return stopwatch


async def receive(udp: UDPSocket) -> Stopwatch:
    stopwatch = Stopwatch()
    while stopwatch.going_on(BATCH):
        for _ in range(BATCH):
            data, _ = await udp.receive()
    check(data)
    return stopwatch


async def main() -> None:
    async with await anyio.create_udp_socket(socket.AF_INET, local_host=HOST) as udp:
        raw = udp.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        await udp.sendto(PAYLOAD, *TARGET)
        check((await udp.receive())[0])
        stopwatch = await (receive(udp) if DIRECTION == "receive" else send(udp))
    stopwatch.report()


anyio.run(main, backend="trio")
