"""Ours, in batches: `send_many` and `receive_many`."""

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
    stopwatch = Stopwatch()
    batch = [(PAYLOAD, target) for target in in_turn()]
    while stopwatch.going_on(BATCH):
        await sock.send_many(batch)
    return stopwatch


async def receive(sock: sockscope.DatagramSocket) -> Stopwatch:
    stopwatch, count = Stopwatch(), 0
    while stopwatch.going_on(count):
        datagrams = await sock.receive_many(BATCH)
        count = len(datagrams)
    check(datagrams[-1].data)
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
