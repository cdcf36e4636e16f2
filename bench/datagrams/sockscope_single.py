"""Ours, one datagram an await."""

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

import sockscope


async def send(sock: sockscope.DatagramSocket) -> Stopwatch:
    stopwatch, targets = Stopwatch(), in_turn()
    while stopwatch.going_on(BATCH):
        for target in targets:
            await sock.send_to(PAYLOAD, target)
    return stopwatch


async def receive(sock: sockscope.DatagramSocket) -> Stopwatch:
    stopwatch = Stopwatch()
    while stopwatch.going_on(BATCH):
        for _ in range(BATCH):
            datagram = await sock.receive_from()
    check(datagram.data)
    return stopwatch


async def main() -> None:
    options = sockscope.SocketOptions(receive_buffer=RECEIVE_BUFFER)
    opening = sockscope.open_socket(type="datagram", local=(HOST, 0), options=options)
    async with opening as sock:
        await sock.send_to(PAYLOAD, TARGET)
        check((await sock.receive_from()).data)
        stopwatch = await (receive(sock) if DIRECTION == "receive" else send(sock))
    stopwatch.report()


trio.run(main)
