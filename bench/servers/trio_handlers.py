"""What a connection does on Trio: the same on any stream, Trio's own or ours."""

from __future__ import annotations

from common import NUMBER, blocks
from trio.abc import Stream


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def sink(stream: Stream) -> None:
    received = 0
    async for data in stream:
        received += len(data)
    await stream.send_all(NUMBER.pack(received))


async def source(stream: Stream) -> None:
    (size,) = NUMBER.unpack(await stream.receive_some(NUMBER.size))
    for block in blocks(size):
        await stream.send_all(block)


HANDLERS = {"echo": echo, "sink": sink, "source": source}
