"""Trio's own sockets: one datagram an await."""

from __future__ import annotations

import trio
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


async def send(sock: trio.socket.SocketType) -> Stopwatch:
    stopwatch, targets = Stopwatch(), in_turn()
    while stopwatch.going_on(BATCH):
        for target in targets:
            await sock.sendto(PAYLOAD, target)
    return stopwatch


async def receive(sock: trio.socket.SocketType) -> Stopwatch:
    stopwatch = Stopwatch()
    while stopwatch.going_on(BATCH):
        for _ in range(BATCH):
            data, _ = await sock.recvfrom(65535)
    check(data)
    return stopwatch


async def main() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind((HOST, 0))
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, RECEIVE_BUFFER)
        await sock.sendto(PAYLOAD, TARGET)
        check((await sock.recvfrom(65535))[0])
        stopwatch = await (receive(sock) if DIRECTION == "receive" else send(sock))
    stopwatch.report()


trio.run(main)
